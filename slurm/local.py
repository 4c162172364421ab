"""Jobs on this machine, through submitit's local and debug executors.

There is no scheduler here: the launch keeps the order of the jobs itself, and waits for them.
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import submitit
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from repro.cores import usable_cores
from slurm.batches import submission_name
from slurm.before_launch import check_roots
from slurm.calls import private_folder
from slurm.graph import Graph, Job
from slurm.handover import Outcome, ledger_entry, prepare_call
from slurm.ledger import Key, Ledger
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import QueueSnapshot
from slurm.sbatch import KEEP_MEMORY
from slurm.status import status_of

POLL_SECONDS = 0.5
NO_LIMIT_MINUTES = 60 * 24 * 30
"""A month, since submitit's local executor has a time limit for every job."""


def launch_here(graph: Graph, cluster: Cluster, program: Program, *, parallel: int, console: Console) -> Outcome:
    """Runs what is missing on this machine, `parallel` jobs at a time, and waits.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `local` or `debug`.
        program: the names of what the jobs carry out.
        parallel: processes at a time.
        console: for progress.

    Returns:
        What was done, what had been, and what failed; a failed pretraining fails what builds on it.

    Raises:
        UserError: the root of a data set that is only evaluated on is not set, missing or empty.
    """
    finished = graph.finished()
    check_roots(graph, finished)
    for name, value in cpu_environment(parallel).items():
        os.environ.setdefault(name, value)
    return _Here(graph, finished, cluster, program, parallel, console).run()


def cpu_environment(parallel: int) -> dict[str, str]:
    """Returns the variables for `parallel` processes that share the cores out; the user's own take precedence."""
    threads = max(1, usable_cores() // parallel)
    return {"OMP_NUM_THREADS": str(threads), **KEEP_MEMORY}


class _Here:
    """Keeps the order of the jobs on this machine; processes of another launcher are waited for, not doubled."""

    def __init__(
        self,
        graph: Graph,
        finished: Collection[Key],
        cluster: Cluster,
        program: Program,
        parallel: int,
        console: Console,
    ) -> None:
        self.graph, self.cluster, self.program = graph, cluster, program
        self.parallel, self.console = parallel, console
        self.ledger = Ledger(graph.sweep_folder)
        self.outcome = Outcome(skipped=[job for job in graph.jobs if graph.key(job) in finished])
        self.waiting = [job for job in graph.jobs if graph.key(job) not in finished]
        self.running: list[tuple[Job, submitit.Job[None]]] = []

    def run(self) -> Outcome:
        with _progress(self.console) as progress, _cancelled_on_exit(self.running):
            bars: dict[str, TaskID] = {}
            # In each round first what has ended, then what can no longer run, then what can start: an end makes room
            # and makes children ready, or dooms them, and all of that should count in the same round.
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
        """Returns the jobs to start now; those that another launcher did in the meantime count as done before."""
        room = self.parallel - len(self.running)
        ready = [job for job in self.waiting if job.ready][: max(0, room)]
        if not ready:
            return []
        newest = self.ledger.newest()
        queue = QueueSnapshot()  # of local jobs it asks the processes of this machine, and no scheduler
        startable = []
        for job in ready:
            entry = newest.get(self.graph.key(job))
            if entry is not None and entry.executor != "slurm" and queue.live(entry):
                continue  # another launcher started it: its end shows in the folder
            if job.done:
                self.waiting.remove(job)
                self.outcome.skipped.append(job)
                continue
            startable.append(job)
        return startable

    def _start(self, job: Job) -> "submitit.Job[None]":
        # submitit names files by process id, which may come again: each submission gets a folder of its own.
        key = self.graph.key(job)
        name = submission_name(self.graph.sweep_folder, job.task)
        entry = ledger_entry(self.graph, self.cluster, name, key, ())
        self.ledger.intend([entry])
        process = self._executor(name, job.task).submit(
            prepare_call(self.graph, key, self.cluster.attempts, self.program)
        )
        local = self.cluster.executor == "local"
        # The debug executor carries the job out in this process, whose id tells others that it is under way.
        self.ledger.submitted([replace(entry, job=process.job_id if local else str(os.getpid()))])
        return process

    def _executor(self, name: str, task: str) -> Any:
        folder = private_folder(self.ledger.logs / name)  # submitit hands a job over as a pickle
        if self.cluster.executor == "debug":
            return submitit.DebugExecutor(folder=folder)
        executor = submitit.LocalExecutor(folder=folder, max_num_timeout=self.cluster.attempts)
        processes = self.cluster.resources_of(task).tasks_per_node
        executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, tasks_per_node=processes)
        return executor

    def _give_up_what_cannot_run(self) -> None:
        """Fails the jobs whose pretraining neither is there nor will come; without it the loop would never end."""
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
        status, _ = status_of(job.folder, job.task)
        reason = status.error if status and status.error else f"it ended without a result; see {process.paths.stderr}"
        self.outcome.failed[job.name] = reason
        self.console.print(f"[red]failed[/]  {job.name}: ", end="")
        self.console.print(reason, markup=False)


def _ended(process: "submitit.Job[None]") -> bool:
    """Returns whether a job is over; one of the debug executor is carried out by asking."""
    if isinstance(process, submitit.DebugJob):
        process.exception()
        return True
    return bool(process.done())


def _show(progress: Progress, bar: TaskID, job: Job) -> None:
    status, _ = status_of(job.folder, job.task)
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
    """Ends the jobs when the launch ends early, by Ctrl-C; each goes on from its last checkpoint at the next launch.

    Args:
        running: the launch's own list, which has changed by then.
    """
    try:
        yield
    finally:
        for _, process in running:
            process.cancel()
