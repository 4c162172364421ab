"""Jobs on this machine, in processes of their own: as many at a time as there is room, or one for each GPU.

There is no scheduler here: the launch keeps the order of the jobs itself, and waits for them. What waits for its turn
stands in the ledger as an intent, which counts as queued as long as a launcher holds the sweep's `.local.lock`.
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.progress import TaskID
from rich.text import Text

from repro.errors import UserError
from repro.files import is_of_a_full_disk, mend_of_place, why_unwritable
from repro.progress import ProgressBars
from repro.runs.resource_usage import usage_of, words
from repro.terminal import Console
from slurm.jobs.calls import refuse_foreign_sweep
from slurm.jobs.job import Call
from slurm.jobs.orders import write_report_order
from slurm.jobs.program import Program
from slurm.local.cores import cpu_environment
from slurm.local.endings import reason_of
from slurm.local.processes import POLL_SECONDS, LocalJob, call_and_look, ended_on_exit, free_devices, start
from slurm.local.slurms_share import SlurmsShare
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.status import is_under_way, status_of
from slurm.planning.before_launch import check_roots
from slurm.planning.graph import Graph, Job
from slurm.profiles.profile import Cluster
from slurm.submission.adoption import adopt_local
from slurm.submission.batches import submission_name
from slurm.submission.handover import NOT_STARTED, Outcome, ledger_entry, prepare_call
from slurm.sweep_folder.launch_lock import BusySweepError, between_launches
from slurm.sweep_folder.ledger import LOCAL_LOCK, Key, Ledger, Submission
from slurm.sweep_folder.local_lock import minding, starting

LOCAL = QueueSnapshot()
"""By it, processes of this machine are asked whether they live, and no scheduler."""


def launch_here(
    graph: Graph,
    cluster: Cluster,
    program: Program,
    *,
    parallel: int,
    console: Console,
    gpus: Sequence[str] = (),
) -> Outcome:
    """Runs what is missing on this machine, `parallel` jobs at a time, and waits.

    Args:
        graph: The sweep.
        cluster: A profile with the executor `local` or `debug`.
        program: The names of what the jobs carry out.
        parallel: Jobs at a time, where no `gpus` are named.
        console: For progress.
        gpus: The devices to share out, one for each process of a job; one that is named twice takes two. None: every
            job sees those of this process.

    Returns:
        What was done, what had been, and what failed; a failed pretraining fails what builds on it.

    Raises:
        UserError: The root of a data set is not set, missing or empty; a job has more processes than there are `gpus`;
            or the sweep is somebody else's.
    """
    finished = graph.finished()
    check_roots(graph, finished)
    most = max((cluster.resources_of(task).tasks_per_node for task in graph.tasks), default=1)
    if gpus and most > len(gpus):
        raise UserError(
            f"a job of '{cluster.name}' has {most} processes, one for each GPU, and --gpus names {len(gpus)}",
            mend="name more, or fewer processes in the profile",
        )
    parallel = len(gpus) or parallel
    at_once = _most_at_once(graph, finished)
    if cluster.executor == "debug":
        at_once, most = min(at_once, 1), 1  # one job after the other, in this process
    processes = min(parallel, at_once * most) if gpus else min(parallel, at_once) * most
    for name, value in cpu_environment(processes, console).items():
        os.environ.setdefault(name, value)
    with _under_way(graph.sweep_folder):
        write_report_order(graph.sweep_folder, graph.tables)
        return _Here(graph, finished, cluster, program, parallel, gpus, console).run()


def _most_at_once(graph: Graph, finished: Collection[Key]) -> int:
    """Returns how many of the missing jobs can run at a time: a pretraining never does beside what builds on it."""
    missing = [job for job in graph.jobs if graph.key(job) not in finished]
    built_on = {graph.key(parent) for job in missing if (parent := graph.parent(job)) is not None}
    return sum(graph.key(job) not in built_on for job in missing)


class _Here:
    """Keeps the order of the jobs on this machine; processes of another launcher are waited for, not doubled."""

    def __init__(
        self,
        graph: Graph,
        finished: Collection[Key],
        cluster: Cluster,
        program: Program,
        parallel: int,
        gpus: Sequence[str],
        console: Console,
    ) -> None:
        self.graph, self.cluster, self.program = graph, cluster, program
        # The debug executor carries out one job after the other.
        self.parallel = 1 if cluster.executor == "debug" else parallel
        self.gpus, self.console = gpus, console
        self.awaited: list[Job] = []
        self.is_told_of_launch = False
        self.ledger = Ledger(graph.sweep_folder)
        self.cancels = len(self.ledger.taken_back())  # those that come from now on are heeded
        self.outcome = Outcome(skipped=[job for job in graph.jobs if graph.key(job) in finished])
        self.waiting = [job for job in graph.jobs if graph.key(job) not in finished]
        self.slurms_share = SlurmsShare(self.ledger, console)
        self.running: list[tuple[Job, LocalJob]] = []

    def run(self) -> Outcome:
        self._queue_up()
        with ProgressBars(console=self.console) as progress, ended_on_exit(self._processes, self.console):
            bars: dict[Key, TaskID] = {}
            # In each round first what has ended, then what can no longer run, then what can start: an end makes room
            # and makes children ready, or dooms them, and all of that should count in the same round.
            while self.waiting or self.running:
                self._note_ends()
                self._give_up_what_cannot_run()
                for job, call in self._start_what_can():
                    call_and_look(call)
                    self._note_end(job, None)
                self._show_running(progress, bars)
                if self.waiting or self.running:
                    time.sleep(POLL_SECONDS)
        return self.outcome

    def _processes(self) -> list[LocalJob]:
        return [process for _, process in self.running]

    def _note_ends(self) -> None:
        for job, process in [pair for pair in self.running if pair[1].ended()]:
            self.running.remove((job, process))
            self._note_end(job, process)

    def _start_what_can(self) -> list[tuple[Job, Call]]:
        """Starts the jobs that can start now; returns those that this process is to carry out itself, with their calls.

        These are begun only once other launchers of the sweep may look again: they take as long as they take.
        """
        here: list[tuple[Job, Call]] = []
        with ExitStack() as stack:
            stack.enter_context(starting(self.graph.sweep_folder))
            try:
                stack.enter_context(between_launches(self.graph.sweep_folder, wait=0.0))
            except BusySweepError as error:  # what runs here is minded meanwhile
                self._wait_for_launch(error)
                return []
            for job, gpus in self._startable():
                self.waiting.remove(job)
                where = f" on GPU {', '.join(gpus)}" if gpus else ""
                self._say(Text("started", "bold"), f"{job.name}{where}  ({job.folder.path})")
                if self.cluster.executor != "debug":
                    self._start(job, gpus)
                elif call := self._claim(job):
                    here.append((job, call))
        return here

    def _show_running(self, progress: ProgressBars, bars: dict[Key, TaskID]) -> None:
        """Draws a bar for each job that runs, and for no other."""
        running = {self.graph.key(job): job for job, _ in self.running}
        for key in bars.keys() - running.keys():
            progress.remove_task(bars.pop(key))
        for key, job in running.items():
            if key not in bars:
                bars[key] = progress.add_task(job.name, total=None)
            _show(progress, bars[key], job)

    def _leave_to_slurm(self, keys: Collection[Key]) -> None:
        """Takes jobs that Slurm has queued or running out of what is started here, with what builds on them."""
        for job in list(self.waiting):
            parent = self.graph.parent(job)
            if self.graph.key(job) in keys:
                self.outcome.live.append(job)
            elif parent is not None and self.graph.key(parent) in keys and not job.ready:
                self.outcome.unsent[self.graph.key(job)] = "its pretraining is with Slurm"
            else:
                continue
            self.waiting.remove(job)

    def _went_to_slurm(self, key: Key) -> bool:
        """Returns whether a job that waits here went out to Slurm since, which may have it; leaves it to it then."""
        there = self.slurms_share.look_again([key])
        self._leave_to_slurm(there or ())
        return there is None or bool(there)

    def _queue_up(self) -> None:
        """Writes down what waits for its turn, so that `salmask status` shows it, and `salmask cancel` takes it out."""
        with between_launches(self.graph.sweep_folder):
            self._leave_to_slurm(self.slurms_share.look(map(self.graph.key, self.waiting)))
            self._write_down_what_waits()

    def _write_down_what_waits(self) -> None:
        with starting(self.graph.sweep_folder):
            adopt_local(self.ledger)
        newest = self.ledger.newest()
        name = submission_name(self.graph.sweep_folder, "waiting")
        keys = [self.graph.key(job) for job in self.waiting]
        # What another launcher runs stands there already, with the id of its process; of one on another machine only
        # the run's folder tells whether it lives.
        local = {key for key in keys if key in newest and newest[key].executor != "slurm" and newest[key].job}
        others = {
            key
            for key in local
            if LOCAL.live(newest[key]) or is_under_way(self.ledger.sweep, key, newest[key], LOCAL, time.time())
        }
        # Orders before the ledger names the jobs: a launcher that ends now leaves all that `salmask retry` needs.
        jobs = dict(zip(keys, self.waiting, strict=True))
        damaged = {key for key, job in jobs.items() if key not in others and self._prepared(job) is None}
        self.waiting = [job for key, job in jobs.items() if key not in damaged]
        keys = [key for key in keys if key not in others | damaged]
        self.ledger.intend([ledger_entry(self.graph, self.cluster, name, key, ()) for key in keys])

    def _startable(self) -> list[tuple[Job, tuple[str, ...]]]:
        """Returns the jobs to start now, with their GPUs."""
        room = self.parallel - len(self.running)
        ready = [job for job in list(self.waiting) if self._is_ready(job)] if room > 0 else []
        if not ready:
            return []
        others = self._of_others()
        taken = [name for _, process in self.running for name in process.gpus]
        free = free_devices(self.gpus, [*taken, *(name for entry in others for name in entry.devices)])
        room -= sum(self._takes_a_place(entry) for entry in others)
        startable: list[tuple[Job, tuple[str, ...]]] = []
        for job in ready:
            processes = self.cluster.resources_of(job.task).tasks_per_node
            if len(startable) >= room or (self.gpus and processes > len(free)):
                break  # in their order: a job of many processes would else wait for ever
            if self._is_left_to_us(job):
                startable.append((job, tuple(free[: processes if self.gpus else 0])))
                del free[:processes]
        return startable

    def _is_left_to_us(self, job: Job) -> bool:
        """Returns whether nobody else has a job or did it meanwhile; what waits no longer is noted."""
        key = self.graph.key(job)
        entry, sent = self.ledger.newest().get(key), self.ledger.newest_sent().get(key)
        if entry is not None and LOCAL.live(entry):
            return False  # another launcher started it: its end shows in the folder
        # All that waits here had an intent of this launch: one of Slurm's came since.
        if entry is not None and entry.executor == "slurm" and self._went_to_slurm(key):
            return False
        if (done := self._is_done(job)) is not False:
            self.waiting.remove(job)
            self.outcome.skipped += [job] if done else []
            return False
        if self.ledger.taken_back_since(self.cancels, [key]):
            self.waiting.remove(job)
            self.outcome.failed[key] = "cancelled"
            return False
        if is_under_way(self.ledger.sweep, key, sent, LOCAL, time.time()):
            self._wait_for(job)  # a person started it, or a launcher on another machine: the same holds
            return False
        return True

    def _wait_for(self, job: Job) -> None:
        """Says once that a job is under way elsewhere: nothing else would tell what this launch waits for."""
        if job not in self.awaited:
            self.awaited.append(job)
            self._say(Text("waiting", "bold"), f"{job.name} runs elsewhere  ({job.folder.path})")

    def _wait_for_launch(self, busy: BusySweepError) -> None:
        """Says once that a launch with Slurm is at work, which may take what waits here."""
        if not self.is_told_of_launch:
            self.is_told_of_launch = True
            self._say(Text("waiting", "bold"), busy.what)

    def _of_others(self) -> list[Submission]:
        """Returns the jobs of the sweep that run here and are not this launch's: another's, or of one that was killed.

        What the debug executor runs has a whole launcher for a process, and holds nothing that is shared out.
        """
        own = {process.id for _, process in self.running}
        newest = self.ledger.newest().values()
        return [e for e in newest if e.executor == "local" and e.job and e.job not in own and LOCAL.live(e)]

    def _takes_a_place(self, entry: Submission) -> bool:
        """Returns whether another's job takes a place of this launch; one on other GPUs than these does not."""
        return not (self.gpus and entry.devices) or not set(entry.devices).isdisjoint(self.gpus)

    def _prepared(self, job: Job) -> Call | None:
        """Returns the call of a job; None where its folder is damaged, which fails that job alone."""
        try:
            return prepare_call(self.graph, self.graph.key(job), self.cluster.attempts, self.program)
        except UserError as error:
            if is_of_a_full_disk(error):
                raise
            self._note_failure(job, str(error))
            return None

    def _start(self, job: Job, gpus: Sequence[str]) -> LocalJob | None:
        if (call := self._prepared(job)) is None:
            return None
        # Process ids come again: each submission gets a folder of its own.
        name, key = submission_name(self.graph.sweep_folder, job.task), self.graph.key(job)
        entry = replace(ledger_entry(self.graph, self.cluster, name, key, ()), devices=tuple(gpus))
        self.ledger.intend([entry])
        processes = self.cluster.resources_of(job.task).tasks_per_node
        process = start(self.ledger.logs / name, call, processes, gpus)
        # Ours before it stands in the ledger: where the disk is full, or Ctrl-C comes, it is ended with the others.
        self.running.append((job, process))
        self.ledger.submitted([replace(entry, job=process.id)])
        return process

    def _claim(self, job: Job) -> Call | None:
        """Returns the call of a job of this process, where a debugger can look; its id tells others who has it."""
        if (call := self._prepared(job)) is None:
            return None
        key = self.graph.key(job)
        entry = ledger_entry(self.graph, self.cluster, submission_name(self.graph.sweep_folder, job.task), key, ())
        self.ledger.intend([entry])
        self.ledger.submitted([replace(entry, job=str(os.getpid()))])
        return call

    def _give_up_what_cannot_run(self) -> None:
        """Fails the jobs whose pretraining neither is there nor will come; without it the loop would never end."""
        coming = {self.graph.key(job) for job in [*self.waiting, *(job for job, _ in self.running)]}
        for job in list(self.waiting):
            parent = self.graph.parent(job)
            doomed = parent is not None and self.graph.key(parent) not in coming and not self._is_ready(job)
            if doomed and job in self.waiting:  # else why it is doomed is told already
                self.waiting.remove(job)
                self.outcome.failed[self.graph.key(job)] = NOT_STARTED

    def _note_end(self, job: Job, process: LocalJob | None) -> None:
        done = self._is_done(job)  # the files are the truth, whatever the process says of itself
        if done:
            self.outcome.done.append(job)
            usage = usage_of(job.folder.path, job.task)
            self._say(Text("done   ", "green"), f"{job.name}{f'  ({words(usage)})' if usage else ''}")
            return
        if done is not None:
            self._note_failure(job, reason_of(job, process))

    def _is_done(self, job: Job) -> bool | None:
        """Returns whether a job's result is there; None where its files cannot be read, which fails that job alone."""
        try:
            return job.done
        except UserError as error:
            self._note_failure(job, str(error))
            return None

    def _is_ready(self, job: Job) -> bool:
        """Returns whether what a waiting job builds on is there; where that cannot be told, it fails alone."""
        try:
            return job.ready
        except UserError as error:
            self.waiting.remove(job)
            self._note_failure(job, str(error))
            return False

    def _note_failure(self, job: Job, reason: str) -> None:
        self.outcome.failed[self.graph.key(job)] = reason
        self._say(Text("failed ", "red"), f"{job.name}: {reason}")

    def _say(self, what: Text, about: str) -> None:
        """Prints a line: what happened, and to what."""
        self.console.print(what, about, soft_wrap=True)


def _show(progress: ProgressBars, bar: TaskID, job: Job) -> None:
    """Moves a job's bar to where its status says that it is; one of which nothing is known is drawn all the same."""
    status, _ = status_of(job.folder, job.task)
    if status and status.steps:
        progress.update(bar, completed=status.step, total=status.steps, unit=status.unit)
    else:
        progress.update(bar)


@contextmanager
def _under_way(sweep_folder: Path) -> Iterator[None]:
    """Shows, as long as the block lasts, that a launcher minds the sweep's jobs here; several may do so at once."""
    try:
        sweep_folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign_sweep(sweep_folder)
        (sweep_folder / LOCAL_LOCK).touch()
    except OSError as error:
        what = f"cannot write to {sweep_folder}: {why_unwritable(sweep_folder, error)}"
        raise UserError(what, mend=mend_of_place(error)) from error
    with minding(sweep_folder):
        yield
