"""Batch norm over groups of a batch, and batch norm over the images of all processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.processes.distributed import gather, gather_with_gradient, rank, world_size


class SplitBatchNorm(nn.BatchNorm2d):
    """Batch norm over groups of the batch, so that one device has the statistics of several.

    Group 0 is the first N / splits images, group 1 the next, and so on, like the shares of several devices in a global
    batch. Without groups, a recipe of 4 × 32 images would have other statistics on one device than on four, and
    ShuffleBN would have no groups to shuffle keys between (`repro.contrastive.moco`).

    The running statistics follow the mean over the groups. In a checkpoint of MoCo's own code they are those of the
    first device alone, whose buffers DDP sends to all others before each step: the same in expectation, but noisier.

    Based on the cell "SplitBatchNorm" of MoCo's one-GPU demo (branch colab-notebook). The demo assigns images to groups
    in turn, which takes a copy to another memory layout and back where channels come last.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, features: int, splits: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, eps, momentum)
        self.splits = splits

    def forward(self, images: Tensor) -> Tensor:
        """Normalises N×C×H×W; N is a multiple of `splits`.

        A group may be a single image (the released code's hard negatives), normalised by the statistics of its pixels.

        Raises:
            ValueError: N is not a multiple of `splits`.
        """
        if not self.training or self.splits == 1:
            return super().forward(images)
        if len(images) % self.splits:
            raise ValueError(f"{len(images)} images are no multiple of {self.splits} batch-norm groups")
        # `torch.compile` fuses one expression over all groups, and what follows it, into two kernels. Uncompiled, the
        # expression would write each intermediate result to memory; the library's kernel for each group is faster then.
        if torch.compiler.is_compiling():
            return self._all_groups_at_once(images)
        # Each group updates its own copy of the running statistics. The update is linear in a batch's statistics, so
        # the mean of the copies is what one update with the mean over the groups would give. Rows are views, so that
        # `F.batch_norm` writes into `means` and `variances`.
        means, variances = self.running_mean.repeat(self.splits, 1), self.running_var.repeat(self.splits, 1)
        # Slices of the batch are views in either memory layout.
        groups = torch.split(images, len(images) // self.splits)
        normalised = [
            F.batch_norm(group, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for group, mean, variance in zip(groups, means, variances, strict=True)
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        self.num_batches_tracked.add_(1)
        return torch.cat(normalised)

    def _all_groups_at_once(self, images: Tensor) -> Tensor:
        """Normalises N×C×H×W as `forward` does in training, as one expression; equal but for rounding."""
        # The batch is cut into its groups without a copy, in either memory layout.
        groups = images.view(self.splits, -1, *images.shape[1:]).float()
        variances, means = torch.var_mean(groups, (1, 3, 4), correction=0)
        pixels = groups[0].numel() // groups.shape[2]
        with torch.no_grad():
            self.running_mean.lerp_(means.mean(0), self.momentum)
            # The unbiased variance, as in torch; the groups themselves are normalised by the biased one.
            self.running_var.lerp_(variances.mean(0) * (pixels / (pixels - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variances + self.eps).rsqrt()
        shift = self.bias - means * scale
        scale, shift = (per_group[:, None, :, None, None] for per_group in (scale, shift))
        return (groups * scale + shift).to(images.dtype).flatten(0, 1)


def split_batch_norm(network: nn.Module, splits: int) -> nn.Module:
    """Replaces every BatchNorm2d of a network, in place, by a SplitBatchNorm of the same settings and weights.

    Args:
        network: Is changed; names in its state dict stay as they are.
        splits: Number of groups.

    Returns:
        The same network.
    """

    def split(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
        assert norm.momentum is not None  # a running mean over all batches, which no network of ours has
        return SplitBatchNorm(norm.num_features, splits, norm.eps, norm.momentum)

    return _with_other_norms(network, split)


def _with_other_norms(network: nn.Module, other: Callable[[nn.BatchNorm2d], nn.BatchNorm2d]) -> nn.Module:
    """Replaces every BatchNorm2d of a network, in place, by what `other` returns for it, with the same weights."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = other(child)
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm)
        else:
            _with_other_norms(child, other)
    return network


def own_statistics(network: nn.Module) -> list[Tensor]:
    """Returns the running means and variances that follow this process's groups alone: those of `SplitBatchNorm`.

    For each layer its mean, then its variance, with a number for each channel. Batch norm that spans the
    processes has the same statistics on all of them, so that there is nothing to average.
    """
    norms = (module for module in network.modules() if isinstance(module, SplitBatchNorm))
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]


def gather_statistics(network: nn.Module) -> list[Tensor]:
    """Returns the `own_statistics` of every rank, as one vector of N numbers each; a collective.

    Empty, and no collective, where the network has none.
    """
    own = own_statistics(network)
    return list(gather(torch.cat(own).unsqueeze(0))) if own else []


@torch.no_grad()
def set_statistics(network: nn.Module, statistics: Tensor) -> None:
    """Replaces a network's `own_statistics`.

    Args:
        network: Is changed.
        statistics: N numbers, as `gather_statistics` returned them for a network of this architecture.
    """
    own = own_statistics(network)
    sizes = [buffer.numel() for buffer in own]
    for buffer, numbers in zip(own, torch.split(statistics, sizes), strict=True):
        buffer.copy_(numbers)


@contextmanager
def joint_statistics(network: nn.Module) -> Iterator[None]:
    """Sets running statistics to their mean over all processes while the context lasts; entering is a collective.

    In training, each process updates statistics of its own, which nothing reads there. Their mean is what one process
    with all groups would have, up to rounding, since each update is linear in them. That is what an evaluation or a
    saved backbone needs. On leaving, each process gets its own statistics back bit for bit, so that looking at the
    network never changes the training.

    Args:
        network: Is changed while the context lasts.
    """
    if world_size() == 1 or not (of_ranks := gather_statistics(network)):
        yield
        return
    set_statistics(network, torch.stack(of_ranks).mean(0))
    try:
        yield
    finally:
        set_statistics(network, of_ranks[rank()])


class ReducedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes on any backend; torch's SyncBatchNorm refuses CPUs."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, images: Tensor) -> Tensor:
        """Normalises N×C×H×W; every process has the same N, H and W."""
        if not self.training or world_size() == 1:
            return super().forward(images)
        count = images.numel() // images.shape[1] * world_size()
        # In single precision, as torch's own: sums over a batch are beyond half precision.
        values = images.float()
        mean = _total(values.sum((0, 2, 3))) / count
        # A second pass over centred values costs one more collective than `E[x²] - E[x]²`, but that loses its digits
        # where the mean is much larger than the deviation.
        centred = values - mean.view(-1, 1, 1)
        variance = _total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            # The unbiased variance, as in torch; the batch itself is normalised by the biased one.
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(images.dtype)


def _total(local: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes; gradients flow back to each of them."""
    return gather_with_gradient(local.unsqueeze(0)).sum(0)


def sync_batch_norm(network: nn.Module) -> nn.Module:
    """Makes every batch norm of a network span all processes: torch's own on GPUs, ours where the backend is gloo.

    Args:
        network: May be changed in place; names in its state dict stay as they are.

    Returns:
        The network to use.
    """
    if world_size() == 1:
        return network
    if torch.distributed.get_backend() != "gloo":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return _with_other_norms(network, lambda norm: ReducedBatchNorm(norm.num_features, norm.eps, norm.momentum))
