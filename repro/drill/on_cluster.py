"""`salmask drill --cluster`: which of salmask's promises hold on a cluster, tried there with tiny runs.

Each promise has a run of its own, and all run at the same time. Nothing is left in the queue or in the folder.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro.command_line.progress import doing
from repro.command_line.terminal import say
from repro.drill.promises import (
    LIMIT_MINUTES,
    PREEMPTED,
    PROMISES,
    TIMED_OUT,
    UNDISTURBED,
    WARNED_SECONDS,
    Promise,
    PromiseRow,
    PromiseVerdict,
    judge,
    mend_of,
    went_on,
)
from repro.drill.stories import Story
from repro.errors import UserError, with_mend
from repro.quantities import counted
from repro.runs.status import PRETRAIN
from slurm.monitoring.queue import snapshot
from slurm.planning.before_launch import check_folder
from slurm.profiles.profile import Cluster, in_one_process
from slurm.status_commands import look
from slurm.submission.batches import submission_name
from slurm.targets import SweepTarget

FOLDER = ".drill"
MINUTES = 15
"""Time limit of the jobs; they take a minute or two."""
EPOCHS = 60
"""Epochs of the runs: long enough to be disturbed even on a fast node."""
ENDLESS_EPOCHS = 100_000
ASK_SECONDS = 5.0
"""Seconds between two queries to Slurm, which serves everybody."""
WATCH_SECONDS = 0.3
"""Seconds between two looks at the runs' own files."""
GONE_SECONDS = 90.0
"""Longest wait for cancelled jobs to leave the queue; Slurm gives them 30 s to end."""


