"""Jobs to processes, through submitit; nothing is done twice."""

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import submitit
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from repro.run import Run
from slurm.sweep import Job

POLL_SECONDS = 0.5
NO_LIMIT_MINUTES = 60 * 24 * 30


@dataclass(frozen=True)
class Call:
    """What a job's process runs: a task on a run folder, by name, so that launching needs no torch."""

    run: Run
    folder: Path
    task: str
    gpus: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    """CUDA_VISIBLE_DEVICES of the launcher."""

    def __call__(self) -> None:
        """Carry the task out, on the GPUs that the launcher sees: submitit's local executor hides all of them."""
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        importlib.import_module("repro.cli").carry_out(self.run, self.folder, self.task)


@dataclass
class Outcome:
    """How a launch ended."""

    done: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    """Done before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of the job -> why."""


def launch_local(jobs: Sequence[Job], logs: Path, *, parallel: int, console: Console) -> Outcome:
    """Run what is missing with submitit's local executor, `parallel` jobs at a time, and wait.

    Args:
        jobs: in an order that can be kept; see `slurm.sweep.expand`.
        logs: a folder for submitit's files.
        parallel: processes at a time.
        console: for progress.

    Returns:
        What was done, what had been, and what failed; a failed pretraining fails what builds on it.
    """
    for name, value in cpu_environment(parallel).items():
        os.environ.setdefault(name, value)
    outcome = Outcome(skipped=[job for job in jobs if job.done])
    waiting = [job for job in jobs if job not in outcome.skipped]
    running: list[tuple[Job, submitit.Job[None]]] = []
    with _progress(console) as progress, _cancelled_on_exit(running):
        bars: dict[str, TaskID] = {}
        while waiting or running:
            for job, process in [pair for pair in running if pair[1].done()]:
                running.remove((job, process))
                _note_end(job, process, outcome, console)
                progress.remove_task(bars.pop(job.name))
            for job in [job for job in waiting if _cannot_run(job, waiting, running)]:
                waiting.remove(job)
                outcome.failed[job.name] = "not started: its pretraining failed"
            for job in [job for job in waiting if job.ready][: parallel - len(running)]:
                waiting.remove(job)
                running.append((job, _submit(job, logs)))
                bars[job.name] = progress.add_task(job.name, total=None)
                console.print(f"[bold]started[/] {job.name}  ({job.folder.path})")
            for job, _ in running:
                _show(progress, bars[job.name], job)
            time.sleep(POLL_SECONDS)
    return outcome


def cpu_environment(parallel: int) -> dict[str, str]:
    """Variables that make training on CPU cores faster, for `parallel` processes that share them; users' own win.

    Threads share the cores out, and sleep while they wait: spinning costs a factor of three where cores are shared.
    glibc keeps freed memory: giving the activations of every step back to the kernel and faulting them in again took
    half of the localizer's time.
    """
    return {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // parallel)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    }


def _submit(job: Job, logs: Path) -> "submitit.Job[None]":
    # submitit names files by process id, which may come again: each submission gets a folder of its own.
    executor = submitit.LocalExecutor(folder=logs / f"{job.folder.path.name}-{job.task}-{uuid4().hex[:8]}")
    executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, tasks_per_node=1)
    return executor.submit(Call(job.run, job.folder.path, job.task))


def _cannot_run(job: Job, waiting: Sequence[Job], running: Sequence[tuple[Job, object]]) -> bool:
    others = [*waiting, *(other for other, _ in running)]
    return not job.ready and not any(o.task == "pretrain" and o.folder.path == job.folder.path for o in others)


def _note_end(job: Job, process: "submitit.Job[None]", outcome: Outcome, console: Console) -> None:
    if job.done:  # the files are the truth, whatever the process says of itself
        outcome.done.append(job)
        console.print(f"[green]done[/]    {job.name}")
        return
    status = job.folder.status()
    reason = status.error if status and status.error else f"it ended without a result; see {process.paths.stderr}"
    outcome.failed[job.name] = reason
    console.print(f"[red]failed[/]  {job.name}: ", end="")
    console.print(reason, markup=False)


def _show(progress: Progress, bar: TaskID, job: Job) -> None:
    status = job.folder.status()
    if status and status.task == job.task and status.steps:
        progress.update(bar, completed=status.step, total=status.steps)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True)


@contextmanager
def _cancelled_on_exit(running: Sequence[tuple[Job, "submitit.Job[None]"]]) -> Iterator[None]:
    """Ctrl-C ends the jobs too; each goes on from its last checkpoint at the next launch."""
    try:
        yield
    finally:
        for _, process in running:
            process.cancel()
