"""What a sweep will cost, from what was measured: GPU-hours, disk and wall time; and what fits a budget.

A pretraining's throughput comes from a recorded run of the same kind (`repro.bench.throughput.kind_of`) in the sweep or
beside it, else from `salmask bench step`. An evaluation's duration comes from recorded results of the same task, data
set and protocol; of a linear probe also from the backbone's measured forward pass. Without measurements here, figures
of other machines are used, and named as such (`slurm.planning.reference`). What was never measured is called unknown,
and is in no sum.
"""

import functools
import heapq
import shlex
import shutil
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro.bench.throughput import Kind, StepMeasurement, kind_of, newest_measurements, record_file
from repro.data.sizes import dataset_size, probe_images, train_images
from repro.errors import UserError
from repro.filesystem.files import folder_size
from repro.runs import step_files
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.metrics import read_metrics
from repro.runs.records import Result
from repro.runs.resource_usage import memories_of, seconds_by_start, usage_of
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import LEDGER
from repro.runs.task_results import ReadResults, rows_of
from repro.settings.departures import value_text
from repro.settings.run import Run
from slurm.planning.graph import Graph, Job
from slurm.planning.hours import Hours
from slurm.planning.reference import NVIDIA, Reference, reference
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.ledger import Key

NEVER = "no such pretraining was measured"
WARM_UP_ROWS = 2
"""First log lines that do not count, since the first steps are slow."""


@dataclass(frozen=True)
class JobCost:
    """What one job will cost; a job that is done costs nothing."""

    seconds: float | None = 0.0
    """None: unknown."""
    gpus: int = 0
    """GPUs that it holds."""
    disk: int | None = 0
    """Bytes that it leaves; None: unknown."""
    source: str = "done"
    """Where the numbers come from, or why there are none."""
    mend: str = ""
    """What a person can do where there are none; if it depends on the sweep, `mend_of` knows it."""
    reference: bool = False
    """Whether the numbers are of another machine."""

    @property
    def hours(self) -> Hours | None:
        """GPU-hours, or hours without a GPU; None if the seconds are unknown."""
        return None if self.seconds is None else Hours.held(self.seconds, self.gpus)

    def mend_of(self, jobs: Iterable[Job], settings: Mapping[str, Any]) -> str:
        """Returns the mend for some jobs of a graph; if their pretraining was never measured, it measures their rows.

        Args:
            jobs: The jobs.
            settings: `Graph.settings`.
        """
        if self.source != NEVER:
            return self.mend
        methods = dict.fromkeys(job.run.method for job in jobs)
        of_sweep = (f"{key}={value_text(value)}" for key, value in settings.items())
        return shlex.join(["salmask", "bench", "step", *methods, *of_sweep])


@dataclass(frozen=True)
class Evidence:
    """What was measured, here and before."""

    runs: Mapping[Kind, tuple[float, int, str]]
    """Images per second, bytes of the folder, and name of a run of the kind."""
    durations: Mapping[tuple[str, ...], float]
    """Seconds by what `evaluation_kind` returns."""
    steps: Mapping[Kind, StepMeasurement]
    """From `salmask bench step`."""
    start_ups: Mapping[Kind, float] = field(default_factory=dict)
    """Seconds that a pretraining of the kind took besides its steps: to begin, to save, to go on when interrupted."""
    memories: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """Bytes of main memory that a job used at most, by task and the run's kind."""
    reference: Reference | None = None
    """Figures of other machines; None: they are not used."""


def survey(graph: Graph) -> tuple[frozenset[Key], Evidence]:
    """Reads what a plan is based on; each results file, which says what is done and how long it took, is read once.

    Args:
        graph: The sweep.

    Returns:
        The keys of the jobs that are done; and what was measured in the sweep, in those beside it, by the user's
        `salmask bench step`, and elsewhere.
    """
    read_once = functools.cache(rows_of)
    sweeps = sorted(path.parent for path in graph.sweep_folder.parent.glob(f"*/{LEDGER}"))
    beside = [path for path in sweeps if path != graph.sweep_folder]
    evidence = gather([graph.sweep_folder, *beside], record_file(), read_once)
    return graph.finished(read_once), replace(evidence, reference=reference())


