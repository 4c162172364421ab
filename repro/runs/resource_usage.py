"""What the processes of a task used: time, cores, memory and GPU, as each process writes it down while it works.

`usage/TASK.RANK.json` in a run's folder (in a sweep's, of its report) holds a list, an entry for each attempt. The file
is written again and again, so that of a process that is killed only the last minute is missing. Nothing of it plays a
part in any result: a file that cannot be written or read is passed over. `salmask status --cost` and plans read it.
"""

import contextlib
import glob
import logging
import math
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from repro.cores import usable_cores
from repro.errors import UserError
from repro.files import write_json
from repro.runs.lock import job_id
from repro.runs.schemas import read_json

USAGE = "usage"
"""Folder below a run's."""
FIRST_SECONDS = 1.0
"""Until the first look; each next one comes after twice the time, so that short tasks are seen too."""
LOOK_SECONDS = 60.0
"""The longest time between two looks."""
NVIDIA_SMI_SECONDS = 10.0
"""How long the driver's answer is waited for."""

log = logging.getLogger("salmask")

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What one process of one attempt used, with all the processes that it started."""

    begun: float
    """Seconds since the epoch."""
    seconds: float
    """From its beginning to its last sign of life."""
    cpu_seconds: float
    memory: int
    """Bytes of main memory at most at one time, as far as the looks saw it; shared pages count once."""
    cores: int
    """That it could use."""
    gpu_memory: int = 0
    """Bytes that PyTorch had reserved at most; 0: it used no GPU."""
    gpu_busy: float | None = None
    """Share of the time in which kernels ran, mean of the looks, in 0…1; None: nobody could tell."""
    host: str = ""
    job: str = ""
    """The scheduler's id; empty without one."""


@dataclass(frozen=True)
class TaskUsage:
    """What a task used in all of its attempts."""

    seconds: float
    """That it had its machine, over all attempts."""
    longest_seconds: float
    """Of one attempt."""
    cpu_seconds: float
    """Of all processes."""
    memory: int
    """Bytes of main memory at most, of the processes of the fullest node."""
    cores: int
    """That its processes could use; those of one node are counted once."""
    gpus: int
    """That its processes computed on."""
    gpu_memory: int
    """Bytes at most of one GPU."""
    gpu_busy: float | None
    """Share of the time, mean over attempts and processes."""
    attempts: int


class UsageMeter:
    """Looks at this process, its children and its GPU."""

    def __init__(self) -> None:
        """Begins to count."""
        self._begun, self._start, self._cpu_before = time.time(), time.monotonic(), _cpu_seconds()
        self._memory = 0
        self._busy: list[float] = []

    def look(self) -> Usage:
        """Returns what was used so far."""
        family = _family()
        # The kernel's own maxima are of one process each, but miss nothing between two looks.
        at_least = max(map(_largest_memory, family))
        self._memory = max(self._memory, at_least, sum(map(_memory, family)))
        device, gpu_memory = _own_gpu()
        if gpu_memory and (busy := _gpu_busy(device)) is not None:
            self._busy.append(busy)
        return Usage(
            begun=round(self._begun, 1),
            seconds=round(time.monotonic() - self._start, 2),
            cpu_seconds=round(_cpu_seconds() - self._cpu_before, 2),
            memory=self._memory,
            cores=usable_cores(),
            gpu_memory=gpu_memory,
            gpu_busy=round(sum(self._busy) / len(self._busy), 3) if self._busy else None,
            host=socket.gethostname(),
            job=job_id(),
        )


