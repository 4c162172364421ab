"""Which of the two views is masked, and what the hard negative is made of."""

from torch import Generator, Tensor

from repro.masking.patches import Mode
from repro.masking.strategies import build_strategy
from repro.masking.views import Views
from repro.runs.choices import Branch, Source
from repro.runs.sections import FidelitySettings, MaskingSettings


class SaliencyMasking:
    """Masks one branch, or both, and makes the hard negative from the key.

    The paper's method: the query loses the same share of foreground and background, the key stays whole, and a copy of
    the key that has lost much of its foreground is the query's hard negative.
    """

    def __init__(self, settings: MaskingSettings, fidelity: FidelitySettings) -> None:
        """Take the strategy, the branch and the rates from `settings`; its strategy is not `none`."""
        self.strategy = build_strategy(settings, fidelity)
        self.branch = settings.branch
        self.positive, self.hard = Mode.positive(settings), Mode.hard(settings)
        self.hard_negative = settings.hard_negative
        self.one_for_all = fidelity.hard_negative is Source.released

    def __call__(
        self, query: Tensor, key: Tensor, query_foreground: Tensor, key_foreground: Tensor, generator: Generator
    ) -> Views:
        """Mask normalised views.

        Args:
            query: B×3×H×W, normalised, as is `key`.
            key: the other view.
            query_foreground: B×g×g, boolean.
            key_foreground: B×g×g, boolean.
            generator: on the batch's device.
        """
        strategy = self.strategy
        clean_query, clean_key = strategy.clean(query), strategy.clean(key)
        masked_query, masked_key, hard = clean_query, clean_key, None
        if self.branch is not Branch.key:
            masked_query = strategy.mask(clean_query, query, query_foreground, self.positive, generator)
        if self.branch is not Branch.query:
            masked_key = strategy.mask(clean_key, key, key_foreground, self.positive, generator)
        if self.hard_negative:
            # The released code hands image 0's hard negative to every query of the batch (main_moco.py:362,375).
            chosen = slice(0, 1 if self.one_for_all else None)
            hard = strategy.mask(clean_key[chosen], key[chosen], key_foreground[chosen], self.hard, generator)
        return Views(masked_query, masked_key, hard)
