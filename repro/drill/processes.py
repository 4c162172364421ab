"""Runs commands in processes of their own, and strikes them before a file operation: an open, rename, removal or mkdir.

Each process is forked from one that has imported everything already, so that hundreds of them take minutes.
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
"""The `salmask` command, which reads `sys.argv`; it is handed in, because the command line imports this room."""
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_POLL_SECONDS = 0.01
_WEIGHTS = b"w"
"""The byte that stands for the beginning of writing weights; `write_atomically` writes to `.NAME.pth.x` first."""
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|a fault of salmask's own")


@dataclass(frozen=True)
class Strike:
    """What happens to a process, and when."""

    event: int
    """The number, from 1, of the file operation below the folder before which the strike comes; 0: none."""
    signal: int = signal.SIGKILL
    delay: float = 0.0
    """Seconds from the beginning of the operation to the strike; 0: just before the operation."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit status; if a signal killed it, minus the signal's number."""
    output: str
    """Everything that it printed, errors included."""
    events: int
    """Number of its file operations, as far as it came."""
    late: bool = False
    """Whether it was killed because it did not end in time."""
    weights: tuple[int, ...] = ()
    """The numbers of its file operations that began to write a checkpoint or a backbone."""

    @property
    def last_line(self) -> str:
        """The last line that it printed; empty if there is none."""
        return next(iter(self.output.rstrip().splitlines()[-1:]), "")

    @property
    def fault(self) -> str:
        """What no command may ever do, a traceback or a hang; empty if it did neither."""
        if self.late:
            return "it did not end"
        return f"a traceback: {self.last_line}" if _TRACEBACK.search(self.output) else ""


def run(main: Main, words: Sequence[str], folder: Path, strike: Strike | None = None, seconds: float = 120.0) -> Ended:
    """Runs a command in a process of its own.

    Args:
        main: The command.
        words: Its command line, without its name.
        folder: File operations below this folder count.
        strike: What happens to the process.
        seconds: Time limit, after which the process is killed.
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
    """Returns a process's exit status, and whether it had to be killed for being late."""
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
    """Runs the command in this forked process; never returns."""
    code = 70  # sysexits.h's "internal software error", should anything below fail
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(output), "w", encoding="utf-8", buffering=1) for _ in range(2))
        # As in a new process: the one that forked this one may have its own handlers.
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
    """Writes a byte to a pipe for each file operation of this process below a folder, and strikes at the given one."""
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
            timer.daemon = True  # so that the process may end before it
            timer.start()
        elif count == strike.event:
            os.kill(os.getpid(), strike.signal)

    sys.addaudithook(event)
