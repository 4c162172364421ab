"""Which jobs go out together: alike ones as arrays, each after what it waits for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, Key
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
    known: tuple[tuple[Key, str], ...] = ()
    """Ids of parents that went out before this launch."""

    def after(self, submitted: Mapping[Key, str]) -> dict[Key, tuple[str, ...]]:
        """The ids that each job waits for.

        Args:
            submitted: ids of what went out in this launch.
        """
        ids = {**dict(self.known), **submitted}
        if self.kind == "aftercorr":
            return {key: (ids[parent],) for key, parent in zip(self.keys, self.parents, strict=True)}
        return {key: tuple(ids[parent] for parent in self.parents) for key in self.keys}

    def dependency(self, submitted: Mapping[Key, str]) -> str:
        """What sbatch is told; empty: nothing."""
        ids = {**dict(self.known), **submitted}
        waited = [ids[parent] for parent in self.parents]
        if not self.kind or not waited:
            return ""
        # An array as a whole goes by its first part: a list of hundreds of ids would be too long for sbatch.
        whole = self.kind in ("aftercorr", "afterany")
        names = dict.fromkeys(job.partition("_")[0] if whole else job for job in waited)
        return f"{self.kind}:{':'.join(names)}"


def submission_name(place: Path, task: str) -> str:
    """A name that no other submission has, which says what it is: `table1-linear-5f0c3a9e`."""
    return f"{place.resolve().name}-{task}-{uuid4().hex[:8]}"


def plan_batches(graph: Graph, cluster: Cluster, limit: int, live: Mapping[Key, Parent]) -> Iterator[Batch]:
    """What is neither done nor on its way, in an order in which every job comes after what it waits for.

    Args:
        graph: the sweep.
        cluster: says what each task asks for.
        limit: jobs in an array.
        live: what is on its way since an earlier launch.
    """
    way = dict(live)
    missing = [job for job in graph.jobs if graph.key(job) not in live and not job.done]
    for task in graph.tasks:
        jobs = [job for job in missing if job.task == task]
        for group in _groups(graph, jobs, way):
            for chunk in (group[start : start + limit] for start in range(0, len(group), limit)):
                batch = _batch(graph, cluster, task, chunk, way)
                way |= {key: Parent(batch.name, "", len(chunk)) for key in batch.keys}
                yield batch
    if missing and any(job.task != PRETRAIN for job in graph.jobs):  # else there is nothing to tabulate
        yield _report(graph, cluster, way)


def _groups(graph: Graph, jobs: list[Job], way: Mapping[Key, Parent]) -> Iterator[list[Job]]:
    """Jobs that can go out as one array: those that wait for nothing, and those whose parents are a whole array."""
    free: list[Job] = []
    beside: dict[str, tuple[int, list[Job]]] = {}
    for job in jobs:
        parent = graph.parent(job)
        on_way = way.get(graph.key(parent)) if parent is not None else None
        if on_way is None:
            free.append(job)
        else:
            beside.setdefault(on_way.submission, (on_way.size, []))[1].append(job)
    if free:
        yield free
    order = {key: number for number, key in enumerate(way)}  # within an array that of its numbers
    for size, members in beside.values():
        if len(members) == size > 1:
            yield sorted(members, key=lambda job: order[graph.key(job)[0], PRETRAIN])
        else:
            yield from ([job] for job in members)


def _batch(graph: Graph, cluster: Cluster, task: str, jobs: Sequence[Job], way: Mapping[Key, Parent]) -> Batch:
    parents = [graph.key(parent) for job in jobs if (parent := graph.parent(job)) is not None]
    parents = [key for key in parents if key in way]
    kind = "" if not parents else "aftercorr" if len(jobs) > 1 else "afterok"
    return Batch(
        submission_name(graph.place, task),
        task,
        tuple(graph.key(job) for job in jobs),
        cluster.resources_of(task),
        kind,
        tuple(parents),
        tuple((key, way[key].job) for key in parents if way[key].job),
    )


def _report(graph: Graph, cluster: Cluster, way: Mapping[Key, Parent]) -> Batch:
    """The tables, when all is over: also of a sweep in which something failed, as far as it came."""
    waited = tuple(key for key in map(graph.key, graph.jobs) if key in way)
    task = graph.report[1]
    return Batch(
        submission_name(graph.place, task),
        task,
        (graph.report,),
        cluster.resources_of(task),
        "afterany",
        waited,
        tuple((key, way[key].job) for key in waited if way[key].job),
    )
