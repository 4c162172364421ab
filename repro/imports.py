"""Imports of large packages, in three quarters of their time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keeps Python from looking for garbage while a `with` block imports, and from looking among what it has imported.

    A package makes objects by the hundred thousand, and all of them stay. With each more of them Python walks through
    all that there are, again and again, to find next to none to free: of a training's imports that is a quarter. Left
    for later, the first steps would pay for it: so what is there when the block has imported anything is never walked
    again.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        # Not where all was imported before: then it would keep the garbage of whatever this process did since.
        if len(sys.modules) > modules:
            gc.freeze()
        if enabled:
            gc.enable()
