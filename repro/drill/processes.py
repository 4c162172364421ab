"""Commands in processes of their own, struck before one of their file events: opened, renamed, removed, made.

A process is forked from one that has imported everything already, so that hundreds of them take minutes.
"""

import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Main = Callable[[], None]
"""The `salmask` command, which reads `sys.argv`; handed in, as the command line knows this room."""
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_POLL_SECONDS = 0.01
_WEIGHTS = b"w"
"""The byte of an event that begins to write weights: what `write_atomically` has not finished is `.NAME.pth.x`."""
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|a fault of salmask's own")


@dataclass(frozen=True)
class Strike:
    """What happens to a process, and when."""

    event: int
    """Before which of its file events below the folder, from 1; 0: none."""
    signal: int = signal.SIGKILL
    delay: float = 0.0
    """Seconds after the beginning of the event; 0: before it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit status; minus the signal's number where one killed it."""
    output: str
    """All that it printed, errors too."""
    events: int
    """File events that it had, as far as it came."""
    late: bool = False
    """Whether it was killed as it did not end in time."""
    weights: tuple[int, ...] = ()
    """Which of its file events began the writing of a checkpoint or a backbone."""

    @property
    def last_line(self) -> str:
        """The last line that it printed; empty where it printed none."""
        return next(iter(self.output.rstrip().splitlines()[-1:]), "")

    @property
    def fault(self) -> str:
        """What no command may do, whatever happens to it: a traceback, or no end; empty where it did neither."""
        if self.late:
            return "it did not end"
        return f"a traceback: {self.last_line}" if _TRACEBACK.search(self.output) else ""


def run(main: Main, words: Sequence[str], folder: Path, strike: Strike | None = None, seconds: float = 120.0) -> Ended:
    """Carries a command out in a process of its own.

    Args:
        main: The command.
        words: Its command line, without its name.
        folder: File events below it count.
        strike: What happens to the process.
        seconds: After which it is killed.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            os.close(reader)
            _carry_out(main, words, folder, strike or Strike(0), output.fileno(), writer)
        os.close(writer)
        code, late = _wait(child, seconds)
        with os.fdopen(reader, "rb") as pipe:
            events = pipe.read()
        weights = tuple(number for number, event in enumerate(events, 1) if event == _WEIGHTS[0])
        output.seek(0)
        return Ended(code, output.read().decode(errors="replace"), len(events), late, weights)


def _wait(child: int, seconds: float) -> tuple[int, bool]:
    """Returns how a process ended, and whether it had to be killed for that."""
    deadline = time.monotonic() + seconds
    late = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), late
        if time.monotonic() > deadline and not late:
            os.kill(child, signal.SIGKILL)
            late = True
        time.sleep(_POLL_SECONDS)


def _carry_out(main: Main, words: Sequence[str], folder: Path, strike: Strike, output: int, events: int) -> None:
    """Becomes the command; never returns."""
    code = 70  # sysexits.h's "internal software error", should anything below fail
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(output), "w", encoding="utf-8", buffering=1) for _ in range(2))
        # As a new process has it: whoever forked may have handlers of its own.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = ["salmask", *words]
        _watch(folder, strike, events)
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch(folder: Path, strike: Strike, events: int) -> None:
    """Counts this process's file events below a folder into a pipe, a byte each, and strikes when it is due."""
    root, count = f"{folder.resolve()}{os.sep}", 0

    def event(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        is_write = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (is_write or name in _EVENTS) or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(root):  # noqa: PTH100  # resolves no links
            return
        count += 1
        os.write(events, _WEIGHTS if is_write and ".pth." in os.fsdecode(arguments[0]) else b".")
        if count == strike.event and strike.delay:
            timer = threading.Timer(strike.delay, os.kill, (os.getpid(), strike.signal))
            timer.daemon = True  # the process may have ended by then
            timer.start()
        elif count == strike.event:
            os.kill(os.getpid(), strike.signal)

    sys.addaudithook(event)
