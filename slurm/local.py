"""Jobs on this machine, through submitit's local and debug executors.

The launch keeps their order itself, and waits.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import submitit
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from repro.data.roots import RootNotSetError, how_to_list_root, root_of
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.status import PRETRAIN
from slurm.batches import submission_name
from slurm.graph import Graph, Job
from slurm.handover import Outcome, call_of, entry_of
from slurm.ledger import Ledger
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import QueueSnapshot
from slurm.sbatch import KEEP_MEMORY

POLL_SECONDS = 0.5
NO_LIMIT_MINUTES = 60 * 24 * 30


def launch_here(graph: Graph, cluster: Cluster, program: Program, *, parallel: int, console: Console) -> Outcome:
    """Run what is missing on this machine, `parallel` jobs at a time, and wait.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `local` or `debug`.
        program: what the jobs carry out.
        parallel: processes at a time.
        console: for progress.

    Returns:
        What was done, what had been, and what failed; a failed pretraining fails what builds on it.

    Raises:
        UserError: the root of a data set that is only evaluated on is not set, missing or empty.
    """
    _check_roots(graph)
    for name, value in cpu_environment(parallel).items():
        os.environ.setdefault(name, value)
    return _Here(graph, cluster, program, parallel, console).run()


def cpu_environment(parallel: int) -> dict[str, str]:
    """Variables for `parallel` processes that share the cores out; users' own win."""
    threads = max(1, len(os.sched_getaffinity(0)) // parallel)
    return {"OMP_NUM_THREADS": str(threads), **KEEP_MEMORY}


def _check_roots(graph: Graph) -> None:
    """Find a missing root before hours are spent on the pretraining; that one's own is looked for as it starts."""
    for job in graph.jobs:
        if job.task != PRETRAIN and not job.done:
            dataset = Evaluation.parse(job.task, job.run).dataset
            if dataset != job.run.data.dataset:
                try:
                    root_of(job.run, dataset)
                except RootNotSetError as error:  # --root is the pretraining's
                    how = how_to_list_root(dataset)
                    raise UserError(f"{job.name} needs {dataset}: {how}, or leave it out by --tasks") from error


class _Here:
    """Keeps the order of the jobs on this machine; processes of another launcher are waited for, not doubled."""

    def __init__(self, graph: Graph, cluster: Cluster, program: Program, parallel: int, console: Console) -> None:
        self.graph, self.cluster, self.program = graph, cluster, program
        self.parallel, self.console = parallel, console
        self.ledger = Ledger(graph.place)
        self.outcome = Outcome(skipped=[job for job in graph.jobs if job.done])
        done = {graph.key(job) for job in self.outcome.skipped}
        self.waiting = [job for job in graph.jobs if graph.key(job) not in done]
        self.running: list[tuple[Job, submitit.Job[None]]] = []

    def run(self) -> Outcome:
        with _progress(self.console) as progress, _cancelled_on_exit(self.running):
            bars: dict[str, TaskID] = {}
            while self.waiting or self.running:
                for job, process in [pair for pair in self.running if _ended(pair[1])]:
                    self.running.remove((job, process))
                    self._note_end(job, process)
                    progress.remove_task(bars.pop(job.name))
                self._give_up_what_cannot_run()
                for job in self._startable():
                    self.waiting.remove(job)
                    bars[job.name] = progress.add_task(job.name, total=None)
                    self.console.print(f"[bold]started[/] {job.name}  ({job.folder.path})")
                    self.running.append((job, self._start(job)))
                for job, _ in self.running:
                    _show(progress, bars[job.name], job)
                time.sleep(POLL_SECONDS)
        return self.outcome

    def _startable(self) -> list[Job]:
        room = self.parallel - len(self.running)
        ready = [job for job in self.waiting if job.ready][: max(0, room)]
        if not ready:
            return []
        newest = self.ledger.newest()
        queue = QueueSnapshot()
        mine = []
        for job in ready:
            entry = newest.get(self.graph.key(job))
            if entry is not None and entry.executor != "slurm" and queue.live(entry):
                continue  # another launcher started it: its end shows in the folder
            if job.done:
                self.waiting.remove(job)
                self.outcome.skipped.append(job)
                continue
            mine.append(job)
        return mine

    def _start(self, job: Job) -> "submitit.Job[None]":
        # submitit names files by process id, which may come again: each submission gets a folder of its own.
        key = self.graph.key(job)
        name = submission_name(self.graph.place, job.task)
        entry = entry_of(self.graph, self.cluster, name, key, ())
        self.ledger.intend([entry])
        process = self._executor(name).submit(call_of(self.graph, key, self.cluster.attempts, self.program))
        local = self.cluster.executor == "local"
        self.ledger.submitted([replace(entry, job=process.job_id if local else str(os.getpid()))])
        return process

    def _executor(self, name: str) -> Any:
        folder = self.ledger.logs / name
        if self.cluster.executor == "debug":
            return submitit.DebugExecutor(folder=folder)
        executor = submitit.LocalExecutor(folder=folder, max_num_timeout=self.cluster.attempts)
        executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, tasks_per_node=self.cluster.resources.tasks_per_node)
        return executor

    def _give_up_what_cannot_run(self) -> None:
        coming = {self.graph.key(job) for job in [*self.waiting, *(job for job, _ in self.running)]}
        for job in list(self.waiting):
            parent = self.graph.parent(job)
            if parent is not None and not job.ready and self.graph.key(parent) not in coming:
                self.waiting.remove(job)
                self.outcome.failed[job.name] = "not started: its pretraining failed"

    def _note_end(self, job: Job, process: "submitit.Job[None]") -> None:
        if job.done:  # the files are the truth, whatever the process says of itself
            self.outcome.done.append(job)
            self.console.print(f"[green]done[/]    {job.name}")
            return
        status = job.folder.status(job.task)
        reason = status.error if status and status.error else f"it ended without a result; see {process.paths.stderr}"
        self.outcome.failed[job.name] = reason
        self.console.print(f"[red]failed[/]  {job.name}: ", end="")
        self.console.print(reason, markup=False)


def _ended(process: "submitit.Job[None]") -> bool:
    """Whether a job is over; one of the debug executor is carried out by asking."""
    if isinstance(process, submitit.DebugJob):
        process.exception()
        return True
    return bool(process.done())


def _show(progress: Progress, bar: TaskID, job: Job) -> None:
    status = job.folder.status(job.task)
    if status and status.steps:
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
