"""Turns Python's cyclic garbage collector off while very many objects are made, all of which stay."""

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
    """Turns the collector off while the block imports, and exempts what exists afterwards from it (`gc.freeze`).

    Importing a package makes hundreds of thousands of objects, which all stay. The more there are, the longer each
    collection takes, and it finds next to nothing to free: a quarter of the time of a training's imports. Without the
    freeze, the first steps would pay for it.
    """
    modules = len(sys.modules)
    with collection_paused():
        try:
            yield
        finally:
            # Only if something was imported: otherwise this would keep the garbage of whatever the process did before.
            if len(sys.modules) > modules:
                gc.freeze()
