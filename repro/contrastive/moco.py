"""MoCo v2 (Chen et al. 2020), with the paper's hard negative as an optional third view.

MoCo never knows who masked its views, nor how.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.contrastive.batch_norm import split_batch_norm
from repro.contrastive.encoders import build_encoder
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.losses import info_nce
from repro.contrastive.momentum import MomentumEncoder
from repro.contrastive.queue import Queue
from repro.distributed import gather, rank, world_size
from repro.errors import UserError
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed
from repro.runs.run import Run


class MoCo(ContrastiveModel):
    """MoCo v2 (Chen et al. 2020) with the paper's hard negative as an optional third view.

    The encoders have MoCo's names, `encoder_q` and `encoder_k`.
    """

    def __init__(
        self,
        arch: str = "resnet50",
        dim: int = 128,
        *,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        hard_negative_weight: float = 2.0,
        bn_splits: int = 1,
        seed: int = 0,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        """Build both encoders.

        Args:
            arch: a torchvision ResNet.
            dim: of the embedding.
            queue: negatives K, a multiple of the global batch.
            momentum: of the key encoder.
            temperature: of the loss.
            hard_negative_weight: rho of `info_nce`.
            bn_splits: batch-norm groups on each device.
            seed: of the permutations of ShuffleBN; the same on every rank.
            data_preprocessor: turns a batch of the loader into `Views`.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        self.temperature, self.hard_negative_weight = temperature, hard_negative_weight
        self.seed, self.groups = seed, bn_splits * world_size()
        self.encoder_q = split_batch_norm(build_encoder(arch, dim), bn_splits)
        key_network = split_batch_norm(build_encoder(arch, dim), bn_splits)
        self.encoder_k = MomentumEncoder(self.encoder_q, key_network, momentum)
        self.queue = Queue(dim, queue)
        # Steps so far, on the host: it only seeds the shuffles, and reading it must not wait for the device.
        self.steps = 0

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # MoCo has its own name for it, and checkpoints keep that
        """What learns: the query encoder."""
        return self.encoder_q

    def get_extra_state(self) -> dict[str, int]:
        """What a checkpoint holds besides tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Read it back."""
        self.steps = state["steps"]

    def losses(self, views: Views) -> dict[str, Tensor]:
        """One step: the loss of the views, and the new keys into the queue.

        Args:
            views: query, key and, where there is one, hard negative; B×3×H×W each, the hard negative B or 1.

        Returns:
            `loss`, a scalar.
        """
        query = self.embed(views.query)
        self.encoder_k.update(self.encoder_q)
        key = self.embed_keys(views.key)
        hard_negative = None
        if views.hard_negative is not None:
            hard_negative = self.embed_keys(views.hard_negative, stream=1).expand_as(query)
        loss = self.contrast(query, key, hard_negative)
        self.enqueue(key)
        return {"loss": loss}

    def embed(self, images: Tensor) -> Tensor:
        """Unit embeddings N×dim, in single precision, of the queries N×3×H×W."""
        return F.normalize(self.encoder_q(images).float(), dim=1)

    def contrast(self, query: Tensor, key: Tensor, hard_negative: Tensor | None = None) -> Tensor:
        """`info_nce` of embeddings B×dim against the queue as it is now."""
        return info_nce(
            query,
            key,
            self.queue.keys.clone(),  # backward reads the queue as it was, and `enqueue` overwrites a part of it
            hard_negative,
            temperature=self.temperature,
            hard_negative_weight=self.hard_negative_weight,
        )

    def enqueue(self, key: Tensor) -> None:
        """End the step: this process's keys B×dim and those of the others become negatives."""
        self.queue.enqueue(gather(key))
        self.steps += 1

    @torch.no_grad()
    def embed_keys(self, images: Tensor, stream: int = 0) -> Tensor:
        """Unit embeddings of keys, their batch-norm groups shuffled against the queries' (ShuffleBN, MoCo section 3.3).

        Without it a query and its key share batch statistics, which give away the match. Each `stream` of a step has a
        shuffle of its own.
        """
        if self.groups == 1 or len(images) * world_size() == 1:
            return F.normalize(self.encoder_k(images).float(), dim=1)
        total = len(images) * world_size()
        # The same on every rank, and drawn on the host: no broadcast, and a resumed run shuffles alike.
        generator = Generator().manual_seed(stream_seed(self.seed, Purpose.shuffle, self.steps, stream))
        order = torch.randperm(total, generator=generator)
        mine = slice(rank() * len(images), (rank() + 1) * len(images))
        there, back = (each[mine].to(images.device, non_blocking=True) for each in (order, order.argsort()))
        embedded = F.normalize(self.encoder_k(gather(images)[there]).float(), dim=1)
        return gather(embedded)[back]


def build(run: Run, preprocessor: nn.Module | None) -> MoCo:
    """MoCo v2 as a run's settings have it, with fresh weights, on the CPU.

    Args:
        run: `encoder`, `moco` and `seed` are used.
        preprocessor: turns a batch of the loader into `Views`.

    Raises:
        UserError: torchvision has no such ResNet, or the processes cannot share the batch-norm groups.
    """
    moco = run.moco
    if moco.bn_splits % world_size() and world_size() > 1:
        raise UserError(
            f"moco.bn_splits={moco.bn_splits} groups cannot be shared by {world_size()} processes",
            mend="a multiple of them",
        )
    return MoCo(
        run.encoder.arch,
        run.encoder.dim,
        queue=moco.queue,
        momentum=moco.momentum,
        temperature=moco.temperature,
        hard_negative_weight=moco.hard_negative_weight,
        bn_splits=moco.bn_splits // world_size(),
        seed=run.seed,
        data_preprocessor=preprocessor,
    )
