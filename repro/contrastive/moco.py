"""Contrastive learning: losses, queue, momentum encoder, batch-norm groups, and MoCo v2.

MoCo never knows who masked its views, nor how.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.models import get_model, list_models

from repro.augmentation.views import Views
from repro.distributed import gather, gather_with_gradient, rank, world_size
from repro.errors import UserError, nearest
from repro.randomness import Purpose, stream_seed
from repro.runs.run import Anchor


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    hard_negative: Tensor | None = None,
    *,
    temperature: float,
    hard_negative_weight: float = 2.0,
) -> Tensor:
    """InfoNCE against a queue of negatives and one weighted hard negative for each query.

    `-log exp(s+/t) / (exp(s+/t) + sum_j exp(s_j/t) + exp(rho * s-/t))` with similarities s of unit vectors, temperature
    t and weight rho (paper section 3.3; released moco/builder.py:116-171). The positive stands in the denominator, as
    in the code and in MoCo; the poster leaves it out.

    Args:
        query: B×C, unit length.
        key: B×C, unit length, the positives.
        queue: C×K, unit length, the negatives that all queries share.
        hard_negative: B×C, unit length, each query's own; none for plain MoCo.
        temperature: t, positive.
        hard_negative_weight: rho; multiplies the hard negative's similarity.

    Returns:
        The mean loss, a scalar.
    """
    with torch.autocast(query.device.type, enabled=False):  # similarities of half precision would be off by 1e-3 / t
        query, key, queue = query.float(), key.float(), queue.float()
        positive = (query * key).sum(1) / temperature
        terms = [positive, (query @ queue / temperature).logsumexp(1)]
        if hard_negative is not None:
            terms.append(hard_negative_weight * (query * hard_negative.float()).sum(1) / temperature)
        return (torch.stack(terms).logsumexp(0) - positive).mean()


def nt_xent(
    query: Tensor,
    key: Tensor,
    hard_negative: Tensor | None = None,
    *,
    temperature: float,
    hard_negative_weight: float = 2.0,
    anchor: Anchor = Anchor.query,
) -> Tensor:
    """NT-Xent, SimCLR's loss: each view against its partner, the 2B - 2 other views, and one weighted hard negative.

    Chen et al. 2020, equation 1 and algorithm 1. An anchor a with partner b and hard negative h adds
    `exp(rho * a.h / t)` to its denominator, as a query does in `info_nce`.

    Args:
        query: B×C, unit length.
        key: B×C, unit length; key[i] is the other view of query[i]'s image.
        hard_negative: B×C, unit length, each image's own; none for plain SimCLR. Nobody else's negative.
        temperature: t, positive.
        hard_negative_weight: rho; multiplies the hard negative's similarity.
        anchor: who meets the hard negative: queries alone, as in MoCo, or keys as well.

    Returns:
        The mean over the 2B anchors, a scalar.
    """
    with torch.autocast(query.device.type, enabled=False):
        z = torch.cat([query.float(), key.float()])
        logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(z), device=z.device).roll(len(query))
        if hard_negative is not None:
            hard = hard_negative_weight * (z * hard_negative.float().repeat(2, 1)).sum(1) / temperature
            if anchor is Anchor.query:
                hard = torch.cat([hard[: len(query)], torch.full_like(hard[len(query) :], -torch.inf)])
            logits = torch.cat([logits, hard.unsqueeze(1)], 1)
        return F.cross_entropy(logits, partner)


class Queue(nn.Module):
    """The last K keys, first in, first out."""

    keys: Tensor
    """dim×K."""
    position: Tensor
    """Of the oldest key; a scalar."""

    def __init__(self, dim: int, size: int) -> None:
        """Start with random unit vectors, as MoCo does (moco/builder.py)."""
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys`, N×C. The position stays on the device: nothing waits for the host."""
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.keys.shape[1]
        self.keys.index_copy_(1, slots, keys.T.to(self.keys.dtype))
        self.position.add_(len(keys)).remainder_(self.keys.shape[1])


