"""A plan for people and programs: the jobs of a sweep, and what they cost by `slurm.planning.job_costs`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from repro.bench.throughput import kind_of
from repro.command_line.terminal import Console, say_json
from repro.command_line.text_tables import TextTable, print_table
from repro.data.sizes import train_images
from repro.errors import with_mend
from repro.quantities import counted, duration_text, memory_text, size_text
from repro.runs.evaluation import task_and_dataset
from repro.runs.status import PRETRAIN
from repro.settings.cautions import queue_caution
from slurm.monitoring.spending import TOO_MUCH, enough_memory
from slurm.planning.graph import Graph, Job
from slurm.planning.hours import Hours
from slurm.planning.job_costs import JobCost, wall_seconds
from slurm.planning.reference import REPLACE
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.ledger import Key

MANY_JOBS = 1000
"""With more jobs than this, the JSON is not indented: no person reads it."""


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of a sweep, and what is known of them before they go anywhere."""

    graph: Graph
    costs: Mapping[Key, JobCost]
    """From `estimate`: of every job, and of those that a budget has left out."""
    finished: Collection[Key]
    """Keys of the jobs that are done."""
    cluster: Cluster | None
    """Where it would run; None: nowhere yet."""
    parallel: int
    """Jobs at a time on this machine, or where no profile is chosen yet."""
    memories: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """As of `Evidence`."""

    @cached_property
    def jobs(self) -> list[tuple[Job, JobCost]]:
        """Every job with its cost."""
        return [(job, self.costs[self.graph.key(job)]) for job in self.graph.jobs]

    @property
    def hours(self) -> Hours:
        """Hours of the jobs that are to do, as far as they are known."""
        return Hours.total(cost.hours for _, cost in self.jobs if cost.hours)

    @property
    def disk(self) -> int:
        """Bytes that these jobs leave on disk, as far as they are known."""
        return sum(cost.disk or 0 for _, cost in self.jobs)

    @property
    def wall_seconds(self) -> float:
        """How long all of it takes, as far as that is known."""
        return wall_seconds(self.graph, self.costs, self.slots)

    @property
    def slots(self) -> int:
        """How many jobs run at a time; 0: all of them."""
        if self.cluster is None or self.cluster.executor == "local":
            return self.parallel
        return 1 if self.cluster.executor == "debug" else self.cluster.resources.throttle

    @property
    def unknown(self) -> list[str]:
        """Names of the jobs whose cost is unknown."""
        return [job.name for job, cost in self.jobs if cost.seconds is None]

    @property
    def cautions(self) -> list[str]:
        """A line for each thing that a person should know before the first job begins."""
        return [*_cautions(self.graph), *_memory_cautions(self.graph, self.cluster, self.memories)]


def say_plan_as_json(plan: SweepPlan) -> None:
    """Prints a plan for programs."""
    graph = plan.graph
    content = {
        "jobs": [_row(graph, job, cost, done=graph.key(job) in plan.finished) for job, cost in plan.jobs],
        "tables": list(graph.tables),
        "gpu_hours": round(plan.hours.of_gpus, 3),
        "hours_without_gpu": round(plan.hours.without_gpu, 3),
        "disk_bytes": plan.disk,
        "wall_seconds": round(plan.wall_seconds, 1),
        "unknown": plan.unknown,
        "cautions": plan.cautions,
    }
    # Indented, ten thousand jobs would take a quarter of the plan's time.
    say_json(content, indent=1 if len(graph.jobs) <= MANY_JOBS else None)


def print_plan(plan: SweepPlan, console: Console) -> None:
    """Prints a plan for people: the order of the jobs, a table by method, what is to do, and where its costs come from.

    Args:
        plan: What is planned.
        console: To print on.
    """

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True)

    done_count = sum(key in plan.finished for key in plan.graph.by_key)
    tell(_headline(plan.graph, done_count))
    print_table(_table(plan.graph, plan.costs, plan.finished), console)
    tell(f"to do: {_to_do(plan, done_count)}")
    for line in (*_sources(plan), *plan.cautions):
        tell(line)


def _to_do(plan: SweepPlan, done_count: int) -> str:
    """Returns what is to do: `2.0 GPU-hours, 1.2 GiB on disk, 3 h with 4 jobs at a time`."""
    if len(plan.unknown) == len(plan.graph.jobs) - done_count > 0:
        return "its cost is unknown"
    # Reference figures leave out the loading of images, and may be of a faster GPU or precision.
    least = "at least " if plan.unknown or any(cost.reference for _, cost in plan.jobs) else ""
    disk = f"{least}{size_text(plan.disk)} on disk" if plan.disk else "unknown space on disk"
    slots = plan.slots
    at_a_time = "all at once" if not slots else "one job at a time" if slots == 1 else f"{slots} jobs at a time"
    wall = duration_text(plan.wall_seconds)
    return f"{least}{plan.hours.text()}, {disk}, {least}{wall} with {at_a_time}"


