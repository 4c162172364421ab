"""The one exception for input that a person can mend."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input: a path, a config key, a checkpoint, an image, a data set.

    As text it is one line that names the thing and the mend. The command line prints it and exits with status 2; no
    traceback is shown.

    Attributes:
        what: The thing, and what is wrong with it.
        mend: What a person can do about it; empty only where nobody can do anything.
    """

    def __init__(self, what: str, *, mend: str = "") -> None:
        # Only `what` goes to Exception: an error that comes out of another process is made anew from its `args`, and
        # gets its other attributes back from its `__dict__`.
        super().__init__(what)
        self.what, self.mend = what, mend

    def __str__(self) -> str:
        return f"{self.what}; mend: {self.mend}" if self.mend else self.what


def one_line(error: BaseException) -> str:
    """The message of an error in one line.

    A loader's worker hands its error over inside a traceback, whose last line is the message.
    """
    text = str(error).strip()
    if "\nOriginal Traceback" in text:
        text = text.splitlines()[-1].removeprefix("repro.errors.UserError: ")
    return " ".join(text.split()) or type(error).__name__


LONGEST_LIST = 20


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend of an unknown name: the nearest known one if there is any, and all that are known.

    Of more than twenty, only those that are near are named.
    """
    names = list(known)
    many = len(names) > LONGEST_LIST
    close = difflib.get_close_matches(name, names, n=3 if many else 1)
    guess = "did you mean " + " or ".join(f"'{word}'" for word in close) + "? " if close else ""
    if many:
        return f"{guess}{len(names)} are known"
    return f"{guess}{'known:' if guess else 'one of'} {', '.join(names)}"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """How many names there are, and the first few of them."""
    shown = ", ".join(names[:most])
    return f"{len(names)} ({shown}{', …' if len(names) > most else ''})"
