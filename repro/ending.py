"""How the process of a command ends: its status, and its last line."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import typer

from repro.errors import UserError, interruption, one_line, trouble_of_machine, visible_in_line
from repro.paths import OWN_PACKAGES, check_surroundings
from repro.runs.stopping import STOP, exits_on_term, heard_everywhere
from repro.terminal import drop, open_closed_streams, say, settle_stderr, substitute_letters
from repro.usage import UsageError, as_user_error, shows_help

INTERRUPTED = 130
"""The status after Ctrl-C, as a shell has it: 128 and the number of the signal."""

CLOSED_PIPE = 141
"""The status where nobody reads the output any more, as in `| head`: 128 and the number of SIGPIPE."""


def carry_out(
    app: Callable[..., Any], *, settings_named: Callable[[str], Sequence[str]], resumable: Sequence[str]
) -> None:
    """Runs a command; bad input ends in one line and status 2, Ctrl-C in one and status 130, a bug in one and 1.

    Args:
        app: The command line, a typer.
        settings_named: Returns the settings whose last part has a name: what may have been meant by a wrong option.
        resumable: The commands that go on when they are interrupted and called again.
    """
    try:
        # By itself TERM, or HUP, ends a process where it stands, and what is half written stays.
        with exits_on_term(), heard_everywhere():
            _carry_out(app, settings_named, resumable)
    finally:
        settle_stderr()
        # All is said and saved. While Python joins threads and ends the process, Ctrl-C would be a traceback.
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
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        drop(sys.__stdout__, sys.__stderr__)
        sys.exit(CLOSED_PIPE)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:  # whatever it is, nobody at a terminal is helped by its traceback; who mends it, is
        _end_unforeseen(error)
    if status == INTERRUPTED:  # what typer answers to Ctrl-C
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        goes_on = any(" ".join(words[:count]) in resumable for count in (1, 2))
        afterwards = f"; the same command {STOP.afterwards or 'goes on'}" if goes_on else ""
        _end(f"salmask: interrupted{afterwards}", INTERRUPTED)
    if status:
        sys.exit(status)


def _answer(app: Callable[..., Any]) -> Any:
    """Returns the status with which a command answers; what interrupted it counts, whoever took that for a fault."""
    try:
        # Not standalone: typer would print errors of its own, in boxes. It answers with the status.
        return app(prog_name="salmask", standalone_mode=False)
    except Exception as error:
        if asked := interruption(error):
            raise asked from None
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
            # What typer answers to an end of input, as nobody is asked anything here: it is that of a damaged file.
            raise error.__cause__ from None
        raise


def _prepare_output() -> None:
    """Lets everything be shown and drawn, whatever the terminal or a notebook asks for."""
    # No window is opened. matplotlib cannot be imported where this names what it does not know.
    os.environ["MPLBACKEND"] = "agg"
    open_closed_streams()
    # Into a pipe that is full and does not wait, Python drops what it prints, and says nothing.
    os.set_blocking(1, True)
    substitute_letters()
    for name in ("COLUMNS", "LINES"):
        # A terminal without a size, as a serial one, has zeros: rich would print nothing, neither table nor help.
        if set(os.environ.get(name, "")) == {"0"}:
            del os.environ[name]


def _end_unforeseen(error: Exception) -> NoReturn:
    from repro.runs.added_code import added_place, added_traceback, stand_in  # only where something is wrong

    if trouble := trouble_of_machine(error):
        _end(f"salmask: {trouble}", 2 if isinstance(error, OSError) else 1)
    kind = f"{type(error).__name__}: {one_line(error)}"
    if file := stand_in(error):
        mend = "rename it, or call salmask from another folder"
        _end(f"salmask: {visible_in_line(str(file))} stands in the place of a library ({kind}); mend: {mend}", 2)
    if place := added_place(error):
        # Whoever wrote the code sees the traceback at once: it is theirs to mend.
        say(added_traceback(error).rstrip(), err=True)
        _end(f"salmask: a fault of code that was added to salmask, at {place}: {kind}; its traceback is above", 1)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in OWN_PACKAGES:
        # The file of a library is not there, is of another version, or cannot be loaded: a limit of memory may be why.
        _end(f"salmask: a library cannot be imported ({kind}); mend: salmask doctor, which tries each", 2)
    _end(f"salmask: a fault of salmask's own, {kind}; please report it with {_kept_traceback(error)}", 1)


def _kept_traceback(error: BaseException) -> str:
    """Writes the traceback of an error to a temporary file, and returns in words where it is."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("wb", prefix="salmask-", suffix=".txt", delete=False) as file:
            # A name in it may be no UTF-8, and is then told byte by byte.
            file.write(text.encode(errors="backslashreplace"))
    except OSError:  # the very disk that is full may be what was not foreseen
        say(text, err=True)
        return "the traceback above, for which no temporary file could be written"
    return f"{file.name}, its traceback"


def _end(line: str, status: int) -> NoReturn:
    with suppress(BrokenPipeError):  # nobody wants to know more: the status has to do
        say(line, err=True)
    sys.exit(status)
