"""What `salmask bench saliency` tells of whole images' maps and of every source, on small data."""

import json
from pathlib import Path

import pytest
import torch
from image_samples import make_folder_root, write_objects
from training_samples import refused, salmask

from repro.bench.saliency_sources import PLAIN, SHOWN, compare_foregrounds

pytestmark = pytest.mark.usefixtures("own_maps")

SMALL = ("--size", "64", "--crop", "32", "--count", "12", "machine.workers=0", "--json")


def test_foregrounds_are_compared_cell_by_cell() -> None:
    one = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]], dtype=torch.bool)
    other = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.bool)
    true = torch.zeros(2, 4, 4, dtype=torch.bool)
    true[0, :2] = True  # the second view has no known object, and does not count
    rows = {row["foreground by"]: row for row in compare_foregrounds({SHOWN: one, PLAIN: other}, [true])}
    assert rows[SHOWN] == {
        "foreground by": SHOWN,
        "IoU, view as shown": 1.0,
        "IoU, plain view": round((1 / 3 + 1 + 1 / 4) / 3, 3),
        "gamma error": 0.0,
        "gamma": 0.25,
        "mean IoU": 1.0,
    }
    assert rows[PLAIN]["IoU, view as shown"] == rows[SHOWN]["IoU, plain view"]
    assert rows[PLAIN]["gamma error"] == 0.25
    assert rows[PLAIN]["mean IoU"] == round(1 / 3, 3)


@pytest.mark.slow
def test_maps_of_whole_images_stand_beside_those_of_views_and_chance() -> None:
    ended = salmask("bench", "saliency", "agreement", *SMALL)
    assert ended.code == 0, ended
    rows = {row["foreground by"]: row for row in json.loads(ended.out)}
    assert rows[SHOWN]["IoU, view as shown"] == rows[PLAIN]["IoU, plain view"] == 1.0
    assert rows["view, grey only"]["IoU, plain view"] > rows["as many cells at random"]["IoU, plain view"]
    sides = [name for name in rows if name.startswith("whole image")]
    assert sides[0] == "whole image, 128 px: 4×4 cells, 32 bytes"
    assert len(sides) == 5
    assert all(rows[name]["IoU, view as shown"] > 0.5 for name in sides)


@pytest.mark.slow
def test_photographs_are_compared_without_true_objects(tmp_path: Path) -> None:
    root = make_folder_root(tmp_path / "data")
    ended = salmask("bench", "saliency", "agreement", "--photos", str(root), *SMALL, "--count", "3")
    assert ended.code == 0, ended
    assert not any("mean IoU" in row for row in json.loads(ended.out))


@pytest.mark.end_to_end
def test_every_source_is_graded() -> None:
    ended = salmask("bench", "saliency", "sources", *SMALL, "localizer.source=truth-dilated-3")
    assert ended.code == 0, ended
    iou = {row["source"]: row["mean IoU"] for row in json.loads(ended.out)}
    assert list(iou)[:2] == ["efficientnet-lite0, of each view", "efficientnet-lite0, of whole images"]
    assert iou["truth"] == max(iou.values())
    # The source that was asked for is there too, beside those that are always compared.
    assert iou["truth-dilated-2"] > iou["truth-dilated-3"] > iou["truth-dilated-4"]
    assert iou["truth"] > iou["random"] > iou["inverted"]
    assert iou["efficientnet-lite0, of each view"] > iou["network-shuffled"] > iou["inverted"]


def test_sources_are_graded_by_masks_of_ones_own_beside_maps(folder_root: Path, tmp_path: Path) -> None:
    objects = write_objects(folder_root, tmp_path / "objects")
    own = ["data.dataset=folder", f"machine.data_root={folder_root}"]
    assert refused("bench", "saliency", "sources", *SMALL, *own) == (
        "data.dataset=folder has no true masks to grade sources by; mend: data.masks=DIR, with a mask of each image"
    )
    own += [f"data.masks={objects}", "localizer.source=maps", f"localizer.files={objects}"]
    ended = salmask("bench", "saliency", "sources", *SMALL, *own, "--count", "9")
    assert ended.code == 0, ended
    rows = {row["source"]: row for row in json.loads(ended.out)}
    assert {row["views"] for row in rows.values()} == {rows["truth"]["views"]}
    assert 0 < rows["truth"]["views"] <= 9
    assert rows["truth"]["mean IoU"] > rows["random"]["mean IoU"] > rows["inverted"]["mean IoU"]
    # The object itself as a map: the paper's rule finds all of it, and too much around it.
    assert rows["maps"]["recall"] >= rows["truth"]["recall"]
    assert rows["maps"]["gamma"] > rows["truth"]["gamma"]


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    assert refused("bench", "saliency", "sources", "--photos", str(tmp_path)) == (
        "--photos have no true masks to grade sources by; mend: data.dataset=folder machine.data_root=DIR "
        "data.masks=DIR instead"
    )
    assert refused("bench", "saliency", "agreement", "--photos", str(tmp_path)) == (
        f"{tmp_path}: there is no image; mend: name a folder of photographs"
    )
    assert refused("bench", "saliency", "agreement", "--photos", str(tmp_path / "none")) == (
        f"{tmp_path / 'none'}: no such folder; mend: name a folder of photographs"
    )
    assert refused("bench", "saliency", "sources", "--cutouts", str(tmp_path), "data.dataset=folder") == (
        "--cutouts makes scenes, and data.dataset=folder has none; mend: leave it out"
    )
    for words, name in (
        (["agreement", "--crop", "70"], "--crop"),
        (["sources", "data.crop=70"], "data.crop"),
        (["maps", "--size", "70"], "--size"),
    ):
        assert refused("bench", "saliency", *words) == (f"{name}=70 is not divisible by the 4×4 grid; mend: {name}=72")
    assert refused("bench", "saliency", "--photos", str(tmp_path)) == (
        "'--photos' changes nothing in `maps`; mend: leave it out, or `agreement`"
    )
    assert refused("bench", "saliency", "--crop", "64") == (
        "'--crop' changes nothing in `maps`; mend: leave it out, or `agreement`, `sources`"
    )
    assert refused("bench", "saliency", "agreement", "--crop", "64", "data.crop=32") == (
        "--crop 64 and data.crop=32 contradict each other; mend: leave one of them out"
    )


@pytest.mark.parametrize("table", ["agreement", "sources"])
def test_the_device_is_the_one_that_the_settings_name(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused("bench", "saliency", table, *SMALL, "machine.device=cuda") == (
        "machine.device=cuda, but torch sees no GPU; mend: machine.device=auto, or see `salmask doctor`"
    )
