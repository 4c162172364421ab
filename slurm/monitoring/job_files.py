"""What the files of a job of a sweep say: its status, its results, and whether what was asked for is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError
from repro.runs.evaluation import Evaluation, is_complete, task_and_dataset
from repro.runs.folder import RunFolder
from repro.runs.records import Result
from repro.runs.status import PRETRAIN, Status
from repro.runs.task_results import ReadResults, of_task, own_rows, rows_of
from repro.settings.detection import DETECTION_TASKS
from slurm.jobs.orders import ordered_run
from slurm.monitoring.states import before
from slurm.sweep_folder.ledger import REPORT, Submission

TrackedJob = tuple[str, str, Submission | None]
"""Folder relative to the sweep's, task, and the submission made last; None: no launcher knows of it."""


@dataclass(frozen=True)
class JobFiles:
    """What the files of a job hold at one moment, each read once."""

    run_folder: RunFolder
    task: str
    entry: Submission | None
    """The submission made last; None: no launcher knows of it."""
    status: Status | None
    unreadable: str
    """What is wrong with the status file; empty: nothing."""
    results: Sequence[Result]
    """Rows of the task, of any protocol; if the ledger names no protocol, only those on the task's own data."""

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        if self.task == PRETRAIN:
            return self.run_folder.pretrained
        if self.task == REPORT:
            return self._is_rendered()
        # Rows of the task, and its status, may be of an evaluation by hand, with other protocols than were asked for.
        # If nobody asked for any, all count.
        if self.entry is None or not self.entry.protocols:
            return bool(self.results)
        return is_complete(task_and_dataset(self.task)[0], self.asked_for(), self.entry.protocols)

    def _is_rendered(self) -> bool:
        """Returns whether a report is there; if it was submitted again, the status of an earlier one does not count.

        The id in the status tells which job wrote it, even if the clock of the job's node is slow.
        """
        if self.status is None or self.status.state != "done":
            return False
        by_its_job = self.entry is not None and bool(self.entry.job) and self.status.job == self.entry.job
        return by_its_job or not before(self.status, self.entry)

    def asked_for(self) -> list[Result]:
        """Returns the rows whose protocol and data set were asked for; none if the ledger names none."""
        if self.entry is None or not self.entry.protocols:
            return []
        asked, dataset = self.entry.protocols, self.entry.dataset
        matching_rows = [row for row in self.results if row.protocol in asked and row.dataset == dataset]
        if len(matching_rows) == len(self.results) or task_and_dataset(self.task)[0] not in DETECTION_TASKS:
            return matching_rows
        # A detection may leave its batch size to the devices at hand. Its rows name the size that was used, which the
        # ledger could not know: only the settings tell whether the two are the same protocol. They are read last, since
        # that takes longer than all the rest.
        try:
            run = ordered_run(self.run_folder, self.task)
            return Evaluation.parse(self.task, run).recorded(run, self.results)
        except UserError:  # the order is gone, or of a version with other settings: the names alone count
            return matching_rows


def files_of(sweep: Path, job: TrackedJob, read_results: ReadResults) -> JobFiles:
    """Returns what the files of a job hold now.

    Args:
        sweep: The sweep's folder.
        job: The job.
        read_results: Reads a `results.csv`; a cached one where many jobs are asked about.
    """
    folder, task, entry = job
    run_folder = RunFolder(sweep / folder)
    results = [] if task in (PRETRAIN, REPORT) else of_task(read_results(run_folder.results), task)
    if entry is None or not entry.protocols:  # nobody wrote down which data set was asked for
        results = own_rows(run_folder, results, task)
    return JobFiles(run_folder, task, entry, *status_of(run_folder, task), results)


def finished(sweep: Path, folder: str, task: str, entry: Submission | None) -> bool:
    """Returns whether the result of a job is there: its files decide.

    Args:
        sweep: The sweep's folder.
        folder: Of the run, relative to the sweep's.
        task: Of the job.
        entry: The submission made last; None: no launcher knows of it.
    """
    return files_of(sweep, (folder, task, entry), rows_of).finished


def status_of(run_folder: RunFolder, task: str) -> tuple[Status | None, str]:
    """Returns the status of a task, and what is wrong with its file (empty: nothing)."""
    try:
        return run_folder.status(task), ""
    except UserError as error:
        return None, str(error)
