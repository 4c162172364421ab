"""What a job's process runs: a task on a folder, by name, so that launching needs no torch.

A job starts from its folder alone. What it is to do stands there in its order (`slurm.orders`); whatever an earlier
attempt left is gone on from. So an attempt can end anywhere and begin anew, two at once do no harm, and a call that
waits in the queue for days holds nothing that could grow old.
"""

import os
import pkgutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.stopping import SIGNALS, STOP
from repro.terminal import say
from slurm.ledger import REPORT
from slurm.orders import read_order

REQUEUE_SECONDS = 60
"""How long `scontrol requeue` may take."""


@dataclass(frozen=True)
class Call:
    """A task on a folder, to be carried out in a process of its own; what `slurm.calls` writes."""

    folder: Path
    """Absolute: of a run, or of the sweep for its report."""
    task: str
    program: str
    """`MODULE:FUNCTION` of what is carried out; see `slurm.program`."""
    attempts: int = 30
    """How often the job may begin, requeues included."""
    tables: tuple[str, ...] = ()
    """What the report renders."""

    def __call__(self) -> None:
        """Carries the task out; asked to stop, it saves a checkpoint, goes back to the queue and ends.

        Raises:
            UserError: it has begun too often, or cannot be carried out.
            SystemExit: the process was asked to stop.
        """
        self._refuse_to_begin_for_ever()
        try:
            self._carry_out()
        except SystemExit:
            # USR2 is Slurm's warning before a time limit or a preemption: the job has more to do. TERM is a person's
            # `scancel`, after which nothing may come back from the dead.
            if STOP.signal == signal.SIGUSR2 and slurm_job():
                if restarts() + 1 < self.attempts:
                    go_back()
                self._give_up(f"interrupted {restarts() + 1} times, gave up")
            raise

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Call":
        """Returns the call that was written as JSON.

        Raises:
            TypeError, KeyError: it is none.
        """
        return cls(**{**content, "folder": Path(content["folder"]), "tables": tuple(content["tables"])})

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
        """Ends a job that Slurm began too often, whatever requeued it."""
        if restarts() >= self.attempts:
            reason = self._give_up(f"gave up after {restarts()} requeues")
            raise UserError(f"{self.task} of {self.folder} {reason.what}", mend=reason.mend)

    def _give_up(self, what: str) -> UserError:
        """Writes down that a job does not go back to the queue although it has more to do; returns why."""
        mend = "look at the logs, then salmask retry, or raise attempts in the profile"
        reason = UserError(what, mend=mend)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            RunFolder(self.folder).set_status("failed", task=self.task, error=str(reason))
        return reason


def go_back() -> NoReturn:
    """Puts the job back into the queue, and ends this process.

    Every rank comes here, and the first one requeues the job. The others end with status 0: by a failure of one srun
    would kill rank 0 in mid-sentence (`--kill-on-bad-exit`).

    Raises:
        SystemExit: always.
    """
    # A preemption sends USR2 and TERM within a moment. Were the process to end before scontrol has answered, the job
    # would be over, and not go on.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if os.environ.get("SLURM_PROCID", "0") == "0":
        subprocess.run(["scontrol", "requeue", slurm_job()], check=True, timeout=REQUEUE_SECONDS)
        say(f"{slurm_job()} went back to the queue")
    raise SystemExit(0)


def slurm_job() -> str:
    """Returns Slurm's id of this process's job, `812`, or `812_3` in an array; empty for other jobs."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{number}" if array else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """Returns how often Slurm began this job before; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
