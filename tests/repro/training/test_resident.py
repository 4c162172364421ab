"""A training whose images lie on the device is the same training, bit for bit."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from json_rows import read_rows
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from training_samples import (
    CPU,
    OURS,
    assert_same,
    assert_same_training,
    interrupt,
    make_training,
    on_two_processes,
    tiny,
)

from baselines import build_learner
from repro.bench.throughput import kind_of
from repro.data.pixel_cache import CachedImages
from repro.data.pixel_cache_writer import cache_images
from repro.errors import UserError
from repro.methods.audit import audit
from repro.runs.folder import RunFolder
from repro.settings.choices import Interpolation
from repro.settings.sections import AugmentationSettings
from repro.training.batches import resident as resident_module
from repro.training.batches.loading import EpochBatches, OneView, RandomViews, TwoViews, make_loader
from repro.training.batches.resident import CHUNK, ResidentImages
from repro.training.batches.view_draws import ViewDraws
from repro.training.pretraining import open_data, pretrain, with_resident_images

RESIDENT = {"machine.resident": True}


class Photographs:
    """Noise pictures of very different sizes; only the first is larger than 90 pixels."""

    def __init__(self, count: int, *, changed: bool = False) -> None:
        rng = np.random.default_rng(0)
        sizes = [(400, 150), *rng.integers(2, 90, (count - 1, 2)).tolist()]
        self.pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
        self.classes, self.targets, self.changed = ["even", "odd"], [i % 2 for i in range(count)], changed
        self.sizes_read = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pictures[index]), self.targets[index]

    def pixels(self, index: int) -> tuple[np.ndarray, int]:
        return self.pictures[index], self.targets[index]

    def size(self, index: int) -> tuple[int, int]:
        self.sizes_read += 1
        height, width = self.pictures[index].shape[:2]
        return width + (self.changed and index == 2), height

    def fingerprint(self) -> str:
        return "photographs"


def items(views: RandomViews, names: list[tuple[int, int]]) -> dict[str, Any]:
    return default_collate([views[name] for name in names])


def crops(resident: ResidentImages, batch: Mapping[str, Tensor], name: str, size: int = 32) -> Tensor:
    return resident.crops(batch["index"], batch[f"{name}_box"], size, Interpolation.bilinear)


@pytest.mark.parametrize("kind", [OneView, TwoViews])
def test_batches_are_the_loaders_without_their_crops(kind: type[RandomViews]) -> None:
    views = kind(Photographs(12), 32, AugmentationSettings(), 3)
    sizes = np.array([picture.shape[:2] for picture in views.images.pictures])  # type: ignore[attr-defined]
    draws = ViewDraws(views, sizes)
    names = [(2, 7), (2, 0), (0, 11), (5, 7)]
    with_crops = items(views, names)
    expected = {name: value for name, value in with_crops.items() if name not in kind.names}
    batch = draws.__getitems__(names)
    assert_same(batch, expected)
    assert_same(default_collate([draws[name] for name in names]), expected)
    assert len(draws) == 12


def test_the_loader_hands_batches_on_whatever_the_number_of_workers() -> None:
    views = TwoViews(Photographs(12), 32, AugmentationSettings(), 3)
    draws = ViewDraws(views, np.full((12, 2), 80))
    alone, shared = (list(make_loader(draws, EpochBatches(12, 4, seed=2), workers)) for workers in (0, 2))
    assert len(alone) == 3
    assert_same(alone, shared)


@pytest.mark.parametrize("interpolation", list(Interpolation))
@pytest.mark.parametrize("window_bytes", [1, 2**20, 2**28])  # one view at a time, a few, all
def test_crops_on_the_device_are_those_of_the_loader(
    window_bytes: int, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_module, "WINDOW_BYTES", window_bytes)
    images = Photographs(2 * CHUNK + 3)
    views = TwoViews(images, 32, AugmentationSettings(interpolation=interpolation), 0)
    batch = items(views, [(epoch, index) for epoch in (0, 1) for index in (*range(20), 2 * CHUNK + 2)])
    resident = ResidentImages.load(images, CPU, workers=0)
    assert resident.pixels.dtype is torch.uint8
    for name in ("query", "key"):
        ours = resident.crops(batch["index"], batch[f"{name}_box"], 32, interpolation)
        assert torch.equal(ours, batch[name].float())


def test_images_of_one_size_are_cropped_by_the_same_shapes_whatever_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_data(tiny(), "train")
    resident = ResidentImages.load(images, CPU, workers=0)
    seen = []
    plain = resident_module.resample

    def resample(windows: Tensor, *others: Any) -> Tensor:
        seen.append(windows.shape)
        return plain(windows, *others)

    monkeypatch.setattr(resident_module, "resample", resample)
    for box in ([0, 0, 64, 64], [60, 3, 2, 3]):
        resident.crops(torch.arange(4), torch.tensor([box] * 4, dtype=torch.int32), 32, Interpolation.bilinear)
    assert seen == [(4, 64, 64, 3)] * 2


def test_a_few_large_images_do_not_make_all_views_as_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_module, "WINDOW_BYTES", 12 * 224**2)
    resident = ResidentImages.load(Photographs(40), CPU, workers=0)
    assert 270 < resident.largest_box < 290  # √(4/3 · 400 · 150)
    boxes = torch.tensor([[0, 0, 60, 33]] * 11 + [[0, 0, 200, 100]] + [[0, 0, 5, 7]] * 66)
    order = boxes[:, 2:].amax(1).argsort(descending=True)
    assert list(resident._chunks(boxes, order)) == [(1, 224), (12, 64), (49, 32), (16, 32)]


def test_workers_and_the_cache_of_decoded_images_fill_the_same_memory(tmp_path: Path) -> None:
    images = Photographs(CHUNK + 9)
    alone, by_workers = (ResidentImages.load(images, CPU, workers) for workers in (0, 2))
    written = cache_images(images, "folder", "train", 1000, tmp_path, workers=1, say=lambda _: None)
    cached = ResidentImages.load(CachedImages(Path(written["folder"])), CPU, workers=0)
    for other in (by_workers, cached):
        assert torch.equal(other.pixels, alone.pixels)
        assert np.array_equal(other.sizes, alone.sizes)


def load_on_a_rank(rank: int, place: Path) -> dict[str, Any]:
    images = Photographs(CHUNK + 10)
    resident = ResidentImages.load(images, CPU, workers=0)
    return {"pixels": resident.pixels, "sizes": resident.sizes, "headers read": images.sizes_read}


def test_every_rank_decodes_its_share_and_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Photographs(CHUNK + 9)
    alone = ResidentImages.load(images, CPU, workers=0).pixels
    monkeypatch.setattr(resident_module, "world_size", lambda: 3)
    total = torch.zeros_like(alone)
    for number in range(3):
        sent: list[Tensor] = []
        monkeypatch.setattr(resident_module, "rank", lambda number=number: number)
        monkeypatch.setattr(resident_module.dist, "broadcast", lambda part, source, sent=sent: sent.append(part))
        own = ResidentImages.load(images, CPU, workers=0).pixels
        assert torch.equal(torch.cat(sent), own[: sum(map(len, sent))])
        assert [bool(part.any()) for part in sent] == [source == number for source in range(3)]
        total += own
    assert torch.equal(total, alone)


@pytest.mark.slow
def test_every_rank_has_all_images(tmp_path: Path) -> None:
    alone = ResidentImages.load(Photographs(CHUNK + 10), CPU, workers=0)
    for outcome in on_two_processes(load_on_a_rank, tmp_path):
        assert torch.equal(outcome["pixels"], alone.pixels)
        assert np.array_equal(outcome["sizes"], alone.sizes)
        assert outcome["headers read"] == (CHUNK + 10) // 2


@pytest.mark.end_to_end
def test_the_papers_method_trains_the_same_and_goes_on_where_it_was_interrupted(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    run, plain = tiny(OURS, RESIDENT), tiny(OURS)
    assert run.id == plain.id
    folder = RunFolder.of(run, tmp_path)
    interrupt(run, folder, 4)
    interrupt(plain, folder, 5)  # one step with images from the loader, in between
    with folder.attempt("pretrain"):
        pretrain(run, folder, CPU)
    assert_same_training(folder.checkpoints, undisturbed.checkpoints)
    losses = [[row["loss"] for row in read_rows(each.metrics)] for each in (folder, undisturbed)]
    assert losses[0] == losses[1]
    assert (folder.gallery / "masks.png").read_bytes() == (undisturbed.gallery / "masks.png").read_bytes()
    assert folder.load().machine.resident


@pytest.mark.parametrize(
    ("method", "setting"),
    [("supervised", {}), ("simclr", {}), ("mocov2+adios", {}), (OURS, {"localizer.map": "image"})],
)
def test_other_rows_train_the_same(method: str, setting: dict[str, str], tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("resident", "loader")]
    for folder, changes in zip(folders, (RESIDENT, {}), strict=True):
        make_training(tiny(method, {"optimization.epochs": 1, **setting, **changes}), folder).run()
    assert_same_training(*(folder.checkpoints for folder in folders))


def test_an_audit_of_such_a_run_looks_at_the_loaders_crops() -> None:
    looks = []
    for changes in ({}, RESIDENT):
        run = tiny(OURS, {"data.crop": 64, **changes})
        looks.append(audit(run, open_data(run, "train"), count=4, gallery_images=2, device=CPU))
    assert looks[0].statistics() == looks[1].statistics()


def test_what_does_not_fit_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(_: int) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(resident_module, "free_bytes", lambda _: 24 * 2**30)
    images = Photographs(40)
    monkeypatch.setattr(images, "size", lambda _: (2**14, 2**14))
    monkeypatch.setattr(images, "pixels", unread)
    line = re.escape("machine.resident=true: 40 images take 30.0 GiB, more than 80% of the 24.0 GiB")
    with pytest.raises(UserError, match=rf"^{line} that is free on cpu; mend: machine.resident=false, or smaller"):
        ResidentImages.load(images, CPU, workers=0)


def test_images_that_changed_since_they_were_listed_are_refused() -> None:
    with pytest.raises(UserError, match=r"^images 0 to 11 have other sizes than when they were listed; mend: start"):
        ResidentImages.load(Photographs(12, changed=True), CPU, workers=0)


@pytest.mark.parametrize(
    ("setting", "mend"),
    [({"augmentation.backend": "reference"}, "device"), ({"augmentation.resizer": "torch"}, "pil")],
)
def test_settings_that_the_device_does_not_follow_are_refused(setting: dict[str, str], mend: str) -> None:
    ((key, value),) = setting.items()
    with pytest.raises(UserError, match=rf"^machine.resident=true excludes {key}={value}; mend: {key}={mend}$"):
        tiny(changes=RESIDENT | setting)


def test_a_learner_without_random_views_is_refused() -> None:
    run = tiny(changes=RESIDENT)
    learner = replace(build_learner(run, open_data(run, "train"), CPU), dataset=Photographs(3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^mocov2 does not learn from random views of images; mend: "):
        with_resident_images(learner, run, CPU)


def test_its_rate_is_measured_apart() -> None:
    assert kind_of(tiny(changes=RESIDENT)) != kind_of(tiny())