class SplitBatchNorm(nn.BatchNorm2d):
    """Batch norm over groups of the batch, so that one device gives the statistics of several.

    Groups follow each other in the batch, as the shares of several devices do. The running statistics follow the mean
    over the groups. After the cell "SplitBatchNorm" of MoCo's one-GPU demo (branch colab-notebook), which deals the
    samples out in turn instead; that takes a copy to another memory layout and back where channels come last.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, features: int, splits: int) -> None:
        super().__init__(features)
        self.splits = splits

    def forward(self, images: Tensor) -> Tensor:
        """Normalise N×C×H×W; N is a multiple of `splits`, or 1 (the released code's single hard negative).

        Raises:
            ValueError: N is neither.
        """
        if not self.training or self.splits == 1 or len(images) == 1:
            return super().forward(images)
        means, variances = self.running_mean.repeat(self.splits, 1), self.running_var.repeat(self.splits, 1)
        groups = torch.split(images, len(images) // self.splits)
        normalised = [
            F.batch_norm(group, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for group, mean, variance in zip(groups, means, variances, strict=True)
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        self.num_batches_tracked.add_(1)
        return torch.cat(normalised)


def split_batch_norm(network: nn.Module, splits: int) -> nn.Module:
    """Replace every BatchNorm2d of a network by a SplitBatchNorm with the same parameters, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm(child.num_features, splits)
            split.load_state_dict(child.state_dict())
            setattr(network, name, split)
        else:
            split_batch_norm(child, splits)
    return network


class ReducedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes on any backend; torch's SyncBatchNorm refuses CPUs."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, images: Tensor) -> Tensor:
        """Normalise N×C×H×W; every process has the same N, H and W."""
        if not self.training or world_size() == 1:
            return super().forward(images)
        count = images.numel() // images.shape[1] * world_size()
        single = images.float()
        mean = _total(single.sum((0, 2, 3))) / count
        centred = single - mean.view(-1, 1, 1)
        variance = _total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(images.dtype)


def _total(local: Tensor) -> Tensor:
    """The sum over all processes, with its gradient."""
    return gather_with_gradient(local.unsqueeze(0)).sum(0)


def sync_batch_norm(network: nn.Module) -> nn.Module:
    """Let every batch norm of a network span all processes: torch's own on GPUs, ours where the backend is gloo."""
    if world_size() == 1:
        return network
    if torch.distributed.get_backend() != "gloo":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            reduced = ReducedBatchNorm(child.num_features, child.eps, child.momentum)
            reduced.load_state_dict(child.state_dict())
            setattr(network, name, reduced)
        else:
            sync_batch_norm(child)
    return network


def build_resnet(arch: str, outputs: int) -> nn.Module:
    """A torchvision ResNet with fresh weights and so many outputs.

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    known = list_models(include=["resnet*", "resnext*", "wide_resnet*"])
    if arch not in known:
        raise UserError(f"encoder.arch={arch} is no ResNet of torchvision's{nearest(arch, known)}")
    return get_model(arch, weights=None, num_classes=outputs)


def build_encoder(arch: str, dim: int) -> nn.Module:
    """A torchvision ResNet whose `fc` is MoCo v2's two-layer projector to `dim` (moco/builder.py `mlp`).

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    network = build_resnet(arch, dim)
    head = network.fc
    assert isinstance(head, nn.Linear)
    width = head.in_features
    network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim))
    return network


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose parameters follow it slowly: `p = m * p + (1 - m) * q`."""

    def __init__(self, encoder: nn.Module, network: nn.Module, momentum: float) -> None:
        """Start as a copy.

        Args:
            encoder: what to follow.
            network: of the same shape; takes over the encoder's parameters and buffers.
            momentum: m, 0.999 in the paper.
        """
        super().__init__()
        network.load_state_dict(encoder.state_dict())
        self.network = network.requires_grad_(False)
        self._average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Follow the encoder's parameters by one step, all tensors in one call; buffers are this network's own."""
        self._average(list(self.network.parameters()), list(encoder.parameters()), None)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings N×dim of N×3×H×W."""
        return self.network(images)


class MoCo(BaseModel):
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
    def encoder(self) -> nn.Module:
        """What learns: the query encoder."""
        return self.encoder_q

    def get_extra_state(self) -> dict[str, int]:
        """What a checkpoint holds besides tensors."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Read it back."""
        self.steps = state["steps"]

    def forward(self, views: Views, mode: str = "loss") -> dict[str, Tensor]:
        """One step: loss of the views and the new keys into the queue.

        Args:
            views: query, key and, where there is one, hard negative; B×3×H×W each, the hard negative B or 1.
            mode: only "loss".

        Returns:
            `loss`, a scalar.

        Raises:
            ValueError: another mode.
        """
        if mode != "loss":
            raise ValueError(f"MoCo is only trained; mode '{mode}' is not one of its own")
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
