"""What a sweep will cost, from what was measured: GPU-hours, disk and wall time; and what fits a budget.

A pretraining's throughput comes from a recorded run of the same kind (`repro.bench.throughput.kind_of`) in the sweep or
beside it, else from `salmask bench step`. An evaluation's duration comes from recorded results of the same task, data
set and protocol; of a linear probe also from the backbone's measured forward pass. What nobody measured is said to be
unknown, and is in no sum.
"""

import functools
import heapq
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.bench.throughput import Kind, StepMeasurement, kind_of, newest_measurements, record_file
from repro.data.sizes import published_train_images, train_images
from repro.errors import UserError, with_mend
from repro.runs.evaluation import Evaluation
from repro.runs.folder import CHECKPOINTS_KEPT, RunFolder
from repro.runs.metrics import read_metrics
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
    try:
        rows = read_metrics(metrics)
    except UserError:  # of one run among many, which costs are looked up in
        return None
    rates = [float(row["images_per_second"]) for row in rows if row.get("images_per_second") is not None]
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
