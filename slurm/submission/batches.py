"""Which jobs are submitted together: alike ones as arrays, each after what it waits for."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from uuid import uuid4

from slurm.planning.graph import Graph, Job
from slurm.profiles.profile import Cluster, Resources
from slurm.sweep_folder.ledger import Key

_UNNAMED = re.compile(r"[^\w.+@=-]")
_OF_ARRAY = re.compile(r"(.+)_(\d+)")


@dataclass(frozen=True)
class Parent:
    """A job that is on its way, as its children see it."""

    submission: str
    job: str
    """Slurm's id; empty while it is only planned."""


@dataclass(frozen=True)
class Batch:
    """What one sbatch submits: a job, or an array of several."""

    name: str
    task: str
    keys: tuple[Key, ...]
    resources: Resources
    kind: str = ""
    """`aftercorr`: each job waits for the one of its own number in the parents' array; `afterok`: for one that must
    succeed; `afterany`: for all to end in any way; empty: for nothing. `resolved` chooses between the first two."""
    parents: tuple[Key, ...] = ()
    """The parent of each job, in the order of `keys`; with `afterany`, all parents of every job."""
    earlier_ids: tuple[tuple[Key, str], ...] = ()
    """Slurm's ids of the parents that were submitted before this launch."""
    indices: tuple[int, ...] = ()
    """The numbers of the jobs in their array, ascending; none of a single job. `resolved` chooses them."""
    lane: str = ""
    """Its lane (`slurm.submission.lanes`); empty: none."""
    at_a_time: int = 0
    """How many of its jobs may run at a time; 0: as the task's own throttle says."""

    def resolved(self, submitted: Mapping[Key, str]) -> "list[Batch]":
        """Returns the parts of the batch that can be submitted, now that parents have ids.

        The jobs of an array of children have the numbers that their parents have in theirs (`aftercorr`). So a batch
        becomes one part for each array of parents, with only the numbers that are wanted. A single child waits
        `afterok` for its parent. Children whose parents have no id are left out.

        Args:
            submitted: Ids of what was submitted in this launch.
        """
        if not self.parents:
            return [replace(self, indices=tuple(range(len(self.keys))) if len(self.keys) > 1 else ())]
        ids = self._ids(submitted)
        if self.kind == "afterany":
            return [replace(self, parents=tuple(parent for parent in self.parents if parent in ids))]
        by_array: dict[str, list[tuple[int, Key, Key]]] = {}
        for key, parent in zip(self.keys, self.parents, strict=True):
            if parent in ids:
                array, index = split_id(ids[parent])
                by_array.setdefault(array, []).append((index, key, parent))
        parts = []
        for members in by_array.values():
            indices, keys, parents = zip(*sorted(members), strict=True)
            alone = len(keys) == 1
            kind = "afterok" if alone else "aftercorr"
            name = self.name if len(keys) == len(self.keys) else renamed(self.name)
            numbers = () if alone else indices
            parts.append(replace(self, name=name, keys=keys, parents=parents, kind=kind, indices=numbers))
        return parts

    def job_id(self, key: Key, submission_id: str) -> str:
        """Returns Slurm's id of one of the jobs.

        Args:
            key: Of the job.
            submission_id: What sbatch answered: the id of the job, or of the array.
        """
        return f"{submission_id}_{self.indices[self.keys.index(key)]}" if self.indices else submission_id

    def after(self, submitted: Mapping[Key, str]) -> dict[Key, tuple[str, ...]]:
        """Returns the ids that each job waits for.

        Args:
            submitted: Ids of what was submitted in this launch.
        """
        ids = self._ids(submitted)
        if self.kind == "afterany":
            return {key: tuple(ids[parent] for parent in self.parents) for key in self.keys}
        parents = self.parents or (None,) * len(self.keys)
        return {key: (ids[parent],) if parent else () for key, parent in zip(self.keys, parents, strict=True)}

    def dependency(self, submitted: Mapping[Key, str], behind: Iterable[str] = ()) -> str:
        """Returns sbatch's `--dependency`, for example `aftercorr:811`; empty where nothing is waited for.

        Args:
            submitted: Ids of what was submitted in this launch.
            behind: Ids of the jobs that must have ended, in any way, before any of these begins.
        """
        own = self._awaited(submitted)
        ended = [*dict.fromkeys(split_id(job)[0] for job in behind)]
        if self.kind == "afterany":  # one word for both
            own, ended = [], [*dict.fromkeys([*own, *ended])]
        elif self.kind == "afterok":  # it includes `afterany` for the same job
            ended = [job for job in ended if job not in own]
        words = ((self.kind, own), ("afterany", ended))
        return ",".join(f"{word}:{':'.join(ids)}" for word, ids in words if ids)

    def _awaited(self, submitted: Mapping[Key, str]) -> list[str]:
        """Returns the ids behind the word that is the batch's `kind`; none where it waits for no parent."""
        if not self.kind:
            return []
        ids = self._ids(submitted)
        parent_ids = [ids[parent] for parent in self.parents]
        # `aftercorr` takes the id of an array and pairs the numbers itself. `afterany` would take the ids of all the
        # jobs, but a list of hundreds is too long for sbatch: the id of the array stands for all of them. `afterok`
        # must not be shortened, since a job of an array waits for that one job and not for its neighbours.
        by_array = self.kind in ("aftercorr", "afterany")
        return [*dict.fromkeys(split_id(job)[0] if by_array else job for job in parent_ids)]

    def _ids(self, submitted: Mapping[Key, str]) -> dict[Key, str]:
        """Returns the ids of the parents of earlier launches, and of all that was submitted in this one."""
        return {**dict(self.earlier_ids), **submitted}

    def only(self, keys: Collection[Key]) -> "Batch":
        """Returns an array of pretrainings or of evaluations with only some of its jobs; `resolved` numbers them anew.

        Args:
            keys: Of the jobs that stay.
        """
        stays = [key in keys for key in self.keys]
        return replace(self, keys=tuple(compress(self.keys, stays)), parents=tuple(compress(self.parents, stays)))

    def split(self, number: int) -> "tuple[Batch, Batch]":
        """Returns an array as two.

        Args:
            number: How many jobs the first one has; each has at least one.
        """
        first, second = (
            replace(self, name=renamed(self.name), keys=self.keys[part], parents=self.parents[part])
            for part in (slice(None, number), slice(number, None))
        )
        return first, second


