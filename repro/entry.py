"""The entry point of the `salmask` command: from here on Ctrl-C prints one line, even during the imports."""

import os
import signal

INTERRUPTED = 130
"""The exit status after Ctrl-C; the same as in `repro.ending`, which is not imported yet."""


def main() -> None:
    """Imports the command line, and runs it."""
    # Until the command runs there is nothing to clean up, so Ctrl-C ends the process at once. This takes a handler: a
    # module that is being imported might catch KeyboardInterrupt as an error of its own. Where Ctrl-C is ignored, as
    # for a script's background jobs, it stays ignored.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _end)
    from repro.cli import main as run

    try:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # before `run` handles it itself
        _end()


def _end(*_: object) -> None:
    os.write(2, b"salmask: interrupted\n")
    os._exit(INTERRUPTED)
