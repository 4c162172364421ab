"""Jobs and what each waits for: pretrain -> every downstream task of the run -> the report of the sweep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.runs.run import Run
from repro.runs.status import PRETRAIN
from slurm.ledger import REPORT

Key = tuple[str, str]
"""(Folder relative to the sweep's, task): what names a job in the ledger."""


@dataclass(frozen=True)
class Job:
    """One task of one run, for a process (or a few) of its own."""

    run: Run
    folder: RunFolder
    task: str
    """`pretrain` or the name of an evaluation, `linear` or `linear@caltech101`."""

    @property
    def name(self) -> str:
        """As progress and messages call it."""
        return f"{self.task} {self.run.method} s{self.run.seed}"

    @property
    def ready(self) -> bool:
        """Whether what it builds on is there."""
        return self.task == PRETRAIN or self.folder.pretrained

    @property
    def done(self) -> bool:
        """Whether its result is there, whoever made it."""
        if self.task == PRETRAIN:
            return self.folder.pretrained
        if not self.folder.results.exists():
            return False
        rows, _ = read(self.folder.results)
        return bool(Evaluation.parse(self.task, self.run).recorded(self.run, rows))

    @property
    def protocol(self) -> str:
        """How it measures; empty for a pretraining."""
        if self.task == PRETRAIN:
            return ""
        return ", ".join(Evaluation.parse(self.task, self.run).protocols(self.run))


@dataclass(frozen=True)
class Graph:
    """The jobs of a sweep, each after what it waits for, each once."""

    place: Path
    """The sweep's folder."""
    jobs: tuple[Job, ...]
    tables: tuple[str, ...]
    """What the report renders."""

    @cached_property
    def by_key(self) -> Mapping[Key, Job]:
        """The jobs by name."""
        return {self.key(job): job for job in self.jobs}

    def key(self, job: Job) -> Key:
        """What names a job in the ledger."""
        return str(job.folder.path.relative_to(self.place)), job.task

    def parent(self, job: Job) -> Job | None:
        """The pretraining that a job waits for."""
        return None if job.task == PRETRAIN else self.by_key[self.key(job)[0], PRETRAIN]

    def children(self, job: Job) -> list[Job]:
        """What waits for a pretraining."""
        folder = self.key(job)[0]
        return [other for other in self.jobs if other.task != PRETRAIN and self.key(other)[0] == folder]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Every task but the report, pretraining first."""
        return tuple(dict.fromkeys(job.task for job in self.jobs))

    @property
    def report(self) -> Key:
        """The job that renders the tables, which is in no run's folder."""
        return ".", REPORT

    def without(self, jobs: Iterable[Job]) -> "Graph":
        """The graph less these jobs; a pretraining takes what waits for it along."""
        gone = {self.key(job) for job in jobs}
        gone |= {self.key(child) for key in gone if key[1] == PRETRAIN for child in self.children(self.by_key[key])}
        return Graph(self.place, tuple(job for job in self.jobs if self.key(job) not in gone), self.tables)


def make_graph(place: Path, jobs: Sequence[Job], tables: Sequence[str]) -> Graph:
    """Put jobs in an order that can be kept, each folder's pretraining first; what is named twice is done once."""
    once = {(job.folder.path, job.task): job for job in reversed(jobs)}
    kept = [once[key] for key in dict.fromkeys((job.folder.path, job.task) for job in jobs)]
    return Graph(place, tuple(kept), tuple(dict.fromkeys(tables)))
