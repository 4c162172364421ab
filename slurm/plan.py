"""What a sweep will cost, from what was measured: GPU-hours, disk and wall time; and what fits a budget.

A pretraining's throughput comes from a recorded run of the same kind (`repro.bench.throughput.kind_of`) in the sweep or
beside it, else from `salmask bench step`. An evaluation's duration comes from recorded results of the same task, data
set and protocol; of a linear probe also from the backbone's measured forward pass. What nobody measured is said to be
unknown, and is in no sum.
"""

import heapq
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from repro.bench.throughput import Kind, StepMeasurement, kind_of, record_file, recorded
from repro.data.catalogue import DATASETS
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.runs.run import Run
from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, Key
from slurm.profile import Cluster

KEPT = 2
"""Checkpoints that a run keeps (`repro.training.resume.KEPT`)."""
NEVER = "no such pretraining was measured; mend: salmask bench step"
WARM_ROWS = 2
"""Log lines that do not count: the first steps are slow."""


@dataclass(frozen=True)
class JobCost:
    """Of one job that is still to do; nothing of one that is done."""

    seconds: float | None = 0.0
    """None: nobody measured it."""
    gpus: int = 1
    """That it holds; a job without any counts as one."""
    disk: int | None = 0
    """Bytes that it leaves."""
    source: str = "done"
    """Where the numbers come from."""

    @property
    def gpu_hours(self) -> float | None:
        """None: unknown."""
        return None if self.seconds is None else self.seconds * self.gpus / 3600


@dataclass(frozen=True)
class Evidence:
    """What was measured, here and before."""

    runs: Mapping[Kind, tuple[float, int, str]]
    """Images per second, bytes of the folder, and name of a run of the kind."""
    durations: Mapping[tuple[str, ...], float]
    """Seconds by task, data set, protocol, architecture and crop."""
    steps: Mapping[Kind, StepMeasurement]
    """From `salmask bench step`."""


def gather(places: Sequence[Path], steps: Path) -> Evidence:
    """Read the runs below some sweeps' folders, and the file of `salmask bench step`."""
    runs: dict[Kind, tuple[float, int, str]] = {}
    durations: dict[tuple[str, ...], list[float]] = {}
    for path in (path for place in places for path in sorted(place.glob("*/s*/run.yaml"))):
        folder = RunFolder(path.parent)
        try:
            run = folder.load()
        except UserError:
            continue  # of another version
        rate = _rate(folder.metrics)
        if rate and folder.pretrained:
            size = sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())
            runs.setdefault(kind_of(run), (rate, size, f"{folder.sweep}/{run.method}/{folder.path.name}"))
        for row in read(folder.results)[0] if folder.results.exists() else []:
            key = (row.task, row.dataset, row.protocol, run.encoder.arch, str(run.data.crop))
            durations.setdefault(key, []).append(row.duration_s)
    return Evidence(runs, {key: statistics.median(found) for key, found in durations.items()}, recorded(steps))


def _rate(metrics: Path) -> float | None:
    rates = []
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        try:
            rate = json.loads(line).get("images_per_second")
        except ValueError:
            continue
        if rate is not None:
            rates.append(float(rate))
    warm = rates[WARM_ROWS:] or rates
    return statistics.median(warm) if warm else None


def estimate(graph: Graph, cluster: Cluster | None, evidence: Evidence | None = None) -> dict[Key, JobCost]:
    """The cost of every job.

    Args:
        graph: the sweep.
        cluster: says how many GPUs a job holds; None: one.
        evidence: what was measured; default: the runs beside the sweep and the user's `salmask bench step`.
    """
    if evidence is None:
        others = sorted(path.parent for path in graph.place.parent.glob("*/jobs.jsonl"))
        evidence = gather([graph.place, *(path for path in others if path != graph.place)], record_file())
    return {graph.key(job): JobCost() if job.done else _cost(job, cluster, evidence) for job in graph.jobs}


def _cost(job: Job, cluster: Cluster | None, evidence: Evidence) -> JobCost:
    resources = cluster.resources_of(job.task) if cluster else None
    gpus = max(1, resources.nodes * resources.gpus) if resources else 1
    processes = resources.nodes * resources.tasks_per_node if resources else 1
    if job.task == PRETRAIN:
        return _pretraining(job.run, gpus, processes, evidence)
    return _evaluation(job, gpus, evidence)


