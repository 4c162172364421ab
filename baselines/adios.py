"""ADIOS (Shi et al. 2022): an encoder against an occlusion network that learns which pixels to hide from it.

In each step the encoder first lowers the contrastive loss of masked queries, then the occlusion network raises it. Both
steps follow the authors' code (YugeTen/adios, src/methods/simclr_adios.py and simclr_adios_s.py), which knows SimCLR;
on MoCo v2 the query is masked, since no gradient reaches a mask through the key. Left out is the authors' online
classifier, which reads detached features and teaches the encoder nothing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Generator, Tensor, nn

from baselines.unet import OcclusionNetwork
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.data.splits import Images
from repro.distributed import rank, seeded_weights, world_size
from repro.errors import UserError
from repro.files import write_atomically
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed
from repro.runs.run import Run
from repro.training.gallery import draw_columns, first_stages
from repro.training.learner import Learner, build_model, build_view_maker
from repro.training.loading import TwoViews
from repro.training.optimization import build_lars, build_optimizer, build_schedulers
from repro.training.preprocess import ViewMaker

ENCODER, OCCLUSION = "encoder", "occlusion"
"""Names of the two optimizers."""
MARGIN = 1e-3
"""Share of an image below which, and one minus it above which, `sparsity_penalty` goes on as a straight line."""


def sparsity_penalty(shares: Tensor) -> Tensor:
    """Penalty on masks that hide nothing or everything: `sum_n mean_b 1 / sin(pi * S_bn)` (simclr_adios_s.py:246-249).

    The authors add 1e-10 to the sine, which in single precision is -8.7e-8 at S = 1: the penalty turns into a reward of
    1e7. Here the curve ends at a distance of 1e-3 from 0 and from 1 and goes on as its tangent: finite, continuous, and
    with a gradient that still leads back.

    Args:
        shares: B×N in 0..1, the mean of each mask over its pixels.

    Returns:
        A scalar, N or more.
    """
    distance = torch.minimum(shares, 1 - shares)
    within = distance.clamp(min=MARGIN)
    slope = -math.pi * math.cos(math.pi * MARGIN) / math.sin(math.pi * MARGIN) ** 2
    return (1 / torch.sin(math.pi * within) + slope * (distance - within)).mean(0).sum()


def negative_entropy(shares: Tensor) -> Tensor:
    """`sum_b sum_n p log p` with `p = softmax_n(S)`, a sum over the batch (src/utils/metrics.py:202-211).

    Args:
        shares: B×N in 0..1, the mean of each mask over its pixels.

    Returns:
        A scalar, -B log N or more.
    """
    return (shares.softmax(1) * shares.log_softmax(1)).sum()


SubstrateT = TypeVar("SubstrateT", MoCo, SimCLR)


class Contrast(nn.Module, ABC, Generic[SubstrateT]):
    """The encoder's side: a contrastive model that meets masked queries and whole keys."""

    def __init__(self, substrate: SubstrateT) -> None:
        super().__init__()
        self.substrate: SubstrateT = substrate

    @abstractmethod
    def keys(self, images: Tensor) -> Tensor:
        """Unit embeddings B×dim of the whole views B×3×H×W, in the encoder's step."""

    @abstractmethod
    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """Those of the same views in the occlusion step, after the encoder has moved; without gradient."""

    @abstractmethod
    def finish(self, keys: Tensor) -> None:
        """End the step of both."""

    def loss(self, queries: Sequence[Tensor], keys: Tensor) -> Tensor:
        """The contrastive loss summed over masked views B×3×H×W of the same images, each in a forward pass of its own.

        The authors embed the whole view anew for each mask; batch norm in training mode gives the same embedding.
        """
        return torch.stack([self.substrate.contrast(self.substrate.embed(masked), keys) for masked in queries]).sum()

    def forward(self, queries: Sequence[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the encoder's step, and the keys that it was made with."""
        keys = self.keys(images)
        return self.loss(queries, keys), keys


class MocoContrast(Contrast[MoCo]):
    """MoCo v2: keys come from the momentum encoder, which moves once a step, and so does the queue."""

    def keys(self, images: Tensor) -> Tensor:
        """Those of the momentum encoder, after it has followed."""
        self.substrate.encoder_k.update(self.substrate.encoder_q)
        return self.substrate.embed_keys(images)

    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """The same: the momentum encoder has not moved."""
        return keys

    def finish(self, keys: Tensor) -> None:
        """Only now may the keys be negatives; in the occlusion step they are still positives."""
        self.substrate.enqueue(keys)


class SimclrContrast(Contrast[SimCLR]):
    """SimCLR: keys come from the encoder itself."""

    def keys(self, images: Tensor) -> Tensor:
        """With gradient."""
        return self.substrate.embed(images)

    @torch.no_grad()
    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """Anew; no gradient leads from a whole view to a mask."""
        return self.substrate.embed(images)

    def finish(self, keys: Tensor) -> None:
        """SimCLR keeps nothing from step to step."""


def contrast_of(model: ContrastiveModel) -> Contrast:
    """The encoder's side of ADIOS on a framework's model.

    Raises:
        UserError: nobody wrote a `Contrast` for the framework.
    """
    if isinstance(model, MoCo):
        return MocoContrast(model)
    if isinstance(model, SimCLR):
        return SimclrContrast(model)
    raise UserError(f"ADIOS is not written for {type(model).__name__}", mend="a row on mocov2 or simclr")


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
        """Put them together.

        Args:
            contrast: the encoder's side.
            occlusion: images B×3×S×S to masks B×N×S×S that sum to one.
            single: each image meets one mask drawn at random, anew in either step (ADIOS-s); otherwise all N, one after
                the other, and the losses are added (ADIOS).
            alpha_sparsity: weight of `sparsity_penalty`.
            alpha_entropy: weight of `negative_entropy`.
            seed: of the drawn masks; the same on every rank.
            data_preprocessor: turns a batch of the loader into `Views`.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        self.contrast, self.occlusion = contrast, occlusion
        self.single, self.alpha_sparsity, self.alpha_entropy = single, alpha_sparsity, alpha_entropy
        self.seed = seed
        # Steps so far, on the host: it only seeds the choice of masks, and reading it must not wait for the device.
        self.steps = 0
        # As called in its own turn; in a dictionary, so that nn.Module registers no wrapper.
        self._turn: dict[str, nn.Module] = {ENCODER: contrast, OCCLUSION: occlusion}

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wrap each player for its own turn; in the other's turn it is called without its wrapper."""
        self._turn = {name: wrap(player) for name, player in self._turn.items()}

    def get_extra_state(self) -> dict[str, int]:
        """What a checkpoint holds besides tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Read it back."""
        self.steps = state["steps"]

    def forward(self, views: Views, mode: str = "loss") -> dict[str, Tensor]:
        """Refused: a loss of both players at once would be for neither.

        Raises:
            ValueError: always.
        """
        raise ValueError("ADIOS is only trained, by train_step: its two networks have a loss each")

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """A step of the encoder, then one of the occlusion network against the new encoder.

        Args:
            data: a batch of the loader.
            optim_wrapper: an `OptimWrapperDict` of `encoder` and `occlusion`.

        Returns:
            `loss` of the encoder and `occlusion_loss`, each as its optimizer lowers it; `sparsity`, the penalty in the
            latter without its weight; `entropy` of an image's masks' sizes in nats, the batch's mean; `mask_share_1` to
            `mask_share_N`, the share of an image that each mask hides, the batch's mean.

        Raises:
            UserError: the optimizers are others.
        """
        encoder, occlusion = _optimizers(optim_wrapper)
        with encoder.optim_context(self):
            views: Views = self.data_preprocessor(data, True)["views"]
            loss, keys = self.encoder_loss(views)
        encoder.update_params(loss)
        with occlusion.optim_context(self):
            objective, numbers = self.occlusion_loss(views, keys)
        occlusion.update_params(objective)
        self.contrast.finish(keys)
        self.steps += 1
        return {"loss": loss.detach(), "occlusion_loss": objective.detach(), **numbers}

    def encoder_loss(self, views: Views) -> tuple[Tensor, Tensor]:
        """What the encoder lowers: the contrastive loss of masked queries. No gradient reaches the occlusion network.

        Args:
            views: query, which is masked, and key; B×3×S×S each.

        Returns:
            The loss, a scalar, and the keys for `occlusion_loss`.
        """
        with torch.no_grad():
            masks = self.occlusion(views.query)
        return self._turn[ENCODER](self._masked(views.query, masks, 0), views.key)

    def occlusion_loss(self, views: Views, keys: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the occlusion network lowers: `-(L - alpha1 * sparsity_penalty + alpha2 * negative_entropy)`.

        L is the contrastive loss with the encoder frozen; its batch norm stays in training mode (simclr_adios.py:184).

        Args:
            views: as for `encoder_loss`.
            keys: from `encoder_loss`.

        Returns:
            The loss, a scalar, and the numbers to log.
        """
        masks = self._turn[OCCLUSION](views.query)
        with frozen(self.contrast):
            again = self.contrast.keys_again(views.key, keys)
            contrastive = self.contrast.loss(self._masked(views.query, masks, 1), again)
        shares = masks.mean((2, 3))
        sparsity, entropy = sparsity_penalty(shares), negative_entropy(shares)
        # A sum over the batch grows with it: times the ranks, DDP's mean is the sum over the joint batch.
        objective = self.alpha_sparsity * sparsity - self.alpha_entropy * world_size() * entropy - contrastive
        numbers = {"sparsity": sparsity.detach(), "entropy": -entropy.detach() / len(shares)}
        hidden = {f"mask_share_{n}": share for n, share in enumerate(shares.detach().mean(0), 1)}
        return objective, numbers | hidden

    def _masked(self, images: Tensor, masks: Tensor, turn: int) -> list[Tensor]:
        """The images with one drawn mask each, or N times with all: what is hidden becomes the mean colour, 0."""
        if not self.single:
            return [images * (1 - mask) for mask in masks.unsqueeze(2).unbind(1)]
        chosen = self._draw(len(images), masks.shape[1], turn).to(images.device, non_blocking=True)
        return [images * (1 - masks[torch.arange(len(images), device=images.device), chosen].unsqueeze(1))]

    def _draw(self, images: int, masks: int, turn: int) -> Tensor:
        """The mask of each image: drawn for all ranks alike, so that their number changes no draw."""
        generator = Generator().manual_seed(stream_seed(self.seed, Purpose.occlusion, self.steps, turn))
        drawn = torch.randint(masks, (images * world_size(),), generator=generator)
        return drawn[rank() * images : (rank() + 1) * images]


def _optimizers(wrapper: OptimWrapper) -> tuple[OptimWrapper, OptimWrapper]:
    names = list(wrapper.keys()) if isinstance(wrapper, OptimWrapperDict) else ["only one"]
    if set(names) != {ENCODER, OCCLUSION}:
        raise UserError(
            f"ADIOS trains two networks in turn, each with an optimizer of its own, and was given: {', '.join(names)}",
            mend=f"optimizers named {ENCODER} and {OCCLUSION}",
        )
    return wrapper[ENCODER], wrapper[OCCLUSION]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within, no graph leads to the parameters, and backward spares their gradients; later as before."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class OcclusionGallery(Hook):
    """Draws the masks of the first images after each epoch; before the first, they would say nothing."""

    def __init__(self, model: Adios, path: Path) -> None:
        """Write the model's masks to `path`, a PNG."""
        self.model, self.path = model, path

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Draw: the query's view, the same as each mask leaves it, and the key's view."""
        if rank():
            return
        maker = self.model.data_preprocessor
        assert isinstance(maker, ViewMaker)
        stages = first_stages(runner.train_dataloader.dataset, maker)
        masks = self.model.occlusion(stages.views.query)
        hidden = [  # 0 of normalised pixels is the mean colour
            (f"mask {n} hidden", stages.query.lerp(maker.mean, mask))
            for n, mask in enumerate(masks.unsqueeze(2).unbind(1), 1)
        ]
        picture = draw_columns([("query view", stages.query), *hidden, ("key view", stages.key)])
        write_atomically(self.path, lambda file: file.write(picture))


def build_learner(run: Run, images: Images, device: torch.device) -> Learner:
    """ADIOS on the framework that the run names; a `repro.training.learner.Build`.

    The occlusion network's rate takes the encoder's course, from its own height (ADIOS src/methods/base_adios.py).

    Raises:
        UserError: the crop does not fit the occlusion network, or the batch-norm groups the number of processes.
    """
    settings = run.adios
    maker = build_view_maker(run, device)
    with seeded_weights(run.seed):
        substrate = build_model(run, None)
        occlusion = OcclusionNetwork(
            run.data.crop, masks=settings.masks, base=settings.base_filters, norm=settings.norm
        )
    contrast = contrast_of(substrate)
    model = Adios(
        contrast,
        occlusion,
        single=settings.single,
        alpha_sparsity=settings.alpha_sparsity,
        alpha_entropy=settings.alpha_entropy,
        seed=run.seed,
        data_preprocessor=maker,
    ).to(device)
    if run.machine.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizers = {
        ENCODER: build_optimizer(substrate.encoder.parameters(), run.optimization),
        OCCLUSION: build_lars(
            occlusion.parameters(),
            settings.lr,
            settings.momentum,
            settings.weight_decay,
            run.optimization.lars_eta,
        ),
    }
    steps = len(images) // run.optimization.batch
    return Learner(
        model=model,
        encoder=substrate.encoder,
        optimizers=optimizers,
        schedulers={name: build_schedulers(each, run.optimization, steps) for name, each in optimizers.items()},
        dataset=TwoViews(images, run.data.crop, run.augmentation, run.seed),
        gallery=partial(OcclusionGallery, model),
    )