@contextmanager
def usage_recorded(folder: Path, task: str, meter: UsageMeter, rank: int = 0) -> Iterator[None]:
    """Writes down what this process uses during the block, and tells it where that ends well.

    Args:
        folder: Of the run; of the sweep, for its report.
        task: What is carried out.
        meter: Has counted since the process began with the task.
        rank: The number of this process, of several.
    """
    path = folder / USAGE / f"{task}.{rank}.json"
    earlier = [asdict(usage) for usage in _read(path)]
    stop = threading.Event()

    def write() -> Usage:
        usage = meter.look()
        with contextlib.suppress(UserError):  # a full disk is the task's to report
            write_json(path, [*earlier, asdict(usage)])
        return usage

    def look_again() -> None:
        wait = FIRST_SECONDS
        while not stop.wait(wait):
            write()
            wait = min(2 * wait, LOOK_SECONDS)

    thread = threading.Thread(target=look_again, name="usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        usage = write()
    # Not where it failed: the line of the error is the last one.
    log.info("%s used %s", task, words(total([[usage]])))


def usage_of(folder: Path, task: str) -> TaskUsage | None:
    """Returns what a task used in all of its attempts; None where nobody wrote it down.

    Args:
        folder: Of the run; of the sweep, for its report.
        task: The task's name, `linear` or `linear@caltech101`.
    """
    paths = sorted((folder / USAGE).glob(f"{glob.escape(task)}.*.json"))
    ranks = [usages for path in paths if (usages := _read(path))]
    return total(ranks) if ranks else None


def memories_of(folder: Path) -> dict[str, int]:
    """Returns the bytes of main memory that each task used at most, of those that wrote it down.

    Args:
        folder: Of the run.
    """
    tasks = dict.fromkeys(path.name.rsplit(".", 2)[0] for path in sorted((folder / USAGE).glob("*.*.json")))
    return {task: usage.memory for task in tasks if (usage := usage_of(folder, task))}


def total(ranks: Sequence[Sequence[Usage]]) -> TaskUsage:
    """Returns what processes used together.

    Args:
        ranks: Of each process its attempts; the first process has all of them.
    """
    every = [usage for rank in ranks for usage in rank]
    hosts = {usage.host for usage in every}
    # The ranks of a node have its memory together; each one's largest attempt counts, so that nothing is too small.
    memory = max(
        sum(max((usage.memory for usage in rank if usage.host == host), default=0) for rank in ranks) for host in hosts
    )
    timed = [(usage.gpu_busy, usage.seconds) for usage in every if usage.gpu_busy is not None]
    weight = math.fsum(seconds for _, seconds in timed)
    last = [rank[-1] for rank in ranks]
    return TaskUsage(
        seconds=math.fsum(usage.seconds for usage in ranks[0]),
        longest_seconds=max(usage.seconds for usage in ranks[0]),
        cpu_seconds=math.fsum(usage.cpu_seconds for usage in every),
        memory=memory,
        cores=sum(max(usage.cores for usage in last if usage.host == host) for host in {usage.host for usage in last}),
        gpus=sum(usage.gpu_memory > 0 for usage in last),
        gpu_memory=max(usage.gpu_memory for usage in every),
        gpu_busy=math.fsum(busy * seconds for busy, seconds in timed) / weight if weight else None,
        attempts=len(ranks[0]),
    )


def words(usage: TaskUsage) -> str:
    """Returns a usage for people: `35 s, 1.2 GB of memory, 1.8 of 2 cores`."""
    busy_cores = usage.cpu_seconds / usage.seconds if usage.seconds else 0.0
    parts = [
        f"{usage.seconds:.0f} s",
        f"{usage.memory / 1e9:.1f} GB of memory",
        f"{busy_cores:.1f} of {usage.cores} cores",
    ]
    if usage.gpu_memory:
        busy = "" if usage.gpu_busy is None else f", {100 * usage.gpu_busy:.0f} % busy"
        parts.append(f"{usage.gpu_memory / 1e9:.1f} GB of GPU memory{busy}")
    return ", ".join(parts)


_FIELDS = frozenset(field.name for field in fields(Usage))


def _read(path: Path) -> list[Usage]:
    """Returns the entries of a file; what cannot be read is left out."""
    if not path.exists():
        return []
    try:
        content = read_json(path, "")
    except UserError:
        return []
    return [usage for entry in content if (usage := _parsed(entry))] if isinstance(content, list) else []


def _parsed(entry: Any) -> Usage | None:
    """Returns an entry; None where it is of another form. Keys of later versions are left out."""
    if not isinstance(entry, dict):
        return None
    values = {name: value for name, value in entry.items() if name in _FIELDS and value is not None}
    for name, value in values.items():
        is_text = isinstance(value, str)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        if not (is_text if name in ("host", "job") else is_number):
            return None
    try:
        return Usage(**values)
    except TypeError:  # one is missing
        return None


def _cpu_seconds() -> float:
    """Returns the CPU seconds of this process, of its children that live and of those that have ended."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    finished = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return finished + sum(_cpu_seconds_of(pid) for pid in _family() if pid != os.getpid())


def _family() -> list[int]:
    """Returns this process and all that descend from it; where there is no /proc, this process alone."""
    family = [os.getpid()]
    for pid in family:  # which grows meanwhile
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                family += [int(word) for word in path.read_text(encoding="ascii").split()]
    return family


def _cpu_seconds_of(pid: int) -> float:
    """Returns the CPU seconds of a process and of those of its children that have ended; 0 where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    # The name, in brackets, may hold anything; utime, stime, cutime and cstime are fields 14 to 17.
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11:15]) / _TICKS


def _memory(pid: int) -> int:
    """Returns the bytes of main memory of a process, its shared pages shared out among those who have them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def _largest_memory(pid: int) -> int:
    """Returns the most bytes of main memory that a process had at one time; 0 where nobody knows."""
    # Not getrusage's maximum: it goes on over an exec, and would be the launcher's.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; others count in kilobytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if pid == os.getpid() else 0


def _cuda() -> Any:
    """Returns torch.cuda where this process uses it; None elsewhere. Whoever needs no torch does not import it here."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    begun = getattr(cuda, "is_initialized", None)  # none while torch is being imported
    return cuda if begun is not None and begun() else None


def _own_gpu() -> tuple[int, int]:
    """Returns the GPU that this process computes on, and the bytes that it had there at most; 0 without one."""
    cuda = _cuda()
    if cuda is None:
        return 0, 0
    # Not the current device: that is each thread's own, and these looks come from another one than the training.
    reserved = [int(cuda.max_memory_reserved(device)) for device in range(cuda.device_count())]
    own = max(range(len(reserved)), key=reserved.__getitem__, default=0)
    return own, reserved[own] if reserved else 0


def _gpu_busy(device: int) -> float | None:
    """Returns the share of the last moment in which a GPU ran kernels, by the driver's word."""
    try:
        own = str(_cuda().get_device_properties(device).uuid)
        # PyTorch's own question needs a package that is not installed with it; every driver brings this program.
        reply = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid,utilization.gpu", "--format=csv,noheader,nounits"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=NVIDIA_SMI_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired, AttributeError, RuntimeError):
        return None
    return busy_share(reply.stdout, own)


def busy_share(output: str, uuid: str) -> float | None:
    """Returns the share of time in which a GPU ran kernels; None where the driver does not tell.

    Args:
        output: Lines of `nvidia-smi`, `UUID, PERCENT`.
        uuid: Of the GPU, with or without `GPU-` in front.
    """
    for line in output.splitlines():
        name, _, percent = (word.strip() for word in line.partition(","))
        if name.removeprefix("GPU-") == uuid.removeprefix("GPU-") and percent.isdigit():
            return int(percent) / 100
    return None
