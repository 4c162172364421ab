"""Being asked to stop: a signal is remembered, and a training ends between two steps with its checkpoint saved.

Slurm asks with USR2 before a time limit or a preemption, or with TERM; a person with TERM. While a training runs, the
first signal only leaves a note, which `repro.training.resume.SaveCheckpoint` reads; outside of one, or where no step
ends within `GRACE_SECONDS`, or at a second signal, the process ends at once and its last checkpoint counts.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 25
"""Slurm kills 30 seconds after TERM unless it was told otherwise."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal that asked; 0: none did."""
        self._training = False

    def install(self) -> None:
        """Listen to the signals."""
        self.signal = 0
        for number in SIGNALS:
            signal.signal(number, self._ask)

    @contextmanager
    def after_a_step(self) -> Iterator[None]:
        """Within, a signal waits until somebody calls `now`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False
            signal.alarm(0)

    def now(self) -> NoReturn:
        """End as the signal asked.

        Raises:
            SystemExit: always; 128 + the signal's number, as shells have it.
        """
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _ask(self, number: int, _: FrameType | None) -> None:
        again = bool(self.signal)
        self.signal = self.signal or number
        if again or not self._training:
            self.now()
        signal.signal(signal.SIGALRM, lambda *_: self.now())
        signal.alarm(GRACE_SECONDS)


STOP = Stop()
"""Signals come to a process, so there is one for each."""
