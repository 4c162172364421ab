"""Which jobs go out together: alike ones as arrays, each after what it waits for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job
from slurm.ledger import Key
from slurm.profile import Cluster, Resources


@dataclass(frozen=True)
class Parent:
    """A job that is on its way, as its children see it."""

    submission: str
    job: str
    """Slurm's id; empty while it is only planned."""
    size: int
    """Jobs of its submission."""


@dataclass(frozen=True)
class Batch:
    """What one sbatch submits: a job, or an array of several."""

    name: str
    task: str
    keys: tuple[Key, ...]
    resources: Resources
    kind: str = ""
    """`aftercorr`: each waits for the job of its own number in the parents' array; `afterok`: for one that must
    succeed; `afterany`: for all to end, however; empty: for nothing."""
    parents: tuple[Key, ...] = ()
    """What is waited for; with `aftercorr`, one for each job."""
    earlier_ids: tuple[tuple[Key, str], ...] = ()
    """Slurm's ids of the parents that went out before this launch."""

    def after(self, submitted: Mapping[Key, str]) -> dict[Key, tuple[str, ...]]:
        """Returns the ids that each job waits for.

        Args:
            submitted: ids of what went out in this launch.
        """
        ids = {**dict(self.earlier_ids), **submitted}
        if self.kind == "aftercorr":
            return {key: (ids[parent],) for key, parent in zip(self.keys, self.parents, strict=True)}
        return {key: tuple(ids[parent] for parent in self.parents) for key in self.keys}

    def dependency(self, submitted: Mapping[Key, str]) -> str:
        """Returns sbatch's `--dependency`, for example `aftercorr:811`; empty where nothing is waited for.

        Args:
            submitted: ids of what went out in this launch.
        """
        ids = {**dict(self.earlier_ids), **submitted}
        parent_ids = [ids[parent] for parent in self.parents]
        if not self.kind or not parent_ids:
            return ""
        # `aftercorr` takes the id of an array and pairs the numbers itself. `afterany` would take the ids of all the
        # jobs, but a list of hundreds is too long for sbatch: the id of the array stands for all of them. `afterok`
        # must not be shortened, since a job of an array waits for that one job and not for its neighbours.
        by_array = self.kind in ("aftercorr", "afterany")
        targets = dict.fromkeys(job.partition("_")[0] if by_array else job for job in parent_ids)
        return f"{self.kind}:{':'.join(targets)}"


def submission_name(sweep_folder: Path, task: str) -> str:
    """Returns a name that no other submission has, which says what it is: `table1-linear-5f0c3a9e`."""
    return f"{sweep_folder.resolve().name}-{task}-{uuid4().hex[:8]}"


def plan_batches(graph: Graph, cluster: Cluster, limit: int, live: Mapping[Key, Parent]) -> Iterator[Batch]:
    """Yields what is neither done nor on its way, in an order in which every job comes after what it waits for.

    Args:
        graph: the sweep.
        cluster: says what each task asks for.
        limit: the most jobs of an array.
        live: what is on its way since an earlier launch.
    """
    finished = graph.finished()
    missing = [job for job in graph.jobs if graph.key(job) not in live and graph.key(job) not in finished]
    on_way = dict(live)
    for task in graph.tasks:  # the pretraining first: what is yielded counts as on its way for the tasks after it
        jobs = [job for job in missing if job.task == task]
        for group in _groups(graph, jobs, on_way):
            for chunk in (group[start : start + limit] for start in range(0, len(group), limit)):
                batch = _batch(graph, cluster, task, chunk, on_way)
                on_way |= {key: Parent(batch.name, "", len(chunk)) for key in batch.keys}
                yield batch
    if missing and any(job.task != PRETRAIN for job in graph.jobs):  # else there is nothing to tabulate
        yield _report(graph, cluster, on_way)


def _groups(graph: Graph, jobs: list[Job], on_way: Mapping[Key, Parent]) -> Iterator[list[Job]]:
    """Yields jobs that can go out as one array: those that wait for nothing, and those whose parents are a whole array.

    `aftercorr` pairs a child with the parent of the same number, so an array of children must match that of the parents
    one to one. Where some children are missing (done, or on their way), the numbers would be shifted and a child would
    wait for a stranger: such children go out one by one, each `afterok` its own parent.
    """
    free: list[Job] = []
    by_submission: dict[str, tuple[int, list[Job]]] = {}
    for job in jobs:
        pretraining = graph.parent(job)
        parent = on_way.get(graph.key(pretraining)) if pretraining is not None else None
        if parent is None:  # it waits for nothing, or what it builds on is done
            free.append(job)
        else:
            by_submission.setdefault(parent.submission, (parent.size, []))[1].append(job)
    if free:
        yield free
    # `on_way` keeps the order in which jobs were handed over, which within an array is that of its numbers.
    order = {key: number for number, key in enumerate(on_way)}
    for size, members in by_submission.values():
        if len(members) == size > 1:
            yield sorted(members, key=lambda job: order[graph.key(job)[0], PRETRAIN])
        else:
            yield from ([job] for job in members)


def _batch(graph: Graph, cluster: Cluster, task: str, jobs: Sequence[Job], on_way: Mapping[Key, Parent]) -> Batch:
    parents = [graph.key(parent) for job in jobs if (parent := graph.parent(job)) is not None]
    parents = [key for key in parents if key in on_way]
    kind = "" if not parents else "aftercorr" if len(jobs) > 1 else "afterok"
    return Batch(
        submission_name(graph.sweep_folder, task),
        task,
        tuple(graph.key(job) for job in jobs),
        cluster.resources_of(task),
        kind,
        tuple(parents),
        _earlier_ids(parents, on_way),
    )


def _report(graph: Graph, cluster: Cluster, on_way: Mapping[Key, Parent]) -> Batch:
    """Returns the job of the tables, which comes when all is over, also where something of it failed."""
    parents = tuple(key for key in map(graph.key, graph.jobs) if key in on_way)
    task = graph.report[1]
    return Batch(
        submission_name(graph.sweep_folder, task),
        task,
        (graph.report,),
        cluster.resources_of(task),
        "afterany",
        parents,
        _earlier_ids(parents, on_way),
    )


def _earlier_ids(parents: Sequence[Key], on_way: Mapping[Key, Parent]) -> tuple[tuple[Key, str], ...]:
    return tuple((key, on_way[key].job) for key in parents if on_way[key].job)
