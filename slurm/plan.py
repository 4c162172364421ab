"""What a sweep will cost, from what was measured: GPU-hours, disk and wall time; and what fits a budget.

A pretraining's throughput comes from a recorded run of the same kind (`repro.bench.throughput.kind_of`) in the sweep or
beside it, else from `salmask bench step`. An evaluation's duration comes from recorded results of the same task, data
set and protocol; of a linear probe also from the backbone's measured forward pass. What nobody measured is said to be
unknown, and is in no sum.
"""

import functools
import heapq
import json
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from repro.bench.throughput import Kind, StepMeasurement, kind_of, newest_measurements, record_file
from repro.data.sizes import published_train_images, train_images
from repro.errors import UserError, with_mend
from repro.runs.cautions import queue_caution
from repro.runs.evaluation import Evaluation
from repro.runs.folder import CHECKPOINTS_KEPT, RunFolder
from repro.runs.records import Result
from repro.runs.run import Run
from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, results_of
from slurm.ledger import LEDGER, Key
from slurm.profile import Cluster

NEVER = "no such pretraining was measured"
WARM_UP_ROWS = 2
"""Log lines that do not count: the first steps are slow."""


@dataclass(frozen=True)
class JobCost:
    """What one job that is still to do will cost; nothing of one that is done."""

    seconds: float | None = 0.0
    """None: nobody measured it."""
    gpus: int = 1
    """That it holds; a job without any counts as one."""
    disk: int | None = 0
    """Bytes that it leaves; None: nobody measured it."""
    source: str = "done"
    """Where the numbers come from, or why there are none."""
    mend: str = ""
    """What a person can do where there are none."""

    @property
    def gpu_hours(self) -> float | None:
        """Hours times GPUs; None where nobody measured the seconds."""
        return None if self.seconds is None else self.seconds * self.gpus / 3600

    @property
    def remark(self) -> str:
        """The source with its mend, as plans show it."""
        return with_mend(self.source, self.mend)


@dataclass(frozen=True)
class Evidence:
    """What was measured, here and before."""

    runs: Mapping[Kind, tuple[float, int, str]]
    """Images per second, bytes of the folder, and name of a run of the kind."""
    durations: Mapping[tuple[str, ...], float]
    """Seconds by task, data set, protocol, architecture and crop."""
    steps: Mapping[Kind, StepMeasurement]
    """From `salmask bench step`."""


def survey(graph: Graph) -> tuple[frozenset[Key], Evidence]:
    """Reads what a plan goes by, each results file once: it says both what is done and how long it took.

    Args:
        graph: the sweep.

    Returns:
        The keys of the jobs that are done; and what was measured in the sweep, in those beside it, and by the user's
        `salmask bench step`.
    """
    read_once = functools.cache(results_of)
    sweeps = sorted(path.parent for path in graph.sweep_folder.parent.glob(f"*/{LEDGER}"))
    beside = [path for path in sweeps if path != graph.sweep_folder]
    return graph.finished(read_once), gather([graph.sweep_folder, *beside], record_file(), read_once)


def gather(
    sweeps: Sequence[Path], steps: Path, read_results: Callable[[Path], Sequence[Result]] = results_of
) -> Evidence:
    """Reads the runs below some sweeps' folders, and the file of `salmask bench step`.

    Args:
        sweeps: folders; of several runs of a kind the one that comes first counts.
        steps: the file of `salmask bench step`.
        read_results: reads a run's `results.jsonl`.
    """
    runs: dict[Kind, tuple[float, int, str]] = {}
    durations: dict[tuple[str, ...], list[float]] = {}
    for path in (path for sweep in sweeps for path in sorted(sweep.glob("*/s*/run.yaml"))):
        folder = RunFolder(path.parent)
        try:
            run = folder.load()
        except UserError:
            continue  # of another version
        rate = _rate(folder.metrics)
        if rate and folder.pretrained:  # the size of a run that is not finished says nothing
            size = sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file())
            runs.setdefault(kind_of(run), (rate, size, f"{folder.sweep}/{run.method}/{folder.path.name}"))
        for row in read_results(folder.results):
            key = (row.task, row.dataset, row.protocol, run.encoder.network, str(run.data.crop))
            durations.setdefault(key, []).append(row.duration_s)
    return Evidence(
        runs, {key: statistics.median(times) for key, times in durations.items()}, newest_measurements(steps)
    )


