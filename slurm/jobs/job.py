"""What a job's process runs: a task on a folder. The code is given by name, so that launching needs no torch.

A job starts from its folder alone: its order there says what to do (`slurm.jobs.orders`), and it resumes from what an
earlier attempt left. So an attempt may end anywhere and start anew, two at once do no harm, and a call that waits in
the queue for days holds nothing that could be outdated.
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

from repro.command_line.terminal import is_first_process, say
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.stopping import SIGNALS, STOP
from slurm.ask import ask
from slurm.jobs.orders import read_order
from slurm.sweep_folder.ledger import REPORT

REQUEUE_SECONDS = 60.0
"""How long one call of `scontrol requeue` may take."""
REQUEUE_PATIENCE_SECONDS = 600.0
"""How long the call is repeated at a busy controller; Slurm usually kills the job long before."""
REQUEUE_EVERY_SECONDS = 5.0
IN_QUEUE = "Job is pending execution"
"""What scontrol says if Slurm has requeued the job by itself, as at a preemption without grace time."""
PREEMPTED_SECONDS = 10.0
"""How long to wait for Slurm's answer to why it sent TERM: a preemption may leave 30 s."""


@dataclass(frozen=True)
class Call:
    """A task on a folder, to be carried out in a process of its own; what `slurm.jobs.calls` writes."""

    folder: Path
    """Absolute path of the run's folder, or of the sweep's for its report."""
    task: str
    program: str
    """`MODULE:FUNCTION` of what is carried out; see `slurm.jobs.program`."""
    attempts: int = 30
    """How often the job may begin, requeues included."""
    tables: tuple[str, ...] = ()
    """Names of the tables that the report renders."""

    def __call__(self) -> None:
        """Carries the task out; if Slurm interrupts the job, it saves a checkpoint and goes back to the queue.

        Raises:
            UserError: It has begun too often, or cannot be carried out.
            SystemExit: The process was asked to stop.
        """
        self._refuse_to_begin_for_ever()
        try:
            self._carry_out()
        except SystemExit:
            # USR2 is Slurm's warning before a time limit or a preemption: the job has more to do. TERM is a person's
            # `scancel`, after which the job must not come back, or a preemption without USR2.
            if slurm_job() and (STOP.signal == signal.SIGUSR2 or (STOP.signal == signal.SIGTERM and preempted())):
                if restarts() + 1 < self.attempts:
                    go_back()
                self._give_up(f"interrupted {restarts() + 1} times, gave up")
            raise

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Call":
        """Returns the call that was written as JSON.

        Raises:
            TypeError, KeyError: The content is that of no call.
        """
        return cls(**{**content, "folder": Path(content["folder"]), "tables": tuple(content["tables"])})

    def _carry_out(self) -> None:
        function = pkgutil.resolve_name(self.program)
        if self.task == REPORT:
            function(self.folder, self.tables)
            return
        run = read_order(RunFolder(self.folder), self.task)
        # An attempt on a machine that died holds the run's lock until that counts as stale: giving up at once would
        # fail a job that only has to wait. Half as long again makes sure that the lock is stale by then.
        function(run, self.folder, self.task, wait=1.5 * STALE_SECONDS)

    def _refuse_to_begin_for_ever(self) -> None:
        """Ends a job that Slurm began too often, whatever requeued it."""
        if restarts() >= self.attempts:
            reason = self._give_up(f"gave up after {restarts()} requeues")
            raise UserError(f"{self.task} of {self.folder} {reason.what}", mend=reason.mend)

    def _give_up(self, what: str) -> UserError:
        """Writes down that the job fails, since it was interrupted too often; returns the error."""
        mend = "look at the logs, then salmask retry, or raise attempts in the profile"
        reason = UserError(what, mend=mend)
        if is_first_process():
            RunFolder(self.folder).set_status("failed", task=self.task, error=str(reason))
        return reason


def go_back() -> NoReturn:
    """Puts the job back into the queue, and ends this process.

    Every rank calls this, and rank 0 requeues the job. The others end with status 0: if one failed, srun would kill
    rank 0 before scontrol has answered (`--kill-on-bad-exit`).

    Raises:
        SystemExit: Always; with status 1 if Slurm does not requeue the job.
    """
    # A preemption sends USR2 and TERM within a moment. If the second one ended this process before scontrol has
    # answered, the job would be over.
    _stop_listening()
    if is_first_process():
        _requeue()
    raise SystemExit(0)


def _requeue() -> None:
    """Asks Slurm to requeue the job, repeatedly: a controller that preempts many jobs at once is busy.

    Raises:
        SystemExit: Slurm did not do it in time.
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
    """Returns whether TERM announced a preemption, according to Slurm; ranks other than the first end here.

    At that moment, a cancelled job is no longer RUNNING; a preempted one is, until its grace time is over, and has a
    PreemptTime. If Slurm does not answer, the job counts as cancelled.

    Raises:
        SystemExit: This is not the first rank; status 0, so that srun does not kill the first one.
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
    """Returns Slurm's id of this process's job, `812`, or `812_3` in an array; empty outside of Slurm."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{number}" if array else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """Returns how often Slurm began this job before; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
