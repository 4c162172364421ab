"""Which jobs of a sweep Slurm has, for a launcher that runs the others on this machine."""

import math
import os
import time
from collections.abc import Iterable

from repro.errors import UserError
from repro.terminal import Console
from slurm.monitoring.queue import snapshot
from slurm.sweep_folder.ledger import Key, Ledger

SILENT_SECONDS = 60.0
"""Before a Slurm that did not answer is asked again."""


class SlurmsShare:
    """What Slurm has queued or running of a sweep, and what is not to be started here as well."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        """Asks nothing yet.

        Args:
            ledger: Of the sweep.
            console: Told where no Slurm is at hand to be asked.
        """
        self._ledger, self._console = ledger, console
        self._silent_until = -math.inf  # on the monotonic clock

    def look(self, keys: Iterable[Key]) -> set[Key]:
        """Returns which jobs it has.

        Args:
            keys: Of the jobs that are asked about.

        Raises:
            UserError: There is a Slurm, and it does not answer.
        """
        wanted = set(keys)
        sent = [
            entry
            for entry in self._ledger.submissions()
            if entry.executor == "slurm" and entry.key in wanted
            if not (entry.refused or entry.cancelled or entry.superseded)
        ]
        if not sent:
            return set()
        queue = snapshot()
        if not queue.trouble:
            return {entry.key for entry in sent if queue.live(entry)}
        number = len({entry.key for entry in sent})
        if not queue.absent:
            what = f"{number} of these jobs went out to Slurm, which does not say whether it has them ({queue.trouble})"
            named = next((name for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in os.environ), "")
            otherwise = f"; where there is no cluster any more, unset {named}" if named else ""
            raise UserError(what, mend=f"the same again when Slurm answers{otherwise}")
        # A sweep that was carried from a cluster to another machine; what runs there holds its own folders there. Where
        # Slurm's programs are installed without a cluster, they would not answer later either.
        words = f"{number} of these jobs went out to Slurm, of which there is none here: they are started here"
        self._console.print(words, soft_wrap=True)
        return set()

    def look_again(self, keys: Iterable[Key]) -> set[Key] | None:
        """Returns which jobs it has; None where it is silent, which is no reason to end what runs here.

        Then it is asked again after a while only: a question may take a minute, in which nothing else here is minded.

        Args:
            keys: As of `look`.
        """
        if time.monotonic() < self._silent_until:
            return None
        try:
            return self.look(keys)
        except UserError:
            self._silent_until = time.monotonic() + SILENT_SECONDS
            return None
