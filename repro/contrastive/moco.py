"""MoCo v2 (Chen et al. 2020), with the paper's hard negative as an optional third view.

It takes views as they are, and does not depend on whether or how they were masked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH
from repro.contrastive.batch_norm import split_batch_norm
from repro.contrastive.encoders import build_encoder
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.losses import info_nce
from repro.contrastive.momentum import MomentumEncoder
from repro.contrastive.queue import Queue
from repro.contrastive.shuffle import Shuffles, is_capturing
from repro.errors import UserError
from repro.masking.views import Views
from repro.processes.distributed import gather, rank, world_size
from repro.settings.run import Run


class MoCo(ContrastiveModel):
    """A query encoder that learns to tell a query's key, embedded by the momentum encoder, from other images' keys.

    The encoders have MoCo's names, `encoder_q` and `encoder_k`.
    """

    def __init__(
        self,
        arch: str = "resnet50",
        dim: int = 128,
        *,
        width: int = BASE_WIDTH,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        hard_negative_weight: float = 2.0,
        bn_splits: int = 1,
        seed: int = 0,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        """Builds both encoders and the queue.

        Args:
            arch: A torchvision ResNet.
            dim: Number of dimensions of the embedding.
            width: Base planes of the ResNet.
            queue: Number of negatives K, a multiple of the global batch.
            momentum: Momentum of the key encoder, see `MomentumEncoder`.
            temperature: Tau of `info_nce`.
            hard_negative_weight: Rho of `info_nce`.
            bn_splits: Number of batch-norm groups on each device.
            seed: Of the permutations of ShuffleBN; the same on every rank.
            data_preprocessor: Turns a batch of the loader into `Views`.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        self.temperature, self.hard_negative_weight = temperature, hard_negative_weight
        self.groups = bn_splits * world_size()
        self.encoder_q = split_batch_norm(build_encoder(arch, dim, width), bn_splits)
        # Built with fresh weights although `MomentumEncoder` overwrites them, as in MoCo: with a copy, the queue would
        # be drawn from another point of the seeded stream, and every seed would give another run.
        key_network = split_batch_norm(build_encoder(arch, dim, width), bn_splits)
        self.encoder_k = MomentumEncoder(self.encoder_q, key_network, momentum)
        self.queue = Queue(dim, queue)
        self.shuffles = Shuffles(seed)
        # Number of steps so far, on the host: it only seeds the shuffles, and reading it must not wait for the device.
        self.steps = 0

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # MoCo has its own name for it, and checkpoints keep that
        """The query encoder, which is the network that learns."""
        return self.encoder_q

    def get_extra_state(self) -> dict[str, int]:
        """Returns what a checkpoint holds of MoCo besides tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restores what `get_extra_state` returned."""
        self.steps = state["steps"]

    def losses(self, views: Views) -> dict[str, Tensor]:
        """Makes one step: computes the loss of the views, and puts the new keys into the queue.

        Args:
            views: Query, key and, where there is one, hard negative; B×3×H×W each. Where one hard negative serves a
                whole batch-norm group (the released code), there are as many as groups of this process.

        Returns:
            `loss`, a scalar.
        """
        query = self.embed(views.query)
        # Updated before it embeds keys, with the query encoder as the last step left it (moco/builder.py).
        self.encoder_k.update(self.encoder_q)
        key = self.embed_keys(views.key)
        hard_negative = None
        if views.hard_negative is not None:
            # In a pass of their own, as they would change the batch statistics of keys in the same pass. In a shuffle
            # of their own, as a hard negative, like a key, must not share batch statistics with its query.
            hard_negative = self.embed_keys(views.hard_negative, stream=1)
            hard_negative = hard_negative.repeat_interleave(views.hard_negative_serves, dim=0)
        loss = self.contrast(query, key, hard_negative)
        # After the loss, so that a query's own key is not among its negatives. Hard negatives are not enqueued, as in
        # the released moco/builder.py: half of the queue would be masked images.
        self.enqueue(key)
        return {"loss": loss}

    def embed(self, images: Tensor) -> Tensor:
        """Returns unit embeddings N×dim, in single precision, of the queries N×3×H×W."""
        # Single precision first: with the 8 bits of bf16, the length would be 1 only within half a percent.
        return F.normalize(self.encoder_q(images).float(), dim=1)

    def contrast(self, query: Tensor, key: Tensor, hard_negative: Tensor | None = None) -> Tensor:
        """Returns `info_nce` of embeddings B×dim against the queue as it is now, a scalar.

        Args:
            query: Unit length; the only input that gets a gradient.
            key: Unit length, of the same images in the same order.
            hard_negative: Unit length, one for each query; none for plain MoCo.
        """
        return info_nce(
            query,
            key,
            # Copied, as `enqueue` overwrites a part of the queue before the backward pass reads it. The copy has dim×K
            # numbers, as many as the similarities of a batch of dim images.
            self.queue.keys.clone(),
            hard_negative,
            temperature=self.temperature,
            hard_negative_weight=self.hard_negative_weight,
        )

    def enqueue(self, key: Tensor) -> None:
        """Ends the step: the keys B×dim of this process and of all others become negatives; a collective."""
        self.queue.enqueue(gather(key))
        # Capturing a CUDA graph makes no step; `before_replay` counts the steps that replay it.
        if not is_capturing():
            self.steps += 1

    def before_replay(self) -> None:
        """Copies this step's shuffles to where the captured step reads them, and counts the step."""
        self.shuffles.refresh(self.steps)
        self.steps += 1

    @torch.no_grad()
    def embed_keys(self, images: Tensor, stream: int = 0) -> Tensor:
        """Embeds keys in batch-norm groups that are shuffled against the queries' (ShuffleBN, MoCo section 3.3).

        Without the shuffle, a query and its key would share batch statistics, which give away the match.

        Args:
            images: N×3×H×W, this process's.
            stream: Number of the shuffle within the step; each has its own order.

        Returns:
            N×dim, unit length, in single precision and in the order of `images`.
        """
        total = len(images) * world_size()
        # If all images are one group, or each is its own group (one hard negative for each group, as in the released
        # code), shuffling changes no statistics.
        if self.groups in (1, total):
            return F.normalize(self.encoder_k(images).float(), dim=1)
        # This rank embeds its share of the shuffled global batch, with images from any rank. The inverse of the order
        # tells where the embeddings of its own images are.
        share = slice(rank() * len(images), (rank() + 1) * len(images))
        shuffled, original = self.shuffles.order_and_inverse(self.steps, stream, total, images.device)[:, share]
        embeddings = F.normalize(self.encoder_k(gather(images)[shuffled]).float(), dim=1)
        return gather(embeddings)[original]


def build(run: Run, preprocessor: nn.Module | None) -> MoCo:
    """Builds MoCo v2 as a run's settings have it, with fresh weights, on the CPU.

    Args:
        run: `encoder`, `moco` and `seed` are used.
        preprocessor: Turns a batch of the loader into `Views`.

    Raises:
        UserError: torchvision has no such ResNet, or the processes cannot share the batch-norm groups.
    """
    moco = run.moco
    if moco.bn_splits % world_size():
        raise UserError(
            f"moco.bn_splits={moco.bn_splits} groups cannot be shared by {world_size()} processes",
            mend=f"a multiple of {world_size()}",
        )
    return MoCo(
        run.encoder.arch,
        run.encoder.dim,
        width=run.encoder.width,
        queue=moco.queue,
        momentum=moco.momentum,
        temperature=moco.temperature,
        hard_negative_weight=moco.hard_negative_weight,
        bn_splits=moco.bn_splits // world_size(),
        seed=run.seed,
        data_preprocessor=preprocessor,
    )
