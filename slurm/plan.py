"""A plan for people and programs: the jobs of a sweep, and what they cost by `slurm.job_costs`."""

from collections.abc import Collection, Mapping, Sequence

from repro.bench.throughput import kind_of
from repro.data.sizes import train_images
from repro.errors import with_mend
from repro.quantities import counted, duration_text, memory_text, size_text
from repro.runs.cautions import queue_caution
from repro.runs.evaluation import task_and_dataset
from repro.runs.status import PRETRAIN
from repro.terminal import Console, say_json
from repro.text_tables import TextTable, print_table
from slurm.graph import Graph, Job
from slurm.job_costs import JobCost, wall_seconds
from slurm.ledger import Key
from slurm.profile import Cluster
from slurm.reference import REPLACE
from slurm.spending import TOO_MUCH, enough_memory

MANY_JOBS = 1000
"""More than a person reads as JSON."""


def print_plan(
    graph: Graph,
    costs: Mapping[Key, JobCost],
    finished: Collection[Key],
    cluster: Cluster | None,
    parallel: int,
    console: Console,
    *,
    as_json: bool,
    memories: Mapping[tuple[str, ...], int] | None = None,
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
        memories: what such jobs used, as `Evidence` has it.
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
        sums["cautions"] = [*_cautions(graph), *_memory_cautions(graph, cluster, memories or {})]
        # Indented, ten thousand jobs would take a quarter of the plan's time.
        say_json({"jobs": jobs, "tables": list(graph.tables), **sums}, indent=1 if len(jobs) <= MANY_JOBS else None)
        return
    done_count = sum(key in finished for key in graph.by_key)
    console.print(_headline(graph, done_count), highlight=False, soft_wrap=True)
    print_table(_table(graph, costs, finished), console)
    at_a_time = "all at once" if not slots else "one job at a time" if slots == 1 else f"{slots} jobs at a time"
    # Figures from elsewhere leave the input out, and a faster precision or card may be in them.
    least = "at least " if unknown or any(cost.reference for cost in costs.values()) else ""
    size = f"{least}{size_text(disk)} on disk" if disk else "nobody knows how much on disk"
    to_do = f"{least}{hours:.1f} GPU-hours, {size}, {least}{duration_text(wall)} with {at_a_time}"
    if len(unknown) == len(graph.jobs) - done_count > 0:
        to_do = "nobody knows what it costs"
    console.print(f"to do: {to_do}", highlight=False, soft_wrap=True)
    for line in (*_sources(graph, costs), *_cautions(graph), *_memory_cautions(graph, cluster, memories or {})):
        console.print(line, highlight=False, soft_wrap=True)


def _headline(graph: Graph, done_count: int) -> str:
    """Returns the counts and what follows what: `2 runs, 4 jobs, 0 done: 2 pretrain -> 2 linear -> report (table1)`."""
    runs = len({folder for folder, _ in graph.by_key})
    counts = {task: sum(job.task == task for job in graph.jobs) for task in graph.tasks}
    after = ", ".join(f"{number} {task}" for task, number in counts.items() if task != PRETRAIN)
    flow = f"{counts[PRETRAIN]} {PRETRAIN}" + (f" -> {after} -> report ({', '.join(graph.tables)})" if after else "")
    return f"{counted(runs, 'run')}, {counted(len(graph.jobs), 'job')}, {done_count} done: {flow}"


def _sources(graph: Graph, costs: Mapping[Key, JobCost]) -> list[str]:
    """Returns a line for each source of the numbers, with the methods of which a pretraining was never measured.

    The last one says, where figures of other machines are among them, what takes their place.
    """
    lines = []
    of_source = {cost.source: cost for cost in costs.values() if cost.source != JobCost.source}
    for source, cost in of_source.items():
        number = sum(its_cost.source == source for its_cost in costs.values())
        mend = cost.mend_of(job.run.method for job in graph.jobs if costs[graph.key(job)].source == source)
        lines.append(f"  {counted(number, 'job')}: {with_mend(source, mend)}")
    if any(cost.reference for cost in costs.values()):
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
    """Returns a line for each task whose memory is not what such jobs used before: far too much, or too little."""
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
        "measured": with_mend(cost.source, cost.mend),
        "reference": cost.reference,
    }


def _table(graph: Graph, costs: Mapping[Key, JobCost], finished: Collection[Key]) -> TextTable:
    """Returns a table with a line for each method: its seeds, and of each task what is to do."""
    rows = []
    for method in dict.fromkeys(job.run.method for job in graph.jobs):
        jobs = [job for job in graph.jobs if job.run.method == method]
        hours = [costs[graph.key(job)].gpu_hours for job in jobs]
        total = sum(hour for hour in hours if hour is not None)
        keys_of = {task: [graph.key(job) for job in jobs if job.task == task] for task in graph.tasks}
        rows.append(
            [
                method,
                " ".join(dict.fromkeys(str(job.run.seed) for job in jobs)),
                *(_progress(keys_of[task], finished) for task in graph.tasks),
                "?" if all(hour is None for hour in hours) else f"{total:.1f}{' + ?' if None in hours else ''}",
            ]
        )
    numbers = (*graph.tasks, "GPU-hours")
    return TextTable(("method", "seeds", *numbers), rows, right=numbers)


def _progress(keys: Sequence[Key], finished: Collection[Key]) -> str:
    done_count = sum(key in finished for key in keys)
    return f"{done_count}/{len(keys)} done" if done_count else str(len(keys)) if keys else "–"
