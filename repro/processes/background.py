"""Calls an action repeatedly beside other work, in a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(
    action: Callable[[], bool], waits: Iterator[float], name: str, *, patience: float | None = None
) -> Iterator[None]:
    """Calls an action repeatedly while the block runs, in a daemon thread; no call begins after the block has ended.

    Args:
        action: Returns whether to go on.
        waits: Seconds before each call; the calls end with them.
        name: The thread's name.
        patience: Seconds to wait at the block's end for a call in progress; None: until it returns.
    """
    stop = threading.Event()

    def repeat() -> None:
        for wait in waits:
            if stop.wait(wait) or not action():
                return

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(patience)


@contextmanager
def kept_errors_unprinted() -> Iterator[None]:
    """Within the block, Python prints no traceback of an error that its thread keeps as its attribute `exception`.

    TensorBoard's event writer keeps such errors: the next call that hands it an event raises them.
    """
    before = threading.excepthook

    def told(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or getattr(arguments.thread, "exception", None) is not arguments.exc_value:
            before(arguments)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before
