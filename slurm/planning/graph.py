"""Jobs and what each waits for: pretrain -> every downstream task of the run -> the report of the sweep."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import Result
from repro.runs.status import PRETRAIN
from repro.runs.task_results import ReadResults, rows_of
from repro.settings.run import Run
from slurm.sweep_folder.ledger import REPORT, Key


@dataclass(frozen=True)
class Job:
    """One task of one run, for a process (or a few) of its own."""

    run: Run
    folder: RunFolder
    task: str
    """`pretrain` or the name of an evaluation, `linear` or `linear@caltech101`."""

    @property
    def name(self) -> str:
        """The job as progress bars and messages call it: `linear mocov2 s0`."""
        return f"{self.task} {self.run_name}"

    @property
    def run_name(self) -> str:
        """The job's run as messages about its sweep call it: `mocov2 s0`."""
        return f"{self.run.method} s{self.run.seed}"

    @property
    def ready(self) -> bool:
        """Whether the backbone that the job builds on is there; a pretraining builds on none."""
        return self.task == PRETRAIN or self.folder.pretrained

    @property
    def done(self) -> bool:
        """Whether the job's result is in the run's folder, whoever made it.

        The folder is read at every access. `Graph.finished` tells it of all jobs, and reads each file once.
        """
        return self.done_by([] if self.task == PRETRAIN else rows_of(self.folder.results))

    def done_by(self, results: Sequence[Result]) -> bool:
        """Returns whether the job's result is there, for callers that have read the rows of its folder already.

        Args:
            results: Every row of the run's `results.jsonl`; a pretraining goes by its backbone and ignores them.
        """
        if self.task == PRETRAIN:
            return self.folder.pretrained
        return bool(Evaluation.parse(self.task, self.run).recorded(self.run, results))

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols that the job measures by; none of a pretraining."""
        if self.task == PRETRAIN:
            return ()
        return tuple(Evaluation.parse(self.task, self.run).protocols(self.run))

    @property
    def dataset(self) -> str:
        """Name of the data set that the job measures on; empty of a pretraining."""
        return "" if self.task == PRETRAIN else Evaluation.parse(self.task, self.run).dataset

    @property
    def reads(self) -> str:
        """Name of the data set that the job reads, to train on or to measure."""
        return self.dataset or self.run.data.dataset


@dataclass(frozen=True)
class Graph:
    """The jobs of a sweep, each after what it waits for, each once."""

    sweep_folder: Path
    jobs: tuple[Job, ...]
    tables: tuple[str, ...]
    """Names of the tables that the report renders."""
    planned: Mapping[Key, float] = field(default_factory=dict)
    """Seconds that each job is planned to take, which the ledger keeps; jobs of unknown duration are left out."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the sweep sets for all of its runs, by `section.key`."""

    @cached_property
    def by_key(self) -> Mapping[Key, Job]:
        """Every job by the key that names it in the ledger."""
        return {self.key(job): job for job in self.jobs}

    @cached_property
    def _keys(self) -> Mapping[int, Key]:
        """Every job's key by the `id()` of the job, which lives as long as the graph: paths are slow to compare."""
        return {id(job): self._key(job) for job in self.jobs}

    def key(self, job: Job) -> Key:
        """Returns what names a job in the ledger."""
        return self._keys.get(id(job)) or self._key(job)

    def _key(self, job: Job) -> Key:
        return str(job.folder.path.relative_to(self.sweep_folder)), job.task

    @cached_property
    def _children(self) -> Mapping[str, list[Job]]:
        """The jobs of each run's folder, except its pretraining."""
        children: dict[str, list[Job]] = {}
        for job in self.jobs:
            if job.task != PRETRAIN:
                children.setdefault(self.key(job)[0], []).append(job)
        return children

    def parent(self, job: Job) -> Job | None:
        """Returns the pretraining that a job waits for; None for a pretraining."""
        return None if job.task == PRETRAIN else self.by_key[self.key(job)[0], PRETRAIN]

    def children(self, job: Job) -> list[Job]:
        """Returns the jobs that wait for a pretraining."""
        return list(self._children.get(self.key(job)[0], ()))

    def finished(self, read_results: ReadResults = rows_of) -> frozenset[Key]:
        """Returns the keys of the jobs whose result is there, reading the results of each run once.

        A job whose files cannot be read is not finished; `slurm.submission.handover.prepare_call` tells whoever
        submits it what is wrong. So one damaged run stops no other.

        The answer holds for this moment only: whoever is going to act on it asks again, under the lock that keeps other
        launchers away.

        Args:
            read_results: For callers that read the same files for something else, and keep what they read.
        """
        rows: dict[Path, Sequence[Result]] = {}
        keys = set()
        for job in self.jobs:
            path = job.folder.results
            with suppress(UserError):
                if job.task != PRETRAIN and path not in rows:
                    rows[path] = read_results(path)
                if job.done_by(rows.get(path, [])):
                    keys.add(self.key(job))
        return frozenset(keys)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Every task but the report, pretraining first."""
        return tuple(dict.fromkeys(job.task for job in self.jobs))

    @cached_property
    def evaluates(self) -> bool:
        """Whether anything is measured, so that there is something to tabulate."""
        return any(job.task != PRETRAIN for job in self.jobs)

    @property
    def report(self) -> Key:
        """The key of the job that renders the tables, which is in no run's folder."""
        return ".", REPORT

    def without(self, jobs: Iterable[Job]) -> "Graph":
        """Returns the graph without these jobs, and without those that wait for a pretraining among them."""
        dropped = {self.key(job) for job in jobs}
        dropped |= {
            self.key(child) for key in dropped if key[1] == PRETRAIN for child in self.children(self.by_key[key])
        }
        remaining = tuple(job for job in self.jobs if self.key(job) not in dropped)
        return replace(self, jobs=remaining)


def make_graph(sweep_folder: Path, jobs: Sequence[Job], tables: Sequence[str]) -> Graph:
    """Makes a graph of jobs, which keeps their order.

    Args:
        sweep_folder: The folder that every run's folder is below.
        jobs: Each run's pretraining before its other tasks. A job that stands twice, as with included sweeps, is done
            once.
        tables: Names of the tables that the report renders.

    Raises:
        UserError: One evaluation is named twice, by different protocols.
    """
    # Of equal jobs, the first one's settings and place count.
    distinct: dict[tuple[Path, str], Job] = {}
    for job in jobs:
        first = distinct.setdefault((job.folder.path, job.task), job)
        if first is not job and first.protocols != job.protocols:
            words = " and ".join(f"as {', '.join(each.protocols)}" for each in (first, job))
            raise UserError(
                f"{job.name} stands twice, {words}", mend="a sweep for each; for kNN a list of `neighbours`"
            )
    return Graph(sweep_folder, tuple(distinct.values()), tuple(dict.fromkeys(tables)))
