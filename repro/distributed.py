"""One process or many: torchrun's or Slurm's environment, and the few collectives that training needs."""

import os
import re
from collections.abc import Mapping, MutableMapping

import torch
import torch.distributed as dist
from torch import Tensor

from repro.errors import UserError


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


def slurm_to_env(slurm: Mapping[str, str]) -> dict[str, str]:
    """Torch's env:// variables from those that `srun` sets for a task; empty outside a step of several tasks.

    The port follows from the job's number, so that two jobs on one node do not meet.

    Raises:
        UserError: the list of nodes cannot be read.
    """
    # SLURM_NTASKS is set in a batch script too, which is one process and must not wait for others.
    if int(slurm.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    nodes = slurm.get("SLURM_STEP_NODELIST", "")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST='{nodes}' names no node; mend: set MASTER_ADDR")
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()),  # node[03-07] -> node03
        "MASTER_PORT": str(20000 + int(slurm["SLURM_JOB_ID"]) % 20000),
    }


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
            "machine.device=cuda, but torch sees no GPU; mend: machine.device=auto, or see `salmask doctor`"
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if "RANK" not in environ:
        environ.update({name: environ.get(name, value) for name, value in slurm_to_env(environ).items()})
    if "RANK" in environ and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    if not on_gpu:
        return torch.device("cpu")
    local = int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