def _rate(metrics: Path) -> float | None:
    """Returns the median images per second of a `metrics.jsonl`; None where it tells of none."""
    rates = []
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        try:
            rate = json.loads(line).get("images_per_second")
        except ValueError:
            continue  # torn by a kill
        if rate is not None:
            rates.append(float(rate))
    warm = rates[WARM_UP_ROWS:] or rates
    return statistics.median(warm) if warm else None


def estimate(
    graph: Graph, cluster: Cluster | None, evidence: Evidence, finished: Collection[Key] = ()
) -> dict[Key, JobCost]:
    """Returns the cost of every job.

    Args:
        graph: the sweep.
        cluster: says how many GPUs a job holds; None: one.
        evidence: what was measured.
        finished: keys of the jobs that are done, which cost nothing.
    """
    return {key: JobCost() if key in finished else _cost(job, cluster, evidence) for key, job in graph.by_key.items()}


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
        return JobCost(None, gpus, None, f"nobody knows how many images {run.data.dataset} has", "--root")
    if kind in evidence.runs:
        rate, size, name = evidence.runs[kind]
        return JobCost(run.optimization.epochs * images / rate, gpus, size, f"run {name}, {rate:.0f} images/s")
    if kind in evidence.steps:
        step = evidence.steps[kind]
        # As if each process were as fast as one alone: communication and a shared disk are not measured.
        rate = step.images_per_second * processes / step.processes
        scaled = "" if processes == step.processes else f", scaled from {step.processes} to {processes} processes"
        return JobCost(
            run.optimization.epochs * images / rate,
            gpus,
            CHECKPOINTS_KEPT * step.checkpoint_bytes + step.backbone_bytes,
            f"bench step on {step.device}, {step.images_per_second:.0f} images/s{scaled}",
        )
    return JobCost(None, gpus, None, NEVER, "salmask bench step")


def _evaluation(job: Job, gpus: int, evidence: Evidence) -> JobCost:
    run = job.run
    evaluation = Evaluation.parse(job.task, run)
    durations = [
        evidence.durations.get((evaluation.task, evaluation.dataset, protocol, run.encoder.network, str(run.data.crop)))
        for protocol in evaluation.protocols(run)
    ]
    recorded_seconds = [seconds for seconds in durations if seconds is not None]
    if recorded_seconds and len(recorded_seconds) == len(durations):
        # The protocols of a task (kNN's, of several k) are measured together, and each records how long all took.
        return JobCost(max(recorded_seconds), gpus, 0, "recorded results of the same protocol")
    step = evidence.steps.get(kind_of(run))
    images = train_images(run) if evaluation.dataset == run.data.dataset else published_train_images(evaluation.dataset)
    if evaluation.task == "linear" and step and images:
        # Its forward pass is nearly all that a linear probe does; loading and validation come on top.
        seconds = run.probe.epochs * images / step.forward_images_per_second
        return JobCost(seconds, gpus, 0, f"forward pass on {step.device}, at least")
    return JobCost(None, gpus, 0, "no such evaluation was recorded yet")


