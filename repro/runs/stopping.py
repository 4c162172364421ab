"""Being asked to stop: a signal is remembered, and a training ends between two steps with its checkpoint saved.

Slurm asks with USR2 before a time limit or a preemption, or with TERM; a person with TERM, or with HUP by closing the
terminal, unless that is ignored, as by nohup. While a training runs, the first signal only leaves a note, which
`repro.training.resume.SaveCheckpoint` reads; outside of one, at a second signal, or where no step ends within
`GRACE_SECONDS`, the process ends as soon as Python runs, and its last checkpoint counts.
Python hears a signal between two of its own instructions: while it waits in a library's call, such as a collective
whose other ranks are gone, it hears none, and the scheduler's kill ends it; nothing else watches it.
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
"""Slurm kills 30 seconds after TERM unless it was told otherwise."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_STATUSES = {**{128 + number: number for number in SIGNALS}, 128 + signal.SIGHUP: signal.SIGTERM}
"""The signals that end a process here, by the code of the SystemExit that asks for it; of HUP, heard but once, TERM."""
_AGAIN_SECONDS = 0.05
"""After which a signal that was lost comes again."""


@contextmanager
def heard_everywhere() -> Iterator[None]:
    """Within the block, sends a signal again, a moment later, where Python dropped the exception that it raised.

    What is raised in a `__del__`, or in what is registered for forks, as logging's lock is, Python prints with its
    traceback, and drops: of Ctrl-C while a loader began its processes, one in four did nothing.
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
        if os.getpid() == process:  # those that it forks are its own to end
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
    """Has TERM leave the block as Ctrl-C does, through whatever tidies up; by itself it ends a process where it stands.

    So does HUP, which comes where a terminal is closed, unless it is ignored, as by nohup. Python hears signals in its
    main thread alone: in another one nothing changes.

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
    if number == signal.SIGHUP:  # it comes twice, and the second one would cut short what tidies up
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise SystemExit(128 + number)


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.signal = 0
        """The number of the signal that asked; 0: none did."""
        self.afterwards = ""
        """What the work that Ctrl-C broke off does when it is started again, in words; empty: none was broken off."""
        self._training = False

    def install(self) -> None:
        """Makes this process listen to the signals, and forgets one that came before."""
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
            return  # where a terminal is closed, it comes twice: from its shell, and as that one ends
        repeated = bool(self.signal)
        self.signal = self.signal or number  # the first one decides the exit status
        if repeated or not self._training:
            self.now()
        # A step may take long, or wait for data: SIGALRM then ends the process before the scheduler kills it, so that
        # its status is still written. It breaks off no call into a library, such as a collective.
        signal.signal(signal.SIGALRM, lambda *_: self.now())
        signal.alarm(GRACE_SECONDS)


STOP = Stop()
"""The state of this process: signals come to a process, so there is one for each."""
