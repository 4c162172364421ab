"""Long work outside of a training says how far it is: on a terminal, and in the run's status."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from repro.distributed import rank
from repro.runs.folder import RunFolder

SECONDS = 10.0
"""At least, between two entries in `status.json`."""


@contextmanager
def reported(folder: RunFolder, task: str, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tell of work in steps; rank 0 only.

    Args:
        folder: of the run.
        task: as `status.json` names it.
        what: for the bar on a terminal.
        total: steps.

    Yields:
        What is called with the number of steps that are done.
    """
    last = 0.0
    with Progress(console=Console(stderr=True), transient=True, disable=rank() != 0 or not sys.stderr.isatty()) as bars:
        bar = bars.add_task(what, total=total)

        def tell(done: int) -> None:
            nonlocal last
            bars.update(bar, completed=done)
            if rank() == 0 and (time.monotonic() - last > SECONDS or done == total):
                last = time.monotonic()
                folder.set_status("running", task=task, step=done, steps=total)

        tell(0)
        yield tell
