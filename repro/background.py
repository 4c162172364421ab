"""What is done again and again beside other work, in a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(
    action: Callable[[], bool], waits: Iterator[float], name: str, *, patience: float | None = None
) -> Iterator[None]:
    """Does something again and again during the block. When the block has ended, it is not begun any more.

    Args:
        action: What is done; returns whether to go on.
        waits: Seconds before each time.
        name: The thread's.
        patience: Seconds to wait at the block's end for what is under way; None: until it is done.
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

    Whoever next hands such a thread work, as to tensorboard's writer of events, meets the error there, and tells it.
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
