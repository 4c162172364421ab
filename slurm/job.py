"""What a job's process runs: a task on a folder, by name, so that launching needs no torch.

A job starts from its folder alone. What it is to do stands there in its order (`slurm.orders`); whatever an earlier
attempt left is gone on from. So an attempt can end anywhere and begin anew, two at once do no harm, and a pickle that
Slurm keeps for days holds nothing that could grow old.
"""

import os
import pkgutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.stopping import SIGNALS, STOP
from slurm.ledger import REPORT
from slurm.orders import read_order

NO_LIMIT_MINUTES = 60 * 24 * 365


@dataclass(frozen=True)
class Call:
    """A task on a folder, to be carried out in a process of its own; what submitit pickles."""

    folder: Path
    """Absolute: of a run, or of the sweep for its report."""
    task: str
    program: str
    """`MODULE:FUNCTION` of what is carried out; see `slurm.program`."""
    attempts: int = 30
    """How often the job may begin, requeues included."""
    tables: tuple[str, ...] = ()
    """What the report renders."""
    gpus: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    """The launcher's CUDA_VISIBLE_DEVICES."""

    def __call__(self) -> None:
        """Carries the task out; asked to stop, it saves a checkpoint, goes back to the queue and ends.

        Raises:
            UserError: it has begun too often, or cannot be carried out.
            SystemExit: the process was asked to stop.
        """
        # submitit's handler of USR2, which knows how to requeue. It is fetched before anything runs, since the training
        # sets a handler of its own that ends between two steps (`repro.runs.stopping`): submitit's would requeue in
        # the middle of one, before anything is saved.
        requeue = signal.getsignal(signal.SIGUSR2)
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            self._show_gpus()
        self._refuse_to_begin_for_ever()
        try:
            self._carry_out()
        except SystemExit:
            # USR2 is Slurm's warning before a time limit or a preemption: the job has more to do. TERM is a person's
            # `scancel`, after which nothing may come back from the dead.
            if STOP.signal == signal.SIGUSR2 and callable(requeue):
                go_back(requeue)
            raise

    def checkpoint(self) -> DelayedSubmission | None:
        """Returns what submitit keeps for the next attempt: the same call, since everything stands in the folder.

        Returns:
            None after the last attempt; then submitit does not requeue.
        """
        return DelayedSubmission(self) if restarts() + 1 < self.attempts else None

    def _carry_out(self) -> None:
        function = pkgutil.resolve_name(self.program)
        if self.task == REPORT:
            function(self.folder, self.tables)
            return
        run = read_order(RunFolder(self.folder), self.task)
        # An earlier attempt on a machine that died may hold the lock until it counts as stale: to give up at once would
        # fail a job that has only to wait. Half as long again, so that it has surely grown stale by then.
        function(run, self.folder, self.task, wait=1.5 * STALE_SECONDS)

    def _refuse_to_begin_for_ever(self) -> None:
        """Ends a job that Slurm began too often, whatever requeued it: submitit counts only time-outs."""
        if restarts() >= self.attempts:
            mend = "look at the logs, then raise attempts in the profile"
            reason = UserError(f"gave up after {restarts()} requeues", mend=mend)
            RunFolder(self.folder).set_status("failed", task=self.task, error=str(reason))
            raise UserError(f"{self.task} of {self.folder} {reason.what}", mend=mend)

    def _show_gpus(self) -> None:
        """Lets the process see the GPUs that the launcher sees: submitit's local executor hides all of them."""
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus


def go_back(requeue: Callable[[int, Any], Any]) -> None:
    """Puts the job back into the queue, as submitit does it, and ends this process.

    Every rank comes here and calls submitit's handler, which requeues from rank 0 alone. The others end with status 0:
    by a failure of one srun would kill rank 0 in mid-sentence (`--kill-on-bad-exit`).

    Args:
        requeue: submitit's handler of USR2; it ends the process itself where it requeues.

    Raises:
        SystemExit: always; with status 0 where submitit's handler returns.
    """
    # A preemption sends USR2 and TERM within a moment. submitit writes the call's file anew before it requeues: it
    # removes the old one and then renames the new one. Were the process to end in between, the next attempt would wait
    # for its call, find none, and fail for good.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    delayed = getattr(getattr(requeue, "__self__", None), "_delayed", None)
    if delayed is not None and delayed._timeout_min is None:
        # The profile names no time limit, and submitit reckons with one. It asks by it whether this was a time-out or a
        # preemption, which to us is the same: `attempts` counts both.
        delayed._timeout_min = NO_LIMIT_MINUTES
    requeue(signal.SIGUSR2, None)
    raise SystemExit(0)


def restarts() -> int:
    """Returns how often Slurm began this job before; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
