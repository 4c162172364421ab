"""Starting jobs on this machine, each written down before and after, so that a killed launcher leaves none unknown."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from repro.errors import UserError
from repro.filesystem.files import is_of_a_full_disk
from repro.runs.task_results import ReadResults, rows_of
from slurm.jobs.job import Call
from slurm.jobs.program import Program
from slurm.local.agenda import Agenda
from slurm.local.processes import LocalJob, start
from slurm.planning.graph import Job
from slurm.profiles.profile import Cluster
from slurm.submission.batches import submission_name
from slurm.submission.handover import ledger_entry, prepare_call
from slurm.sweep_folder.ledger import Ledger, Submission


class Starter:
    """Begins jobs, and holds those that run in processes of their own."""

    def __init__(self, agenda: Agenda, ledger: Ledger, cluster: Cluster, program: Program) -> None:
        """Begins nothing yet.

        Args:
            agenda: Of the launch.
            ledger: Of the sweep.
            cluster: A profile with the executor `local` or `debug`.
            program: The names of what the jobs carry out.
        """
        self.running: list[tuple[Job, LocalJob]] = []
        self._agenda, self._ledger = agenda, ledger
        self._cluster, self._program = cluster, program

    def processes(self) -> list[LocalJob]:
        """Returns the jobs that run."""
        return [process for _, process in self.running]

    def take_ended(self) -> list[tuple[Job, LocalJob]]:
        """Returns the jobs that have ended, and drops them from `running`."""
        ended = [pair for pair in self.running if pair[1].ended()]
        for pair in ended:
            self.running.remove(pair)
        return ended

    def write_down(self, jobs: Iterable[Job]) -> None:
        """Writes waiting jobs down, so that `salmask status` shows them, and `salmask cancel` takes them out.

        Their orders come before the ledger names them: a launcher that ends now leaves all that `salmask retry` needs.
        A job whose folder is damaged fails, and waits no longer.
        """
        name, entries, read_results = self._submission("waiting"), [], cache(rows_of)
        for job in jobs:
            if self._prepared(job, read_results) is None:
                self._agenda.waiting.remove(job)
            else:
                entries.append(self._entry(job, name))
        self._ledger.intend(entries)

    def start(self, job: Job, gpus: Sequence[str]) -> LocalJob | None:
        """Starts a job in a process of its own, or several.

        Args:
            job: One that waits no longer.
            gpus: The devices that it is to see; none: those of this process.

        Returns:
            The job that runs; None where its folder is damaged, which fails that job alone.
        """
        if (call := self._prepared(job)) is None:
            return None
        entry = replace(self._entry(job, self._submission(job.task)), devices=tuple(gpus))
        self._ledger.intend([entry])
        processes = self._cluster.resources_of(job.task).tasks_per_node
        process = start(self._ledger.logs / entry.submission, call, processes, gpus)
        # Kept before the ledger is written: if the disk is full, or Ctrl-C comes, the job is ended with the others.
        self.running.append((job, process))
        self._ledger.submitted([replace(entry, job=process.id)])
        return process

    def claim(self, job: Job) -> Call | None:
        """Returns the call of a job that this process is to carry out, and writes its process id down as the job's.

        Args:
            job: One that waits no longer.

        Returns:
            The call; None where the job's folder is damaged, which fails that job alone.
        """
        if (call := self._prepared(job)) is None:
            return None
        entry = self._entry(job, self._submission(job.task))
        self._ledger.intend([entry])
        self._ledger.submitted([replace(entry, job=str(os.getpid()))])
        return call

    def _prepared(self, job: Job, read_results: ReadResults = rows_of) -> Call | None:
        """Returns the call of a job; None where its folder is damaged, which fails that job alone."""
        graph = self._agenda.graph
        try:
            return prepare_call(graph, graph.key(job), self._cluster.attempts, self._program, read_results)
        except UserError as error:
            if is_of_a_full_disk(error):
                raise
            self._agenda.fail(job, str(error))
            return None

    def _submission(self, what: str) -> str:
        """Returns a unique name: process ids are used again, and each submission needs a folder of its own."""
        return submission_name(self._agenda.graph.sweep_folder, what)

    def _entry(self, job: Job, submission: str) -> Submission:
        graph = self._agenda.graph
        return ledger_entry(graph, self._cluster, submission, graph.key(job), ())
