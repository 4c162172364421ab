"""The order in which a launch on this machine keeps its jobs: round after round, until none waits or runs."""

import time
from collections.abc import Collection
from contextlib import ExitStack

from repro.progress import ProgressBars
from repro.terminal import Console
from slurm.jobs.job import Call
from slurm.jobs.program import Program
from slurm.local.agenda import Agenda
from slurm.local.devices import Places
from slurm.local.others import Others
from slurm.local.processes import POLL_SECONDS, call_and_look, ended_on_exit
from slurm.local.starter import Starter
from slurm.local.telling import Bars, Telling
from slurm.planning.graph import Graph, Job
from slurm.profiles.profile import Cluster
from slurm.submission.adoption import adopt_local
from slurm.submission.handover import Outcome
from slurm.sweep_folder.launch_lock import BusySweepError, between_launches
from slurm.sweep_folder.ledger import Key, Ledger
from slurm.sweep_folder.local_lock import starting


class Rounds:
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
            places: What the launch may take up.
            console: For progress.
        """
        self._cluster, self._places = cluster, places
        self._telling = Telling(console)
        self._ledger = Ledger(graph.sweep_folder)
        self.agenda = Agenda(graph, finished, self._telling)
        self.starter = Starter(self.agenda, self._ledger, cluster, program)
        self._others = Others(self.agenda, self._ledger, self._telling)

    def run(self) -> Outcome:
        """Carries the jobs out and waits for them.

        Raises:
            UserError: The sweep's folder cannot be written to, or Slurm has jobs of it and does not answer.
        """
        self.queue_up()
        agenda, starter, console = self.agenda, self.starter, self._telling.console
        with ProgressBars(console=console) as progress, ended_on_exit(starter.processes, console):
            bars = Bars(progress)
            # In each round first what has ended, then what can no longer run, then what can start: an end makes room
            # and makes children ready, or dooms them, and all of that should count in the same round.
            while agenda.waiting or starter.running:
                for job, process in starter.take_ended():
                    agenda.end(job, process)
                agenda.give_up_what_cannot_run(job for job, _ in starter.running)
                for job, call in self.start_what_can():
                    call_and_look(call)
                    agenda.end(job, None)
                bars.show({agenda.graph.key(job): job for job, _ in starter.running})
                if agenda.waiting or starter.running:
                    time.sleep(POLL_SECONDS)
        return agenda.outcome

    def queue_up(self) -> None:
        """Writes down what waits for its turn, but what others have."""
        with between_launches(self.agenda.graph.sweep_folder):
            self._others.leave_slurm_its_own()
            with starting(self.agenda.graph.sweep_folder):
                adopt_local(self._ledger)
            jobs = {self.agenda.graph.key(job): job for job in self.agenda.waiting}
            launched = self._others.launched(jobs)
            self.starter.write_down(job for key, job in jobs.items() if key not in launched)

    def start_what_can(self) -> list[tuple[Job, Call]]:
        """Starts the jobs that can start now; returns those that this process is to carry out itself, with their calls.

        These are begun only once other launchers of the sweep may look again: they take as long as they take.
        """
        here: list[tuple[Job, Call]] = []
        with ExitStack() as stack:
            stack.enter_context(starting(self.agenda.graph.sweep_folder))
            try:
                stack.enter_context(between_launches(self.agenda.graph.sweep_folder, wait=0.0))
            except BusySweepError as error:  # what runs here is minded meanwhile
                self._telling.launch_is_at_work(error)
                return []
            for job, gpus in self.startable():
                self.agenda.waiting.remove(job)
                self._telling.started(job, gpus)
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
                break  # in their order: a job of many processes would else wait for ever
            if not self._others.have(job):
                startable.append((job, tuple(free[: processes if self._places.gpus else 0])))
                del free[:processes]
        return startable
