"""Progress of long work outside of a training: bars, and steps in the run's status."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from repro.command_line.progress import ProgressBars
from repro.processes.distributed import rank
from repro.runs.folder import PROGRESS_SECONDS, RunFolder


@contextmanager
def reported(folder: RunFolder, task: str, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Reports the progress of work in steps, on rank 0.

    Args:
        folder: Of the run.
        task: The task in whose status the progress is written.
        label: Of the bar.
        total: Number of steps.
        unit: What a step is, in the plural.

    Yields:
        A function to be called with the number of finished steps.
    """
    last_entry = 0.0
    with ProgressBars(shown=rank() == 0) as bars:
        bar = bars.add_task(label, total=total, unit=unit)

        def tell(steps: int) -> None:
            """Moves the bar, and now and then writes the status."""
            nonlocal last_entry
            bars.update(bar, completed=steps)
            if rank() == 0 and (time.monotonic() - last_entry > PROGRESS_SECONDS or steps == total):
                last_entry = time.monotonic()
                folder.tell_progress(task, steps, total, unit, work="evaluation")

        tell(0)  # else the status would still show the progress of earlier work
        yield tell
