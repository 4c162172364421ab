"""The processes of a loader: where their sockets lie, how long a batch may take, what is said when one is killed.

A worker hands tensors over through a Unix socket in the temporary folder. The kernel takes 107 bytes of its path: where
that is longer the worker cannot open it, drops the batch, and lives on, while the training waits for ever.
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
"""Seconds for one batch, after which no worker is waited for any more; the slowest of file systems answers earlier."""
_LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Bytes of a temporary folder's path, in which multiprocessing makes a folder of its own for the sockets."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_DEATH = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([^.]+)\.|exited unexpectedly)")
_TIMED_OUT = re.compile(r"DataLoader timed out after (\d+) seconds")
_NOT_SHARED = re.compile(r"unable to .*<.*torch_.*>.*: (.+?) \((\d+)\)")
"""What torch says where a worker cannot lay a batch into shared memory: the reason, and its number."""
_NOTICE_SECONDS = 1.0
_LAST_SECONDS = 30
"""How long a worker lives on after TERM; longer than the main process may take (`repro.runs.stopping`)."""
_CONNECTION = "multiprocessing/connection.py"
_GO_ON = "then the same command goes on"


def use_short_sockets() -> None:
    """Puts the sockets of this process and its workers into a short folder, where the temporary one's path is too long.

    Only they move: whatever else is temporary stays where TMPDIR says.

    Raises:
        UserError: There is no other folder to put them in.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        return
    long, writable = tempfile.tempdir, (name for name in _SHORT_FOLDERS if os.access(name, os.W_OK | os.X_OK))
    for folder in writable:
        tempfile.tempdir = folder
        try:
            # multiprocessing makes its folder once, and hands it down to every process that it starts.
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
    """Leaves signals to the main process, as a loader's `worker_init_fn`.

    Slurm, and whoever ends a group of processes, signals all of them. The main process then makes its last step and
    saves, for which it needs this one; it ends it in good order.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)  # torch's own handler would end the process at once


def _end_later(_: int, __: FrameType | None) -> None:
    # Nobody may come to end it: what TERM asked for is then done by the kernel.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LAST_SECONDS)


@contextmanager
def deaths_told() -> Iterator[None]:
    """Says in one line, with the likely cause, that a loader's process was killed or gave no batch within the block.

    Enter it twice: torch tells of a death by an error at whatever line the main process is, and that may be the first
    one of this block's end, from which only another such block can take it.

    Raises:
        UserError: In the place of the errors by which torch or the broken connection tell of it, which may come at any
            line of the main process.
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
        except RuntimeError as signalled:  # torch's handler: the kernel tells of the death while this is looked into
            if not _DEATH.search(str(signalled)):
                raise
            told = [str(error), str(signalled)]
            active_children()  # as in `_said_later`
        if not told:
            raise
        raise _refusal(told) from error


def _told(error: BaseException) -> list[str]:
    """Returns what an error, and torch a moment later, say of a loader's process; nothing where it is of none."""
    told = [str(error), str(error.__cause__)]
    if _TIMED_OUT.search(told[0]):
        return told
    return [*told, *_said_later()] if _DEATH.search(told[0]) or _is_of_a_connection(error) else []


def _is_of_a_connection(error: BaseException) -> bool:
    """Returns whether an error is that of a connection to a loader's process, which may be noticed before its death."""
    # Only the frames' names: to read their lines, as `extract_tb` does, takes long enough for the signal to come.
    frames = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, OSError | EOFError) and any(file.endswith(_CONNECTION) for file in frames)


def _said_later() -> list[str]:
    """Returns what torch says of a death when the kernel tells of it, which may be after the connection broke."""
    try:
        time.sleep(_NOTICE_SECONDS)
    except RuntimeError as error:
        return [str(error)]
    finally:
        # Takes the dead from the kernel: torch's handler would raise again, in the middle of writing a status.
        active_children()
    return []


def _refusal(told: Sequence[str]) -> UserError:
    """Returns what torch says of its loaders' processes, first or later, as one error with a mend."""
    if late := _TIMED_OUT.search(told[0]):
        return UserError(
            f"no decoding process gave a batch within {late[1]} s", mend=f"see to the data's disk; {_GO_ON}"
        )
    deaths = [death for text in told if (death := _DEATH.search(text))]
    name = next((death[1] for death in deaths if death[1]), "")
    how = f"killed ({name})" if name else "killed, or ended by itself"
    if name == "Bus error":
        cause, mend = "the shared memory (/dev/shm) is full", "enlarge it, or fewer machine.workers"
    else:
        of_name = "" if name else ", or shared memory (/dev/shm)"
        cause, mend = f"perhaps for memory{of_name}", "fewer machine.workers, or more memory"
    return UserError(f"a decoding process was {how}: {cause}", mend=f"{mend}; {_GO_ON}")
