"""The lock under which a sweep's folder is looked at and changed: by a launch, and by `salmask clean` and `cancel`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.file_locks import log
from repro.filesystem.files import OF_A_SWEEP
from repro.runs.lock import held
from slurm.sweep_folder.signed_lock import signed_lock, until_free

LAUNCHING_SECONDS = 600.0
"""How long a launch waits for another one of the same sweep to end; sbatch may take seconds for each batch."""
POLL_SECONDS = 0.2
SBATCH_LOCK = ".sbatch.lock"
"""Held in a sweep's folder by a launch with Slurm, and by each sbatch that it calls, even one that outlives it."""


class BusySweepError(UserError):
    """Another launch of the sweep has been at work for long; it will end some time."""


@contextmanager
def launch_lock(sweep_folder: Path, wait: float = LAUNCHING_SECONDS) -> Iterator[int]:
    """Lets only one launcher of a sweep look and submit at a time; the next one then finds everything queued.

    The lock ends with the process, so that a killed launcher keeps nobody out, unless its sbatch is still at work;
    `slurm.submission.adoption` completes what else it left half done. A long wait is logged, with who has the lock.

    Args:
        sweep_folder: The sweep's folder; made if it is not there.
        wait: Seconds to wait for it.

    Yields:
        The file descriptor of the lock that sbatch is to inherit.

    Raises:
        BusySweepError: Another launch does not end in that time.
        UserError: The folder cannot be written to.
    """
    of_launch, of_sbatch = sweep_folder / ".launch.lock", sweep_folder / SBATCH_LOCK

    busy = partial(_still_submitting, sweep_folder, of_sbatch, of_launch)

    def sbatch_is_busy() -> BusySweepError:
        what = f"an sbatch of an earlier launch of {sweep_folder} is still at work"
        return BusySweepError(what, mend=until_free(of_sbatch))

    with (
        held(
            of_launch,
            taken=busy,
            unwritable=OF_A_SWEEP,
            wait=wait,
            waiting=lambda: log.warning("%s", busy()),
        ),
        signed_lock(of_sbatch, wait=wait, every=POLL_SECONDS, taken=sbatch_is_busy) as descriptor,
    ):
        yield descriptor


@contextmanager
def between_launches(sweep_folder: Path, wait: float = LAUNCHING_SECONDS) -> Iterator[None]:
    """Keeps launches with Slurm out during the block, in which a local launcher looks at the sweep or starts jobs.

    During it, whatever an earlier launch has submitted is in the queue, with its ids in the ledger; and the next launch
    finds what the block starts.

    Args:
        sweep_folder: The sweep's folder, which is there.
        wait: Seconds to wait for it; a long wait is logged.

    Raises:
        BusySweepError: Such a launch, or an sbatch of it, does not end in that time.
        UserError: The folder cannot be written to.
    """
    lock = sweep_folder / SBATCH_LOCK
    with signed_lock(lock, wait=wait, every=POLL_SECONDS, taken=partial(_still_submitting, sweep_folder, lock)):
        yield


def _still_submitting(sweep_folder: Path, *locks: Path) -> BusySweepError:
    return BusySweepError(f"another launch of {sweep_folder} is still submitting", mend=until_free(*locks))
