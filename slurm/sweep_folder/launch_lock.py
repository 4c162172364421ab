"""The lock under which a sweep's folder is looked at and changed: by a launch, and by `salmask clean` and `cancel`."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.errors import UserError
from repro.runs.lock import held

LAUNCHING_SECONDS = 600.0
"""How long a launch waits for another one of the same sweep to be through; sbatch may take seconds for each batch."""
POLL_SECONDS = 0.2


class BusySweepError(UserError):
    """Another launch of the sweep is at work, and for long; it ends some time."""


@contextmanager
def launch_lock(sweep_folder: Path, wait: float = LAUNCHING_SECONDS) -> Iterator[int]:
    """Lets only one launcher of a sweep look and submit at a time; the next one then finds everything queued.

    The lock goes with the process, so that a killed launcher keeps nobody out, but for an sbatch of its that is still
    at work; what else it left is `slurm.submission.adoption`'s.

    Args:
        sweep_folder: The sweep's folder; made if it is not there.
        wait: Seconds to wait for it.

    Yields:
        The file descriptor of the lock that sbatch is to inherit.

    Raises:
        BusySweepError: Another launch does not end.
        UserError: The folder cannot be written to.
    """
    with (
        held(
            sweep_folder / ".launch.lock",
            taken=BusySweepError(f"another launch of {sweep_folder} is still submitting", mend="wait for it"),
            unwritable="choose another --out",
            wait=wait,
        ),
        _sbatch_lock(sweep_folder, wait) as descriptor,
    ):
        yield descriptor


@contextmanager
def _sbatch_lock(sweep_folder: Path, wait: float) -> Iterator[int]:
    """Holds a lock that each sbatch inherits, so that one which outlives its launcher keeps the next one waiting."""
    try:
        descriptor = os.open(sweep_folder / ".sbatch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:  # of a colleague, in a folder that a group shares
        raise UserError(f"cannot write to {sweep_folder}: {error.strerror}", mend="choose another --out") from error
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                # On the descriptor, and not by the process: it is free when the last that inherited it has ended.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    what = f"an sbatch of an earlier launch of {sweep_folder} is still at work"
                    raise BusySweepError(what, mend="wait for it, or end it") from None
                time.sleep(POLL_SECONDS)
            except OSError:  # the file system knows no locks
                break
        yield descriptor
    finally:
        os.close(descriptor)
