"""Who else has jobs of a sweep that is launched on this machine: Slurm, another launcher, or a person."""

import math
import os
import time
from collections.abc import Collection, Iterable

from repro.command_line.terminal import Console
from repro.errors import UserError
from repro.settings.run_name import RunName
from slurm.local.agenda import Agenda
from slurm.local.messages import Messages
from slurm.monitoring.queue import QueueSnapshot, snapshot
from slurm.monitoring.status import is_under_way
from slurm.planning.graph import Job
from slurm.sweep_folder.ledger import Key, Ledger, Submission

HERE = QueueSnapshot()
"""An empty queue: it tells whether processes of this machine live, and asks no scheduler."""
SILENT_SECONDS = 60.0
"""How long to wait before a Slurm that did not answer is asked again."""


class Others:
    """Which jobs of a launch others have, by the ledger and the runs' folders: these are waited for, not done twice."""

    def __init__(self, agenda: Agenda, ledger: Ledger, messages: Messages) -> None:
        """Heeds what is cancelled from now on.

        Args:
            agenda: Of the launch.
            ledger: Of the sweep.
            messages: Told what is waited for.
        """
        self._agenda, self._ledger, self._messages = agenda, ledger, messages
        self._cancels = len(ledger.cancel_requests())
        self._slurm_silent_until = -math.inf  # on the monotonic clock

    def leave_slurm_its_own(self) -> None:
        """Takes the jobs that Slurm has off the agenda.

        Raises:
            UserError: There is a Slurm, and it does not answer.
        """
        waiting = map(self._agenda.graph.key, self._agenda.waiting)
        self._agenda.leave_to_slurm(with_slurm(self._ledger, waiting, self._messages.console))

    def launched(self, keys: Collection[Key]) -> set[Key]:
        """Returns which of the jobs other launchers run.

        The ledger has the process ids of jobs that run here; whether a job on another machine lives, only the run's
        folder tells.

        Args:
            keys: Of the jobs that are asked about.
        """
        newest = self._ledger.newest()
        entries = {key: newest[key] for key in keys if key in newest}
        return {
            key
            for key, entry in entries.items()
            if entry.executor != "slurm" and entry.job
            if HERE.live(entry) or is_under_way(self._ledger.sweep, key, entry, HERE, time.time())
        }

    def have(self, job: Job) -> bool:
        """Returns whether a waiting job is not to begin now: it runs elsewhere, or is done, or a person cancelled it.

        If it need not wait any longer either, it is taken off the agenda.
        """
        key = self._agenda.graph.key(job)
        entry, sent = self._ledger.newest().get(key), self._ledger.newest_sent().get(key)
        if entry is not None and HERE.live(entry):
            self._messages.runs_already(job.name, job.folder.path)
            return True  # another launcher started it: its end shows in the folder
        # This launch wrote an intent for each job that waits here: an entry of Slurm's is newer.
        if entry is not None and entry.executor == "slurm" and self._went_to_slurm(key):
            return True
        if self._agenda.is_over(job):
            return True
        if self._ledger.cancelled_since(self._cancels, [key]):
            self._agenda.cancel(job)
            return True
        if is_under_way(self._ledger.sweep, key, sent, HERE, time.time()):
            # A person started it, or a launcher on another machine: the same holds.
            self._messages.runs_already(job.name, job.folder.path)
            return True
        return False

    def running_here(self, own: Collection[str]) -> list[Submission]:
        """Returns the jobs of the sweep that run here and are not this launch's, but another's, or a killed one's.

        Jobs of the debug executor are left out: each runs within a launcher, and holds nothing that is shared out.

        Args:
            own: Ids of this launch's jobs.
        """
        newest = self._ledger.newest().values()
        return [e for e in newest if e.executor == "local" and e.job and e.job not in own and HERE.live(e)]

    def tell(self, entries: Iterable[Submission]) -> None:
        """Says that jobs run which hold the places; they need not be of this launch's methods and seeds."""
        for entry in entries:
            folder = self._ledger.sweep / entry.folder
            name = RunName.of(folder)
            self._messages.runs_already(f"{entry.task} {name.method} {name.seed}", folder)

    def _went_to_slurm(self, key: Key) -> bool:
        """Returns whether Slurm has, or may have, a job that waits here; if it has, takes the job off the agenda.

        That Slurm is silent is no reason to end what runs here. It is asked again only after a while: a question may
        take a minute, during which nothing else here is looked after.
        """
        if time.monotonic() < self._slurm_silent_until:
            return True
        try:
            there = with_slurm(self._ledger, [key], self._messages.console)
        except UserError:
            self._slurm_silent_until = time.monotonic() + SILENT_SECONDS
            return True
        self._agenda.leave_to_slurm(there)
        return bool(there)


def with_slurm(ledger: Ledger, keys: Iterable[Key], console: Console) -> set[Key]:
    """Returns which jobs Slurm has queued or running, so that they are not to be started here as well.

    Args:
        ledger: Of the sweep.
        keys: Of the jobs that are asked about.
        console: Told if there is no Slurm to ask.

    Raises:
        UserError: There is a Slurm, and it does not answer.
    """
    wanted = set(keys)
    sent = [
        entry
        for entry in ledger.submissions()
        if entry.executor == "slurm" and entry.key in wanted
        if not (entry.refused or entry.cancelled or entry.superseded)
    ]
    if not sent:
        return set()
    queue = snapshot()
    if not queue.trouble:
        return {entry.key for entry in sent if queue.live(entry)}
    told = f"earlier launches submitted {len({entry.key for entry in sent})} of these jobs to Slurm"
    if not queue.absent:
        what = f"{told}, which does not say whether it has them ({queue.trouble})"
        named = next((name for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in os.environ), "")
        otherwise = f"; where there is no cluster any more, unset {named}" if named else ""
        raise UserError(what, mend=f"the same command again when Slurm answers{otherwise}")
    # The sweep was copied from a cluster; what still runs there works in the folders there. If Slurm's programs are
    # installed without a cluster, they would not answer later either.
    console.print(f"{told}, but there is no Slurm here: they are started on this machine", soft_wrap=True)
    return set()
