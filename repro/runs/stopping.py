"""Requests to stop: a signal is remembered, and a training ends between two steps with its checkpoint saved.

Slurm sends USR2 before a time limit or a preemption, or TERM. A person sends TERM, or HUP by closing the terminal,
unless HUP is ignored, as by nohup. During a training, the first signal is only noted, and the training's
`SaveCheckpoint` acts on it after the step. Outside of a training, at a second signal, or if no step ends within
`GRACE_SECONDS`, the process ends as soon as Python can run, and its last checkpoint counts. Python handles signals only
between two of its own instructions. While it waits in a library's call, such as a collective whose other ranks are
gone, it handles none, and only the scheduler's kill ends it.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 25
"""Longest wait for the end of a step; Slurm kills 30 seconds after TERM by default."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_STATUSES = {**{128 + number: number for number in SIGNALS}, 128 + signal.SIGHUP: signal.SIGTERM}
"""Exit code of a SystemExit that asks for an end -> signal to send again: TERM after HUP, which is ignored by then."""
NAMES = {128 + number: number.name for number in (*SIGNALS, signal.SIGHUP)}
"""Exit code of a SystemExit that asks for an end -> name of the signal that asked."""
_AGAIN_SECONDS = 0.05
"""Seconds after which a lost signal is sent again."""


@contextmanager
def heard_everywhere() -> Iterator[None]:
    """Within the block, sends a signal again, a moment later, if Python dropped the exception that it raised.

    Python prints and drops what is raised in a `__del__`, or in a function that is registered for forks, such as that
    of logging's lock. While a loader began its processes, one Ctrl-C in four did nothing.
    """
    before, process = sys.unraisablehook, os.getpid()

    def repeat(lost: "sys.UnraisableHookArgs") -> None:
        asked = lost.exc_value
        if isinstance(asked, KeyboardInterrupt):
            number = signal.SIGINT.value
        elif isinstance(asked, SystemExit) and asked.code in _STATUSES:
            number = _STATUSES[asked.code]
        else:
            before(lost)
            return
        if os.getpid() == process:  # a forked process leaves this to the one that forked it
            timer = threading.Timer(_AGAIN_SECONDS, os.kill, [process, number])
            timer.daemon = True
            timer.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def exits_on_term() -> Iterator[None]:
    """Within the block, TERM raises SystemExit, so that everything is tidied up as after Ctrl-C.

    By default, TERM ends a process at once. HUP, which comes when a terminal is closed, is treated alike, unless it is
    ignored, as by nohup. Python handles signals in its main thread only: in another thread, the block changes nothing.

    Raises:
        SystemExit: TERM or HUP came; 128 + its number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    if number == signal.SIGHUP:  # HUP comes twice, and the second one would cut the tidying short
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise SystemExit(128 + number)


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal that asked; 0: none did."""
        self.afterwards = ""
        """What interrupted work does when it is started again, in words; empty: there was none."""
        self._training = False

    def install(self) -> None:
        """Installs the handlers of the signals, and forgets a signal that came before."""
        self.signal, self.afterwards = 0, ""
        for number in SIGNALS:
            signal.signal(number, self._ask)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._ask)

    @contextmanager
    def after_a_step(self) -> Iterator[None]:
        """Makes a signal wait, within the block, until the training calls `now` after a step."""
        self._training = True
        try:
            yield
        finally:
            self._training = False
            signal.alarm(0)  # the training has ended in time: what is left to do needs no deadline

    def now(self) -> NoReturn:
        """Ends the process as the signal asked.

        Raises:
            SystemExit: Always; 128 + the signal's number, as shells have it.
        """
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGHUP:
            return  # a terminal that is closed sends it twice: from its shell, and as the shell ends
        repeated = bool(self.signal)
        self.signal = self.signal or number  # the first one decides the exit status
        if repeated or not self._training:
            self.now()
        # A step may take long, or wait for data: then SIGALRM ends the process before the scheduler kills it, so that
        # its status is still written. It cannot interrupt a library's call, such as a collective.
        signal.signal(signal.SIGALRM, lambda *_: self.now())
        signal.alarm(GRACE_SECONDS)


STOP = Stop()
"""The state of this process: signals are sent to processes, so each has one."""