@dataclass
class ClusterDrill:
    """A drill on a cluster: the runs of all promises, in one folder."""

    cluster: Cluster
    by: Cluster | None = None
    """The profile whose jobs preempt those of `cluster`; None: preemption is not tried."""
    promises: Mapping[str, Promise] = field(default_factory=lambda: PROMISES)
    stories: dict[str, Story] = field(default_factory=dict, init=False)
    over: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Names the folder.

        Raises:
            UserError: A profile runs jobs on this machine.
        """
        if self.cluster.executor != "slurm":
            raise UserError(f"'{self.cluster.name}' runs jobs on this machine", mend="salmask drill, without --cluster")
        if self.by is not None and self.by.executor != "slurm":
            raise UserError(
                f"--by '{self.by.name}' runs jobs on this machine", mend="a profile of jobs that may preempt"
            )
        self.place = self.cluster.sweeps_folder.absolute() / FOLDER / submission_name(Path("drill"), "runs")

    def run(self, *, wait: float) -> list[PromiseRow]:
        """Tries all promises, and leaves nothing behind.

        Args:
            wait: Seconds after which runs that are not over are judged as they stand.

        Raises:
            UserError: There is no Slurm here, it does not answer or refuses the jobs, or the folder's name fits into no
                script.
        """
        queue = snapshot()
        if queue.trouble:
            raise UserError(queue.trouble, mend=queue.mend)
        check_folder(self.place, "another scratch in the profile")
        deadline = time.monotonic() + wait
        try:
            for name, promise in self.promises.items():
                if name != PREEMPTED or self.by is not None:
                    self.stories[name] = self._story(name, promise)
                    self.stories[name].launch()
            with doing(f"{counted(len(self.stories), 'job')} under way"):
                while len(self.over) < len(self.stories) and time.monotonic() < deadline:
                    self._note()
                    self._watch(min(time.monotonic() + ASK_SECONDS, deadline))
            return list(self._rows())
        finally:
            self._clear()

    def _story(self, name: str, promise: Promise) -> Story:
        resources = replace(in_one_process(self.cluster.resources_of(PRETRAIN)), time=MINUTES)
        cluster = replace(self.cluster, signal_seconds=WARNED_SECONDS, resources=resources, tasks={})
        runs = self.place / name.replace(" ", "-")
        if name == TIMED_OUT:
            limited = replace(cluster, resources=replace(resources, time=LIMIT_MINUTES))
            return Story(runs, limited, epochs=ENDLESS_EPOCHS)
        mishap = self._displace if name == PREEMPTED else promise.mishap
        return Story(runs, cluster, mishap or (lambda _: None), epochs=EPOCHS, retried=promise.retried)

    def _displace(self, job: str) -> str:
        """Sends a job of the preempting profile to the node of a job; returns why it could not, else empty text."""
        assert self.by is not None
        queued = snapshot([job]).jobs.get(job)
        if queued is None or not queued.nodes:
            return f"Slurm does not tell the node of {job}"
        asked = replace(self.by.resources_of(PRETRAIN), nodes=1, processes=1, nodelist=queued.nodes, time=MINUTES)
        cluster = replace(self.by, signal_seconds=WARNED_SECONDS, resources=asked, tasks={})
        displacing = self.stories.setdefault("displacing", Story(self.place / "displacing", cluster, epochs=1))
        self.over.add("displacing")  # the drill does not wait for it
        try:
            displacing.launch()
        except UserError as error:
            return str(error)
        return ""

    def _note(self) -> None:
        """Looks at all stories that are not over, with one query to Slurm."""
        names = [name for name in self.stories if name not in self.over]
        tables, _ = look([SweepTarget(self.stories[name].runs) for name in names])
        for name, table in zip(names, tables, strict=True):
            story = self.stories[name]
            for row in (vars(row) for row in table if row.task == PRETRAIN):
                if story.note(row) or (name == TIMED_OUT and went_on(story)):
                    self.over.add(name)

    def _watch(self, until: float) -> None:
        """Watches the runs' own files for a while, so that no mishap comes too late."""
        while time.monotonic() < until:
            for name in self.stories.keys() - self.over:
                if not self.stories[name].happened_at:
                    self.stories[name].watch()
            time.sleep(WATCH_SECONDS)

    def _rows(self) -> Iterator[PromiseRow]:
        reference = self.stories.get(UNDISTURBED)
        for name, promise in self.promises.items():
            story = self.stories.get(name)
            if story is None:
                verdict, found, mend = (
                    PromiseVerdict.untried,
                    "no --by",
                    "--by PROFILE, whose jobs preempt those of this profile",
                )
            else:
                verdict, found = judge(name, promise, story, reference if reference is not story else None)
                mend = mend_of(verdict, promise)
            yield PromiseRow(promise.promise, promise.tried, verdict, found, mend)

    def _clear(self) -> None:
        """Cancels what is left in the queue, and removes the folder once the jobs have ended."""
        trouble = self._cancel()
        deadline = time.monotonic() + GONE_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(min(ASK_SECONDS, 2.0))
            trouble = trouble and self._cancel()
        if left:
            why = f" ({trouble})" if trouble else ""
            mend = f"scancel each of {left}, and remove {self.place}"
            say(with_mend(f"jobs have not left the queue, as far as Slurm tells: {left}{why}", mend), err=True)
            return
        shutil.rmtree(self.place, ignore_errors=True)
        if self.place.parent.is_dir() and not any(self.place.parent.iterdir()):
            self.place.parent.rmdir()

    def _cancel(self) -> str:
        """Cancels the jobs of all stories; returns Slurm's objections, empty if there are none."""
        troubles = [story.cancel() for story in self.stories.values()]
        return "; ".join(dict.fromkeys(filter(None, troubles)))

    def _left(self) -> str:
        """Returns the jobs that are in the queue, or may be: if Slurm is silent, all jobs whose end is not known."""
        queue = snapshot()
        entries = [entry for story in self.stories.values() for entry in story.submissions if not entry.refused]
        left = [entry for entry in entries if queue.live(entry) is not False]
        return " ".join(entry.job or f"--name={entry.submission}" for entry in left)
