"""Who else has jobs of a sweep that is launched on this machine: Slurm, another launcher, or a person."""

import time
from collections.abc import Collection

from slurm.local.agenda import Agenda
from slurm.local.slurms_share import SlurmsShare
from slurm.local.telling import Telling
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.status import is_under_way
from slurm.planning.graph import Job
from slurm.sweep_folder.ledger import Key, Ledger, Submission

HERE = QueueSnapshot()
"""By it, processes of this machine are asked whether they live, and no scheduler."""


class Others:
    """What others do with the jobs of a launch, by the ledger and the runs' folders: it is waited for, not doubled."""

    def __init__(self, agenda: Agenda, ledger: Ledger, telling: Telling) -> None:
        """Heeds what is cancelled from now on.

        Args:
            agenda: Of the launch.
            ledger: Of the sweep.
            telling: Told what is waited for.
        """
        self._agenda, self._ledger, self._telling = agenda, ledger, telling
        self._cancels = len(ledger.taken_back())
        self._slurms_share = SlurmsShare(ledger, telling.console)

    def leave_slurm_its_own(self) -> None:
        """Takes what Slurm has out of what waits here.

        Raises:
            UserError: There is a Slurm, and it does not answer.
        """
        self._agenda.leave_to_slurm(self._slurms_share.look(map(self._agenda.graph.key, self._agenda.waiting)))

    def launched(self, keys: Collection[Key]) -> set[Key]:
        """Returns which of the jobs other launchers run.

        What one runs here stands in the ledger with the id of its process; of one on another machine only the run's
        folder tells whether it lives.

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
        """Returns whether a waiting job is not to begin now: another has it or did it, or a person took it back.

        What waits no longer is noted in the agenda.
        """
        key = self._agenda.graph.key(job)
        entry, sent = self._ledger.newest().get(key), self._ledger.newest_sent().get(key)
        if entry is not None and HERE.live(entry):
            return True  # another launcher started it: its end shows in the folder
        # All that waits here had an intent of this launch: one of Slurm's came since.
        if entry is not None and entry.executor == "slurm" and self._went_to_slurm(key):
            return True
        if self._agenda.is_over(job):
            return True
        if self._ledger.taken_back_since(self._cancels, [key]):
            self._agenda.cancel(job)
            return True
        if is_under_way(self._ledger.sweep, key, sent, HERE, time.time()):
            self._telling.runs_elsewhere(job)  # a person started it, or a launcher on another machine: the same holds
            return True
        return False

    def running_here(self, own: Collection[str]) -> list[Submission]:
        """Returns the jobs of the sweep that run here and are not this launch's: another's, or of one that was killed.

        What the debug executor runs has a whole launcher for a process, and holds nothing that is shared out.

        Args:
            own: Ids of this launch's jobs.
        """
        newest = self._ledger.newest().values()
        return [e for e in newest if e.executor == "local" and e.job and e.job not in own and HERE.live(e)]

    def _went_to_slurm(self, key: Key) -> bool:
        """Returns whether a job that waits here went out to Slurm since, which may have it; leaves it to it then."""
        there = self._slurms_share.look_again([key])
        self._agenda.leave_to_slurm(there or ())
        return there is None or bool(there)
