"""Jobs to a scheduler, through submitit: what is missing goes out, and nothing is done twice.

A launch is what is planned (`slurm.batches`), less what is done and what is queued or running. On Slurm everything goes
out at once, with dependencies, and the launch returns; here (`local`, `debug`) it keeps the order itself, and waits.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from submitit.helpers import clean_env

from repro.errors import UserError
from repro.evaluation import Evaluation
from repro.folder import PRETRAIN
from repro.lock import held
from repro.roots import RootNotSetError, how_to_list_root, root_of
from slurm.batches import Batch, Parent, plan_batches, submission_name
from slurm.graph import Graph, Job, Key
from slurm.job import Call, write_order
from slurm.ledger import Ledger, Submission
from slurm.profile import Cluster
from slurm.queue import Snapshot as Queue
from slurm.queue import scancel, snapshot
from slurm.sbatch import KEEP_MEMORY, SlurmExecutor, parameters
from slurm.snapshot import Snapshot

POLL_SECONDS = 0.5
NO_LIMIT_MINUTES = 60 * 24 * 30
LAUNCHING_SECONDS = 600.0
"""How long a launch waits for another one of the same sweep to be through."""
MAX_ARRAY = 1000
"""Jobs in an array where Slurm does not say."""


@dataclass
class Outcome:
    """How a launch ended."""

    done: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    """Done before."""
    live: list[Job] = field(default_factory=list)
    """Queued or running since an earlier launch."""
    submitted: dict[Key, str] = field(default_factory=dict)
    """Slurm's ids of what went out now."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of the job -> why."""


def submit(graph: Graph, cluster: Cluster, code: Snapshot | None, console: Console) -> Outcome:
    """Hand what is missing to Slurm and return.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `slurm`.
        code: what the jobs import; None: what they find.
        console: for what is told.

    Raises:
        UserError: Slurm does not answer or refuses, or another launch does not end.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            f"cluster '{cluster.name}' needs Slurm, and there is no sbatch on this machine; "
            "mend: launch from a login node, or --local"
        )
    outcome = Outcome()
    ledger = Ledger(graph.place)
    with _launching(graph.place):
        queue = snapshot()
        if queue.trouble:
            raise UserError(f"cannot tell what is queued already ({queue.trouble}); mend: try again when Slurm answers")
        adopt(ledger, queue)
        live = _live(ledger, queue, console)
        for batch in plan_batches(graph, cluster, _array_limit(cluster), live):
            ids = _hand_over(batch, graph, cluster, code, ledger, outcome.submitted)
            outcome.submitted |= ids
            console.print(f"submitted {batch.name}: {_listed(ids.values())}", soft_wrap=True, highlight=False)
    for job in graph.jobs:
        key = graph.key(job)
        if key in live:
            outcome.live.append(job)
        elif key not in outcome.submitted:
            outcome.skipped.append(job)
    return outcome


def scripts(graph: Graph, cluster: Cluster, code: Path) -> Iterator[tuple[str, str]]:
    """What `submit` would hand to sbatch if nothing of the sweep were queued: (name, script) in order."""
    ids: dict[Key, str] = {}
    for batch in plan_batches(graph, cluster, cluster.max_array or MAX_ARRAY, {}):
        executor = _slurm_executor(batch, graph, cluster, code, ids)
        yield batch.name, executor.script(len(batch.keys))
        ids |= dict.fromkeys(batch.keys, f"<{batch.name}>")


def adopt(ledger: Ledger, queue: Queue) -> None:
    """Complete what a killed launcher left half done: write down the ids of jobs that went out nevertheless.

    It may not have had the time to give submitit's pickles the names by which the jobs look for them.
    """
    pending: dict[str, list[Submission]] = {}
    for entry in ledger.submissions():
        if entry.executor == "slurm":
            pending.setdefault(entry.submission, []).append(entry)
    for name, entries in pending.items():
        found = [job for job in queue.named(name) if job.live]
        if any(entry.job for entry in entries) or not found:
            continue
        first = found[0].job.partition("_")[0]
        ids = [first] if len(entries) == 1 else [f"{first}_{index}" for index in range(len(entries))]
        known = {(str(ledger.sweep.resolve() / e.folder), e.task): job for e, job in zip(entries, ids, strict=True)}
        for pickle in (ledger.logs / name).glob("*.pkl"):
            if re.fullmatch(r"[0-9a-f]{32}", pickle.stem):
                call = submitit.helpers.DelayedSubmission.load(pickle).function
                pickle.rename(pickle.with_name(f"{known[str(call.folder.resolve()), call.task]}_submitted.pkl"))
        ledger.submitted([replace(entry, job=job) for entry, job in zip(entries, ids, strict=True)])


def launch_here(graph: Graph, cluster: Cluster, *, parallel: int, console: Console) -> Outcome:
    """Run what is missing on this machine, `parallel` jobs at a time, and wait.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `local` or `debug`.
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
    return _Here(graph, cluster, parallel, console).run()


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


