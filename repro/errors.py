"""The exception for input that a person can correct, and wording that several messages share."""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence


class UserError(Exception):
    """Bad input: a path, a config key, a checkpoint, an image, a data set.

    As text it is one line that names the thing and the mend. The command line prints it and exits with status 2; no
    traceback is shown.

    Attributes:
        what: The thing, and what is wrong with it.
        mend: What a person can do about it; empty only where nobody can do anything.
    """

    def __init__(self, what: str, *, mend: str = "") -> None:
        # Only `what` goes to Exception: an error from another process is unpickled, which calls the class with `args`
        # and then restores the other attributes from `__dict__`.
        super().__init__(what)
        self.what, self.mend = what, mend

    def __str__(self) -> str:
        return with_mend(self.what, self.mend)


UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: control characters except tab and newline, and direction marks."""


def visible(text: str) -> str:
    """Returns a text in which each character that a terminal would obey (`UNSEEN`) is replaced by its escape code."""
    return UNSEEN.sub(lambda letter: letter[0].encode("unicode_escape").decode(), text)


def visible_in_line(text: str) -> str:
    """Returns a text as `visible` does, with tabs and newlines escaped, too: file names may hold any character."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n")


MEND = "; mend: "
"""Stands between what is wrong and what to do about it."""


def with_mend(what: str, mend: str) -> str:
    """Returns one line: what is wrong, and what a person can do about it, unless that is empty."""
    return f"{what}{MEND}{mend}" if mend else what


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line; the name of its class if it has no message."""
    text = str(error).strip()
    # A worker of a DataLoader hands its error over as text: torch raises an error of the same kind here, whose message
    # is the worker's whole traceback (torch._utils.ExceptionWrapper). Its last line is "KIND: MESSAGE".
    if "\nOriginal Traceback" in text:
        text = text.splitlines()[-1]
        if isinstance(error, UserError):  # for other errors the class says as much as the message
            text = text.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    # Blanks within a line are kept, so that a path can be copied from the message.
    return visible(" ".join(filter(None, (line.strip() for line in text.splitlines())))) or type(error).__name__


def memory_shortage(error: BaseException) -> str:
    """Returns what is wrong and the mend, if an error means that memory was full; empty for any other error."""
    text = one_line(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's class, by name: printing an error must not import torch
        mend = "a smaller batch, the same batch on more GPUs (torchrun), or a GPU with more memory"
        return with_mend(f"the GPU's memory was full ({text.partition('. ')[0]})", mend)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:  # the latter: a RuntimeError of torch's
        return with_mend(f"main memory was full ({text})", "a smaller batch, fewer machine.workers, or more memory")
    return ""


def interruption(error: BaseException) -> BaseException | None:
    """Returns the KeyboardInterrupt or SystemExit that an error is or was caused by; None for any other error.

    Libraries with a bare `except` turn these into errors of their own: mmengine does while it formats its config. None
    for a `UserError` as well: what it says is true whatever caused it.
    """
    causes = () if isinstance(error, UserError) else _with_causes(error)
    return next((cause for cause in causes if isinstance(cause, KeyboardInterrupt | SystemExit)), None)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, then the errors that it was raised from or during, the latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_OF_A_PEER = re.compile(r"gloo/transport|remote process exited")
"""What gloo and NCCL say, among much else, when another process is gone."""


def lost_process(error: BaseException) -> str:
    """Returns what is wrong and the mend, if another process of the same run is gone; empty for any other error.

    Only that process knows the cause. This one was waiting for it, and the code that waited is not at fault.
    """
    text = one_line(error)
    if not isinstance(error, RuntimeError) or not _OF_A_PEER.search(text):
        return ""
    reason = text.rpartition("] ")[2] if text.startswith("[") else text
    what = f"another process of this run ended, or cannot be reached any more ({reason.partition('. ')[0][:120]})"
    return with_mend(what, "see what it printed; then the same command continues")


def process_shortage(error: BaseException) -> str:
    """Returns what is wrong and the mend, if no more processes or threads can be started; empty for any other error."""
    text = one_line(error)
    # A fork names no file and writes nothing, unlike a stream that was made non-blocking and is full.
    is_of_fork = isinstance(error, BlockingIOError) and not (error.filename or hasattr(error, "characters_written"))
    if not is_of_fork and text != "can't start new thread":  # the latter: Python's RuntimeError
        return ""
    return with_mend(
        f"no more processes or threads can be started ({text})", "end other processes, or raise `ulimit -u`, and repeat"
    )


_ACCESS, _ROOM = "have it made accessible, or name another place", "free some space, and repeat"
_HEALTH = "see whether the disk, or the network file system, is well, and repeat"
_OPEN_FILES = "raise `ulimit -n`, and repeat"
_SYSTEM_MENDS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _ACCESS),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT), _HEALTH),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _OPEN_FILES),
    errno.EFBIG: "raise `ulimit -f`, or name a place whose file system takes larger files",
    errno.ENAMETOOLONG: "a shorter name",
    errno.EAGAIN: "repeat, with the output sent to a file",
}
"""Mends by errno, for failures of the machine. ENOENT is not among them: a bug may look for a missing file, too."""


def system_refusal(error: BaseException) -> str:
    """Returns what the operating system refused and the mend, if the machine is at fault; empty for any other error.

    Where such an error is expected, it is caught there, and the message says what was being done. This function is for
    all other places: any access to a file can fail, even if it could be read a moment ago.
    """
    if not isinstance(error, OSError) or error.errno not in _SYSTEM_MENDS:
        return ""
    reason = error.strerror or one_line(error)
    named = f"{visible_in_line(str(error.filename))}: " if error.filename else ""
    return with_mend(named + reason, _SYSTEM_MENDS[error.errno])


def trouble_of_machine(error: BaseException) -> str:
    """Returns what is wrong and the mend, if the machine is at fault, so that no traceback is needed.

    Memory is full, no process can be started, another process is gone, or the operating system refused something. Empty
    for any other error.
    """
    return memory_shortage(error) or process_shortage(error) or lost_process(error) or system_refusal(error)


def system_errors(error: BaseException) -> Iterator[OSError]:
    """Yields the operating system's errors among an error and its causes, the latest first.

    For example, if a write fails, torch finds its archive incomplete, and its error says only that.
    """
    return (cause for cause in _with_causes(error) if isinstance(cause, OSError))


def machines_error(error: BaseException) -> OSError | None:
    """Returns the operating system's error that an error is or was caused by, if no other place would avoid it."""
    for each in system_errors(error):
        if _SYSTEM_MENDS.get(each.errno or 0, _ACCESS) not in (_ACCESS, _ROOM):
            return each
    return None


