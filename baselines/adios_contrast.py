"""The encoder's side of ADIOS: what its two steps need of a framework's model.

`contrast_of` says what a new framework has to implement.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.errors import UserError

SubstrateT = TypeVar("SubstrateT", MoCo, SimCLR)
"""The contrastive models that ADIOS is written for; each has `embed` and `contrast`."""


class Contrast(nn.Module, ABC, Generic[SubstrateT]):
    """The encoder's side: a contrastive model that meets masked queries and unmasked keys."""

    def __init__(self, substrate: SubstrateT) -> None:
        """Takes a framework's model, whose own `losses` are not used."""
        super().__init__()
        self.substrate: SubstrateT = substrate

    @abstractmethod
    def keys(self, images: Tensor) -> Tensor:
        """Embeds the unmasked views in the encoder's step.

        Args:
            images: B×3×H×W.

        Returns:
            Unit vectors B×dim; with gradient where the framework's own keys have one.
        """

    @abstractmethod
    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """Embeds the same views in the occlusion network's step, after the encoder has moved.

        Args:
            images: B×3×H×W, those that `keys` was called with.
            keys: What `keys` returned.

        Returns:
            Unit vectors B×dim without gradient.
        """

    @abstractmethod
    def finish(self, keys: Tensor) -> None:
        """Ends the step of both players.

        Args:
            keys: What `keys` returned, B×dim.
        """

    def loss(self, queries: Sequence[Tensor], keys: Tensor) -> Tensor:
        """Computes the contrastive loss summed over masked views, each in a forward pass of its own.

        The authors embed the unmasked view anew for each mask; batch norm in training mode gives the same embedding,
        and only its running statistics would see that view more often.

        Args:
            queries: Masked views B×3×H×W of the same images.
            keys: Unit embeddings B×dim of the other view.

        Returns:
            A scalar.
        """
        return torch.stack([self.substrate.contrast(self.substrate.embed(masked), keys) for masked in queries]).sum()

    def forward(self, queries: Sequence[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the encoder's step in one call, which DDP's wrapper needs to see.

        Args:
            queries: Masked views B×3×H×W of the same images.
            images: The other view of each, unmasked, B×3×H×W.

        Returns:
            The loss, a scalar, and the keys B×dim that it was made with.
        """
        keys = self.keys(images)
        return self.loss(queries, keys), keys


class MocoContrast(Contrast[MoCo]):
    """MoCo v2: keys come from the momentum encoder, which moves once a step, and so does the queue."""

    def keys(self, images: Tensor) -> Tensor:
        """Embeds the views with the momentum encoder, after it has followed the query encoder; without gradient."""
        self.substrate.encoder_k.update(self.substrate.encoder_q)
        return self.substrate.embed_keys(images)

    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """Returns the same keys: the momentum encoder has not moved since."""
        return keys

    def finish(self, keys: Tensor) -> None:
        """Puts the keys into the queue, only now: until both players have stepped they are positives, not negatives."""
        self.substrate.enqueue(keys)


class SimclrContrast(Contrast[SimCLR]):
    """SimCLR: keys come from the encoder itself."""

    def keys(self, images: Tensor) -> Tensor:
        """Embeds the views with the encoder, with gradient."""
        return self.substrate.embed(images)

    @torch.no_grad()
    def keys_again(self, images: Tensor, keys: Tensor) -> Tensor:
        """Embeds the views with the encoder as it is now; no gradient leads from an unmasked view to a mask."""
        return self.substrate.embed(images)

    def finish(self, keys: Tensor) -> None:
        """Does nothing: SimCLR keeps nothing from step to step."""


def contrast_of(model: ContrastiveModel) -> Contrast:
    """Makes the encoder's side of ADIOS on a framework's model.

    For ADIOS on a new framework, write a subclass of `Contrast` and return it here. It says where keys come from in the
    encoder's step (`keys`) and in the occlusion network's (`keys_again`), and what ends a step (`finish`); the model
    needs `embed` (images to unit vectors) and `contrast` (queries and keys to the loss), and its class a place in
    `SubstrateT`. The two players' steps, and their training, are the same on every framework. Until then the row
    `NAME+adios`, which `baselines.METHODS` has for every contrastive framework, ends in the error below.

    Args:
        model: As `repro.training.learner.build_model` builds it.

    Raises:
        UserError: There is no `Contrast` for the framework.
    """
    if isinstance(model, MoCo):
        return MocoContrast(model)
    if isinstance(model, SimCLR):
        return SimclrContrast(model)
    raise UserError(f"ADIOS is not written for {type(model).__name__}", mend="a row on mocov2 or simclr")