def within_budget(graph: Graph, costs: Mapping[Key, JobCost], gpu_hours: float) -> tuple[Graph, list[str]]:
    """Returns what fits a budget: whole runs with all of their tasks, the first seed of every method before the second.

    A run that does not fit is left out with everything after it, so that the methods keep equally many seeds but one.

    Args:
        graph: the sweep.
        costs: from `estimate`.
        gpu_hours: the budget.

    Returns:
        The graph that is left, and `METHOD sSEED` of what was left out.

    Raises:
        UserError: something in it was never measured.
    """
    unknown = [job for job in graph.jobs if costs[graph.key(job)].seconds is None]
    if unknown:
        cost = costs[graph.key(unknown[0])]
        raise UserError(
            f"a budget needs the cost of every job, and {len(unknown)} have none, {unknown[0].name} for one: "
            f"{cost.source}",
            mend=cost.mend or "leave out --budget-gpu-hours, or such jobs by --tasks",
        )
    pretrainings = [job for job in graph.jobs if job.task == PRETRAIN]
    seed_order = {seed: number for number, seed in enumerate(dict.fromkeys(job.run.seed for job in pretrainings))}
    total = 0.0
    left_out: list[Job] = []
    for job in sorted(pretrainings, key=lambda job: seed_order[job.run.seed]):
        hours = sum(costs[graph.key(member)].gpu_hours or 0.0 for member in (job, *graph.children(job)))
        if left_out or total + hours > gpu_hours:
            left_out.append(job)
        else:
            total += hours
    return graph.without(left_out), [f"{job.run.method} s{job.run.seed}" for job in left_out]


def wall_seconds(graph: Graph, costs: Mapping[Key, JobCost], slots: int) -> float:
    """Returns how long a sweep takes in seconds, each job started as soon as it can be; unknown jobs take no time.

    Args:
        graph: the sweep.
        costs: of each job.
        slots: jobs at a time; 0: all of them.
    """
    # A simulation: each slot is the time at which it is free again, and the earliest free slot takes the next job.
    free = [0.0] * (slots or max(1, len(graph.jobs)))
    heapq.heapify(free)
    # What can start, by the time since when: the first of them starts first, whether or not it has to wait for a slot.
    # The place in the graph decides between jobs that are ready at the same time.
    ready: list[tuple[float, int]] = []
    followers: dict[Key, list[int]] = {}
    for number, job in enumerate(graph.jobs):
        parent = graph.parent(job)
        if parent is None:
            ready.append((0.0, number))
        else:
            followers.setdefault(graph.key(parent), []).append(number)
    last = 0.0
    while ready:
        since, number = heapq.heappop(ready)
        key = graph.key(graph.jobs[number])
        end = max(since, heapq.heappop(free)) + (costs[key].seconds or 0.0)
        heapq.heappush(free, end)
        for follower in followers.get(key, ()):
            heapq.heappush(ready, (end, follower))
        last = max(last, end)
    return last


