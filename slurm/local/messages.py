"""What a launch on this machine tells: a line for each job that begins or ends, a bar for each that runs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import TaskID
from rich.text import Text

from repro.command_line.progress import ProgressBars
from repro.command_line.terminal import Console
from repro.runs.resource_usage import usage_of, words
from repro.runs.status import Status
from slurm.planning.graph import Job
from slurm.sweep_folder.launch_lock import BusySweepError
from slurm.sweep_folder.ledger import Key


class Messages:
    """The lines of a launch; what it waits for is said once."""

    def __init__(self, console: Console) -> None:
        """Begins with nothing told.

        Args:
            console: For the lines.
        """
        self.console = console
        self._begun = time.time()
        self._awaited: set[str] = set()
        self._warned: set[str] = set()
        self._is_told_of_launch = False

    def started(self, job: Job, gpus: Sequence[str]) -> None:
        """Says that a job begins, and on which devices."""
        where = f" on GPU {', '.join(gpus)}" if gpus else ""
        self._say(Text("started", "bold"), f"{job.name}{where}  ({job.folder.path})")

    def warned(self, job: Job, status: Status | None) -> None:
        """Says what a job has warned of in its own log; each text once, as the others will warn of the same.

        Args:
            job: One that runs, or has just ended.
            status: What its process wrote last; None: nothing.
        """
        if status is None or status.heartbeat < self._begun:  # of an attempt before this launch
            return
        for text in status.warnings:
            if text not in self._warned:
                self._warned.add(text)
                self._say(Text("warned ", "yellow"), f"{job.name}: {text}")

    def done(self, job: Job) -> None:
        """Says that a job has its result, and what it used."""
        usage = usage_of(job.folder.path, job.task)
        self._say(Text("done   ", "green"), f"{job.name}{f'  ({words(usage)})' if usage else ''}")

    def failed(self, job: Job, reason: str) -> None:
        """Says why a job has no result."""
        self._say(Text("failed ", "red"), f"{job.name}: {reason}")

    def runs_already(self, name: str, folder: Path) -> None:
        """Says that another launch or a person has begun a job: nothing else would tell what this one waits for."""
        line = f"{name} runs already  ({folder})"
        if line not in self._awaited:
            self._awaited.add(line)
            self._say(Text("waiting", "bold"), line)

    def launch_is_at_work(self, busy: BusySweepError) -> None:
        """Says that a launch with Slurm is at work, which may submit the jobs that wait here."""
        if not self._is_told_of_launch:
            self._is_told_of_launch = True
            self._say(Text("waiting", "bold"), busy.what)

    def _say(self, what: Text, about: str) -> None:
        """Prints a line: what happened, and to what."""
        self.console.print(what, about, soft_wrap=True)


class Bars:
    """A bar for each job that runs, and for no other."""

    def __init__(self, progress: ProgressBars) -> None:
        """Draws nothing yet.

        Args:
            progress: That draws them.
        """
        self._progress = progress
        self._bars: dict[Key, TaskID] = {}

    def show(self, running: Mapping[Key, tuple[Job, Status | None]]) -> None:
        """Draws how far each job is that runs now.

        Args:
            running: The jobs, each with what its process wrote last; None: nothing.
        """
        for key in self._bars.keys() - running.keys():
            self._progress.remove_task(self._bars.pop(key))
        for key, (job, status) in running.items():
            if key not in self._bars:
                self._bars[key] = self._progress.add_task(job.name, total=None)
            if status and status.steps:
                self._progress.update(self._bars[key], completed=status.step, total=status.steps, unit=status.unit)
            else:  # nothing is known yet: the bar is drawn all the same
                self._progress.update(self._bars[key])
