"""What imports cost, and `salmask bench start`, which shows what a training does before its first step."""

import gc
import json
import sys
from pathlib import Path

import pytest
from training_samples import refused, salmask

from repro.bench.start import STAGES
from repro.imports import collection_paused

TINY = (
    *("--data", "scenes", "data.crop=32", "data.scenes.size=64", "encoder.arch=resnet18", "encoder.width=8"),
    *("moco.queue=16", "optimization.batch=4", "moco.bn_splits=2", "machine.workers=0"),
)


def test_every_stage_of_a_start_is_timed() -> None:
    ended = salmask("bench", "start", "mocov2", *TINY, "data.scenes.train_count=64", "--rounds", "1", "--json")
    assert ended.code == 0, ended.err
    rows = {row["stage"]: row for row in json.loads(ended.out)}
    before = STAGES[: STAGES.index("first step") + 1]
    assert list(rows) == [*before, "all until the first step is done", *STAGES[len(before) :]]
    for clock in ("cpu s", "wall s"):
        assert rows["all until the first step is done"][clock] == pytest.approx(
            sum(rows[stage][clock] for stage in before), abs=0.01
        )
    assert all(rows[stage]["cpu s"] > 0 for stage in rows)
    # Nothing is imported twice: torch takes longer than to build a network of width 8, and so does the rest.
    assert min(rows[stage]["cpu s"] for stage in STAGES[:2]) > rows["second step"]["cpu s"]


def test_a_start_that_is_refused_says_what_the_training_would() -> None:
    ended = salmask("bench", "start", "mocov2", *TINY, "data.scenes.train_count=64", "optimization.precision=fp16")
    assert ended.code == 2
    # Not of one line where the machine is slow: then it says how long it has been measuring.
    assert ended.err.splitlines()[-1] == (
        "salmask: optimization.precision=fp16 needs a GPU; mend: optimization.precision=bf16 or fp32"
    )
    assert "one row at a time" in refused("bench", "start", "mocov2", "simclr", *TINY)


def test_no_garbage_is_looked_for_while_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "salmask_test_module.py").write_text("objects = [[] for _ in range(5000)]\n", encoding="utf-8")
    gc.unfreeze()
    try:
        with collection_paused():
            assert not gc.isenabled()
        # Nothing was imported: this process's garbage stays where it is found.
        assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)
        with collection_paused():
            import salmask_test_module  # type: ignore[import-not-found]
        assert len(salmask_test_module.objects) == 5000
        assert gc.isenabled()
        assert gc.get_freeze_count() >= 5000
        with pytest.raises(ZeroDivisionError), collection_paused():
            raise ZeroDivisionError
        assert gc.isenabled()
        gc.disable()
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
        sys.modules.pop("salmask_test_module", None)