@contextmanager
def _launching(place: Path) -> Iterator[None]:
    """Only one launcher of a sweep looks and submits at a time; the next one then finds everything queued."""
    with held(
        place / ".launch.lock",
        taken=f"another launch of {place} is still submitting; mend: wait for it",
        unwritable="choose another --out",
        wait=LAUNCHING_SECONDS,
    ):
        yield


def _live(ledger: Ledger, queue: Queue, console: Console) -> dict[Key, Parent]:
    """What is queued or running; what waits for something that never comes is taken out of the queue."""
    entries = ledger.submissions()
    stuck = [e.job for e in entries if e.job in queue.jobs and queue.jobs[e.job].reason == "DependencyNeverSatisfied"]
    if stuck:
        scancel(stuck)
        console.print(f"cancelled {_listed(stuck)}: what they waited for has failed", soft_wrap=True, highlight=False)
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.submission] = sizes.get(entry.submission, 0) + 1
    return {
        entry.key: Parent(entry.submission, entry.job, sizes[entry.submission])
        for entry in entries
        if entry.job not in stuck and queue.live(entry)
    }


def _hand_over(
    batch: Batch,
    graph: Graph,
    cluster: Cluster,
    code: Snapshot | None,
    ledger: Ledger,
    submitted: Mapping[Key, str],
) -> dict[Key, str]:
    """Submit one batch; returns the id of each of its jobs."""
    executor = _slurm_executor(batch, graph, cluster, code.path if code else None, submitted)
    after = batch.after(submitted)
    entries = [_entry(graph, cluster, batch.name, key, after.get(key, ())) for key in batch.keys]
    calls = [_call(graph, key, cluster.attempts) for key in batch.keys]
    ledger.intend(entries)
    try:
        with _outside_of_any_job(), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        shutil.rmtree(ledger.logs / batch.name)
        said = " ".join(str(error).split())
        raise UserError(f"sbatch refused {batch.name}: {said}; mend: the profile of '{cluster.name}'") from error
    ids = {key: job.job_id for key, job in zip(batch.keys, jobs, strict=True)}
    ledger.submitted([replace(entry, job=ids[entry.key]) for entry in entries])
    return ids


def _slurm_executor(
    batch: Batch, graph: Graph, cluster: Cluster, code: Path | None, submitted: Mapping[Key, str]
) -> SlurmExecutor:
    executor = SlurmExecutor(folder=graph.place.resolve() / "logs" / batch.name, max_num_timeout=cluster.attempts)
    executor.update_parameters(**parameters(batch, cluster, batch.dependency(submitted), code))
    return executor


def _call(graph: Graph, key: Key, attempts: int) -> Call:
    job = graph.by_key.get(key)
    if job is None:
        return Call(graph.place.resolve(), key[1], attempts, tables=graph.tables)
    write_order(job.run, job.folder, job.task)
    if job.task == PRETRAIN:
        job.folder.prepare(job.run)
    return Call(job.folder.path.resolve(), job.task, attempts)


def _entry(graph: Graph, cluster: Cluster, name: str, key: Key, after: tuple[str, ...]) -> Submission:
    job = graph.by_key.get(key)
    return Submission(
        submission=name,
        executor=cluster.executor,
        cluster=cluster.name,
        run=job.run.id if job else "",
        folder=key[0],
        task=key[1],
        protocol=job.protocol if job else "",
        after=after,
    )


@contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Submit from within a job as from a login node: sbatch would inherit that job's variables."""
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def _array_limit(cluster: Cluster) -> int:
    if cluster.max_array:
        return cluster.max_array
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown.stdout, re.MULTILINE)
    return max(1, int(found.group(1)) - 1) if found else MAX_ARRAY


def _listed(ids: Iterable[str]) -> str:
    """`812_0 … 812_44`, so that a long array does not fill the screen."""
    names = list(ids)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} jobs)"


class _Here:
    """Keeps the order of the jobs on this machine; processes of another launcher are waited for, not doubled."""

    def __init__(self, graph: Graph, cluster: Cluster, parallel: int, console: Console) -> None:
        self.graph, self.cluster, self.parallel, self.console = graph, cluster, parallel, console
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
        queue = Queue()
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
        entry = _entry(self.graph, self.cluster, name, key, ())
        self.ledger.intend([entry])
        process = self._executor(name).submit(_call(self.graph, key, self.cluster.attempts))
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
