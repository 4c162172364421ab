"""A localizer that gives no numbers, or the same everywhere: masks then fall anywhere, and the log says so."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_samples import CPU, OURS, fixed_batch, salmask, tiny, words

from repro.runs.health import read_symptoms
from repro.saliency.localizer import Localizer
from repro.training.learner import build_view_maker

SAID = (
    "blind localizer at step 0: each view of the first 8 images is all foreground, and masks fall anywhere; mend: see "
)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3.0])
def test_of_a_map_without_numbers_or_contrast_the_hard_negative_loses_as_much_as_of_any_other(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """With NaN nothing was foreground: the key itself became the hard negative of its own query, without a warning."""
    honest = Localizer.forward

    def spoilt(self: Localizer, views: Tensor) -> Tensor:
        activations = honest(self, views).clone()
        activations[0] = value
        return activations

    run = tiny(OURS)
    batch = fixed_batch(run)
    expected = build_view_maker(run, CPU).stages(batch)
    monkeypatch.setattr(Localizer, "forward", spoilt)
    stages = build_view_maker(run, CPU).stages(batch)
    for found, usual in ((stages.query_foreground, expected.query_foreground), (stages.key_foreground, None)):
        assert found is not None
        assert found[0].all()
        if usual is not None:  # the other images keep their own
            assert torch.equal(found[1:], usual[1:])
    hard, key = stages.views.hard_negative, stages.views.key
    assert hard is not None
    lost = (hard != key).any(1).float().mean((1, 2))
    # 40 to 70 % of the foreground, in steps of one of 16 cells, drawn here for each channel separately.
    assert 0.375 <= lost[0] <= 1
    assert hard.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, 3.0])
def test_a_localizer_that_tells_nothing_apart_is_told_and_trains_as_one_without_saliency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    monkeypatch.setattr(Localizer, "forward", lambda _, views: torch.full((len(views), 5, 4, 4), value))
    ended = salmask("pretrain", OURS, *words({"optimization.epochs": 1}), "--out", str(tmp_path / "runs"))
    assert ended.code == 0, ended
    (metrics,) = (tmp_path / "runs").glob("*/*/metrics.jsonl")
    losses = [row["loss"] for row in map(json.loads, metrics.read_text().splitlines()) if "loss" in row]
    assert losses
    assert all(map(math.isfinite, losses))
    (line,) = [record.getMessage() for record in caplog.records if SAID in record.getMessage()]
    assert line.startswith(f"{SAID}{metrics.parent / 'gallery' / 'masks.png'}; another localizer.network")
    assert [symptom.kind for symptom in read_symptoms(metrics.parent / "health.json")] == ["blind localizer"]


def test_of_a_localizer_that_finds_objects_and_of_none_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for method in (OURS, f"{OURS}-random"):
        ended = salmask("pretrain", method, *words({"optimization.epochs": 1}), "--out", str(tmp_path / "runs"))
        assert ended.code == 0, ended
    assert not [record for record in caplog.records if SAID in record.getMessage()]
