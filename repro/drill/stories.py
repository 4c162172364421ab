"""Stories: one run on a real cluster that is submitted, disturbed when it is under way, and goes on.

A story advances by calls of `go_on`; or, to spare Slurm, by frequent calls of `watch` and rare ones of `note`. Promises
are judged by what was seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baselines import resolve
from repro.command_line.terminal import Console
from repro.drill.faults import METHOD
from repro.filesystem.paths import CODE_ROOT
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.settings.run import Run
from slurm.cancel import cancel
from slurm.monitoring.queue import snapshot
from slurm.monitoring.states import ENDED_BADLY, State
from slurm.monitoring.status import as_json_of
from slurm.planning.graph import Graph
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster
from slurm.status_commands import look
from slurm.sweep_folder.ledger import Ledger, Submission
from slurm.targets import SweepTarget

EPOCH = 20
"""Steps per epoch, after each of which there is a checkpoint."""
CHECKPOINT_EVERY = 10
UNDER_WAY = 13
"""Steps after which a run is disturbed: it has a checkpoint by then, but not of its last step."""
SETTINGS = {
    "data.dataset": "scenes",
    "data.crop": 32,
    "data.scenes.classes": 4,
    "data.scenes.size": 64,
    "data.scenes.train_count": 8 * EPOCH,
    "data.scenes.val_count": 8,
    "encoder.arch": "resnet18",
    "encoder.width": 8,
    "encoder.dim": 8,
    "moco.queue": 16,
    "moco.bn_splits": 2,
    "optimization.batch": 8,
    "machine.workers": 0,
    "machine.device": "cpu",  # where a run always ends in the same weights, to the last bit
    "machine.log_every": 1,
    "machine.checkpoint_every": CHECKPOINT_EVERY,
    "machine.monitor_images": 0,
}
RUN = f"{METHOD}/s0-*"


@dataclass
class Story:
    """One run, its mishap, and what was seen of it."""

    runs: Path
    """Folder of its sweep; it does not exist yet."""
    cluster: Cluster
    mishap: Callable[[str], object] = lambda _: None
    """Disturbs the run, given Slurm's id of its job; returns why it could not, if so."""
    epochs: int = 15
    retried: bool = False
    """Whether it has to be submitted again, as a person would do."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the pretraining as in `salmask status --json`, one for each new state or note."""
    happened_at: int = 0
    """The step at which the mishap came; 0: it has not come yet."""
    trouble: str = ""
    """Why the mishap could not come."""
    retries: int = 0
    furthest: dict[int, int] = field(default_factory=dict)
    """Number of an attempt -> its last step that was seen."""

    def launch(self) -> None:
        """Submits the run.

        Raises:
            UserError: Slurm refuses it.
        """
        from slurm.submission.launch import submit  # submitit takes a second to import

        submit(self._graph(), self.cluster, lambda: CODE_ROOT, PROGRAM, Console(quiet=True))

    def retry(self) -> None:
        """Submits the run again."""
        self.launch()

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of its jobs, as in `salmask status --json`."""
        (table,), queue = look([SweepTarget(self.runs)])
        jobs: list[dict[str, Any]] = as_json_of(table, self.runs, queue)["jobs"]
        return jobs

    def row(self) -> dict[str, Any]:
        """Returns the row of the pretraining."""
        (row,) = (row for row in self.rows() if row["task"] == PRETRAIN)
        return row

    def look(self) -> dict[str, Any]:
        """Returns the row of the pretraining, and remembers it if it tells something new."""
        row = self.row()
        self._remember(row)
        return row

    def go_on(self) -> bool:
        """Does what is due now, if anything; returns whether the story is over."""
        return self.note(self.row())

    def watch(self) -> None:
        """Disturbs the run once it is under way, by its own status alone, without asking Slurm."""
        status = next((RunFolder(path).status() for path in self.runs.glob(RUN)), None)
        if status is not None:
            self._strike(status.state, status.step, self.submissions[0].job)

    def note(self, row: dict[str, Any]) -> bool:
        """Does what a row of the pretraining calls for; returns whether the story is over."""
        self._remember(row)
        self._strike(row["state"], row["step"], row["job"])
        if row["state"] not in ENDED_BADLY:
            return bool(row["state"] == State.done)
        if self.retried and not self.retries:
            self.retries += 1
            self.retry()
            return False
        return True

    def _remember(self, row: dict[str, Any]) -> None:
        self.furthest[row["attempt"]] = row["step"]
        if not self.seen or (row["state"], row["note"]) != (self.seen[-1]["state"], self.seen[-1]["note"]):
            self.seen.append(row)

    def _strike(self, state: str, step: int, job: str) -> None:
        if not self.happened_at and state == State.running and step >= UNDER_WAY:
            self.happened_at = step
            self.trouble = str(self.mishap(job) or "")

    def cancel(self) -> str:
        """Cancels what is left of it; returns Slurm's objection, empty if there is none."""
        return cancel(self.submissions, snapshot()).trouble

    @property
    def submissions(self) -> list[Submission]:
        """Everything that was submitted."""
        return Ledger(self.runs).submissions()

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        (path,) = self.runs.glob(RUN)
        return RunFolder(path)

    @property
    def states(self) -> list[str]:
        """The states that were seen, in order and without repetition."""
        return list(dict.fromkeys(str(row["state"]) for row in self.seen))

    @property
    def resumed_at(self) -> int:
        """The step of the checkpoint from which the training last went on; 0: it began anew."""
        status = self.folder.status()
        return status.resumed_at if status else 0

    def _graph(self) -> Graph:
        def of_story(method: str, *_: Any, **__: Any) -> Run:
            return resolve(method, {**SETTINGS, "optimization.epochs": self.epochs})

        part = Part((METHOD,), (0,), tasks=(), table=())
        return expand(Sweep(self.runs.name, (part,)), self.runs.absolute(), of_story, {})
