"""ADIOS (Shi et al. 2022): an encoder against an occlusion network that learns which pixels to hide from it.

In each step the encoder first lowers the contrastive loss of masked queries, then the occlusion network raises it. Both
steps follow the authors' code (YugeTen/adios, src/methods/simclr_adios.py and simclr_adios_s.py), which knows SimCLR
alone. On MoCo v2 the query is masked, since no gradient reaches a mask through the key.

The authors' online classifier is left out. It reads detached features, so it changes no weight of the encoder. But it
passes both unmasked views through the encoder once more in each step, which moves batch norm's running statistics. In
the authors' code, 4 of the 6 passes that move them are of unmasked views (with all N masks, 2N + 2 of 4N + 2, as the
unmasked view is embedded anew for each mask); in ours on SimCLR, 2 of 4 (2 of 2N + 2). Only evaluation reads these
statistics.

The occlusion network and its learning rate are those of the authors' script for ImageNet-100. Learning rate, batch,
jitter and warm-up of the encoder are our framework's recipe, so that the row differs from its baseline in the masks
alone. `AdiosSettings` lists the differences, and the row `simclr+adios-script` has the script's values.

What the two steps need of a framework's model is a `Contrast` (`baselines.adios_contrast`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Generator, Tensor, nn

from baselines.adios_contrast import Contrast, contrast_of
from baselines.unet import OcclusionNetwork
from repro.data.splits import Images
from repro.errors import UserError
from repro.filesystem.files import write_bytes
from repro.masking.views import Views
from repro.processes.distributed import rank, seeded_weights, world_size
from repro.randomness import Purpose, stream_seed
from repro.settings.run import Run
from repro.training.batches.loading import TwoViews
from repro.training.learner import Learner, build_model, build_view_maker
from repro.training.steps.memory_layout import lay_out_network
from repro.training.steps.optimization import build_lars, build_optimizer
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.gallery import draw_columns, first_stages

ENCODER, OCCLUSION = "encoder", "occlusion"
"""Names of the two players and of their optimizers."""
MARGIN = 1e-3
"""Where a mask's share is this near to 0 or 1, `sparsity_penalty` goes on as a straight line."""


def sparsity_penalty(shares: Tensor) -> Tensor:
    """Penalises masks that hide nothing or everything: `sum_n mean_b 1 / sin(pi * S_bn)` (simclr_adios_s.py:246-249).

    The authors add 1e-10 to the sine, which in single precision is -8.7e-8 at S = 1: the penalty turns into a reward of
    1e7. Here the curve ends at a distance of 1e-3 from 0 and from 1 and goes on as its tangent. So it is finite and
    continuous, and its gradient still leads away from 0 and 1.

    Args:
        shares: B×N in 0..1, the mean of each mask over its pixels.

    Returns:
        A scalar, N or more.
    """
    distance = torch.minimum(shares, 1 - shares)
    within = distance.clamp(min=MARGIN)
    # The derivative of 1 / sin(pi * d) at d = MARGIN. Nearer to an end than that, `within` is constant and `distance -
    # within` negative, so the value is the tangent's; elsewhere `distance - within` is 0, and the value is the curve's.
    slope = -math.pi * math.cos(math.pi * MARGIN) / math.sin(math.pi * MARGIN) ** 2
    return (1 / torch.sin(math.pi * within) + slope * (distance - within)).mean(0).sum()


def negative_entropy(shares: Tensor) -> Tensor:
    """Computes `sum_b sum_n p log p` with `p = softmax_n(S)`, a sum over the batch (src/utils/metrics.py:202-211).

    Args:
        shares: B×N in 0..1, the mean of each mask over its pixels.

    Returns:
        A scalar, -B log N or more.
    """
    return (shares.softmax(1) * shares.log_softmax(1)).sum()


