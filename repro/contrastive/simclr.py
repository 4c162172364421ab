"""SimCLR (Chen et al. 2020), with the paper's hard negative as an optional third view.

The paper's code for SimCLR was not released. This one follows the cited frameworks: one encoder with MoCo v2's
projector, each view in its own forward pass so that batch statistics are per view, and negatives from all devices.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH
from repro.contrastive.batch_norm import sync_batch_norm
from repro.contrastive.encoders import build_encoder
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.losses import nt_xent
from repro.masking.views import Views
from repro.processes.distributed import gather_with_gradient
from repro.settings.choices import Anchor
from repro.settings.run import Run


class SimCLR(ContrastiveModel):
    """One encoder that learns to tell the two views of an image from all other views of the batch."""

    def __init__(
        self,
        arch: str = "resnet50",
        dim: int = 128,
        *,
        width: int = BASE_WIDTH,
        temperature: float = 0.2,
        hard_negative_weight: float = 2.0,
        hard_negative_anchor: Anchor = Anchor.query,
        hard_negative_stopgrad: bool = False,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        """Builds the encoder; where there are several processes, its batch norm spans them.

        Args:
            arch: A torchvision ResNet.
            dim: Number of dimensions of the embedding.
            width: Base planes of the ResNet.
            temperature: Tau of `nt_xent`.
            hard_negative_weight: Rho of `nt_xent`.
            hard_negative_anchor: Whether the query alone is compared with its hard negative, or the key as well.
            hard_negative_stopgrad: Whether to embed hard negatives without a gradient. By default they have one, as
                keys do in SimCLR. MoCo's have none, as its momentum encoder has none.
            data_preprocessor: Turns a batch of the loader into `Views`.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        self.temperature, self.hard_negative_weight = temperature, hard_negative_weight
        self.hard_negative_anchor, self.hard_negative_stopgrad = hard_negative_anchor, hard_negative_stopgrad
        self.encoder = sync_batch_norm(build_encoder(arch, dim, width))

    def embed(self, images: Tensor) -> Tensor:
        """Returns unit embeddings N×dim, in single precision, of images N×3×H×W."""
        return F.normalize(self.encoder(images).float(), dim=1)

    def losses(self, views: Views) -> dict[str, Tensor]:
        """Returns the loss of one step, over the joint batch of all processes and the same on each.

        Args:
            views: Query, key and, where there is one, hard negative; B×3×H×W each.

        Returns:
            `loss`, a scalar.
        """
        # One view at a time, so that each is normalised by its own batch statistics: those of masked views differ from
        # those of whole ones.
        embeddings = [self.embed(views.query), self.embed(views.key)]
        if views.hard_negative is not None:
            # Gradients stay off where a caller has switched them off.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.hard_negative_stopgrad):
                embeddings.append(self.embed(views.hard_negative))
        return {"loss": self.contrast(*embeddings)}

    def contrast(self, query: Tensor, key: Tensor, *hard_negative: Tensor) -> Tensor:
        """Returns `nt_xent` over the joint batch of all processes, of embeddings B×dim each, unit length.

        Args:
            query: Embeddings of the queries.
            key: Embeddings of their keys.
            hard_negative: At most one tensor, the embeddings of each image's hard negative.
        """
        # Stacked, so that one collective gathers all views. Gradients are gathered too, as an embedding is a negative
        # of anchors on every process, each of which contributes to its gradient.
        query, key, *hard = gather_with_gradient(torch.stack([query, key, *hard_negative], 1)).unbind(1)
        return nt_xent(
            query,
            key,
            *hard,
            temperature=self.temperature,
            hard_negative_weight=self.hard_negative_weight,
            anchor=self.hard_negative_anchor,
        )


def build(run: Run, preprocessor: nn.Module | None) -> SimCLR:
    """Builds SimCLR as a run's settings have it, with fresh weights, on the CPU.

    Args:
        run: `encoder` and `simclr` are used.
        preprocessor: Turns a batch of the loader into `Views`.

    Raises:
        UserError: torchvision has no such ResNet.
    """
    return SimCLR(
        run.encoder.arch,
        run.encoder.dim,
        width=run.encoder.width,
        temperature=run.simclr.temperature,
        hard_negative_weight=run.simclr.hard_negative_weight,
        hard_negative_anchor=run.simclr.hard_negative_anchor,
        hard_negative_stopgrad=run.simclr.hard_negative_stopgrad,
        data_preprocessor=preprocessor,
    )