def _headline(graph: Graph, done_count: int) -> str:
    """Returns the counts and the order of jobs: `2 runs, 4 jobs, 0 done: 2 pretrain -> 2 linear -> report (table1)`."""
    runs = len({folder for folder, _ in graph.by_key})
    counts = {task: sum(job.task == task for job in graph.jobs) for task in graph.tasks}
    after = ", ".join(f"{number} {task}" for task, number in counts.items() if task != PRETRAIN)
    tables = f" ({', '.join(graph.tables)})" if graph.tables else ""
    flow = f"{counts[PRETRAIN]} {PRETRAIN}" + (f" -> {after} -> report{tables}" if after else "")
    return f"{counted(runs, 'run')}, {counted(len(graph.jobs), 'job')}, {done_count} done: {flow}"


def _sources(plan: SweepPlan) -> list[str]:
    """Returns a line for each source of the costs; if pretrainings were never measured, it names their methods.

    If reference figures are among the costs, a last line says how to replace them.
    """
    of_source: dict[str, list[tuple[Job, JobCost]]] = {}
    for job, cost in plan.jobs:
        if cost.source != JobCost.source:
            of_source.setdefault(cost.source, []).append((job, cost))
    lines = []
    for source, members in of_source.items():
        mend = members[-1][1].mend_of((job for job, _ in members), plan.graph.settings)
        lines.append(f"  {counted(len(members), 'job')}: {with_mend(source, mend)}")
    if any(cost.reference for _, cost in plan.jobs):
        lines.append(f"note: reference figures are of other machines; {REPLACE}")
    return lines


def _cautions(graph: Graph) -> list[str]:
    """Returns a line for each thing that a person should know before the trainings begin, with its methods."""
    methods: dict[str, dict[str, None]] = {}
    for run in (job.run for job in graph.jobs if job.task == PRETRAIN):
        if caution := queue_caution(run, train_images(run)):
            methods.setdefault(caution, {})[run.method] = None
    return [f"{caution}: {', '.join(names)}" for caution, names in methods.items()]


def _memory_cautions(graph: Graph, cluster: Cluster | None, memories: Mapping[tuple[str, ...], int]) -> list[str]:
    """Returns a line for each task for which the profile asks far more memory than such jobs used before, or less."""
    lines = []
    for task in dict.fromkeys(task_and_dataset(name)[0] for name in graph.tasks) if memories else ():
        kinds = dict.fromkeys(kind_of(job.run) for job in graph.jobs if task_and_dataset(job.task)[0] == task)
        most = max((memories.get((task, *kind), 0) for kind in kinds), default=0)
        asked = cluster.resources_of(task).memory if cluster else 0.0
        proposed = enough_memory(most)
        if most and asked and (asked >= TOO_MUCH * proposed or 2**30 * asked < most):
            used = f"such jobs used {memory_text(most)} at most"
            lines.append(f"{task}: memory: {asked:g} GiB asked, {used}: memory: {proposed}")
    return lines


def _row(graph: Graph, job: Job, cost: JobCost, *, done: bool) -> dict[str, object]:
    parent = graph.parent(job)
    return {
        "job": job.name,
        "folder": str(job.folder.path),
        "done": done,
        "after": [parent.name] if parent else [],
        "seconds": cost.seconds and round(cost.seconds, 1),
        "gpu_hours": cost.hours and round(cost.hours.of_gpus, 4),
        "hours_without_gpu": cost.hours and round(cost.hours.without_gpu, 4),
        "disk_bytes": cost.disk,
        "measured": with_mend(cost.source, cost.mend_of([job], graph.settings)),
        "reference": cost.reference,
    }


def _table(graph: Graph, costs: Mapping[Key, JobCost], finished: Collection[Key]) -> TextTable:
    """Returns a table with a line for each method: its seeds, the jobs of each task, and the hours still to do."""
    to_do = {job: costs[key] for key, job in graph.by_key.items() if key not in finished}
    kinds = {"GPU-hours": True, "hours without a GPU": False}
    heads = [head for head, on_gpu in kinds.items() if any(bool(cost.gpus) is on_gpu for cost in to_do.values())]
    heads = heads or ["GPU-hours"]
    rows = []
    for method in dict.fromkeys(job.run.method for job in graph.jobs):
        jobs = [job for job in graph.jobs if job.run.method == method]
        keys_of = {task: [graph.key(job) for job in jobs if job.task == task] for task in graph.tasks}
        of_method = [to_do[job] for job in jobs if job in to_do]
        rows.append(
            [
                method,
                " ".join(dict.fromkeys(str(job.run.seed) for job in jobs)),
                *(_progress(keys_of[task], finished) for task in graph.tasks),
                *(_hours([cost for cost in of_method if bool(cost.gpus) is kinds[head]]) for head in heads),
            ]
        )
    numbers = (*graph.tasks, *heads)
    return TextTable(("method", "seeds", *numbers), rows, right=numbers)


def _hours(costs: Sequence[JobCost]) -> str:
    """Returns the hours of some jobs: `2.0`; `2.0 + ?` if those of some are unknown; `?` if those of all are."""
    known = [cost.hours for cost in costs if cost.hours]
    unknown = len(known) < len(costs)
    return "?" if unknown and not known else f"{Hours.total(known).counted:.1f}{' + ?' if unknown else ''}"


def _progress(keys: Sequence[Key], finished: Collection[Key]) -> str:
    done_count = sum(key in finished for key in keys)
    return f"{done_count}/{len(keys)} done" if done_count else str(len(keys)) if keys else "–"
