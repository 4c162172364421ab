"""Python's cyclic garbage collector: off while very many objects are made, all of which stay."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Turns the collector off within the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def imports_frozen() -> Iterator[None]:
    """Turns the collector off while the block imports, and keeps it off what is there then (`gc.freeze`).

    A package makes objects by the hundred thousand, and all of them stay. The more there are, the longer each
    collection takes, and it finds next to nothing to free: of a training's imports that is a quarter of the time. Left
    for later, the first steps would pay for it.
    """
    modules = len(sys.modules)
    with collection_paused():
        try:
            yield
        finally:
            # Not where all was imported before: then it would keep the garbage of whatever this process did since.
            if len(sys.modules) > modules:
                gc.freeze()