def _pretraining(run: Run, gpus: int, processes: int, evidence: Evidence) -> JobCost:
    images, kind = train_images(run), kind_of(run)
    if images is None:
        return JobCost(None, gpus, None, f"nobody knows how many images {run.data.dataset} has; mend: --root")
    if kind in evidence.runs:
        rate, size, name = evidence.runs[kind]
        return JobCost(run.optimization.epochs * images / rate, gpus, size, f"run {name}, {rate:.0f} images/s")
    if kind in evidence.steps:
        measured = evidence.steps[kind]
        rate = measured.images_per_second * processes / measured.processes
        scaled = (
            "" if processes == measured.processes else f", scaled from {measured.processes} to {processes} processes"
        )
        return JobCost(
            run.optimization.epochs * images / rate,
            gpus,
            KEPT * measured.checkpoint_bytes + measured.backbone_bytes,
            f"bench step on {measured.device}, {measured.images_per_second:.0f} images/s{scaled}",
        )
    return JobCost(None, gpus, None, NEVER)


def _evaluation(job: Job, gpus: int, evidence: Evidence) -> JobCost:
    run = job.run
    evaluation = Evaluation.parse(job.task, run)
    took = [
        evidence.durations.get((evaluation.task, evaluation.dataset, protocol, run.encoder.arch, str(run.data.crop)))
        for protocol in evaluation.protocols(run)
    ]
    known = [seconds for seconds in took if seconds is not None]
    if known and len(known) == len(took):
        return JobCost(max(known), gpus, 0, "recorded results of the same protocol")
    measured = evidence.steps.get(kind_of(run))
    images = train_images(run) if evaluation.dataset == run.data.dataset else _published(evaluation.dataset)
    if evaluation.task == "linear" and measured and images:
        seconds = run.probe.epochs * images / measured.forward_images_per_second
        return JobCost(seconds, gpus, 0, f"forward pass on {measured.device}, at least")
    return JobCost(None, gpus, 0, "no such evaluation was recorded yet")


def train_images(run: Run) -> int | None:
    """Images of an epoch, as far as that is known without opening the data."""
    if run.data.dataset.startswith("scenes"):
        return run.data.scenes.train_count
    if run.data.dataset == "folder":
        train = Path(run.machine.data_root) / "train"
        return sum(1 for path in train.glob("*/*") if path.is_file()) or None if run.machine.data_root else None
    return _published(run.data.dataset)


def _published(dataset: str) -> int | None:
    return DATASETS[dataset].expected.get("train") if dataset in DATASETS else None


def within_budget(graph: Graph, costs: Mapping[Key, JobCost], gpu_hours: float) -> tuple[Graph, list[str]]:
    """What fits a budget: whole runs with all of their tasks, the first seed of every method before the second.

    A run that does not fit is left out with everything after it, so that the methods keep equally many seeds but one.

    Returns:
        The graph that is left, and `METHOD sSEED` of what was left out.

    Raises:
        UserError: something in it was never measured.
    """
    unknown = [job for job in graph.jobs if costs[graph.key(job)].seconds is None]
    if unknown:
        raise UserError(
            f"a budget needs the cost of every job, and {len(unknown)} have none, {unknown[0].name} for one: "
            f"{costs[graph.key(unknown[0])].source}"
        )
    pretrainings = [job for job in graph.jobs if job.task == PRETRAIN]
    order = {seed: number for number, seed in enumerate(dict.fromkeys(job.run.seed for job in pretrainings))}
    spent = 0.0
    gone: list[Job] = []
    for job in sorted(pretrainings, key=lambda job: order[job.run.seed]):
        hours = sum(costs[graph.key(one)].gpu_hours or 0.0 for one in (job, *graph.children(job)))
        if gone or spent + hours > gpu_hours:
            gone.append(job)
        else:
            spent += hours
    return graph.without(gone), [f"{job.run.method} s{job.run.seed}" for job in gone]


def wall_seconds(graph: Graph, costs: Mapping[Key, JobCost], slots: int) -> float:
    """How long it takes with so many jobs at a time, each started as soon as it can be; unknown jobs take no time.

    Args:
        graph: the sweep.
        costs: of each job.
        slots: jobs at a time; 0: all of them.
    """
    free = [0.0] * (slots or max(1, len(graph.jobs)))
    heapq.heapify(free)
    ended: dict[Key, float] = {}
    waiting = list(graph.jobs)
    while waiting:
        ready = {
            graph.key(job): ended[graph.key(parent)] if (parent := graph.parent(job)) else 0.0
            for job in waiting
            if graph.parent(job) is None or graph.key(graph.parent(job) or job) in ended
        }
        slot = heapq.heappop(free)
        key = min(ready, key=lambda key: (max(ready[key], slot), ready[key]))
        ended[key] = max(ready[key], slot) + (costs[key].seconds or 0.0)
        heapq.heappush(free, ended[key])
        waiting = [job for job in waiting if graph.key(job) != key]
    return max(ended.values(), default=0.0)