def gather(sweeps: Sequence[Path], steps: Path, read_results: ReadResults = rows_of) -> Evidence:
    """Reads the runs below some sweeps' folders, and the file of `salmask bench step`.

    Args:
        sweeps: Folders; of several runs of a kind the one that comes first counts.
        steps: The file of `salmask bench step`.
        read_results: As of `Graph.finished`.
    """
    runs: dict[Kind, tuple[float, int, str]] = {}
    start_ups: dict[Kind, float] = {}
    memories: dict[tuple[str, ...], int] = {}
    durations: dict[tuple[str, ...], list[float]] = {}
    for path in (path for sweep in sweeps for path in sorted(sweep.glob("*/s*/run.yaml"))):
        folder = RunFolder(path.parent)
        try:
            run, results = folder.load(), read_results(folder.results)
        except UserError:
            continue  # of another version, or damaged
        rate = rate_of(folder.metrics)
        if rate and folder.pretrained:  # the size of a run that is not finished says nothing
            kind = kind_of(run)
            if kind not in runs:
                runs[kind] = rate, folder_size(folder.path), f"{folder.sweep}/{run.method}/{folder.path.name}"
                start_ups[kind] = _start_up(run, folder, rate)
        for name, most in memories_of(folder.path).items():
            task = (name.partition("@")[0], *kind_of(run))
            memories[task] = max(memories.get(task, 0), most)
        by_evaluation: dict[Evaluation, list[Result]] = {}
        for row in results:
            by_evaluation.setdefault(Evaluation(row.task, row.dataset), []).append(row)
        for evaluation, rows in by_evaluation.items():
            whole = seconds_by_start(folder.path, evaluation.name(run), (row.started for row in rows))
            for row in rows:
                seconds = whole.get(row.started, row.duration_s)
                durations.setdefault(evaluation_kind(run, evaluation, row.protocol), []).append(seconds)
    return Evidence(
        runs,
        {key: statistics.median(times) for key, times in durations.items()},
        newest_measurements(steps),
        start_ups,
        memories,
    )


def _start_up(run: Run, folder: RunFolder, rate: float) -> float:
    """Returns the seconds that a pretraining took besides its steps; 0 if its process did not record its time."""
    usage, images = usage_of(folder.path, PRETRAIN), train_images(run)
    if usage is None or images is None:
        return 0.0
    return max(0.0, usage.seconds - run.optimization.epochs * images / rate)


def evaluation_kind(run: Run, evaluation: Evaluation, protocol: str) -> tuple[str, ...]:
    """Returns what makes two evaluations take equally long: task, data set, its size, protocol, network and crop."""
    size = dataset_size(run, evaluation.dataset)
    return evaluation.task, evaluation.dataset, size, protocol, run.encoder.network, str(run.data.crop)


def rate_of(metrics: Path) -> float | None:
    """Returns the median images per second of a `metrics.jsonl`; None where it tells of none."""
    try:
        rows = read_metrics(metrics)
    except UserError:  # one run of the many that costs are looked up in
        return None
    rates = [float(row["images_per_second"]) for row in rows if row.get("images_per_second") is not None]
    warm = rates[WARM_UP_ROWS:] or rates
    return statistics.median(warm) if warm else None


def estimate(
    graph: Graph, cluster: Cluster | None, evidence: Evidence, finished: Collection[Key] = ()
) -> dict[Key, JobCost]:
    """Returns the cost of every job.

    Args:
        graph: The sweep.
        cluster: Says how many GPUs a job holds; None: one. A job on this machine holds one if it has any.
        evidence: What was measured.
        finished: Keys of the jobs that are done, which cost nothing.
    """
    here = shutil.which("nvidia-smi") is not None  # a launcher needs no torch, which would know better
    return {
        key: JobCost() if key in finished else _cost(job, cluster, evidence, here) for key, job in graph.by_key.items()
    }


