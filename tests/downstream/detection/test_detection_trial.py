"""What tells one training of a detector from another, and where its files are."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_samples import CPU

pytest.importorskip("detectron2")

from downstream.detection import resume
from downstream.detection.resume import Stopwatch
from downstream.detection.trial import Trial
from repro.filesystem.files import write_json
from repro.runs.folder import RunFolder
from repro.settings.detection import COCO, VOC
from repro.settings.sections import MachineSettings

IDENTITY = {"run_id": "0a1b2c3d", "trial": 1, "train_data": "train"}
SCORED = {**IDENTITY, "test_data": "test"}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    folder = RunFolder(tmp_path)
    return Trial(
        task=VOC,
        run_id="0a1b2c3d",
        protocol="protocol",
        index=1,
        seed=12345,
        path=tmp_path / "detection" / "voc07+12-protocol" / "trial1",
        folder=folder,
        cfg=None,
        data=SimpleNamespace(train_fingerprint="train", test_fingerprint="test"),  # type: ignore[arg-type]
        machine=MachineSettings(),
        device=CPU,
    )


def test_a_training_is_of_a_run_a_trial_and_images_to_train_on(trial: Trial) -> None:
    """These names and values are in the files of earlier trainings."""
    assert trial.identity() == IDENTITY
    assert trial.scored_identity() == SCORED


@pytest.mark.parametrize("name", IDENTITY)
def test_a_checkpoint_that_differs_in_anything_is_of_another_training(trial: Trial, name: str) -> None:
    assert trial.difference({**IDENTITY, "step": 3, "test_data": "others"}) == ""
    assert trial.difference({**IDENTITY, name: "other"}) == f"its {name} is other, not {IDENTITY[name]}"
    without = {key: value for key, value in IDENTITY.items() if key != name}
    assert trial.difference(without) == f"its {name} is None, not {IDENTITY[name]}"


@pytest.mark.parametrize("name", SCORED)
def test_scores_that_differ_in_anything_do_not_count(trial: Trial, name: str) -> None:
    assert trial.recorded_scores() == {}
    trial.path.mkdir(parents=True)
    counted: dict[str, Any] = {**SCORED, "scores": {"bbox_AP": 50.0}}
    for content, expected in (
        (counted, {"bbox_AP": 50.0}),
        ({**counted, name: "other"}, {}),
        ({key: value for key, value in counted.items() if key != name}, {}),
    ):
        write_json(trial.scores, content)
        assert trial.recorded_scores() == expected


def test_detections_lie_beside_other_predictions_and_each_trial_has_its_own(trial: Trial, tmp_path: Path) -> None:
    assert trial.detections == tmp_path / "predictions" / "voc07+12-voc07+12-protocol-trial1.json.gz"
    others = (
        replace(trial, task=COCO),
        replace(trial, path=trial.path.with_name("trial0")),
        replace(trial, path=trial.path.parent.with_name("voc07+12-another") / "trial1"),
    )
    assert len({each.detections for each in (trial, *others)}) == 4


def test_the_seconds_of_earlier_attempts_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = Stopwatch(50.0)
    assert watch.seconds() == 50.0
    clock[0] += 7.0
    assert watch.seconds() == 57.0
    assert Stopwatch(watch.seconds()).seconds() == 57.0
