"""How the process of a command ends: its exit status and its last line."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import typer

from repro.command_line.terminal import drop, open_closed_streams, say, settle_stderr, substitute_letters
from repro.command_line.usage import UsageError, as_user_error, shows_help
from repro.errors import UserError, interruption, one_line, trouble_of_machine, visible_in_line
from repro.filesystem.paths import OWN_PACKAGES, check_surroundings
from repro.runs.stopping import NAMES, STOP, exits_on_term, heard_everywhere

INTERRUPTED = 130
"""The exit status after Ctrl-C, by the shell's convention: 128 plus the signal's number."""

CLOSED_PIPE = 141
"""The exit status when nobody reads the output any more, as with `| head`: 128 plus the number of SIGPIPE."""


def carry_out(
    app: Callable[..., Any], *, settings_named: Callable[[str], Sequence[str]], resumable: Sequence[str]
) -> None:
    """Runs a command. Bad input ends in one line and status 2, Ctrl-C in one line and 130, a bug in one line and 1.

    TERM, or a terminal that is closed, ends it in one line and 128 + the signal's number.

    Args:
        app: The command line, a typer.
        settings_named: Returns the settings whose last part has a name: what a wrong option may have meant.
        resumable: The commands that resume when they are called again after an interruption.

    Raises:
        SystemExit: With the status, unless it is 0.
    """
    try:
        # By default TERM and HUP end a process on the spot, and leave half-written files behind.
        with exits_on_term(), heard_everywhere():
            _carry_out(app, settings_named, resumable)
    finally:
        settle_stderr()
        # All is printed and saved. While Python joins threads and exits, Ctrl-C would print a traceback.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def _carry_out(
    app: Callable[..., Any], settings_named: Callable[[str], Sequence[str]], resumable: Sequence[str]
) -> None:
    _prepare_output()
    try:
        check_surroundings()
        status = _answer(app)
    except UserError as error:
        _end(f"salmask: {one_line(error)}", 2)
    except UsageError as error:
        if not shows_help(error):
            _end(f"salmask: {one_line(as_user_error(error, sys.argv[1:], settings_named))}", 2)
        status = 0
    except SystemExit as end:
        # Both typer and rich turn a closed pipe into status 1, which means that something failed.
        if isinstance(end.__context__, BrokenPipeError):
            drop(sys.__stdout__, sys.__stderr__)
            sys.exit(CLOSED_PIPE)
        if not isinstance(end.code, int) or end.code not in NAMES:
            raise
        _end(f"salmask: ended by {NAMES[end.code]}{_afterwards(resumable)}", end.code)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:  # a traceback helps nobody at a terminal; for whoever fixes a bug it is kept in a file
        _end_unforeseen(error)
    if status == INTERRUPTED:  # which typer, too, returns after Ctrl-C
        _end(f"salmask: interrupted{_afterwards(resumable)}", INTERRUPTED)
    if status:
        sys.exit(status)


def _afterwards(resumable: Sequence[str]) -> str:
    """Returns what an interrupted command does when it is called again, as the end of a line; empty: it begins anew."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    goes_on = any(" ".join(words[:count]) in resumable for count in (1, 2))
    return f"; the same command {STOP.afterwards or 'continues'}" if goes_on else ""


def _answer(app: Callable[..., Any]) -> Any:
    """Returns a command's exit status; an interruption is raised as one, even if a library made an error of it."""
    try:
        # In standalone mode typer would print errors itself, in boxes. This way it returns the status.
        return app(prog_name="salmask", standalone_mode=False)
    except Exception as error:
        if asked := interruption(error):
            raise asked from None
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
            # typer takes an EOFError for a prompt without an answer. salmask asks nothing: a damaged file raised it.
            raise error.__cause__ from None
        raise


def _prepare_output() -> None:
    """Makes printing and plotting work, whatever the terminal, a pipe or a notebook has set."""
    # Plots open no window. With an inherited backend that it does not know, matplotlib could not be imported.
    os.environ["MPLBACKEND"] = "agg"
    open_closed_streams()
    # When a pipe is non-blocking and full, Python silently drops what it prints.
    os.set_blocking(1, True)
    substitute_letters()
    for name in ("COLUMNS", "LINES"):
        # A terminal without a size, such as a serial one, sets these to 0, and rich would print nothing.
        if set(os.environ.get(name, "")) == {"0"}:
            del os.environ[name]


def _end_unforeseen(error: Exception) -> NoReturn:
    from repro.runs.added_code import added_place, added_traceback, stand_in  # only needed when something is wrong

    if trouble := trouble_of_machine(error):
        _end(f"salmask: {trouble}", 2 if isinstance(error, OSError) else 1)
    kind = f"{type(error).__name__}: {one_line(error)}"
    if file := stand_in(error):
        mend = "rename it, or call salmask from another folder"
        _end(f"salmask: {visible_in_line(str(file))} is imported in place of a library ({kind}); mend: {mend}", 2)
    if place := added_place(error):
        # The author of the code sees the traceback at once, since it is theirs to fix.
        say(added_traceback(error).rstrip(), err=True)
        _end(f"salmask: a fault of code that was added to salmask, at {place}: {kind}; its traceback is above", 1)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in OWN_PACKAGES:
        # A file of the library is missing, of another version, or cannot be loaded, perhaps for a limit of memory.
        _end(f"salmask: a library cannot be imported ({kind}); mend: salmask doctor, which tries each", 2)
    _end(f"salmask: a fault of salmask's own, {kind}; please report it with {_kept_traceback(error)}", 1)


def _kept_traceback(error: BaseException) -> str:
    """Writes an error's traceback to a temporary file, and returns words that say where it is."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("wb", prefix="salmask-", suffix=".txt", delete=False) as file:
            # A file name in it that is not UTF-8 is written byte by byte.
            file.write(text.encode(errors="backslashreplace"))
    except OSError:  # perhaps the unforeseen error is that very disk, being full
        say(text, err=True)
        return "the traceback above, for which no temporary file could be written"
    return f"{file.name}, its traceback"


def _end(line: str, status: int) -> NoReturn:
    with suppress(BrokenPipeError):  # nobody reads standard error: the status has to do
        say(line, err=True)
    sys.exit(status)
