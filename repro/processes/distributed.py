"""One process or many: joining the group that a launcher describes, and the collectives that training needs.

Without a process group, each function behaves as for a single rank.
"""

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repro.errors import UserError, one_line
from repro.processes.freed_memory import keep_freed_memory
from repro.processes.rendezvous import AGAIN, ALONE, MEETING_SECONDS, MEND, check_launcher, meet, slurm_to_env
from repro.processes.workers import use_short_sockets
from repro.randomness import Purpose, stream_seed

VISIBLE_SECONDS = 90.0
"""How long a file written on one machine may stay invisible on another; NFS caches attributes for up to 60 s."""
T = TypeVar("T")
_DECIDING = ContextVar("deciding", default=False)
"""Whether this rank is deciding for all (`decided_by_first`): the others wait, and take part in no collective."""


def rank() -> int:
    """Returns this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Waits until all processes have come here."""
    if dist.is_initialized():
        # NCCL is told which GPU. By default, older versions take the rank modulo the node's number of GPUs, which is
        # another process's GPU if ranks are dealt over the nodes in turn; newer ones warn.
        dist.barrier(device_ids=[torch.cuda.current_device()] if dist.get_backend() == "nccl" else None)


def decided_by_first(decide: Callable[[], T]) -> T:
    """Returns on every rank what `decide` returns on rank 0; if that raises a UserError, every rank raises it.

    For whatever depends on files. On a network file system, ranks may see different files for a while. Ranks that
    resumed from different checkpoints, or of which only some had work left, would wait for each other for ever.

    Args:
        decide: Called on rank 0 alone; its result is pickled. Calls of this function within it decide there, too.

    Raises:
        UserError: The one that `decide` raised.
    """
    if world_size() == 1 or _DECIDING.get():
        return decide()
    decision: list[tuple[T | None, UserError | None]] = [(None, None)]
    if rank() == 0:
        deciding = _DECIDING.set(True)
        try:
            decision = [(decide(), None)]
        except UserError as error:
            decision = [(None, error)]
        finally:
            _DECIDING.reset(deciding)
    dist.broadcast_object_list(decision, src=0)
    value, refusal = decision[0]
    if refusal is not None:
        raise refusal
    return cast(T, value)


def await_file(path: Path) -> None:
    """Waits until a file that rank 0 has seen is visible here, too.

    Raises:
        UserError: It does not become visible within `VISIBLE_SECONDS`.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    # False on errors, too: of a file that was just replaced, NFS may first report the old version as a stale handle.
    while not os.path.exists(path):  # noqa: PTH110  # Path.exists raises there
        if time.monotonic() > deadline:
            what = f"rank {rank()} on {socket.gethostname()} does not see {path}, which rank 0 sees"
            raise UserError(what, mend="put the runs into a folder that all nodes share")
        time.sleep(0.1)


@torch.no_grad()
def gather(local: Tensor) -> Tensor:
    """Concatenates every rank's tensor along the first dimension, in the order of ranks; without gradient.

    Args:
        local: N×..., of the same shape on every rank.

    Returns:
        (world_size * N)×..., the same on every rank.
    """
    if world_size() == 1:
        return local
    # Contiguous input and outputs: a backend may copy raw bytes, and those of channels-last images would land as other
    # pixels.
    local = local.contiguous()
    of_ranks = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(of_ranks, local)
    return torch.cat(of_ranks)


def gather_objects(value: T) -> list[T]:
    """Returns every rank's value, which is pickled, in the order of ranks."""
    if world_size() == 1:
        return [value]
    of_ranks: list[Any] = [None] * world_size()
    dist.all_gather_object(of_ranks, value)
    return of_ranks


def mean_of_ranks(local: Tensor) -> Tensor:
    """Returns the mean of every rank's tensor, the same on every rank; without gradient.

    Args:
        local: Of the same shape on every rank.
    """
    return local if world_size() == 1 else gather(local.unsqueeze(0)).mean(0)


def share_of_rank(count: int) -> list[int]:
    """Returns the indices of the items that this rank works on when all ranks share a data set.

    Rank r takes the items r, r + world_size, r + 2 * world_size and so on. If the ranks cannot share evenly, the shares
    are padded with items from the data set's beginning, because `gather` needs as many rows of every rank.

    Args:
        count: Number of items in the data set.

    Returns:
        ceil(count / world_size) indices, each in 0..count - 1.
    """
    ranks = world_size()
    filled_up = count + -count % ranks  # the smallest multiple of the number of ranks that is not below `count`
    return [position % count for position in range(rank(), filled_up, ranks)]


