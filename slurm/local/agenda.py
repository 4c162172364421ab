"""What a launch on this machine has still to do, and how the rest ended: by the files in the runs' folders."""

from collections.abc import Collection, Iterable

from repro.errors import UserError
from slurm.local.endings import reason_of
from slurm.local.messages import Messages
from slurm.local.processes import LocalJob
from slurm.monitoring.job_files import status_of
from slurm.planning.graph import Graph, Job
from slurm.submission.handover import NOT_STARTED, Outcome
from slurm.sweep_folder.ledger import Key


class Agenda:
    """The jobs that wait for their turn, in their order, and what became of the others."""

    def __init__(self, graph: Graph, finished: Collection[Key], messages: Messages) -> None:
        """Lets every job wait that is not done.

        Args:
            graph: The sweep.
            finished: Keys of what is done.
            messages: Told how jobs end.
        """
        self.graph = graph
        self.waiting = [job for job in graph.jobs if graph.key(job) not in finished]
        self.outcome = Outcome(skipped=[job for job in graph.jobs if graph.key(job) in finished])
        self._messages = messages

    def ready(self) -> list[Job]:
        """Returns the waiting jobs whose backbone is there, if they need one; one that cannot be judged fails."""
        return [job for job in list(self.waiting) if self._is_ready(job)]

    def is_over(self, job: Job) -> bool:
        """Returns whether a waiting job need not begin, and takes it out then: it is done, or cannot be judged."""
        done = self._is_done(job)
        if done is not False:
            self.waiting.remove(job)
            self.outcome.skipped += [job] if done else []
        return done is not False

    def cancel(self, job: Job) -> None:
        """Takes out a waiting job that a person cancelled."""
        self.waiting.remove(job)
        self.outcome.failed[self.graph.key(job)] = "cancelled"

    def leave_to_slurm(self, keys: Collection[Key]) -> None:
        """Takes out the waiting jobs that Slurm has queued or running, with what builds on them."""
        for job in list(self.waiting):
            parent = self.graph.parent(job)
            if self.graph.key(job) in keys:
                self.outcome.live.append(job)
            elif parent is not None and self.graph.key(parent) in keys and not job.ready:
                self.outcome.unsent[self.graph.key(job)] = "its pretraining is with Slurm"
            else:
                continue
            self.waiting.remove(job)

    def give_up_what_cannot_run(self, running: Iterable[Job]) -> None:
        """Fails the jobs whose pretraining is neither done nor still to come; else the launch would never end.

        Args:
            running: The jobs that this launch runs.
        """
        coming = {self.graph.key(job) for job in [*self.waiting, *running]}
        for job in list(self.waiting):
            parent = self.graph.parent(job)
            doomed = parent is not None and self.graph.key(parent) not in coming and not self._is_ready(job)
            if doomed and job in self.waiting:  # else `_is_ready` has failed it already
                self.waiting.remove(job)
                self.outcome.failed[self.graph.key(job)] = NOT_STARTED

    def end(self, job: Job, process: LocalJob | None) -> None:
        """Notes how a job of this launch ended.

        Args:
            job: One that waits no longer.
            process: The one that carried it out; None: this process.
        """
        if process is not None:  # else the warnings stand above already
            self._messages.warned(job, status_of(job.folder, job.task)[0])
        done = self._is_done(job)  # the files decide, whatever the process says of itself
        if done:
            self.outcome.done.append(job)
            self._messages.done(job)
        elif done is not None:
            self.fail(job, reason_of(job, process))

    def fail(self, job: Job, reason: str) -> None:
        """Notes that a job has no result, and says why."""
        self.outcome.failed[self.graph.key(job)] = reason
        self._messages.failed(job, reason)

    def _is_done(self, job: Job) -> bool | None:
        """Returns whether a job's result is there; None where its files cannot be read, which fails that job alone."""
        try:
            return job.done
        except UserError as error:
            self.fail(job, str(error))
            return None

    def _is_ready(self, job: Job) -> bool:
        """Returns whether the backbone of a waiting job is there; False if that cannot be told, which fails the job."""
        try:
            return job.ready
        except UserError as error:
            self.waiting.remove(job)
            self.fail(job, str(error))
            return False