def with_plan(graph: Graph, cluster: Cluster) -> Graph:
    """Returns the graph with the seconds that its jobs are planned to take, for the ledger.

    Args:
        graph: The sweep.
        cluster: Where it goes.
    """
    try:
        finished, evidence = survey(graph)
    except UserError:  # a damaged run beside the sweep must not stop a launch
        return graph
    costs = estimate(graph, cluster, evidence, finished)
    planned = {key: cost.seconds for key, cost in costs.items() if cost.seconds is not None and key not in finished}
    return replace(graph, planned=planned)


def _cost(job: Job, cluster: Cluster | None, evidence: Evidence, here: bool) -> JobCost:
    """Returns the cost of a job; `here` is whether this machine has a GPU."""
    if cluster is None:
        gpus, processes, on_gpu = 1, 1, here
    else:
        resources = cluster.resources_of(job.task)
        gpus = resources.nodes * resources.gpus if cluster.executor == "slurm" else int(here)
        processes, on_gpu = resources.nodes * resources.tasks_per_node, gpus > 0
    if job.task == PRETRAIN:
        cost = _pretraining(job.run, processes, evidence, on_gpu=on_gpu)
    else:
        cost = _evaluation(job, evidence, on_gpu=on_gpu)
    return replace(cost, gpus=gpus)


def _pretraining(run: Run, processes: int, evidence: Evidence, *, on_gpu: bool) -> JobCost:
    """Returns what a pretraining costs; `on_gpu` is whether reference figures of GPUs come before those of CPUs."""
    images, kind = train_images(run), kind_of(run)
    if images is None:
        source = f"how many images {run.data.dataset} has is unknown"
        return JobCost(None, disk=None, source=source, mend="--root")
    if kind in evidence.runs:
        rate, size, name = evidence.runs[kind]
        seconds = run.optimization.epochs * images / rate + evidence.start_ups.get(kind, 0.0)
        return JobCost(seconds, disk=size, source=f"run {name}, {rate:.0f} images/s")
    if kind in evidence.steps:
        step = evidence.steps[kind]
        # As if each process were as fast as one alone: communication and a shared disk are not measured.
        rate = step.images_per_second * processes / step.processes
        scaled = "" if processes == step.processes else f", scaled from {step.processes} to {processes} processes"
        return JobCost(
            run.optimization.epochs * images / rate,
            disk=step_files.KEPT * step.checkpoint_bytes + step.backbone_bytes,
            source=f"bench step on {step.device}, {step.images_per_second:.0f} images/s{scaled}",
        )
    known = evidence.reference.step(kind, on_gpu=on_gpu) if evidence.reference else None
    if known is None:
        return JobCost(None, disk=None, source=NEVER)
    figure, how = known
    # Each process has a GPU of its own, so that rates add up; how rates on CPUs grow with processes is unknown.
    scale = processes if figure.device.startswith(NVIDIA) else 1
    source = f"reference: {figure.device}, {figure.images_per_second:.0f} images/s{how}; {figure.source}"
    seconds = run.optimization.epochs * images / (figure.images_per_second * scale)
    return JobCost(seconds, disk=None, source=source, reference=True)