def in_order(gathered: Tensor, count: int) -> Tensor:
    """Puts the results of all ranks' shares back into the data set's order.

    Args:
        gathered: M×..., what `gather` returned for results in the order of `share_of_rank(count)`; M is world_size
            times the length of a share.
        count: Number of items in the data set.

    Returns:
        count×..., row i being the result of item i; the padding of the shares is dropped.
    """
    # `gather` concatenates the shares, and item i is number i // ranks in the share of rank i % ranks. So in a matrix
    # ranks × share the items run down the columns.
    by_rank = gathered.reshape(world_size(), len(gathered) // world_size(), *gathered.shape[1:])
    return by_rank.transpose(0, 1).flatten(0, 1)[:count]


def gather_with_gradient(local: Tensor) -> Tensor:
    """Concatenates every rank's tensor along the first dimension; gradients flow back to the rank they belong to.

    Each rank receives the sum of all ranks' gradients. If every rank computes the same loss from the result, DDP's mean
    over ranks turns that sum into the gradient of the loss.

    Args:
        local: N×..., of the same shape on every rank.

    Returns:
        (world_size * N)×..., the same on every rank.
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
        total = gradient.contiguous().clone()  # summed in place, and autograd may use the tensor elsewhere too
        dist.all_reduce(total)
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]


def initialise(
    device: str, environ: MutableMapping[str, str] = os.environ, *, patience: float = MEETING_SECONDS
) -> torch.device:
    """Joins the process group that the environment describes, if any, and chooses this process's device.

    Torchrun and `slurm.local.processes` set torch's own variables, Slurm sets its own. CUDA_VISIBLE_DEVICES stays as
    the launcher set it: a process that sees one GPU uses device 0, one that sees several that of its local rank. From
    here on, the process keeps the memory that it frees.

    Args:
        device: "auto", "cpu" or "cuda".
        environ: The environment, which holds the launcher's variables; those for torch are added to it.
        patience: Seconds for which the tasks of a Slurm step wait for each other.

    Returns:
        The device to compute on.

    Raises:
        UserError: A GPU is asked for and there is none, the launcher's variables or Slurm's list of nodes are wrong,
            processes do not find each other, or the temporary folder's path is too long for the loaders' sockets.
    """
    use_short_sockets()
    keep_freed_memory()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "machine.device=cuda, but torch sees no GPU", mend="machine.device=auto, or see `salmask doctor`"
        )
    _join(environ, "nccl" if computes_on_gpu(device) else "gloo", patience)
    if not computes_on_gpu(device):
        return torch.device("cpu")
    # Modulo: if Slurm shows each task only its own GPU, that is device 0 whatever the local rank.
    index = int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def computes_on_gpu(device: str) -> bool:
    """Returns whether `initialise` chooses a GPU for "auto", "cpu" or "cuda"."""
    return device != "cpu" and torch.cuda.is_available()


def _join(environ: MutableMapping[str, str], backend: str, patience: float) -> None:
    """Joins the process group, if the environment describes one; arguments as of `initialise`."""
    store, by_slurm = None, "RANK" not in environ
    if by_slurm:
        by_person = "MASTER_PORT" in environ
        # What a person has set, such as MASTER_ADDR, stays.
        environ.update({name: environ.get(name, value) for name, value in slurm_to_env(environ).items()})
        if "RANK" in environ and not (by_person or dist.is_initialized()):
            store = meet(environ, seconds=patience)
            environ["MASTER_PORT"] = str(store.port)
    if "RANK" in environ and not dist.is_initialized():
        if store is None:
            _join_by_address(environ, backend, MEND if by_slurm else ALONE)
        else:
            dist.init_process_group(
                backend, store=store, rank=int(environ["RANK"]), world_size=int(environ["WORLD_SIZE"])
            )


def _join_by_address(environ: Mapping[str, str], backend: str, mend: str) -> None:
    """Joins the process group at MASTER_ADDR and MASTER_PORT; `mend` is what to do where these lead nowhere."""
    check_launcher(environ, mend)
    try:
        dist.init_process_group(backend)
    except dist.DistError as error:  # the port is another program's, or nobody is there
        place = f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
        # Launchers choose a port that is free, and another program may have taken it since.
        mend = AGAIN if mend == ALONE and "EADDRINUSE" in str(error) else mend
        raise UserError(
            f"rank {environ['RANK']} cannot join at {place} ({one_line(error)[:200]})", mend=mend
        ) from error


def in_ddp(
    module: nn.Module, device: torch.device, wrapper: type[DistributedDataParallel] = DistributedDataParallel
) -> nn.Module:
    """Returns a module wrapped in DDP, which averages gradients over the processes; buffers stay each process's own.

    With a single process, the module is returned as it is.

    Args:
        module: On the device.
        device: This process's.
        wrapper: The class of the wrapper.
    """
    if world_size() == 1:
        return module
    ids = None if device.type == "cpu" else [device.index]
    with warnings.catch_warnings():
        # torch 2.13 deprecates this argument, and older versions have no other.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return wrapper(module=module, device_ids=ids, broadcast_buffers=False)


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside DDP's wrapper, or the model itself where there is no wrapper."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, nn.Module)
    return inner


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Initialises the networks that are built within the block from the seed alone.

    Afterwards the CPU's global generator is as it was.

    Args:
        seed: The run's seed.
    """
    # Only the CPU's generator is seeded, so build networks on the CPU: its numbers are the same on every machine.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, Purpose.initialisation))
        yield


def device_name(device: torch.device) -> str:
    """Returns the name of a device for provenance and results: the GPU's model, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
