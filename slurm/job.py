"""What a job's process runs: a task on a folder, by name, so that launching needs no torch.

A job starts from its folder alone. What it is to do stands in `jobs/TASK.yaml` there, the whole run with the settings
of its evaluations; whatever an earlier attempt left is gone on from. So an attempt can end anywhere and begin anew, two
at once do no harm, and a pickle that Slurm keeps for days holds nothing that could grow old.
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
from repro.files import write_text
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.reading import load
from repro.runs.run import Run
from repro.runs.stopping import STOP
from slurm.ledger import REPORT


def write_order(run: Run, folder: RunFolder, task: str) -> None:
    """Write what a job is to do to its folder."""
    write_text(order_file(folder, task), run.to_yaml())


def order_file(folder: RunFolder, task: str) -> Path:
    """Where that stands."""
    return folder.path / "jobs" / f"{task}.yaml"


@dataclass(frozen=True)
class Call:
    """A task on a folder; what submitit pickles."""

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
    """CUDA_VISIBLE_DEVICES of the launcher."""

    def __call__(self) -> None:
        """Carry the task out; asked to stop, save a checkpoint, go back to the queue and end.

        Raises:
            UserError: it has begun too often, or cannot be carried out.
        """
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler, which ours replaces
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            self._show_gpus()
        self._refuse_to_begin_for_ever()
        try:
            self._carry_out()
        except SystemExit:
            if STOP.signal == signal.SIGUSR2 and callable(requeue):
                go_back(requeue)
            raise

    def checkpoint(self) -> DelayedSubmission | None:
        """What submitit keeps for the next attempt: the same, since everything stands in the folder."""
        return DelayedSubmission(self) if restarts() + 1 < self.attempts else None

    def _carry_out(self) -> None:
        function = pkgutil.resolve_name(self.program)
        if self.task == REPORT:
            function(self.folder, self.tables)
            return
        run = load(order_file(RunFolder(self.folder), self.task))
        # An earlier attempt on a machine that died may hold the lock until it counts as stale.
        function(run, self.folder, self.task, wait=1.5 * STALE_SECONDS)

    def _refuse_to_begin_for_ever(self) -> None:
        if restarts() >= self.attempts:
            mend = "look at the logs, then raise attempts in the profile"
            reason = UserError(f"gave up after {restarts()} requeues", mend=mend)
            RunFolder(self.folder).set_status("failed", task=self.task, error=str(reason))
            raise UserError(f"{self.task} of {self.folder} {reason.what}", mend=mend)

    def _show_gpus(self) -> None:
        """Show those that the launcher sees: submitit's local executor hides all of them."""
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus


def go_back(requeue: Callable[[int, Any], Any]) -> None:
    """Put the job back into the queue, as submitit does it.

    Rank 0 speaks for all; the others end in peace, since a failure of one would have srun kill rank 0 in mid-sentence.
    """
    requeue(signal.SIGUSR2, None)
    raise SystemExit(0)


def restarts() -> int:
    """How often Slurm began this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
