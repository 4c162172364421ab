"""What a job's process runs: a task on a folder, by name, so that launching needs no torch.

A job starts from its folder alone. What it is to do stands there in its order (`slurm.jobs.orders`); whatever an
earlier attempt left is gone on from. So an attempt can end anywhere and begin anew, two at once do no harm, and a call
that waits in the queue for days holds nothing that could grow old.
"""

import os
import pkgutil
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.stopping import SIGNALS, STOP
from repro.terminal import is_first_process, say
from slurm.ask import ask
from slurm.jobs.orders import read_order
from slurm.sweep_folder.ledger import REPORT

REQUEUE_SECONDS = 60.0
"""How long one call of `scontrol requeue` may take."""
REQUEUE_PATIENCE_SECONDS = 600.0
"""How long it is tried again at a controller that is busy; Slurm mostly kills the job long before."""
REQUEUE_EVERY_SECONDS = 5.0
IN_QUEUE = "Job is pending execution"
"""Slurm's words where it has taken the job back by itself: a preemption without a grace time."""
PREEMPTED_SECONDS = 10.0
"""How long Slurm is asked why it sent TERM: a preemption may leave 30 s."""


@dataclass(frozen=True)
class Call:
    """A task on a folder, to be carried out in a process of its own; what `slurm.jobs.calls` writes."""

    folder: Path
    """Absolute: of a run, or of the sweep for its report."""
    task: str
    program: str
    """`MODULE:FUNCTION` of what is carried out; see `slurm.jobs.program`."""
    attempts: int = 30
    """How often the job may begin, requeues included."""
    tables: tuple[str, ...] = ()
    """What the report renders."""

    def __call__(self) -> None:
        """Carries the task out; asked to stop, it saves a checkpoint, goes back to the queue and ends.

        Raises:
            UserError: It has begun too often, or cannot be carried out.
            SystemExit: The process was asked to stop.
        """
        self._refuse_to_begin_for_ever()
        try:
            self._carry_out()
        except SystemExit:
            # USR2 is Slurm's warning before a time limit or a preemption: the job has more to do. TERM is a person's
            # `scancel`, after which nothing may come back from the dead, or a preemption without USR2.
            if slurm_job() and (STOP.signal == signal.SIGUSR2 or (STOP.signal == signal.SIGTERM and preempted())):
                if restarts() + 1 < self.attempts:
                    go_back()
                self._give_up(f"interrupted {restarts() + 1} times, gave up")
            raise

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Call":
        """Returns the call that was written as JSON.

        Raises:
            TypeError, KeyError: It is none.
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
        if is_first_process():
            RunFolder(self.folder).set_status("failed", task=self.task, error=str(reason))
        return reason


def go_back() -> NoReturn:
    """Puts the job back into the queue, and ends this process.

    Every rank comes here, and the first one requeues the job. The others end with status 0: by a failure of one srun
    would kill rank 0 in mid-sentence (`--kill-on-bad-exit`).

    Raises:
        SystemExit: Always; with status 1 where Slurm does not take the job back.
    """
    # A preemption sends USR2 and TERM within a moment. Were the process to end before scontrol has answered, the job
    # would be over, and not go on.
    _stop_listening()
    if is_first_process():
        _requeue()
    raise SystemExit(0)


def _requeue() -> None:
    """Asks Slurm to take the job back, again and again: the controller that preempts many jobs at once is busy.

    Raises:
        SystemExit: It does not.
    """
    words, told = ["scontrol", "requeue", slurm_job()], ""
    deadline = time.monotonic() + REQUEUE_PATIENCE_SECONDS
    while (trouble := ask(words, seconds=REQUEUE_SECONDS).trouble) and IN_QUEUE not in trouble:
        if trouble != told:
            say(f"cannot go back to the queue: {trouble}", err=True)
            told = trouble
        if not shutil.which(words[0]) or time.monotonic() > deadline:
            raise SystemExit(1)
        time.sleep(REQUEUE_EVERY_SECONDS)
    say(f"{slurm_job()} went back to the queue")


def preempted() -> bool:
    """Returns whether the TERM that came announces a preemption, by Slurm's word; the ranks but the first leave here.

    A job that a person cancels is no longer called running at that moment; one that is preempted is, until its grace
    time is over, and has the time of that. Where Slurm does not answer, the job stays ended, as it was asked to.

    Raises:
        SystemExit: This is another rank, which waits for nothing and does not end the first one by a failure.
    """
    _stop_listening()
    if not is_first_process():
        raise SystemExit(0)
    shown = ask(["scontrol", "show", "job", slurm_job()], seconds=PREEMPTED_SECONDS).output
    fields = dict(word.partition("=")[::2] for word in shown.split())
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")


def _stop_listening() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def slurm_job() -> str:
    """Returns Slurm's id of this process's job, `812`, or `812_3` in an array; empty for other jobs."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{number}" if array else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """Returns how often Slurm began this job before; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