class Adios(BaseModel):
    """The two players and their steps; a `repro.training.runner.Alternating` model."""

    def __init__(
        self,
        contrast: Contrast,
        occlusion: OcclusionNetwork,
        *,
        single: bool = True,
        alpha_sparsity: float = 0.75,
        alpha_entropy: float = 0.0,
        seed: int = 0,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        """Puts the two players together.

        Args:
            contrast: The encoder's side.
            occlusion: Images B×3×S×S to masks B×N×S×S that sum to one.
            single: Each image meets one mask drawn at random, anew in either step (ADIOS-s); otherwise all N, one after
                the other, and the losses are added (ADIOS).
            alpha_sparsity: Weight of `sparsity_penalty`.
            alpha_entropy: Weight of `negative_entropy`.
            seed: Of the drawn masks; the same on every rank.
            data_preprocessor: Turns a batch of the loader into `Views`.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        self.contrast, self.occlusion = contrast, occlusion
        self.single, self.alpha_sparsity, self.alpha_entropy = single, alpha_sparsity, alpha_entropy
        self.seed = seed
        # Steps so far, on the host: it only seeds the choice of masks, and reading it must not wait for the device.
        self.steps = 0
        # Each player as it is called in its own turn. In a dictionary, so that nn.Module registers no DDP wrapper: the
        # names in the state dict must not depend on the number of processes.
        self._turn: dict[str, nn.Module] = {ENCODER: contrast, OCCLUSION: occlusion}

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wraps each player for its own turn; in the other's turn it is called without its wrapper."""
        self._turn = {name: wrap(player) for name, player in self._turn.items()}

    def get_extra_state(self) -> dict[str, int]:
        """Returns what a checkpoint holds besides tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self.steps = state["steps"]

    def forward(self, views: Views, mode: str = "loss") -> dict[str, Tensor]:
        """Always refuses: the two players have a loss each, and none in common.

        Raises:
            ValueError: Always.
        """
        raise ValueError("ADIOS is only trained, by train_step: its two networks have a loss each")

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Makes a step of the encoder, then one of the occlusion network against the new encoder.

        Args:
            data: A batch of the loader.
            optim_wrapper: An `OptimWrapperDict` of `encoder` and `occlusion`.

        Returns:
            `loss` of the encoder and `occlusion_loss`, each as its optimizer lowers it; `sparsity`, the unweighted
            penalty in the latter; `entropy` of an image's masks' sizes in nats, the batch's mean; `mask_share_1` to
            `mask_share_N`, the share of an image that each mask hides, the batch's mean.

        Raises:
            UserError: The optimizers have other names.
        """
        encoder, occlusion = _optimizers(optim_wrapper)
        # `optim_context` is mixed precision as the player's own optimizer has it.
        with encoder.optim_context(self):
            views: Views = self.data_preprocessor(data, True)["views"]
            loss, keys = self.encoder_loss(views)
        encoder.update_params(loss)
        # Same views, new encoder: as in the authors' code, the occlusion network answers the step just made.
        with occlusion.optim_context(self):
            objective, numbers = self.occlusion_loss(views, keys)
        occlusion.update_params(objective)
        self.contrast.finish(keys)
        self.steps += 1
        return {"loss": loss.detach(), "occlusion_loss": objective.detach(), **numbers}

    def encoder_loss(self, views: Views) -> tuple[Tensor, Tensor]:
        """Computes what the encoder lowers: the contrastive loss of masked queries.

        No gradient reaches the occlusion network.

        Args:
            views: Query, which is masked here, and key; normalised, B×3×S×S each.

        Returns:
            The loss, a scalar, and the keys for `occlusion_loss`.
        """
        # The occlusion network is called without its DDP wrapper: in this turn it learns nothing. With a gradient it
        # would help the encoder; in the authors' code the gradient flows and is cleared (simclr_adios_s.py:211-221).
        with torch.no_grad():
            masks = self.occlusion(views.query)
        return self._turn[ENCODER](self._masked(views.query, masks, 0), views.key)

    def occlusion_loss(self, views: Views, keys: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes what the occlusion network lowers: `-(L - alpha1 * sparsity_penalty + alpha2 * negative_entropy)`.

        L is the contrastive loss with the encoder frozen; its batch norm stays in training mode (simclr_adios.py:184).

        Args:
            views: As for `encoder_loss`.
            keys: From `encoder_loss`.

        Returns:
            The loss, a scalar, and the numbers to log.
        """
        masks = self._turn[OCCLUSION](views.query)
        # The encoder is called without its DDP wrapper: no gradient of its parameters is to be averaged over the ranks.
        # Its forward pass still has a graph, through which the loss reaches the masks.
        with frozen(self.contrast):
            fresh_keys = self.contrast.keys_again(views.key, keys)
            contrastive = self.contrast.loss(self._masked(views.query, masks, 1), fresh_keys)
        shares = masks.mean((2, 3))
        sparsity, entropy = sparsity_penalty(shares), negative_entropy(shares)
        # The entropy is a sum over the batch, the other terms are means. So it is multiplied by the number of ranks:
        # DDP's mean of its gradients over the ranks is then the gradient of the sum over the joint batch.
        objective = self.alpha_sparsity * sparsity - self.alpha_entropy * world_size() * entropy - contrastive
        numbers = {"sparsity": sparsity.detach(), "entropy": -entropy.detach() / len(shares)}
        mask_shares = {f"mask_share_{number}": share for number, share in enumerate(shares.detach().mean(0), 1)}
        return objective, numbers | mask_shares

    def _masked(self, images: Tensor, masks: Tensor, turn: int) -> list[Tensor]:
        """Fades what masks cover to the mean colour, which is 0 in normalised images.

        Args:
            images: B×3×S×S, normalised.
            masks: B×N×S×S in 0..1.
            turn: 0 for the encoder's, 1 for the occlusion network's; each draws masks of its own.

        Returns:
            One copy B×3×S×S of the images with one drawn mask each, or N copies, the n-th with each image's mask n.
        """
        if not self.single:
            # B×N×1×S×S split along N: one B×1×S×S for each mask, which the three channels share.
            return [images * (1 - mask) for mask in masks.unsqueeze(2).unbind(1)]
        choices = self._draw(len(images), masks.shape[1], turn).to(images.device, non_blocking=True)
        rows = torch.arange(len(images), device=images.device)
        return [images * (1 - masks[rows, choices].unsqueeze(1))]

    def _draw(self, images: int, masks: int, turn: int) -> Tensor:
        """Draws the index of a mask for each of this rank's images.

        Every rank draws for the joint batch from the same seed and takes its own part, so that the number of ranks
        changes no draw, and nothing has to be sent between them.
        """
        generator = Generator().manual_seed(stream_seed(self.seed, Purpose.occlusion, self.steps, turn))
        choices = torch.randint(masks, (images * world_size(),), generator=generator)
        return choices[rank() * images : (rank() + 1) * images]


def _optimizers(wrapper: OptimWrapper) -> tuple[OptimWrapper, OptimWrapper]:
    """Returns the encoder's and the occlusion network's optimizer, or refuses others with a UserError."""
    names = list(wrapper.keys()) if isinstance(wrapper, OptimWrapperDict) else ["only one"]
    if set(names) != {ENCODER, OCCLUSION}:
        raise UserError(
            f"ADIOS trains two networks in turn, each with an optimizer of its own, and was given: {', '.join(names)}",
            mend=f"optimizers named {ENCODER} and {OCCLUSION}",
        )
    return wrapper[ENCODER], wrapper[OCCLUSION]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keeps gradients from a network's parameters within a `with` block; they still pass through to its input.

    Args:
        network: What is frozen. Parameters that were frozen before stay so afterwards.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class OcclusionGallery(Hook):
    """Draws the masks of the first images after each epoch; before the first epoch they would say nothing."""

    def __init__(self, model: Adios, path: Path) -> None:
        """Draws the model's masks to `path`, a PNG."""
        self.model, self.path = model, path

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Draws as columns the query's view, that view under each mask, and the key's view."""
        if rank():  # the model is the same on every rank, and only one may write the file
            return
        maker = self.model.data_preprocessor
        assert isinstance(maker, ViewMaker)
        stages = first_stages(runner.train_dataloader.dataset, maker)
        masks = self.model.occlusion(stages.views.query)
        # In training the view is normalised, and masks fade it to 0. Here it is in 0..1, where that is the mean colour.
        masked_columns = [
            (f"mask {number} hidden", stages.query.lerp(maker.normalise.mean, mask))
            for number, mask in enumerate(masks.unsqueeze(2).unbind(1), 1)
        ]
        columns = [("query view", stages.query), *masked_columns, ("key view", stages.key)]
        write_bytes(self.path, draw_columns(columns))


def build_learner(run: Run, images: Images, device: torch.device) -> Learner:
    """Builds ADIOS on the framework that the run names; a `repro.training.learner.Build`.

    The occlusion network's learning rate follows the encoder's schedule from a base rate of its own (ADIOS
    src/methods/base_adios.py).

    Args:
        run: `adios` is used besides what a plain run of the framework uses.
        images: The training images.
        device: Where the model goes.

    Raises:
        UserError: The crop does not fit the occlusion network, or the batch-norm groups the number of processes.
    """
    settings = run.adios
    maker = build_view_maker(run, device)
    with seeded_weights(run.seed):
        # The substrate is built first, so that its encoder starts from the weights of the framework's plain row.
        substrate = build_model(run, None)
        occlusion = OcclusionNetwork(
            run.data.crop, masks=settings.masks, base=settings.base_filters, norm=settings.norm
        )
    model = Adios(
        contrast_of(substrate),
        occlusion,
        single=settings.single,
        alpha_sparsity=settings.alpha_sparsity,
        alpha_entropy=settings.alpha_entropy,
        seed=run.seed,
        data_preprocessor=maker,
    ).to(device)
    lay_out_network(model, channels_last=run.machine.channels_last)
    optimizers = {
        ENCODER: build_optimizer(substrate.learned, run.optimization),
        # LARS whatever optimises the encoder, as in the authors' code.
        OCCLUSION: build_lars(
            occlusion.parameters(),
            settings.lr,
            settings.momentum,
            settings.weight_decay,
            run.optimization.lars_eta,
        ),
    }
    return Learner(
        model=model,
        encoder=substrate.encoder,
        optimizers=optimizers,
        dataset=TwoViews(images, run.data.crop, run.augmentation, run.seed),
        gallery=partial(OcclusionGallery, model),
    )
