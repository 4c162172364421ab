"""Detectors that several processes train: all ranks have one detector, whatever images each of them saw."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from detection_samples import data_of, narrow, planned, prepared, scenes_as
from PIL import Image
from training_samples import on_two_processes

from downstream.detection import estimate
from downstream.detection.model import build_detector
from downstream.detection.task import quiet_detectron2
from downstream.detection.training import train
from repro.errors import UserError
from repro.settings.detection import VOC

pytestmark = pytest.mark.end_to_end


def widened(root: Path) -> Path:
    """VOC with every second image twice as wide as the others."""
    for number, path in enumerate(sorted((root / "VOC2007/Annotations").iterdir())):
        if number % 2:
            picture = root / "VOC2007/JPEGImages" / f"{path.stem}.jpg"
            wide = Image.new("RGB", (128, 64))
            wide.paste(Image.open(picture))
            wide.save(picture)
            tree = ElementTree.parse(path)
            width = tree.find("size/width")
            assert width is not None
            width.text = "128"
            tree.write(path)
    return root


def rank_of_two(number: int, place: Path) -> dict[str, Any]:
    run, folder = prepared(place / f"runs{number}", {"detection.batch": 2})
    trial, backbone = planned(run, folder, data_of(VOC, place / "VOCdevkit"))
    trial.path.mkdir(parents=True, exist_ok=True)
    with quiet_detectron2():
        torch.manual_seed(0)
        model = build_detector(trial.cfg, backbone, high_passed=False)
        train(trial, model)
    final = torch.load(trial.final, weights_only=True)["model"] if trial.final.exists() else {}
    refusal = ""
    if number == 0:  # alone: norms across ranks would wait for the other one
        estimate.seconds_per_image(narrow(trial.cfg))
    # Each rank measures another pace, as if one of two nodes was busy.
    estimate.seconds_per_image = lambda cfg: (1e9, 0.0)[number]
    try:
        estimate.refuse_endless(trial.cfg, 1)
    except UserError as error:
        refusal = error.what
    return {"state": model.state_dict(), "final": final, "refusal": refusal}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = tmp_path_factory.mktemp("ranks")
    widened(scenes_as("voc", place / "VOCdevkit"))
    return on_two_processes(rank_of_two, place)


def test_every_rank_scores_with_the_detector_that_is_kept(ranks: list[dict[str, Any]]) -> None:
    """Each rank's images have other sizes, so that statistics over its own images would differ from the other's."""
    first, second, final = ranks[0]["state"], ranks[1]["state"], ranks[0]["final"]
    assert first.keys() == second.keys() == final.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert [key for key in first if not torch.equal(first[key], final[key])] == []


def test_a_schedule_is_refused_by_all_ranks_or_by_none(ranks: list[dict[str, Any]]) -> None:
    assert "would take" in ranks[0]["refusal"]
    assert ranks[1]["refusal"] == ranks[0]["refusal"]
