"""The garbage collector is off while long-lived objects are made, and skips what was imported meanwhile."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from repro.processes.garbage import collection_paused, imports_frozen


@pytest.fixture(autouse=True)
def collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Collection covers all objects, and there is a module with 5000 objects that has not been imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "salmask_test_module.py").write_text("objects = [[] for _ in range(5000)]\n", encoding="utf-8")
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()
    sys.modules.pop("salmask_test_module", None)


@pytest.mark.parametrize("pause", [collection_paused, imports_frozen])
def test_no_garbage_is_looked_for_within_a_block(pause: Callable[[], AbstractContextManager[None]]) -> None:
    with pause():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), pause():
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    with pause():
        pass
    assert not gc.isenabled()


def test_what_a_block_imported_is_frozen() -> None:
    with imports_frozen():
        pass
    # Nothing was imported, so nothing is frozen.
    assert gc.get_freeze_count() == 0
    with imports_frozen():
        import salmask_test_module  # type: ignore[import-not-found]
    assert len(salmask_test_module.objects) == 5000
    assert gc.get_freeze_count() >= 5000


def test_a_pause_alone_leaves_what_was_imported_where_garbage_is_found() -> None:
    with collection_paused():
        import salmask_test_module
    assert len(salmask_test_module.objects) == 5000
    assert gc.get_freeze_count() == 0