def split_id(job: str) -> tuple[str, int]:
    """Returns a job's array and its number there: `812` and 3 of `812_3`; of a single job its id and 0."""
    match = _OF_ARRAY.fullmatch(job)
    return (match.group(1), int(match.group(2))) if match else (job, 0)


def renamed(name: str) -> str:
    """Returns a new unique name for a part of a submission."""
    return f"{name.rpartition('-')[0]}-{uuid4().hex[:8]}"


def submission_name(sweep_folder: Path, task: str) -> str:
    """Returns a unique name for a submission, which says what it is: `table1-linear-5f0c3a9e`.

    Characters that end a name for Slurm's programs, such as `|` and `,`, become `_`.
    """
    return f"{_UNNAMED.sub('_', sweep_folder.resolve().name)}-{task}-{uuid4().hex[:8]}"


def plan_batches(
    graph: Graph,
    cluster: Cluster,
    limit: int,
    live: Mapping[Key, Parent],
    wanted: Collection[Key] | None = None,
    *,
    report: bool = False,
) -> Iterator[Batch]:
    """Yields what is to be submitted, in an order in which every job comes after what it waits for.

    Args:
        graph: The sweep.
        cluster: Says what each task asks for.
        limit: The most jobs of an array.
        live: What is on its way since an earlier launch.
        wanted: Keys of the jobs to submit; the parent of each is done, on its way, or among them. None: all jobs that
            are neither done nor on their way.
        report: Whether the report is submitted even if no job is.
    """
    if wanted is None:
        finished = graph.finished()
        wanted = {key for key in graph.by_key if key not in live and key not in finished}
    missing = [job for job in graph.jobs if graph.key(job) in wanted]
    on_way = dict(live)
    for task in graph.tasks:  # the pretraining first: what is yielded counts as on its way for the tasks after it
        jobs = [job for job in missing if job.task == task]
        for group in _groups(graph, jobs, on_way):
            for chunk in (group[start : start + limit] for start in range(0, len(group), limit)):
                parents = [graph.key(parent) for job in chunk if (parent := graph.parent(job)) is not None]
                batch = _batch(graph, cluster, task, [graph.key(job) for job in chunk], parents, on_way)
                on_way |= {key: Parent(batch.name, "") for key in batch.keys}
                yield batch
    if report or (missing and graph.evaluates):  # else there is nothing to tabulate
        # The report waits until all jobs of the sweep are over, failed or not; also those that another launch has
        # submitted, since a retry knows only the jobs that it retries.
        everything = [key for key in dict.fromkeys([*graph.by_key, *live]) if key != graph.report]
        yield _batch(graph, cluster, graph.report[1], [graph.report], everything, on_way, "afterany")


def _groups(graph: Graph, jobs: list[Job], on_way: Mapping[Key, Parent]) -> Iterator[list[Job]]:
    """Yields jobs that can be one array: those that wait for nothing, and those whose parents are one."""
    free: list[Job] = []
    by_submission: dict[str, list[Job]] = {}
    for job in jobs:
        pretraining = graph.parent(job)
        parent = on_way.get(graph.key(pretraining)) if pretraining is not None else None
        if parent is None:  # it waits for nothing, or what it builds on is done
            free.append(job)
        else:
            by_submission.setdefault(parent.submission, []).append(job)
    if free:
        yield free
    yield from by_submission.values()


def _batch(
    graph: Graph,
    cluster: Cluster,
    task: str,
    keys: Sequence[Key],
    parents: Sequence[Key],
    on_way: Mapping[Key, Parent],
    kind: str = "",
) -> Batch:
    """Returns jobs that are submitted as one, each after those of its parents that are on their way."""
    parents = tuple(key for key in parents if key in on_way)
    return Batch(
        submission_name(graph.sweep_folder, task),
        task,
        tuple(keys),
        cluster.resources_of(task),
        kind,
        parents,
        tuple((key, on_way[key].job) for key in parents if on_way[key].job),
    )