def print_plan(
    graph: Graph,
    costs: Mapping[Key, JobCost],
    finished: Collection[Key],
    cluster: Cluster | None,
    parallel: int,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Prints the graph, counts and costs.

    Args:
        graph: the sweep.
        costs: from `estimate`.
        finished: keys of the jobs that are done.
        cluster: where it would run; None: nowhere yet.
        parallel: jobs at a time where the profile does not say.
        console: to print on.
        as_json: print JSON instead.
    """
    costs = {key: costs[key] for key in graph.by_key}  # a budget may have left jobs out, whose costs are known too
    slots = _slots(cluster, parallel)
    hours = sum(cost.gpu_hours or 0.0 for cost in costs.values())
    disk = sum(cost.disk or 0 for cost in costs.values())
    wall = wall_seconds(graph, costs, slots)
    unknown = [job.name for job in graph.jobs if costs[graph.key(job)].seconds is None]
    if as_json:
        jobs = [_row(graph, job, costs[graph.key(job)], done=graph.key(job) in finished) for job in graph.jobs]
        sums = {"gpu_hours": round(hours, 3), "disk_bytes": disk, "wall_seconds": round(wall, 1), "unknown": unknown}
        sums["cautions"] = _cautions(graph)
        typer.echo(json.dumps({"jobs": jobs, "tables": list(graph.tables), **sums}, indent=1))
        return
    done_count = sum(key in finished for key in graph.by_key)
    console.print(_headline(graph, done_count), highlight=False, soft_wrap=True)
    console.print(_table(graph, costs, finished))
    at_a_time = "all at once" if not slots else "one job at a time" if slots == 1 else f"{slots} jobs at a time"
    least = "at least " if unknown else ""
    to_do = f"{least}{hours:.1f} GPU-hours, {least}{_size(disk)} on disk, {least}{_time(wall)} with {at_a_time}"
    if len(unknown) == len(graph.jobs) - done_count > 0:
        to_do = "nobody knows what it costs"
    console.print(f"to do: {to_do}", highlight=False, soft_wrap=True)
    for line in (*_sources(graph, costs), *_cautions(graph)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _headline(graph: Graph, done_count: int) -> str:
    """Returns the counts and what follows what: `2 runs, 4 jobs, 0 done: 2 pretrain -> 2 linear -> report (table1)`."""
    runs = len({folder for folder, _ in graph.by_key})
    counts = {task: sum(job.task == task for job in graph.jobs) for task in graph.tasks}
    after = ", ".join(f"{number} {task}" for task, number in counts.items() if task != PRETRAIN)
    flow = f"{counts[PRETRAIN]} {PRETRAIN}" + (f" -> {after} -> report ({', '.join(graph.tables)})" if after else "")
    return f"{runs} runs, {len(graph.jobs)} jobs, {done_count} done: {flow}"


def _sources(graph: Graph, costs: Mapping[Key, JobCost]) -> list[str]:
    """Returns a line for each source of the numbers, with the methods of which a pretraining was never measured."""
    lines = []
    remarks = {cost.source: cost.remark for cost in costs.values() if cost.source != JobCost.source}
    for source, remark in remarks.items():
        number = sum(cost.source == source for cost in costs.values())
        methods = dict.fromkeys(job.run.method for job in graph.jobs if costs[graph.key(job)].source == source)
        which = f" {' '.join(methods)}" if source == NEVER else ""
        lines.append(f"  {number} jobs: {remark}{which}")
    return lines


def _cautions(graph: Graph) -> list[str]:
    """Returns a line for each thing that a person should know before the trainings begin, with its methods."""
    methods: dict[str, dict[str, None]] = {}
    for run in (job.run for job in graph.jobs if job.task == PRETRAIN):
        if caution := queue_caution(run, train_images(run)):
            methods.setdefault(caution, {})[run.method] = None
    return [f"{caution}: {', '.join(names)}" for caution, names in methods.items()]


def _slots(cluster: Cluster | None, parallel: int) -> int:
    """Returns how many jobs run at a time; 0: all of them."""
    if cluster is None or cluster.executor == "local":
        return parallel
    return 1 if cluster.executor == "debug" else cluster.resources.throttle


def _row(graph: Graph, job: Job, cost: JobCost, *, done: bool) -> dict[str, object]:
    parent = graph.parent(job)
    return {
        "job": job.name,
        "folder": str(job.folder.path),
        "done": done,
        "after": [parent.name] if parent else [],
        "seconds": cost.seconds and round(cost.seconds, 1),
        "gpu_hours": cost.gpu_hours and round(cost.gpu_hours, 4),
        "disk_bytes": cost.disk,
        "measured": cost.remark,
    }


def _table(graph: Graph, costs: Mapping[Key, JobCost], finished: Collection[Key]) -> Table:
    """Returns a table with a line for each method: its seeds, and of each task what is to do."""
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "seeds", *graph.tasks, "GPU-hours"):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("method", "seeds") else "right")
    for method in dict.fromkeys(job.run.method for job in graph.jobs):
        jobs = [job for job in graph.jobs if job.run.method == method]
        hours = [costs[graph.key(job)].gpu_hours for job in jobs]
        total = sum(hour for hour in hours if hour is not None)
        keys_of = {task: [graph.key(job) for job in jobs if job.task == task] for task in graph.tasks}
        table.add_row(
            method,
            " ".join(dict.fromkeys(str(job.run.seed) for job in jobs)),
            *(_progress(keys_of[task], finished) for task in graph.tasks),
            "?" if all(hour is None for hour in hours) else f"{total:.1f}{' + ?' if None in hours else ''}",
        )
    return table


def _progress(keys: Sequence[Key], finished: Collection[Key]) -> str:
    done_count = sum(key in finished for key in keys)
    return f"{done_count}/{len(keys)} done" if done_count else str(len(keys)) if keys else "–"


def _size(number: int) -> str:
    power = min(3, int(math.log(max(number, 1), 1000)))
    return f"{number / 1000**power:.1f} {('B', 'kB', 'MB', 'GB')[power]}"


def _time(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
