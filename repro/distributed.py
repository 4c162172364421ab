"""One process or many: torchrun's or Slurm's environment, and the few collectives that training needs."""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from repro.errors import UserError
from repro.randomness import Purpose, stream_seed


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


@torch.no_grad()
def gather(local: Tensor) -> Tensor:
    """Concatenate every rank's N×... along the first dimension, in the order of ranks; no gradient."""
    if world_size() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def gather_with_gradient(local: Tensor) -> Tensor:
    """Concatenate every rank's N×... along the first dimension; gradients flow back to the rank they belong to.

    Each rank receives the sum of all ranks' gradients. Where every rank computes the same loss from the result, DDP's
    mean over ranks then makes it the gradient of that loss.
    """
    if world_size() == 1:
        return local
    return _Gather.apply(local)


class _Gather(torch.autograd.Function):
    """`torch.distributed.nn.functional.all_gather`, which is deprecated without a public successor."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.count = len(local)
        return gather(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]


def slurm_to_env(slurm: Mapping[str, str]) -> dict[str, str]:
    """Torch's env:// variables from those that `srun` sets for a task; empty outside a step of several tasks.

    Raises:
        UserError: the list of nodes cannot be read.
    """
    # SLURM_NTASKS is set in a batch script too, which is one process and must not wait for others.
    if int(slurm.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    nodes = slurm.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST='{nodes}' names no node", mend="set MASTER_ADDR")
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()),  # node[03-07] -> node03
        "MASTER_PORT": port_of(slurm["SLURM_JOB_ID"]),
    }


def submitit_to_env(local: Mapping[str, str]) -> dict[str, str]:
    """Torch's env:// variables from those of submitit's local executor; empty where it started one process."""
    if local.get("SUBMITIT_EXECUTOR") != "local" or int(local.get("SUBMITIT_LOCAL_NTASKS", "1")) < 2:
        return {}
    return {
        "RANK": local["SUBMITIT_LOCAL_GLOBALID"],
        "WORLD_SIZE": local["SUBMITIT_LOCAL_NTASKS"],
        "LOCAL_RANK": local["SUBMITIT_LOCAL_LOCALID"],
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port_of(local["SUBMITIT_LOCAL_JOB_ID"]),
    }


def port_of(job: str) -> str:
    """A port that follows from a job's number, so that two jobs on one node do not meet.

    From 20000 on, and below those that Linux gives to outgoing connections.
    """
    return str(20000 + int(job) % 12768)


def initialise(device: str, environ: MutableMapping[str, str] = os.environ) -> torch.device:
    """Join the process group that torchrun or Slurm describes, if any, and choose this process's device.

    CUDA_VISIBLE_DEVICES stays as the scheduler set it: where each task sees one GPU that is device 0, else the local
    rank's.

    Args:
        device: "auto", "cpu" or "cuda".
        environ: where the launcher's variables stand; Slurm's are translated in place for torch.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "machine.device=cuda, but torch sees no GPU", mend="machine.device=auto, or see `salmask doctor`"
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if "RANK" not in environ:
        found = submitit_to_env(environ) or slurm_to_env(environ)
        environ.update({name: environ.get(name, value) for name, value in found.items()})
    if "RANK" in environ and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    if not on_gpu:
        return torch.device("cpu")
    local = int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Networks built within start from the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, Purpose.initialisation))
        yield


def device_name(device: torch.device) -> str:
    """As provenance and results name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
