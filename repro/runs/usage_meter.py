"""Samples what this process, its children and its GPU use, and records it while a task runs.

The file is rewritten at each sample, so that a process that is killed loses a minute at most. See
`repro.runs.resource_usage` for what is in it.
"""

import contextlib
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.filesystem.presence import is_folder
from repro.processes.background import repeated
from repro.processes.control_groups import kernel_numbers, kernel_text
from repro.processes.cores import usable_cores
from repro.runs.lock import job_id
from repro.runs.resource_usage import Usage, attempts_of, total, usage_file, words

FIRST_SECONDS = 1.0
"""Seconds before the first sample; each next interval is twice as long, so that short tasks are sampled too."""
LOOK_SECONDS = 60.0
"""Longest interval between two samples."""
NVIDIA_SMI_SECONDS = 10.0
"""Longest wait for the driver's answer."""
PATIENCE_SECONDS = 1.0
"""Longest wait, when the task ends, for a sample under way."""

log = logging.getLogger("salmask")

_TICKS = os.sysconf("SC_CLK_TCK")


class UsageMeter:
    """Samples what this process, its children and its GPU use."""

    def __init__(self) -> None:
        """Begins to count."""
        self._begun, self._start, self._cpu_before = time.time(), time.monotonic(), _cpu_seconds(_family())
        self._memory, self._gpu_memory = 0, 0
        self._busy: list[float] = []

    def look(self, *, ask_driver: bool = True) -> Usage:
        """Returns what was used so far.

        Args:
            ask_driver: Whether to ask the driver how busy the GPU is now, whose answer may take `NVIDIA_SMI_SECONDS`.
        """
        family = _family()
        # The kernel's maximum is of a single process, but misses nothing between two samples.
        at_least = max(map(largest_memory, family))
        self._memory = max(self._memory, at_least, sum(map(_memory, family)))
        device, gpu_memory = _own_gpu()
        # mmengine resets PyTorch's maximum at each line of the log, and capturing a graph gives memory back.
        self._gpu_memory = max(self._gpu_memory, gpu_memory)
        if ask_driver and gpu_memory and (busy := _gpu_busy(device)) is not None:
            self._busy.append(busy)
        return Usage(
            begun=round(self._begun, 1),
            seconds=round(time.monotonic() - self._start, 2),
            cpu_seconds=round(_cpu_seconds(family) - self._cpu_before, 2),
            memory=self._memory,
            cores=usable_cores(),
            gpu_memory=self._gpu_memory,
            gpu_busy=round(sum(self._busy) / len(self._busy), 3) if self._busy else None,
            host=socket.gethostname(),
            job=job_id(),
        )


@contextmanager
def usage_recorded(folder: Path, task: str, meter: UsageMeter, rank: int = 0, processes: int = 1) -> Iterator[None]:
    """Records what this process uses during the block; if that ends well, the first process also logs it.

    Args:
        folder: The run's folder; for a report, the sweep's.
        task: Name of the task.
        meter: Made when the process began with the task.
        rank: The rank of this process.
        processes: The number of processes.
    """
    path = usage_file(folder, task, rank)
    earlier = [asdict(usage) for usage in attempts_of(path)]

    ended, writing = threading.Event(), threading.Lock()

    def write(usage: Usage) -> None:
        with contextlib.suppress(UserError):  # a full disk is the task's to report
            if is_folder(folder):  # otherwise it was moved, and a new one in its place would be in the way
                write_json(path, [*earlier, asdict(usage)])

    def look_and_write() -> bool:
        usage = meter.look()
        with writing:
            if not ended.is_set():  # otherwise the final entry is written, and this sample came too late
                write(usage)
        return True

    try:
        with repeated(look_and_write, _waits(), "usage", patience=PATIENCE_SECONDS):
            yield
    finally:
        # A process that was asked to stop has only seconds to record it, and a driver may hang: it is not asked again.
        ended.set()
        usage = meter.look(ask_driver=False)
        with writing:
            write(usage)
    # Not after a failure: its error is to be the last line.
    if rank == 0:
        which = f", the first of {processes} processes" if processes > 1 else ""
        log.info("%s used %s%s", task, words(total([[usage]])), which)


def _waits() -> Iterator[float]:
    """Yields the seconds between two samples, ever longer."""
    wait = FIRST_SECONDS
    while True:
        yield wait
        wait = min(2 * wait, LOOK_SECONDS)


def _cpu_seconds(family: Sequence[int]) -> float:
    """Returns the CPU seconds of this process, of its living descendants (the family), and of those that have ended."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    finished = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return finished + sum(_cpu_seconds_of(pid) for pid in family if pid != os.getpid())


def _family() -> list[int]:
    """Returns the ids of this process and of all its descendants; without /proc, of this process alone."""
    family = [os.getpid()]
    for pid in family:  # which grows meanwhile
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                family += [int(word) for word in path.read_text(encoding="ascii").split()]
    return family


def _cpu_seconds_of(pid: int) -> float:
    """Returns the CPU seconds of a process and of those of its children that have ended; 0 where it is gone."""
    # The name, in brackets, may hold anything; utime, stime, cutime and cstime are fields 14 to 17.
    words = kernel_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / _TICKS


def _memory(pid: int) -> int:
    """Returns the bytes of main memory of a process; shared pages are divided among the processes that share them."""
    return 1024 * kernel_numbers(Path(f"/proc/{pid}/smaps_rollup")).get("Pss", 0)


def largest_memory(pid: int) -> int:
    """Returns the peak bytes of main memory of a process; 0 if unknown."""
    # Not getrusage's maximum: it survives an exec, and would be the launcher's.
    if status := kernel_numbers(Path(f"/proc/{pid}/status")):
        return 1024 * status.get("VmHWM", 0)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; others count in kilobytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if pid == os.getpid() else 0


def _cuda() -> Any:
    """Returns torch.cuda if this process uses it, else None; torch is never imported just for this."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    begun = getattr(cuda, "is_initialized", None)  # none while torch is being imported
    return cuda if begun is not None and begun() else None


def _own_gpu() -> tuple[int, int]:
    """Returns the index of the GPU that this process computes on, and its peak bytes there; 0 and 0 without one."""
    cuda = _cuda()
    if cuda is None:
        return 0, 0
    # Not the current device: each thread has its own, and samples come from another thread than the training.
    reserved = [int(cuda.max_memory_reserved(device)) for device in range(cuda.device_count())]
    own = max(range(len(reserved)), key=reserved.__getitem__, default=0)
    return own, reserved[own] if reserved else 0


def _gpu_busy(device: int) -> float | None:
    """Returns the share of the last moment in which a GPU ran kernels, as the driver tells; None if it does not."""
    try:
        own = str(_cuda().get_device_properties(device).uuid)
        # PyTorch's own function needs a package that is not installed with it; every driver brings this program.
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
    """Returns the share of time in which a GPU ran kernels; None if the driver does not tell it.

    Args:
        output: Lines of `nvidia-smi`, `UUID, PERCENT`.
        uuid: UUID of the GPU, with or without `GPU-` in front.
    """
    for line in output.splitlines():
        name, _, percent = (word.strip() for word in line.partition(","))
        if name.removeprefix("GPU-") == uuid.removeprefix("GPU-") and percent.isdecimal():
            return int(percent) / 100
    return None