def _evaluation(job: Job, evidence: Evidence, *, on_gpu: bool) -> JobCost:
    """Returns what an evaluation costs; `on_gpu` as of `_pretraining`."""
    run = job.run
    evaluation = Evaluation.parse(job.task, run)
    kinds = [evaluation_kind(run, evaluation, protocol) for protocol in evaluation.protocols(run)]
    recorded_seconds = [evidence.durations[kind] for kind in kinds if kind in evidence.durations]
    if recorded_seconds and len(recorded_seconds) == len(kinds):
        # The protocols of a task (kNN's, of several k) are measured together, and each records how long all took.
        return JobCost(max(recorded_seconds), source="recorded results of the same protocol")
    step = evidence.steps.get(kind_of(run))
    images = train_images(run) if evaluation.dataset == run.data.dataset else probe_images(evaluation.dataset)
    # A linear probe's forward pass is nearly all that it does; loading and validation come on top.
    forward_images = run.probe.epochs * images if evaluation.task == "linear" and images else 0
    if step and forward_images:
        seconds = forward_images / step.forward_images_per_second
        return JobCost(seconds, source=f"forward pass on {step.device}, at least")
    if evidence.reference:
        known = [evidence.reference.evaluation(kind, on_gpu=on_gpu) for kind in kinds]
        timed = [figures for figures in known if figures]
        if timed and len(timed) == len(known):
            seconds, device, origin = max(timed)
            return JobCost(seconds, source=f"reference: {device}, the same protocol; {origin}", reference=True)
        rate = evidence.reference.forward(run.encoder.network, str(run.data.crop))
        if rate and forward_images:
            source = f"reference: forward pass on {rate.device}, at least; {rate.source}"
            return JobCost(forward_images / rate.images_per_second, source=source, reference=True)
    return JobCost(None, source="no such evaluation was recorded yet")


def of_known_cost(graph: Graph, costs: Mapping[Key, JobCost]) -> tuple[Graph, dict[JobCost, list[Job]]]:
    """Returns the runs of which every job has a known cost.

    Args:
        graph: The sweep.
        costs: From `estimate`.

    Returns:
        The graph that is left; and the pretrainings of the runs that were left out, by the unknown cost that is why.
    """
    unknown: dict[JobCost, list[Job]] = {}
    for job in graph.jobs:
        if job.task == PRETRAIN:
            of_run = [costs[graph.key(member)] for member in (job, *graph.children(job))]
            if missing := [cost for cost in of_run if cost.seconds is None]:
                unknown.setdefault(missing[0], []).append(job)
    return graph.without([job for jobs in unknown.values() for job in jobs]), unknown


def within_budget(graph: Graph, costs: Mapping[Key, JobCost], gpu_hours: float) -> tuple[Graph, list[str]]:
    """Returns what fits a budget: whole runs with all of their tasks, the first seed of every method before the second.

    The first run that does not fit is left out with all after it, so that the methods' numbers of seeds differ by one
    at most.

    Args:
        graph: The sweep.
        costs: From `estimate`, all of them known (`of_known_cost`).
        gpu_hours: The budget; a job without a GPU counts as if it held one.

    Returns:
        The graph that is left, and `METHOD sSEED` of what was left out.
    """
    pretrainings = [job for job in graph.jobs if job.task == PRETRAIN]
    seed_order = {seed: number for number, seed in enumerate(dict.fromkeys(job.run.seed for job in pretrainings))}
    total = 0.0
    left_out: list[Job] = []
    for job in sorted(pretrainings, key=lambda job: seed_order[job.run.seed]):
        held = [costs[graph.key(member)].hours for member in (job, *graph.children(job))]
        hours = Hours.total(filter(None, held)).counted
        if left_out or total + hours > gpu_hours:
            left_out.append(job)
        else:
            total += hours
    return graph.without(left_out), [job.run_name for job in left_out]


def wall_seconds(graph: Graph, costs: Mapping[Key, JobCost], slots: int) -> float:
    """Returns how long a sweep takes in seconds, each job started as soon as it can be; unknown jobs take no time.

    Args:
        graph: The sweep.
        costs: Of each job.
        slots: Jobs at a time; 0: all of them.
    """
    # A simulation: `free` holds the time at which each slot is free again, and the earliest takes the next job. There
    # are no more slots than jobs: a list of as many as a person may ask for would fill the memory.
    most = max(1, len(graph.jobs))
    free = [0.0] * min(slots or most, most)
    # Jobs that can start, by the time since when they can: the first of them starts first, even if it has to wait for a
    # slot. The place in the graph decides between jobs that are ready at the same time.
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
