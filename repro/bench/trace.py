"""Where the time of a step goes: its kernels, by the time that the device spends in them."""

import time
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from repro.bench.timing import wait_for_device
from repro.filesystem.files import write_text
from repro.filesystem.presence import exists

STEPS = 3
"""Steps that are traced and timed, after one that is only traced; kernels' times vary little between steps."""

NO_KERNELS = (
    "the trace holds no kernels, as CUPTI, which traces GPUs, reported none: another profiler may be using it, "
    "it may not fit the driver, or a virtual GPU may not allow it"
)

LONGEST = 40
"""Number of kernels that are listed, the longest first."""


def write_trace(step: Callable[[], object], title: str, path: Path, *, on_gpu: bool) -> None:
    """Traces some steps, and appends a table of their kernels to a text file.

    Args:
        step: Makes one step; it must have been warmed up.
        title: Title of the table.
        path: The file; it need not exist.
        on_gpu: Whether the step runs on a GPU, whose kernels are then traced.

    Raises:
        UserError: The file cannot be written to.
    """
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        step()  # not timed: the profiler takes longer to start than a step takes, and longer still to end
        wait_for_device()
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait_for_device()
        wall = (time.perf_counter() - start) / STEPS
    traced = STEPS + 1
    # On a GPU, only the kernels: each call that launches some is listed too, with the same time.
    kind = "CUDA" if on_gpu else "CPU"
    kernels = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type.name == kind
    ]
    busy = sum(microseconds for microseconds, _, _ in kernels) / traced
    step_time = f"{title}: {1e3 * wall:.1f} ms a step while traced"
    if kernels:
        count = sum(count for _, count, _ in kernels) / traced
        lines = [f"{step_time}, {busy / 1e3:.1f} ms of it in {count:.0f} kernels", "   ms  share  calls  kernel"]
    else:
        lines = [f"{step_time}; {NO_KERNELS}"]
    for microseconds, count, name in sorted(kernels, reverse=True)[:LONGEST]:
        share = microseconds / traced / busy
        lines.append(f"{microseconds / traced / 1e3:6.2f} {share:5.1%} {count / traced:6.0f}  {name[:120]}")
    text = path.read_text(encoding="utf-8") if exists(path) else ""
    write_text(path, text + "\n".join(lines) + "\n\n")
