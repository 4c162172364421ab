"""Worker processes of a DataLoader: where their sockets are, how long a batch may take, what a worker's death means.

A worker hands tensors over through a Unix socket in the temporary folder, and a socket's path may have 107 bytes. If it
is longer, the worker cannot open the socket, drops the batch and lives on, while the training waits for ever.
"""

import os
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children, util
from types import FrameType

from repro.errors import UserError, one_line, system_mend

LONGEST_WAIT = 1800
"""Seconds to wait for one batch; even the slowest file systems answer earlier."""
_LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Most bytes in the path of the temporary folder, where multiprocessing makes a folder of its own for the sockets."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_DEATH = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([^.]+)\.|exited unexpectedly)")
_TIMED_OUT = re.compile(r"DataLoader timed out after (\d+) seconds")
_NOT_SHARED = re.compile(r"unable to .*<.*torch_.*>.*: (.+?) \((\d+)\)")
"""torch's message when a worker cannot put a batch into shared memory: the reason, and its errno."""
_NOTICE_SECONDS = 1.0
"""How long to wait for the kernel to report a worker's death after the connection broke."""
_LAST_SECONDS = 30
"""How long a worker lives on after TERM; longer than the main process may take to end (`repro.runs.stopping`)."""
_CONNECTION = "multiprocessing/connection.py"
_GO_ON = "then the same command continues"


def use_short_sockets() -> None:
    """Moves the sockets of this process and its workers to a short folder, if the temporary folder's path is too long.

    Only they move: all other temporary files stay where TMPDIR says.

    Raises:
        UserError: No other folder can hold them.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        return
    long, writable = tempfile.tempdir, (name for name in _SHORT_FOLDERS if os.access(name, os.W_OK | os.X_OK))
    for folder in writable:
        tempfile.tempdir = folder
        try:
            # multiprocessing makes its folder once, and every process that it starts uses that one.
            made_in = os.fsencode(util.get_temp_dir())
        finally:
            tempfile.tempdir = long
        if len(made_in) <= _LONGEST_FOLDER + len("/pymp-xxxxxxxx"):
            return
    raise UserError(
        f"the path of the temporary folder {tempfile.gettempdir()} is too long for the sockets of decoding processes",
        mend="set TMPDIR to a shorter one, or machine.workers=0",
    )


def outlive_signals(_: int) -> None:
    """Makes a worker outlive the signals that stop a run; a loader's `worker_init_fn`.

    Slurm, and whoever signals a group of processes, signals all of them. The main process then makes its last step and
    saves. For that it needs this worker, which it ends in good order afterwards.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)  # torch's own handler would end the process at once


def _end_later(_: int, __: FrameType | None) -> None:
    # If the main process never ends this one, the kernel does.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LAST_SECONDS)


@contextmanager
def deaths_told() -> Iterator[None]:
    """Turns errors of a worker that was killed, or gave no batch, within the block into one line with the likely cause.

    Enter it twice. torch reports a worker's death by an error at whatever line the main process is. That may be a line
    at the end of this block, where only an outer block can catch it.

    Raises:
        UserError: In place of the errors by which torch or the broken connection report it, which may come at any line
            of the main process.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if unshared := _NOT_SHARED.search(one_line(error)):
            what = f"a decoding process cannot put a batch into shared memory (/dev/shm): {unshared[1]}"
            mend = system_mend(OSError(int(unshared[2]), unshared[1]), "enlarge it, or fewer machine.workers")
            raise UserError(what, mend=f"{mend}; {_GO_ON}") from error
        try:
            told = _told(error)
        except RuntimeError as signalled:  # from torch's signal handler: the death is reported only now
            if not _DEATH.search(str(signalled)):
                raise
            told = [str(error), str(signalled)]
            active_children()  # as in `_said_later`
        if not told:
            raise
        raise _refusal(told) from error


def _told(error: BaseException) -> list[str]:
    """Returns what an error, and torch a moment later, say about a worker; empty if the error is about none."""
    told = [str(error), str(error.__cause__)]
    if _TIMED_OUT.search(told[0]):
        return told
    return [*told, *_said_later()] if _DEATH.search(told[0]) or _is_of_a_connection(error) else []


def _is_of_a_connection(error: BaseException) -> bool:
    """Returns whether an error is that of a connection to a worker, which may break before the death is reported."""
    # Only the names of files: `extract_tb` would read source lines, long enough for torch's signal to come meanwhile.
    frames = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, OSError | EOFError) and any(file.endswith(_CONNECTION) for file in frames)


def _said_later() -> list[str]:
    """Returns what torch says when the kernel reports a death, which may be after the connection broke."""
    try:
        time.sleep(_NOTICE_SECONDS)
    except RuntimeError as error:
        return [str(error)]
    finally:
        # Reaps dead workers: torch's handler would raise again, perhaps in the middle of writing a status.
        active_children()
    return []


def _refusal(told: Sequence[str]) -> UserError:
    """Returns what torch says about its workers, first and later, as one error with a mend."""
    if late := _TIMED_OUT.search(told[0]):
        return UserError(
            f"no decoding process gave a batch within {late[1]} s", mend=f"check the data's disk; {_GO_ON}"
        )
    deaths = [death for text in told if (death := _DEATH.search(text))]
    name = next((death[1] for death in deaths if death[1]), "")
    how = f"killed ({name})" if name else "killed, or ended by itself"
    if name == "Bus error":
        cause, mend = "the shared memory (/dev/shm) is full", "enlarge it, or fewer machine.workers"
    else:
        of_name = "" if name else ", or of shared memory (/dev/shm)"
        cause, mend = f"perhaps for lack of memory{of_name}", "fewer machine.workers, or more memory"
    return UserError(f"a decoding process was {how}: {cause}", mend=f"{mend}; {_GO_ON}")
