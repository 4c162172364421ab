"""`salmask bench start`, which shows what a training does before its first step."""

import json
from subprocess import CompletedProcess

import pytest
from training_samples import refused, salmask, tiny

from repro.bench.start import STAGES, measure_start
from repro.errors import UserError

TINY = (
    *("--data", "scenes", "data.crop=32", "data.scenes.size=64", "encoder.arch=resnet18", "encoder.width=8"),
    *("moco.queue=16", "optimization.batch=4", "moco.bn_splits=2", "machine.workers=0"),
)


@pytest.mark.slow
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
    # Each stage of imports takes longer than a step of a network of width 8: nothing was imported before its stage.
    assert min(rows[stage]["cpu s"] for stage in STAGES[:2]) > rows["second step"]["cpu s"]


@pytest.mark.slow
def test_a_start_that_is_refused_says_what_the_training_would() -> None:
    ended = salmask("bench", "start", "mocov2", *TINY, "data.scenes.train_count=64", "optimization.precision=fp16")
    assert ended.code == 2
    # The last line only: on a slow machine, lines before it say how long it has been measuring.
    assert ended.err.splitlines()[-1] == (
        "salmask: optimization.precision=fp16 needs a GPU; mend: optimization.precision=bf16 or fp32"
    )
    assert "one row at a time" in refused("bench", "start", "mocov2", "simclr", *TINY)


def test_an_epoch_of_one_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {stage: {"cpu s": 1.0, "wall s": 1.0} for stage in STAGES if stage != "second step"}
    ended = CompletedProcess([], 0, stdout=json.dumps(told), stderr="")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: ended)
    with pytest.raises(UserError, match=r"^an epoch has no second step; mend: a smaller optimization\.batch"):
        measure_start(tiny(), "baselines:build_learner", 1)
