"""When Python looks for garbage: not while very many objects are made, all of which stay."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keeps Python from looking for circles of garbage for the length of a `with` block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def imports_unwalked() -> Iterator[None]:
    """Keeps Python from looking for garbage while a `with` block imports, and from looking among what it has imported.

    A package makes objects by the hundred thousand, and all of them stay. With each more of them Python walks through
    all that there are, again and again, to find next to none to free: of a training's imports that is a quarter. Left
    for later, the first steps would pay for it: so what is there when the block has imported anything is never walked
    again.
    """
    modules = len(sys.modules)
    with collection_paused():
        try:
            yield
        finally:
            # Not where all was imported before: then it would keep the garbage of whatever this process did since.
            if len(sys.modules) > modules:
                gc.freeze()
