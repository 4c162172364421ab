"""Where the process of the `salmask` command begins: Ctrl-C is one line from here on, while all is imported as well."""

import os
import signal

INTERRUPTED = 130
"""The status after Ctrl-C, as `repro.ending` has it, which is not imported yet."""


def main() -> None:
    """Imports the command line, and runs it."""
    # Nothing is begun before the command is. A handler and no `except`: what is being imported may take an exception
    # for one of its own. Where Ctrl-C is ignored, as in the background of a script, it stays so.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _end)
    from repro.cli import main as run

    try:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # before it listens itself
        _end()


def _end(*_: object) -> None:
    os.write(2, b"salmask: interrupted\n")
    os._exit(INTERRUPTED)
