"""Which of the two views is masked, and what the hard negative is made of."""

from torch import Generator, Tensor

from repro.masking.patches import Mode
from repro.masking.strategies import build_strategy
from repro.masking.views import Views
from repro.settings.choices import Branch, FilterLibrary, Source
from repro.settings.sections import FidelitySettings, MaskingSettings


class SaliencyMasking:
    """Masks one branch, or both, and makes the hard negative from the key.

    The paper's method: the query loses the same share of foreground and background, the key stays whole, and a copy of
    the key that has lost much of its foreground is the query's hard negative.
    """

    def __init__(
        self,
        settings: MaskingSettings,
        fidelity: FidelitySettings,
        *,
        group_size: int,
        library: FilterLibrary = FilterLibrary.torch,
    ) -> None:
        """Reads the settings of a run that masks.

        Args:
            settings: Strategy, branch and rates; the strategy is not `none`.
            fidelity: Where to follow the released code instead of the paper.
            group_size: Images of a batch-norm group, which stands for the batch of one of the paper's GPUs: what the
                released code draws once on each GPU is drawn once for each group. A batch of fewer images is one group.
            library: Which library computes the strategy's filter on a CPU.
        """
        one_for_all = fidelity.hard_negative is Source.released
        # The released code hands image 0's hard negative to every query of a GPU's batch (main_moco.py:362,375).
        self.hard_negative_serves = group_size if one_for_all else 1
        self.strategy = build_strategy(settings, fidelity, group_size, library)
        self.hard_strategy = build_strategy(settings, fidelity, 1 if one_for_all else group_size, library)
        self.branch = settings.branch
        self.positive, self.hard = Mode.positive(settings), Mode.hard(settings)
        self.hard_negative = settings.hard_negative

    @property
    def needs_query_foreground(self) -> bool:
        """Whether the query's foreground is used: a view that is not masked needs no pass of the localizer."""
        return self.branch is not Branch.key

    @property
    def needs_key_foreground(self) -> bool:
        """Whether the key's foreground is used."""
        return self.branch is not Branch.query or self.hard_negative

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        query_foreground: Tensor | None,
        key_foreground: Tensor | None,
        generator: Generator,
    ) -> Views:
        """Masks normalised views, and makes the hard negative if there is to be one.

        Args:
            query: B×3×H×W, normalised, as is `key`.
            key: The other view of the same images.
            query_foreground: B×g×g, boolean; g divides H and W. None only where `needs_query_foreground` is False.
            key_foreground: Likewise, of the key.
            generator: Random generator on the batch's device.

        Returns:
            The network's inputs, B×3×H×W each; one hard negative for each `hard_negative_serves` images, or none.
        """
        # All masks are drawn from one stream, in the order query, key, hard negative; another order would change what
        # a seed gives.
        strategy = self.strategy
        clean_query, clean_key = strategy.clean(query), strategy.clean(key)
        masked_query, masked_key, hard_negative = clean_query, clean_key, None
        if self.branch is not Branch.key:
            assert query_foreground is not None
            masked_query = strategy.mask(clean_query, query, query_foreground, self.positive, generator)
        if self.branch is not Branch.query:
            assert key_foreground is not None
            masked_key = strategy.mask(clean_key, key, key_foreground, self.positive, generator)
        if self.hard_negative:
            assert key_foreground is not None
            # Made from the clean key, whichever branch is masked, so that it loses nothing but foreground.
            first = slice(None, None, self.hard_negative_serves)
            hard_negative = self.hard_strategy.mask(
                clean_key[first], key[first], key_foreground[first], self.hard, generator
            )
        return Views(masked_query, masked_key, hard_negative, self.hard_negative_serves)