def print_plan(
    graph: Graph,
    costs: Mapping[Key, JobCost],
    cluster: Cluster | None,
    parallel: int,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Print the graph, counts and costs.

    Args:
        graph: the sweep.
        costs: from `estimate`.
        cluster: where it would run; None: nowhere yet.
        parallel: jobs at a time where the profile does not say.
        console: to print on.
        as_json: print JSON instead.
    """
    slots = _slots(cluster, parallel)
    total = sum(cost.gpu_hours or 0.0 for cost in costs.values())
    disk = sum(cost.disk or 0 for cost in costs.values())
    wall = wall_seconds(graph, costs, slots)
    unknown = [job.name for job in graph.jobs if costs[graph.key(job)].seconds is None]
    if as_json:
        jobs = [_row(graph, job, costs[graph.key(job)]) for job in graph.jobs]
        sums = {"gpu_hours": round(total, 3), "disk_bytes": disk, "wall_seconds": round(wall, 1), "unknown": unknown}
        typer.echo(json.dumps({"jobs": jobs, "tables": list(graph.tables), **sums}, indent=1))
        return
    runs = len({graph.key(job)[0] for job in graph.jobs})
    done = sum(job.done for job in graph.jobs)
    counts = {task: sum(job.task == task for job in graph.jobs) for task in graph.tasks}
    after = ", ".join(f"{number} {task}" for task, number in counts.items() if task != PRETRAIN)
    flow = f"{counts[PRETRAIN]} {PRETRAIN}" + (f" -> {after} -> report ({', '.join(graph.tables)})" if after else "")
    console.print(f"{runs} runs, {len(graph.jobs)} jobs, {done} done: {flow}", highlight=False, soft_wrap=True)
    console.print(_table(graph, costs))
    at_a_time = "all at once" if not slots else "one job at a time" if slots == 1 else f"{slots} jobs at a time"
    least = "at least " if unknown else ""
    to_do = f"{least}{total:.1f} GPU-hours, {least}{_size(disk)} on disk, {least}{_time(wall)} with {at_a_time}"
    if len(unknown) == len(graph.jobs) - done > 0:
        to_do = "nobody knows what it costs"
    console.print(f"to do: {to_do}", highlight=False, soft_wrap=True)
    for source in dict.fromkeys(cost.source for cost in costs.values() if cost.source != "done"):
        number = sum(cost.source == source for cost in costs.values())
        of = dict.fromkeys(job.run.method for job in graph.jobs if costs[graph.key(job)].source == source)
        what = f" {' '.join(of)}" if source == NEVER else ""
        console.print(f"  {number} jobs: {source}{what}", markup=False, highlight=False, soft_wrap=True)


def _slots(cluster: Cluster | None, parallel: int) -> int:
    if cluster is None or cluster.executor == "local":
        return parallel
    return 1 if cluster.executor == "debug" else cluster.throttle


def _row(graph: Graph, job: Job, cost: JobCost) -> dict[str, object]:
    parent = graph.parent(job)
    return {
        "job": job.name,
        "folder": str(job.folder.path),
        "done": job.done,
        "after": [parent.name] if parent else [],
        "seconds": cost.seconds and round(cost.seconds, 1),
        "gpu_hours": cost.gpu_hours and round(cost.gpu_hours, 4),
        "disk_bytes": cost.disk,
        "measured": cost.source,
    }


def _table(graph: Graph, costs: Mapping[Key, JobCost]) -> Table:
    """A line a method: its seeds, and of each task what is to do."""
    page = Table(box=None, pad_edge=False)
    for head in ("method", "seeds", *graph.tasks, "GPU-hours"):
        page.add_column(head, overflow="fold", justify="left" if head in ("method", "seeds") else "right")
    for method in dict.fromkeys(job.run.method for job in graph.jobs):
        jobs = [job for job in graph.jobs if job.run.method == method]
        hours = [costs[graph.key(job)].gpu_hours for job in jobs]
        known = sum(hour for hour in hours if hour is not None)
        page.add_row(
            method,
            " ".join(dict.fromkeys(str(job.run.seed) for job in jobs)),
            *(_progress([job for job in jobs if job.task == task]) for task in graph.tasks),
            "?" if all(hour is None for hour in hours) else f"{known:.1f}{' + ?' if None in hours else ''}",
        )
    return page


def _progress(jobs: Sequence[Job]) -> str:
    done = sum(job.done for job in jobs)
    return f"{done}/{len(jobs)} done" if done else str(len(jobs)) if jobs else "–"


def _size(number: int) -> str:
    power = min(3, int(math.log(max(number, 1), 1000)))
    return f"{number / 1000**power:.1f} {('B', 'kB', 'MB', 'GB')[power]}"


def _time(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
