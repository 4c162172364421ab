"""What `salmask status --cost` shows to people: jobs, sums by method, and where the profile asks for too much."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from repro.command_line.text_tables import TextTable
from repro.quantities import counted, duration_text, memory_text
from slurm.monitoring.spending import MethodSpending, Spending, by_method, too_much
from slurm.targets import SweepTarget


def cost_page(targets: Sequence[SweepTarget], tables: Sequence[Sequence[Spending]]) -> RenderableType:
    """Returns everything that `salmask status --cost` shows.

    Args:
        targets: The sweeps, or runs of them.
        tables: What the jobs of each used.
    """
    blocks: list[RenderableType] = []
    for target, jobs in zip(targets, tables, strict=True):
        blocks.append(Text(f"{target.sweep}: {_total(jobs)}", style="bold"))
        if jobs:
            blocks += [_jobs(jobs), Text(), _methods(by_method(jobs)), Text()]
        blocks += [Text(f"the profile asks for too much: {line}", style="yellow") for line in too_much(jobs)]
    return Group(*blocks)


def _total(jobs: Sequence[Spending]) -> str:
    if not jobs:
        return "nothing was used yet, or its use was not recorded"
    gpu_hours = sum(job.hours.of_gpus for job in jobs)
    cpu_hours = sum(job.cpu_hours for job in jobs if not job.gpus)
    hours = [f"{gpu_hours:.2f} GPU-hours"] if gpu_hours else []
    hours += [f"{cpu_hours:.2f} CPU-hours without a GPU"] if cpu_hours or not hours else []
    return f"{counted(len(jobs), 'job')} used {' and '.join(hours)}"


def _jobs(jobs: Sequence[Spending]) -> TextTable:
    lines = [
        {
            "run": job.run,
            "task": job.task,
            "state": job.state.value,
            "time": duration_text(job.seconds),
            "planned": "" if job.planned_s is None else duration_text(job.planned_s),
            "limit": duration_text(60 * job.minutes_asked) if job.minutes_asked else "",
            "GPUs": str(job.gpus) if job.gpus else "",
            "busy": _percent(job.gpu_busy),
            "GPU memory": memory_text(job.gpu_memory) if job.gpu_memory else "",
            "CPUs": str(job.cpus) if job.cpus else "",
            "CPUs busy": _percent(job.cpu_share),
            "memory": memory_text(job.memory) if job.memory else "",
            "asked": f"{job.memory_asked:g} GiB" if job.memory_asked else "",
        }
        for job in jobs
    ]
    return _table(lines)


def _methods(methods: Sequence[MethodSpending]) -> TextTable:
    lines = [
        {
            "method": method.method,
            "jobs": str(method.jobs),
            "GPU-hours": f"{method.gpu_hours:.2f}" if method.gpu_hours else "",
            "CPU-hours without a GPU": f"{method.cpu_hours:.2f}" if method.cpu_hours else "",
            "of planned": _percent(method.spent_of_planned / method.planned_hours if method.planned_hours else None),
        }
        for method in methods
    ]
    return _table(lines)


def _table(lines: Sequence[dict[str, str]]) -> TextTable:
    """Returns lines as a table, without the columns that are empty."""
    heads = [head for head in lines[0] if any(line[head] for line in lines)]
    cells = [[line[head] for head in heads] for line in lines]
    return TextTable(heads, cells, right=[head for head in heads if head not in ("run", "task", "state", "method")])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
