"""How many bytes a process hands to collectives in one training step under DistributedDataParallel."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from repro.contrastive.moco import MoCo
from repro.masking.views import Views
from repro.processes.distributed import in_ddp

PROCESSES = 2
SIZE = 64
"""Pixels a side of the views."""
ARCH, DIMENSION, QUEUE = "resnet18", 128, 1024
"""Settings of the MoCo that takes the step."""


@contextmanager
def bytes_gathered(batch: int) -> Iterator[Callable[[], int]]:
    """Measures what a process hands to all-gathers in a step of MoCo with a hard negative: images and embeddings."""
    yield lambda: _measured(batch)[0]


@contextmanager
def bytes_of_gradients(batch: int) -> Iterator[Callable[[], int]]:
    """Measures the bytes that a process hands to the all-reduce of gradients in a step of MoCo with a hard negative."""
    yield lambda: _measured(batch)[1]


@cache  # both subjects ask for the same steps, and starting processes takes seconds
def _measured(batch: int) -> tuple[int, int]:
    """Returns the bytes that one of two processes gathers, and those that it reduces, with `batch` images each."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_take_step, (batch, folder), nprocs=PROCESSES)
        gathered, reduced = (int(number) for number in (Path(folder) / "bytes").read_text(encoding="utf-8").split())
    return gathered, reduced


class _Gathers(TorchDispatchMode):
    """Counts the bytes that this process hands to all-gathers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # inherited: torch is excluded from type checks
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d.allgather_.default:
            self.bytes += sum(tensor.nbytes for tensor in tree_iter(args[1]) if isinstance(tensor, Tensor))
        return func(*args, **(kwargs or {}))


def _take_step(rank: int, batch: int, folder: str) -> None:
    """Takes a step as one of two processes; the first one writes down the bytes that it sent."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    model = MoCo(ARCH, DIMENSION, queue=QUEUE, seed=0)
    # As `repro.training.runner` wraps it.
    parallel = in_ddp(model, torch.device("cpu"), MMDistributedDataParallel)
    assert isinstance(parallel, MMDistributedDataParallel)
    reduced = 0

    def count(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        nonlocal reduced
        reduced += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    parallel.register_comm_hook(None, count)
    views = Views(*torch.randn(3, batch, 3, SIZE, SIZE))
    with _Gathers() as gathers:
        loss = parallel(views=views, mode="loss")["loss"]
    loss.backward()
    if rank == 0:
        (Path(folder) / "bytes").write_text(f"{gathers.bytes} {reduced}", encoding="utf-8")
    dist.destroy_process_group()
