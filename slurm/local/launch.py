"""Jobs on this machine, in processes of their own: as many at a time as there is room, or one for each GPU.

There is no scheduler here: the launch itself keeps the order of the jobs, and waits for them. A job that waits for its
turn stands in the ledger as an intent, which counts as queued as long as a launcher holds the sweep's `.local.lock`.
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from repro.command_line.progress import ProgressBars
from repro.command_line.terminal import Console
from repro.errors import UserError
from repro.filesystem.files import mend_of_place
from repro.filesystem.writability import why_unwritable
from repro.processes.cores import idle_cores, usable_cores
from repro.quantities import counted
from slurm.jobs.calls import refuse_foreign_sweep, shut_out_others
from slurm.jobs.job import Call
from slurm.jobs.orders import write_report_order
from slurm.jobs.program import Program
from slurm.local.agenda import Agenda
from slurm.local.devices import Places
from slurm.local.messages import Bars, Messages
from slurm.local.others import Others
from slurm.local.processes import POLL_SECONDS, call_and_look, ended_on_exit
from slurm.local.starter import Starter
from slurm.monitoring.job_files import status_of
from slurm.planning.before_launch import check_roots
from slurm.planning.graph import Graph, Job
from slurm.profiles.profile import Cluster
from slurm.submission.adoption import adopt_local
from slurm.submission.handover import Outcome
from slurm.submission.sbatch import SLEEPING_THREADS
from slurm.sweep_folder.launch_lock import BusySweepError, between_launches
from slurm.sweep_folder.ledger import LOCAL_LOCK, Key, Ledger
from slurm.sweep_folder.local_lock import local_lock, local_start_lock


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
        Which jobs this launch did, which were done before, which failed (with a pretraining, those that build on it),
        and which were left to Slurm.

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
        parallel = most = 1  # one job after the other, in this process
    processes = min(parallel, at_once * most) if gpus else min(parallel, at_once) * most
    for name, value in _cpu_environment(processes, console).items():
        os.environ.setdefault(name, value)
    shut_out_others()
    with _under_way(graph.sweep_folder):
        write_report_order(graph.sweep_folder, graph.tables)
        return LocalLaunch(graph, finished, cluster, program, Places(parallel, gpus), console).run()


def _most_at_once(graph: Graph, finished: Collection[Key]) -> int:
    """Returns how many of the missing jobs can run at a time: a pretraining never runs beside what builds on it."""
    missing = [job for job in graph.jobs if graph.key(job) not in finished]
    built_on = {graph.key(parent) for job in missing if (parent := graph.parent(job)) is not None}
    return sum(graph.key(job) not in built_on for job in missing)


def _cpu_environment(processes: int, console: Console) -> dict[str, str]:
    """Returns environment variables by which processes share the idle cores; the user's own take precedence.

    Args:
        processes: How many run at a time; 0: none will.
        console: Told if other processes leave fewer threads to each of ours.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return SLEEPING_THREADS
    cores = usable_cores()
    # Cores that are busy now may be idle later, but too few threads cost part of the time, and too many a multiple.
    idle = idle_cores() if processes else cores
    threads, most = (max(1, number // max(1, processes)) for number in (idle, cores))
    if threads < most:
        share = f"{counted(threads, 'thread')} per process instead of {most}"
        console.print(f"{cores - idle} of {cores} cores are busy: {share}", soft_wrap=True)
    return {"OMP_NUM_THREADS": str(threads), **SLEEPING_THREADS}


@contextmanager
def _under_way(sweep_folder: Path) -> Iterator[None]:
    """Shows during the block that a launcher here is at work on the sweep; several may be at once."""
    try:
        sweep_folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign_sweep(sweep_folder)
        (sweep_folder / LOCAL_LOCK).touch()
    except OSError as error:
        what = f"cannot write to {sweep_folder}: {why_unwritable(sweep_folder, error)}"
        raise UserError(what, mend=mend_of_place(error)) from error
    with local_lock(sweep_folder):
        yield


class LocalLaunch:
    """A launch on this machine, from what is missing to what became of it."""

    def __init__(
        self,
        graph: Graph,
        finished: Collection[Key],
        cluster: Cluster,
        program: Program,
        places: Places,
        console: Console,
    ) -> None:
        """Begins nothing yet.

        Args:
            graph: The sweep.
            finished: Keys of what is done.
            cluster: A profile with the executor `local` or `debug`.
            program: The names of what the jobs carry out.
            places: How much of this machine the launch may use.
            console: For progress.
        """
        self._cluster, self._places = cluster, places
        self._messages = Messages(console)
        self._ledger = Ledger(graph.sweep_folder)
        self.agenda = Agenda(graph, finished, self._messages)
        self.starter = Starter(self.agenda, self._ledger, cluster, program)
        self._others = Others(self.agenda, self._ledger, self._messages)

    def run(self) -> Outcome:
        """Carries the jobs out and waits for them.

        Raises:
            UserError: The sweep's folder cannot be written to, or Slurm has jobs of it and does not answer.
        """
        self.queue_up()
        agenda, starter, console = self.agenda, self.starter, self._messages.console
        with ProgressBars(console=console) as progress, ended_on_exit(starter.processes, console):
            bars = Bars(progress)
            # Each round looks first at what has ended, then at what can no longer run, then at what can start: a job's
            # end makes room, and decides whether its children can run, which should count in the same round.
            while agenda.waiting or starter.running:
                for job, process in starter.take_ended():
                    agenda.end(job, process)
                agenda.give_up_what_cannot_run(job for job, _ in starter.running)
                for job, call in self.start_what_can():
                    call_and_look(call)
                    agenda.end(job, None)
                running = {
                    agenda.graph.key(job): (job, status_of(job.folder, job.task)[0]) for job, _ in starter.running
                }
                for job, status in running.values():
                    self._messages.warned(job, status)
                bars.show(running)
                if agenda.waiting or starter.running:
                    time.sleep(POLL_SECONDS)
        return agenda.outcome

    def queue_up(self) -> None:
        """Writes the jobs that wait for their turn into the ledger, except those that others have."""
        with between_launches(self.agenda.graph.sweep_folder):
            self._others.leave_slurm_its_own()
            with local_start_lock(self.agenda.graph.sweep_folder):
                adopt_local(self._ledger)
            jobs = {self.agenda.graph.key(job): job for job in self.agenda.waiting}
            launched = self._others.launched(jobs)
            self.starter.write_down(job for key, job in jobs.items() if key not in launched)

    def start_what_can(self) -> list[tuple[Job, Call]]:
        """Starts the jobs that can start now; returns those that this process is to carry out itself, with their calls.

        The caller begins these after the locks are released, so that other launchers need not wait for their end.
        """
        here: list[tuple[Job, Call]] = []
        with ExitStack() as stack:
            stack.enter_context(local_start_lock(self.agenda.graph.sweep_folder))
            try:
                stack.enter_context(between_launches(self.agenda.graph.sweep_folder, wait=0.0))
            except BusySweepError as error:  # no wait for it: running jobs are looked after
                self._messages.launch_is_at_work(error)
                return []
            for job, gpus in self.startable():
                self.agenda.waiting.remove(job)
                self._messages.started(job, gpus)
                if self._cluster.executor != "debug":
                    self.starter.start(job, gpus)
                elif call := self.starter.claim(job):
                    here.append((job, call))
        return here

    def startable(self) -> list[tuple[Job, tuple[str, ...]]]:
        """Returns the jobs to start now, with their GPUs."""
        running = self.starter.processes()
        ready = self.agenda.ready() if len(running) < self._places.jobs else []
        if not ready:
            return []
        others = self._others.running_here({process.id for process in running})
        room, free = self._places.left([process.gpus for process in running], others)
        startable: list[tuple[Job, tuple[str, ...]]] = []
        for job in ready:
            processes = self._cluster.resources_of(job.task).tasks_per_node
            if len(startable) >= room or (self._places.gpus and processes > len(free)):
                if not (running or startable):  # a killed launch left jobs, for example, which hold the places
                    self._others.tell(others)
                break  # they start in order: else a job of many processes would wait for ever
            if not self._others.have(job):
                startable.append((job, tuple(free[: processes if self._places.gpus else 0])))
                del free[:processes]
        return startable
