"""Runs a command in a session of its own, and ends it with everything that it started, in whatever process group."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

GRACE_SECONDS = 45.0
"""Seconds that a command has to end; a launcher gives its jobs `slurm.local.processes.KILL_SECONDS` of them."""


def run_in_session(
    words: Sequence[str], seconds: float, *, cwd: Path, env: Mapping[str, str], stdout: IO[str], stderr: IO[str]
) -> int | None:
    """Runs a command, and afterwards ends whatever is left of its session.

    Args:
        words: Program and arguments.
        seconds: After which the command is asked to end.
        cwd: Folder in which the command runs.
        env: The command's whole environment.
        stdout: Takes its output.
        stderr: Takes its messages.

    Returns:
        Its exit status; None if its time was up.
    """
    process = subprocess.Popen(words, cwd=cwd, env=env, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also where a signal to this process cuts the wait short
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks a command to end, and after a while kills every process of its session."""
    try:
        if process.poll() is None:
            # Only the command's own group: a launcher asks its jobs, which have groups of their own, in good order.
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
    finally:
        for _ in range(100):  # repeated, as a process may have started another one before it was killed
            left = processes_of_session(process.pid)
            if not left:
                break
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.05)
        process.wait()


def processes_of_session(session: int) -> list[int]:
    """Returns the ids of a session's processes that have not ended, in all groups; empty without /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        # The program's name, in brackets, may hold anything; state, parent, group and session follow it.
        state, _, _, of = text.rpartition(")")[2].split()[:4]
        if int(of) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found
