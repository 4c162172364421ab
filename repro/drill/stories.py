"""Stories of one run on a real cluster: it is submitted, something befalls it when it is under way, and it goes on.

Whoever tells one calls `go_on` again and again; or `watch` often and `note` seldom, where Slurm is to be spared. What
was seen is what promises are judged by.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baselines import resolve
from repro.drill.faults import METHOD
from repro.jobs import PROGRAM
from repro.paths import CODE_ROOT
from repro.runs.folder import RunFolder
from repro.runs.run import Run
from repro.runs.status import PRETRAIN
from repro.terminal import Console
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
"""Steps of an epoch, after each of which there is a checkpoint."""
CHECKPOINT_EVERY = 10
UNDER_WAY = 13
"""Steps after which something befalls a run: there is a checkpoint, and it is not of the last step."""
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
    "machine.device": "cpu",  # where the same run ends in the same weights, to the last bit
    "machine.log_every": 1,
    "machine.checkpoint_every": CHECKPOINT_EVERY,
    "machine.monitor_images": 0,
}
RUN = f"{METHOD}/s0-*"


@dataclass
class Story:
    """One run, what befalls it, and what was seen of it."""

    runs: Path
    """Folder of its sweep; nothing is there yet."""
    cluster: Cluster
    mishap: Callable[[str], object] = lambda _: None
    """What befalls it, by Slurm's id of its job; returns why it could not, if so."""
    epochs: int = 15
    retried: bool = False
    """Whether it has to be handed over again, as a person would."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the pretraining, as `salmask status --json` has them, each that told something new."""
    happened_at: int = 0
    """The step at which it came; 0: it did not come yet."""
    trouble: str = ""
    """Why the mishap could not come."""
    retries: int = 0
    furthest: dict[int, int] = field(default_factory=dict)
    """Attempt -> the last step that was seen of it."""

    def launch(self) -> None:
        """Hands the run over.

        Raises:
            UserError: Slurm refuses it.
        """
        from slurm.submission.launch import submit  # submitit takes a second to import

        submit(self._graph(), self.cluster, lambda: CODE_ROOT, PROGRAM, Console(quiet=True))

    def retry(self) -> None:
        """Hands it over again."""
        self.launch()

    def rows(self) -> list[dict[str, Any]]:
        """Returns what is to be said of its jobs now, as `salmask status --json` says it."""
        (table,), queue = look([SweepTarget(self.runs)])
        jobs: list[dict[str, Any]] = as_json_of(table, self.runs, queue)["jobs"]
        return jobs

    def row(self) -> dict[str, Any]:
        """Returns the row of the pretraining."""
        (row,) = (row for row in self.rows() if row["task"] == PRETRAIN)
        return row

    def look(self) -> dict[str, Any]:
        """Returns the row of the pretraining, which is remembered where it tells something new."""
        row = self.row()
        self._remember(row)
        return row

    def go_on(self) -> bool:
        """Does what is to be done now, if anything; returns whether the story is over."""
        return self.note(self.row())

    def watch(self) -> None:
        """Has its mishap come when the run is under way, by its own status alone."""
        status = next((RunFolder(path).status() for path in self.runs.glob(RUN)), None)
        if status is not None:
            self._strike(status.state, status.step, self.submissions[0].job)

    def note(self, row: dict[str, Any]) -> bool:
        """Does what a row of the pretraining asks for; returns whether the story is over."""
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
        """Takes what is left of it out of the queue; returns what Slurm objected to, empty where it did not."""
        return cancel(self.submissions, snapshot()).trouble

    @property
    def submissions(self) -> list[Submission]:
        """All that was handed over."""
        return Ledger(self.runs).submissions()

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        (path,) = self.runs.glob(RUN)
        return RunFolder(path)

    @property
    def states(self) -> list[str]:
        """The states that were seen, in order, each once."""
        return list(dict.fromkeys(str(row["state"]) for row in self.seen))

    @property
    def resumed_at(self) -> int:
        """The step of the checkpoint from which an attempt went on last; 0: none did."""
        paths = sorted(Ledger(self.runs).logs.glob("*/*_log.err"))
        logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
        steps = [int(line.split(" at step ")[1]) for line in logs.splitlines() if line.startswith("resumed from step_")]
        return steps[-1] if steps else 0

    def _graph(self) -> Graph:
        def of_story(method: str, *_: Any, **__: Any) -> Run:
            return resolve(method, {**SETTINGS, "optimization.epochs": self.epochs})

        part = Part((METHOD,), (0,), tasks=(), table=())
        return expand(Sweep(self.runs.name, (part,)), self.runs.absolute(), of_story, {})