def system_mend(error: BaseException, otherwise: str) -> str:
    """Returns the mend for an error that the operating system caused; `otherwise` for all others.

    `otherwise` also applies to a place that is closed or full: the caller knows the place, and has more to say.
    """
    cause = machines_error(error)
    return _SYSTEM_MENDS[cause.errno or 0] if cause else otherwise


LONGEST_LIST = 20
"""Most names that a message lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the mend for an unknown name: the nearest known one, if any, and all that are known.

    Args:
        name: The unknown name.
        known: The known names. If there are more than twenty, only the nearest are named, three at most.
    """
    names = list(known)
    many = len(names) > LONGEST_LIST
    # Compared without leading dashes: these alone would make `--val` similar to `--as`.
    words = {each.lstrip("-"): each for each in names}
    close = [words[word] for word in difflib.get_close_matches(name.lstrip("-"), words, n=3 if many else 1)]
    guess = "did you mean " + " or ".join(f"'{each}'" for each in close) + "? " if close else ""
    if many:
        return f"{guess}{len(names)} are known"
    return f"{guess}{'known:' if guess else 'one of'} {', '.join(names)}"


def first_few(names: Sequence[str], most: int = 4, joint: str = ", ") -> str:
    """Returns the first few names, and how many more there are: `a, b, c, d and 3 more`.

    Args:
        names: All names.
        most: How many of them are listed.
        joint: What stands between two names.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return joint.join(names[:most]) + more


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Returns how many names there are, and the first few of them: `7 (a, b, c, d, e, …)`.

    Args:
        names: All names.
        most: How many of them are listed.
    """
    listed = ", ".join(names[:most])
    return f"{len(names)} ({listed}{', …' if len(names) > most else ''})"
