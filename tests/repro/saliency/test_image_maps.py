"""Saliency of whole images: maps are cropped as views are, and used by a run."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import pixels
from PIL import Image
from torch import Generator, Tensor
from training_samples import (
    CPU,
    OURS,
    assert_same_training,
    fixed_batch,
    foregrounds_of,
    interrupt,
    make_training,
    refused,
    salmask,
    tiny,
    words,
)

import repro.saliency.image_maps
import repro.saliency.map_file
from repro.augmentation.normalization import Normalization
from repro.errors import UserError
from repro.masking.patches import as_many_at_random
from repro.runs.folder import RunFolder
from repro.saliency.cropping import crop_maps
from repro.saliency.foregrounds import FLIP
from repro.saliency.image_maps import MapSource, WholeImages, load_maps, load_some_maps, network_maps
from repro.saliency.map_file import CHUNK, map_path
from repro.saliency.scda import foreground
from repro.settings.sections import LocalizerSettings
from repro.training.pretraining import open_data

pytestmark = pytest.mark.usefixtures("own_maps")

BY_IMAGE = {"localizer.map": "image", "localizer.image_side": 128}


def boxes_in(sizes: Tensor, seed: int) -> Tensor:
    """A box in each image, of all sizes; every fifth is the whole image."""
    rng = np.random.default_rng(seed)
    boxes = []
    for number, (height, width) in enumerate(sizes.tolist()):
        h, w = (int(rng.integers(1, side + 1)) for side in (height, width))
        h, w = (height, width) if number % 5 == 0 else (h, w)
        boxes.append((int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w))
    return torch.tensor(boxes, dtype=torch.int32)


def sample_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    sizes = torch.randint(20, 400, (count, 2), generator=generator, dtype=torch.int32)
    return boxes_in(sizes, seed), sizes, torch.rand(count, generator=generator) < 0.5


@pytest.mark.parametrize(("cells", "grid"), [(8, 7), (8, 4), (6, 4), (32, 4), (4, 7)])
def test_an_exact_crop_is_the_mean_over_the_views_pixels(cells: int, grid: int) -> None:
    """Images are 60 pixels a cell, and boxes multiples of the grid, so that pixels tile the views' cells."""
    maps = torch.rand(20, cells, cells, generator=Generator().manual_seed(1))
    side, rng = cells * 60, np.random.default_rng(2)
    heights, widths = (grid * rng.integers(1, side // grid + 1, 20) for _ in range(2))
    tops, lefts = (np.array([rng.integers(side - s + 1) for s in spans]) for spans in (heights, widths))
    flips = torch.arange(20) % 2 == 0
    boxes = torch.tensor(np.stack([tops, lefts, heights, widths], 1))
    cropped = crop_maps(maps, boxes, torch.full((20, 2), side), flips, grid, exact=True)
    for one, (top, left, h, w), flip, result in zip(maps, boxes.tolist(), flips.tolist(), cropped, strict=True):
        pixels = one.repeat_interleave(60, 0).repeat_interleave(60, 1)[top : top + h, left : left + w]
        pixels = pixels.flip(1) if flip else pixels
        expected = pixels.reshape(grid, h // grid, grid, w // grid).mean((1, 3))
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


def test_a_smooth_crop_weighs_cells_by_a_triangle_around_each_patch() -> None:
    maps = torch.randn(12, 8, 8, generator=Generator().manual_seed(3))
    boxes, sizes, flips = sample_boxes(12)
    cropped = crop_maps(maps, boxes, sizes, flips, 4)
    for number in range(12):
        (top, left, height, width), (rows, columns) = boxes[number].tolist(), sizes[number].tolist()
        for row, column in np.ndindex(4, 4):
            across = 3 - column if flips[number] else column

            def weights(start: float, extent: float, place: int) -> list[float]:
                centre, reach = 8 * (start + (place + 0.5) * extent / 4), 1.5 * max(1.0, 8 * extent / 4)
                shares = [max(0.0, 1 - abs(centre - (cell + 0.5)) / reach) for cell in range(8)]
                return [share / sum(shares) for share in shares]

            expected = sum(
                down * over * maps[number, y, x].item()
                for y, down in enumerate(weights(top / rows, height / rows, row))
                for x, over in enumerate(weights(left / columns, width / columns, across))
            )
            assert cropped[number, row, column].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("grid", "cells"), [(4, 4), (4, 14), (7, 8)])
@pytest.mark.parametrize("exact", [False, True])
def test_a_crop_is_made_of_weighted_means(seed: int, grid: int, cells: int, exact: bool) -> None:
    boxes, sizes, flips = sample_boxes(6, seed)
    maps = torch.randn(6, cells, cells, generator=Generator().manual_seed(seed))
    cropped = crop_maps(maps, boxes, sizes, flips, grid, exact=exact)
    assert cropped.shape == (6, grid, grid)
    # Weighted means are never beyond the values of the map, and linear in them.
    low, high = (extreme(maps, (1, 2)).view(-1, 1, 1) for extreme in (torch.amin, torch.amax))
    assert ((low - 1e-5 <= cropped) & (cropped <= high + 1e-5)).all()
    torch.testing.assert_close(crop_maps(3 * maps - 2, boxes, sizes, flips, grid, exact=exact), 3 * cropped - 2)
    assert torch.equal(crop_maps(maps, boxes, sizes, ~flips, grid, exact=exact), cropped.flip(-1))
    # The unit in which boxes and images are measured does not matter either.
    assert torch.equal(crop_maps(maps, 2 * boxes, 2 * sizes, flips, grid, exact=exact), cropped)


class Numbers:
    """Images whose pixels nobody reads."""

    classes, targets = ("one",), [0] * (2 * CHUNK + 9)

    def __init__(self, name: str = "numbers") -> None:
        self.name = name

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("not looked at")

    def fingerprint(self) -> str:
        return self.name


class Counting:
    """A source whose maps are the images' numbers; it counts how often it was built, and the maps it made."""

    def __init__(self, limit: int = 10**6) -> None:
        self.built, self.made, self.limit = 0, 0, limit
        self.source = MapSource({"network": "numbers"}, 2, lambda index: torch.tensor(float(index)), self.build)

    def build(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        self.built += 1
        return self.maps

    def maps(self, numbers: Tensor) -> Tensor:
        if self.made >= self.limit:
            raise KeyboardInterrupt
        self.made += len(numbers)
        return numbers.view(-1, 1, 1).expand(-1, 2, 2)


def test_maps_are_computed_once_and_go_on_where_they_were_interrupted() -> None:
    images, stopped, resumed, later = Numbers(), Counting(limit=CHUNK), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        load_maps(stopped.source, images, CPU)
    maps = load_maps(resumed.source, images, CPU)
    assert stopped.made + resumed.made == len(images)
    assert torch.equal(maps[:, 1, 0], torch.arange(len(images)).half())
    assert torch.equal(load_maps(later.source, images, CPU), maps)
    assert later.built == 0  # not even the network is built
    load_maps(later.source, Numbers("others"), CPU)
    assert later.made == len(images)


def test_a_network_that_cannot_be_had_leaves_no_empty_file() -> None:
    source = replace(Counting().source, build=MagicMock(side_effect=UserError("no network", mend="another")))
    with pytest.raises(UserError):
        load_maps(source, Numbers(), CPU)
    assert not map_path(source.identity, Numbers().fingerprint()).exists()


def test_a_look_at_some_images_computes_their_maps_alone_and_keeps_none(tmp_path: Path) -> None:
    images, chosen, fresh = Numbers(), [CHUNK + 3, 1, 2], Counting()
    assert load_some_maps(fresh.source, images, chosen, CPU)[chosen, 1, 0].tolist() == chosen
    assert fresh.made == len(chosen)
    assert not (tmp_path / "cache").exists()
    # Maps that a training kept are read; the missing ones are left to a training.
    stopped, begun, resumed = Counting(limit=CHUNK), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        load_maps(stopped.source, images, CPU)
    assert load_some_maps(begun.source, images, range(len(images)), CPU)[:, 0, 1].tolist() == [*range(len(images))]
    load_maps(resumed.source, images, CPU)
    assert begun.made == resumed.made == len(images) - stopped.made


def test_nothing_is_kept_of_images_that_are_not_to_be_kept(tmp_path: Path) -> None:
    maps = load_maps(Counting().source, Numbers(""), CPU)
    assert torch.equal(maps[:, 0, 0], torch.arange(len(maps)).half())
    assert not (tmp_path / "cache").exists()


def _load(queue: Any) -> None:
    counting = Counting()
    maps = load_maps(counting.source, Numbers(), CPU)
    queue.put((counting.made, torch.equal(maps[:, 0, 0], torch.arange(len(maps)).half())))


def test_several_processes_fill_one_file() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(queue,)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all(right for _, right in results)
    assert sum(made for made, _ in results) >= len(Numbers())


def test_maps_are_read_once_all_ranks_have_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, a slower rank may write a chunk again, which is not whole until it has written the checksum."""
    source, images, module = Counting().source, Numbers(), repro.saliency.image_maps
    path, compute = map_path(source.identity, images.fingerprint()), module._compute_missing

    def beside_another_rank(*arguments: Any) -> None:
        compute(*arguments)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        monkeypatch.setattr(module, "barrier", lambda: path.write_bytes(content))

    monkeypatch.setattr(module, "_compute_missing", beside_another_rank)
    assert load_maps(source, images, CPU)[:, 0, 1].tolist() == [*range(len(images))]


def test_a_files_name_tells_network_weights_side_seed_images_and_format_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, images = LocalizerSettings(), Numbers()
    paths = [
        map_path(network_maps(settings, images, seed).identity, images.fingerprint())
        for settings, seed in (
            (usual, 0),
            (replace(usual, network="timm/resnet18"), 0),
            (replace(usual, weights="IMAGENET1K_V1"), 0),
            (replace(usual, weights="random"), 0),
            (replace(usual, weights="random"), 1),
            (replace(usual, network="efficientnet-lite0"), 0),
            (replace(usual, network="efficientnet-lite0", weights="random"), 0),
            (replace(usual, network="efficientnet-lite0", weights="random"), 1),
            (replace(usual, image_side=192), 0),
            (replace(usual, network="checkpoint", weights="b.pth", sha256="1" * 64), 0),
            (replace(usual, network="checkpoint", weights="b.pth", sha256="2" * 64), 0),
        )
    ]
    paths.append(map_path(network_maps(usual, images, 0).identity, "others"))
    assert len(set(paths)) == len(paths)
    # Neither the seed of trained weights, nor a checkpoint's path, nor the name given to a network's only weights makes
    # other maps.
    moved = replace(usual, network="checkpoint", weights="elsewhere.pth", sha256="1" * 64)
    assert map_path(network_maps(usual, images, 5).identity, "numbers") == paths[0]
    assert map_path(network_maps(moved, images, 0).identity, "numbers") == paths[9]
    named = replace(usual, network="efficientnet-lite0", weights="IMAGENET1K_V1")
    assert map_path(network_maps(named, images, 0).identity, "numbers") == paths[5]
    monkeypatch.setattr(repro.saliency.map_file, "_FORMAT", 2)
    assert map_path(network_maps(usual, images, 0).identity, "numbers") not in paths


def test_a_whole_image_is_averaged_down_to_a_square() -> None:
    class Stripes(Numbers):
        def __getitem__(self, index: int) -> Any:
            columns = np.arange(256) % 2 * np.linspace(0, 200, 256)  # every other column black
            return Image.fromarray(np.broadcast_to(columns[None, :, None], (64, 256, 3)).astype(np.uint8)), 0

    seen = WholeImages(Stripes(), 32)(0)
    assert (seen.shape, seen.dtype) == ((3, 32, 32), torch.uint8)
    expected = torch.linspace(0, 100, 256).view(32, 8).mean(1)  # left to right, the mean of what a pixel spans
    assert (seen - expected).abs().max() < 4


def test_a_map_is_what_the_runs_network_finds_in_the_normalised_image_in_its_own_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    localizer, build = MagicMock(side_effect=lambda views: F.avg_pool2d(views, 32)), MagicMock()
    build.return_value.to.return_value = localizer
    monkeypatch.setattr(repro.saliency.image_maps, "build_localizer", build)
    settings = LocalizerSettings(network="resnet18", weights="random", image_side=128)
    images = torch.cat([255 * pixels(2, 128), torch.full((1, 3, 128, 128), 90.0)]).byte()
    maps = network_maps(settings, Numbers(), 5).build(CPU)(images)
    build.assert_called_once_with("resnet18", "random", seed=5, sha256="")
    localizer.check.assert_called_once_with(128, "localizer.image_side")
    ((views,), _) = localizer.call_args
    torch.testing.assert_close(views, Normalization()(images / 255))
    sums = F.avg_pool2d(views, 32).sum(1)
    expected = [(each - each.mean()) / each.std(correction=0) for each in sums[:2]]
    # A map without contrast has no scale, and is all foreground.
    torch.testing.assert_close(maps, torch.stack([*expected, torch.zeros(4, 4)]), rtol=1e-3, atol=1e-4)
    assert foreground(maps.unsqueeze(1))[2].all()


def test_foregrounds_of_a_batch_are_read_off_the_cropped_maps() -> None:
    run = tiny(OURS, BY_IMAGE | {"localizer.relax": 0.2})
    images, batch = open_data(run, "train"), fixed_batch(run)
    maps = load_maps(network_maps(run.localizer, images, 0), images, CPU)
    assert maps.shape == (20, 4, 4)
    for name, found in zip(("query", "key"), foregrounds_of(run), strict=True):
        flips = batch[f"{name}_draw"][:, FLIP] > 0
        cells = crop_maps(maps[batch["index"]].float(), batch[f"{name}_box"], batch["size"], flips, 4)
        assert torch.equal(found, foreground(cells.unsqueeze(1), 0.2))
        assert 0.2 < found.float().mean() < 0.9


@pytest.mark.end_to_end
def test_cached_maps_depart_no_further_from_the_views_own_than_was_measured() -> None:
    """On 60 drawn scenes, as `salmask bench saliency agreement` measures it, against the agreement of random cells."""
    large = {"data.crop": 64, "data.scenes.size": 96, "data.scenes.train_count": 60, "localizer.image_side": 192}
    cached = torch.cat(foregrounds_of(tiny(OURS, large | {"localizer.map": "image"}), 60))
    exact = torch.cat(foregrounds_of(tiny(OURS, large), 60))

    def agreement(cells: Tensor) -> float:
        return ((cells & exact).sum((1, 2)) / (cells | exact).sum((1, 2))).mean().item()

    chance = agreement(as_many_at_random(cached, Generator().manual_seed(0)))
    assert chance < 0.6
    assert agreement(cached) > 0.7
    assert (cached.float().mean((1, 2)) - exact.float().mean((1, 2))).abs().mean() < 0.1


def test_an_interrupted_training_with_cached_maps_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run = tiny(OURS, BY_IMAGE)
    whole, halved = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "halved")
    make_training(run, whole).run()
    interrupt(run, halved, 4)
    make_training(run, halved).run()
    assert_same_training(whole.checkpoints, halved.checkpoints)


def test_the_switch_is_part_of_a_runs_identity_and_leaves_older_ids() -> None:
    assert tiny(OURS, {"localizer.map": "view"}).id == tiny(OURS).id
    assert tiny(OURS, {"localizer.map": "image"}).id != tiny(OURS).id
    assert tiny(OURS, BY_IMAGE).id != tiny(OURS, {"localizer.map": "image"}).id


def test_maps_computed_by_the_command_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = [word for word in words(BY_IMAGE) if not word.startswith("data.dataset")]
    ended = salmask("data", "saliency", "scenes", *settings)
    assert ended.code == 0, ended
    assert "images: 20\ncells: 4×4\nbytes an image: 32\n" in ended.out

    def no_more(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(repro.saliency.image_maps, "build_localizer", no_more)
    ended = salmask("pretrain", OURS, *words(BY_IMAGE), "--out", str(tmp_path / "runs"))
    assert ended.code == 0, ended


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            "localizer.image_side=200",
            "localizer.image_side=200 is not a multiple of 32; mend: localizer.image_side=192",
        ),
        ("localizer.image_side=64", "localizer.image_side=64 is out of range; mend: 128..1024"),
        ("localizer.map=view", "localizer.map=view has no maps of whole images; mend: leave it out"),
        (
            "localizer.hard_negative_source=truth",
            "localizer.hard_negative_source: this command makes the maps of one source; mend: call it once for each "
            "source, given as localizer.source",
        ),
        (
            "localizer.source=centre",
            "localizer.source=centre is one map for all images, which needs no file; mend: another source",
        ),
    ],
)
def test_maps_that_no_run_reads_are_refused(settings: str, line: str) -> None:
    assert refused("data", "saliency", "scenes", settings) == line


def test_maps_of_true_masks_are_made_whatever_the_network_sees() -> None:
    settings = ("localizer.source=truth", "localizer.map=view", "data.scenes.train_count=20")
    assert salmask("data", "saliency", "scenes", *settings).code == 0


def test_maps_that_could_not_be_kept_are_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They used to be computed, maybe for hours, and the message named a file that had not been written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(repro.saliency.image_maps, "load_maps", pytest.fail)
    settings = [word for word in words(BY_IMAGE) if not word.startswith("data.dataset")]
    line = refused("data", "saliency", "scenes", *settings)
    assert line.startswith(f"cannot write {tmp_path / 'file' / 'cache' / 'saliency'}/")
    assert line.endswith(
        f"{tmp_path / 'file'} is not a folder; mend: SALMASK_CACHE=DIR before the command, a folder that this user may "
        "write to"
    )
