"""Foregrounds of graded quality: true masks, degraded masks, a centre prior and chance, for each role separately."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from training_samples import CPU, OURS, foregrounds_of, refused, salmask, stages_of, tiny, words

from repro.errors import UserError
from repro.masking.patches import ranks
from repro.saliency.foregrounds import FLIP, ByImage, ByMask, ByView, RandomCells, crop_batch
from repro.saliency.image_maps import standardised
from repro.saliency.scda import foreground
from repro.saliency.sources import build_foregrounds
from repro.saliency.true_maps import TrueMaps, centre_prior, changed
from repro.scenes.dataset import Scenes
from repro.settings.saliency_sources import CELLS, NAMES, SaliencySource, SourceKind
from repro.training.learner import build_view_maker
from repro.training.pretraining import open_data
from repro.training.watching.true_objects import load_batch, measure_foregrounds

pytestmark = pytest.mark.usefixtures("own_maps")

TRUTH = SaliencySource(SourceKind.truth)
SOURCES = [name.replace("-N", "-2") for name in NAMES]


def disc(radius: float, side: int = 64, row: float = 32, column: float = 32) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


@pytest.mark.parametrize("text", SOURCES)
def test_a_source_is_written_as_it_is_read(text: str) -> None:
    source = SaliencySource.parse(text)
    assert str(source) == text
    assert source.cells == (2 if text.endswith("-2") else 0)


@pytest.mark.parametrize(
    "text", ["", "truth-2", "truth-dilated", "truth-dilated-0", "truth-eroded-16", "random-3", "net"]
)
def test_what_is_no_source_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UserError, match="is not a source of saliency; mend: one of network, truth, truth-dilated-N"):
        SaliencySource.parse(text)


@pytest.mark.parametrize("cells", [1, 3])
def test_a_disc_grows_shrinks_and_moves_by_cells_of_the_image(cells: int) -> None:
    pixels, mask = cells * 64 / CELLS, disc(14)
    grown, shrunk, moved = (
        changed(mask, SaliencySource(kind, cells), 5)
        for kind in (SourceKind.dilated, SourceKind.eroded, SourceKind.shifted)
    )
    assert abs(grown.sum() / np.pi) ** 0.5 == pytest.approx(14 + pixels, abs=0.6)
    assert (grown & mask).sum() == mask.sum()
    # An erosion takes at most half of the disc's depth: 3 cells of 4 px would leave next to nothing.
    assert abs(shrunk.sum() / np.pi) ** 0.5 == pytest.approx(14 - min(pixels, 7), abs=0.8)
    assert not (shrunk & ~mask).any()
    assert moved.sum() == mask.sum()
    distance = np.hypot(*(moved.nonzero()[axis].mean() - mask.nonzero()[axis].mean() for axis in (0, 1)))
    assert distance == pytest.approx(pixels, abs=0.75)


def test_each_image_is_shifted_into_a_direction_of_its_own_and_the_mask_comes_in_again() -> None:
    source = SaliencySource(SourceKind.shifted, 8)
    mask = disc(10, row=12, column=50)
    shifted = [changed(mask, source, index) for index in range(20)]
    assert len({one.tobytes() for one in shifted}) == 20
    assert all(one.sum() == mask.sum() for one in shifted)
    assert np.array_equal(changed(mask, source, 3), shifted[3])
    assert [np.argwhere(one)[0].tolist() for one in shifted[:2]] == [[0, 11], [25, 25]]  # one direction for each image


@pytest.mark.parametrize("cells", [1, 15])
def test_erosion_leaves_something_of_the_thinnest_object(cells: int) -> None:
    line = np.zeros((64, 64), dtype=bool)
    line[20, 5:60] = True
    everything = np.ones((64, 64), dtype=bool)
    for mask in (line, everything, disc(1.5)):
        assert changed(mask, SaliencySource(SourceKind.eroded, cells), 0).any()


def test_a_square_loses_and_gains_whole_cells_on_each_side() -> None:
    square = np.zeros((64, 64), dtype=bool)
    square[12:52, 12:52] = True  # 40 pixels; a cell has 4
    assert changed(square, SaliencySource(SourceKind.eroded, 1), 0).sum() == 32**2
    assert changed(square, SaliencySource(SourceKind.dilated, 1), 0).any(0).sum() == 48
    whole = np.ones((64, 64), dtype=bool)
    assert changed(whole, SaliencySource(SourceKind.eroded, 1), 0).sum() == 56**2  # the image's edge is the object's


def test_a_true_map_is_the_share_of_each_cell_and_drawn_without_the_scene() -> None:
    scenes = Scenes("train", count=6, size=80, objects=3)
    for index in range(6):
        mask = scenes.scene(index).instances[0].mask
        assert np.array_equal(scenes.main_mask(index), mask)
        expected = mask.reshape(CELLS, 5, CELLS, 5).mean((1, 3))
        np.testing.assert_allclose(TrueMaps(TRUTH, scenes.main_mask)(index).numpy(), expected, atol=1e-6)


def whole_images(count: int, epoch: int = 0) -> dict[str, Any]:
    """A batch of views that are the whole images, 64 px wide and high, unflipped."""
    box, nothing = torch.tensor([[0, 0, 64, 64]] * count), torch.zeros(count, 9)
    return {
        "index": torch.arange(count),
        "epoch": torch.full((count,), epoch),
        "size": torch.full((count, 2), 64),
        **{f"{name}_box": box for name in ("query", "key")},
        **{f"{name}_draw": nothing for name in ("query", "key")},
    }


def test_cells_that_hold_half_of_what_the_fullest_holds_are_foreground() -> None:
    maps = torch.zeros(4, CELLS, CELLS)
    maps[0, :4, :4] = 1.0  # one whole cell of a 4×4 view
    maps[0, :4, 4:6] = 1.0  # and half of the next one
    maps[0, 4:6, :3] = 1.0  # and three eighths of the one below
    maps[1, 0, 0] = 0.5  # a corner only
    maps[3] = 1.0
    found, inverted = (ByMask(maps, 4, inverted=flag)(maps, whole_images(4), "query") for flag in (False, True))
    expected = torch.zeros(4, 4, 4, dtype=torch.bool)
    expected[0, 0, :2] = expected[1, 0, 0] = True
    expected[2:] = True  # nothing but object, or no object: one stratum
    assert torch.equal(found, expected)
    assert inverted[:3].flatten(1).sum(1).tolist() == [15, 16, 16]  # a cell that is half object is both
    assert inverted[3].all()
    # Where the object fills the view, rounding may leave a background of 1e-7, which counts as none.
    part = whole_images(1) | {"size": torch.full((1, 2), 96), "query_box": torch.tensor([[21, 0, 61, 61]])}
    assert ByMask(maps[3:], 7, inverted=True)(maps, part, "query").all()


def test_a_cell_exactly_half_as_full_as_the_fullest_is_foreground_and_a_slightly_emptier_one_is_not() -> None:
    maps = torch.tensor([[[0.75, 0.376], [0.375, 0.374]]])
    assert ByMask(maps, 2)(maps, whole_images(1), "query").tolist() == [[[True, True], [True, False]]]
    of_background = ByMask(1 - maps, 2, inverted=True)(maps, whole_images(1), "query")
    assert of_background.tolist() == [[[True, True], [True, False]]]


@pytest.mark.parametrize("row_sorted", [False, True])
def test_a_view_of_a_flat_part_of_a_map_is_all_foreground(row_sorted: bool) -> None:
    maps = torch.zeros(24, CELLS, CELLS)
    maps[:, 12:, 12:] = -1 - torch.rand(24, 4, 4, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[number // 2, number // 3, 22 + number // 4, 30 - number // 2] for number in range(24)])
    find = ByImage(standardised(maps).half(), 7, 0.6, row_sorted)
    assert find(maps, whole_images(24) | {"query_box": box}, "query").all()
    assert not find(maps, whole_images(24), "query").flatten(1).all(1).any()


def test_a_sliver_of_an_object_and_a_slight_contrast_count() -> None:
    sliver, faint = torch.zeros(2, 1, CELLS, CELLS)
    sliver[0, 0, 0] = 0.16  # a hundredth of a cell of the view
    faint[0, :8] = 1e-3
    batch = whole_images(1)
    assert ByMask(sliver, 4)(sliver, batch, "query").sum() == 1
    assert ByImage(faint, 4, 0.6)(faint, batch, "query")[0].all(1).tolist() == [True, True, False, False]


def test_views_and_images_are_read_by_the_rules_own_settings() -> None:
    generator, batch, network = torch.Generator().manual_seed(0), whole_images(16), nn.Identity()
    activations, maps = (torch.randn(16, *size, generator=generator) for size in ((3, 4, 4), (CELLS, CELLS)))
    cells = crop_batch(maps, batch, "key", 4).unsqueeze(1)
    for rule in ((0.1, False), (0.6, True), (1.2, True)):
        by_view, by_image = ByView(network, *rule), ByImage(maps, 4, *rule)  # type: ignore[arg-type]
        assert torch.equal(by_view(activations, batch, "key"), foreground(activations, *rule))
        assert torch.equal(by_image(activations, batch, "key"), foreground(cells, *rule))


def test_random_cells_are_as_many_and_anywhere_and_others_each_time() -> None:
    count = 400
    maps = torch.zeros(count, CELLS, CELLS)
    maps[:, :4, :8] = 1.0  # two cells of sixteen, always the same
    numbers = torch.rand(count, 16, generator=torch.Generator().manual_seed(0))
    random = RandomCells(ByMask(maps, 4), ranks(numbers))
    draws = {
        (epoch, name): random(maps, whole_images(count, epoch), name) for epoch in (0, 1) for name in ("query", "key")
    }
    for cells in draws.values():
        assert (cells.flatten(1).sum(1) == 2).all()
        assert (cells.float().mean(0) - 2 / 16).abs().max() < 0.075  # four and a half standard deviations
    kinds = list(draws.values())
    overlaps = [(one & other).sum() / one.sum() for i, one in enumerate(kinds) for other in kinds[:i]]
    assert all(abs(overlap - 2 / 16) < 0.06 for overlap in overlaps)
    assert torch.equal(random(maps, whole_images(count, 1), "key"), draws[1, "key"])
    # The table's rows that recorded runs used: for image 5 its own row, and those a multiple of 7919 further on.
    for cells, row in zip(draws.values(), (5, 324, 243, 162), strict=True):
        assert torch.equal(cells[5].flatten(), random.ranks[row] < 2)


@pytest.mark.parametrize("rows", [7919, 7927, 2 * 7919])
def test_random_cells_are_others_each_time_whatever_the_number_of_images(rows: int) -> None:
    # With as many rows as one of the steps, or twice as many, that step alone would come back to the same row at once.
    numbers = torch.rand(rows, 16, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(rows, 4, 4)
    maps[:, 0, :2] = 1
    random = RandomCells(ByMask(maps, 4), ranks(numbers))
    kinds = [random(maps[:64], whole_images(64, epoch), name) for epoch in range(3) for name in ("query", "key")]
    assert not any(torch.equal(one, other) for i, one in enumerate(kinds) for other in kinds[:i])


def test_true_objects_are_flipped_sideways_where_their_views_are() -> None:
    run, upper = tiny(OURS), np.arange(64)[:, None].repeat(64, 1) < 32
    batch, high = load_batch(run, open_data(run, "train"), lambda _: upper, range(20), CPU)
    _, left = load_batch(run, open_data(run, "train"), lambda _: upper.T, range(20), CPU)
    for name in ("query", "key"):
        down, across = high[name].int().diff(dim=1), left[name].int().diff(dim=2)
        flipped = batch[f"{name}_draw"][:, FLIP] > 0
        assert down.min() == -1
        assert down.max() == 0
        assert across[flipped].unique().tolist() == [0, 1]
        assert across[~flipped].unique().tolist() == [-1, 0]


LARGE = {"data.crop": 64, "data.scenes.size": 96, "data.scenes.train_count": 150, "localizer.map": "image"}


def measured(source: str, hard: str = "") -> dict[str, dict[str, float]]:
    run = tiny(OURS, LARGE | {"localizer.source": source, "localizer.hard_negative_source": hard})
    images = open_data(run, "train")
    assert isinstance(images, Scenes)
    found = measure_foregrounds(run, build_view_maker(run, CPU, images), images, images.main_mask, CPU)
    return {role: dict(values) for role, values in found.items()}


@pytest.mark.slow
def test_sources_are_graded_and_each_role_has_its_own() -> None:
    iou = {
        source: measured(source)["query"]["mean IoU"]
        for source in ("truth", "truth-dilated-2", "truth-shifted-3", "truth-shifted-6", "random", "inverted", "centre")
    }
    assert iou["truth"] > 0.55
    assert iou["truth"] > iou["truth-dilated-2"] + 0.03
    assert iou["truth"] > iou["truth-shifted-3"] + 0.05 > iou["truth-shifted-6"] + 0.05
    assert iou["truth-shifted-6"] > iou["inverted"]
    assert iou["truth"] > iou["centre"] > iou["random"] > iou["inverted"]
    apart = measured("truth", hard="inverted")
    assert apart["query"]["mean IoU"] == iou["truth"]
    assert apart["hard negative"]["mean IoU"] == pytest.approx(iou["inverted"], abs=0.05)


def test_a_runs_localizer_is_built_from_its_settings_and_seed_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    build = MagicMock()
    monkeypatch.setattr("repro.saliency.sources.build_localizer", build)
    run = tiny(OURS, {"localizer.weights": "random", "seed": 5})
    foregrounds, _ = build_foregrounds(run, CPU, None)
    build.assert_called_once_with(run.localizer.network, "random", seed=5, sha256="")
    build.return_value.to.return_value.check.assert_called_once_with(run.data.crop)
    assert isinstance(foregrounds, ByView)


@pytest.mark.parametrize("fidelity", ["paper", "released"])
@pytest.mark.parametrize("settings", [{}, {"localizer.map": "image"}, {"localizer.source": "centre"}], ids=str)
def test_the_rules_settings_reach_every_map_that_it_reads(settings: dict[str, str], fidelity: str) -> None:
    run = tiny(OURS, {"localizer.relax": 0.2, "fidelity.saliency_map": fidelity} | settings)
    foregrounds: Any = build_foregrounds(run, CPU, open_data(run, "train"))[0]
    assert (foregrounds.relax, foregrounds.row_sorted) == (0.2, fidelity == "released")


def test_sources_of_true_masks_have_the_maps_that_they_are_named_after() -> None:
    def built(source: str) -> Any:
        run = tiny(OURS, {"localizer.source": source})
        return build_foregrounds(run, CPU, open_data(run, "train"))[0]

    truth, grown, inverted, random = map(built, ("truth", "truth-dilated-2", "inverted", "random"))
    assert [source.inverted for source in (truth, grown, inverted, random.counted)] == [False, False, True, False]
    assert torch.equal(inverted.maps, truth.maps)
    assert torch.equal(random.counted.maps, truth.maps)
    assert grown.maps.sum() > 1.2 * truth.maps.sum()
    assert random.ranks[0].tolist() == [10, 13, 9, 15, 11, 2, 3, 5, 7, 14, 6, 12, 4, 1, 8, 0]  # as recorded runs had it


def test_a_hard_negative_of_another_source_leaves_the_query_and_loses_other_patches() -> None:
    alike, apart = (
        tiny(OURS, {"localizer.source": "truth", "localizer.hard_negative_source": h}) for h in ("", "random")
    )
    one, other = stages_of(alike), stages_of(apart)
    assert torch.equal(one.views.query, other.views.query)
    assert torch.equal(one.views.key, other.views.key)
    assert one.views.hard_negative is not None
    assert other.views.hard_negative is not None
    assert not torch.equal(one.views.hard_negative, other.views.hard_negative)
    random_query, random_key = foregrounds_of(tiny(OURS, {"localizer.source": "random"}))
    assert torch.equal(foregrounds_of(apart)[0], foregrounds_of(alike)[0])
    assert torch.equal(foregrounds_of(apart)[1], random_key)
    assert not torch.equal(random_query, random_key)


def test_a_networks_own_views_can_guide_the_query_beside_true_masks_for_the_hard_negative() -> None:
    mixed = foregrounds_of(tiny(OURS, {"localizer.hard_negative_source": "truth"}))
    assert torch.equal(mixed[0], foregrounds_of(tiny(OURS))[0])
    assert torch.equal(mixed[1], foregrounds_of(tiny(OURS, {"localizer.source": "truth"}))[1])


@pytest.mark.parametrize("of", ["view", "image"])
def test_a_shuffled_network_finds_as_many_cells_elsewhere(of: str) -> None:
    settings = {"data.crop": 128, "localizer.map": of, "localizer.relax": 0.0}
    shuffled = tiny(OURS, settings | {"localizer.source": "network-shuffled"})
    network, random = foregrounds_of(tiny(OURS, settings)), foregrounds_of(shuffled)
    for found, drawn in zip(network, random, strict=True):
        assert torch.equal(found.sum((1, 2)), drawn.sum((1, 2)))
        assert not torch.equal(found, drawn)
    # With maps of views, the shuffled source exposes its localizer, so that its passes are counted.
    maker = build_view_maker(shuffled, CPU, open_data(shuffled, "train"))
    assert (maker.localizer is not None) is (of == "view")


def test_sources_are_part_of_a_runs_identity_and_leave_older_ids() -> None:
    assert tiny(OURS, {"localizer.source": "network", "localizer.hard_negative_source": ""}).id == tiny(OURS).id
    drawn = [name for name in SOURCES[1:] if not SaliencySource.parse(name).needs_files]
    runs = [{"localizer.source": name} for name in drawn] + [{"localizer.hard_negative_source": "truth"}, {}]
    assert len({tiny(OURS, changes).id for changes in runs}) == len(runs)
    assert not tiny(OURS, {"localizer.source": "truth"}).needs_localizer
    assert tiny(OURS, {"localizer.source": "network-shuffled"}).needs_localizer
    assert tiny(OURS, {"localizer.source": "truth", "localizer.hard_negative_source": "network"}).needs_localizer


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["localizer.source=blobs"],
            "localizer.source: 'blobs' is not a source of saliency; mend: one of network, truth, truth-dilated-N, "
            "truth-eroded-N, truth-shifted-N, inverted, centre, random, network-shuffled, maps; N: 1 to 15",
        ),
        (
            ["localizer.hard_negative_source=truth", "masking.branch=both"],
            "localizer.hard_negative_source needs a key that is not masked itself and a hard negative of it; mend: "
            "masking.branch=query and masking.hard_negative=true, or leave it out",
        ),
        (
            ["localizer.source=truth", "fidelity.saliency_map=released"],
            "fidelity.saliency_map=released sorts what a network finds, and localizer.source=truth is by true masks; "
            "mend: fidelity.saliency_map=paper",
        ),
        (
            ["localizer.hard_negative_source=random", "fidelity=released"],
            "fidelity.saliency_map=released sorts what a network finds, and localizer.hard_negative_source=random is "
            "by true masks; mend: fidelity.saliency_map=paper",
        ),
    ],
)
def test_a_source_that_a_run_cannot_have_is_refused(settings: list[str], line: str) -> None:
    assert refused("pretrain", OURS, "data.dataset=scenes", *settings) == line


def test_a_run_records_how_well_its_foregrounds_cover_the_objects(tmp_path: Path) -> None:
    changes = {"localizer.source": "truth", "localizer.hard_negative_source": "random", "optimization.epochs": 1}
    ended = salmask("pretrain", OURS, *words(changes), "--out", str(tmp_path))
    assert ended.code == 0, ended
    (path,) = tmp_path.glob("*/*/foregrounds.json")
    run = tiny(OURS, changes)
    images = open_data(run, "train")
    assert isinstance(images, Scenes)
    assert json.loads(path.read_text()) == measure_foregrounds(
        run, build_view_maker(run, CPU, images), images, images.main_mask, CPU
    )


def test_where_no_view_shows_an_object_there_are_no_numbers() -> None:
    run = tiny(OURS, {"localizer.source": "truth"})
    images = open_data(run, "train")
    maker = build_view_maker(run, CPU, images)
    found = measure_foregrounds(run, maker, images, lambda _: np.zeros((32, 32), bool), CPU, count=2)
    nothing = {"mean IoU": None, "precision": None, "recall": None, "gamma": None, "views": 0}
    assert found == {"query": nothing, "hard negative": nothing}


def test_true_masks_are_refused_where_there_are_none(folder_root: Path, tmp_path: Path) -> None:
    settings = words(
        {"localizer.source": "random", "data.dataset": "folder", "moco.bn_splits": 1, "optimization.batch": 2}
    )
    line = refused("pretrain", OURS, *settings, "--root", str(folder_root), "--out", str(tmp_path / "runs"))
    assert line == (
        "localizer.source=random needs true masks, and data.dataset=folder has none; mend: data.masks=DIR, or "
        "data.dataset=scenes or scenes-cutouts"
    )
    assert not list(tmp_path.glob("runs/**/run.yaml"))


def test_the_centre_prior_is_a_gaussian_of_a_quarter_of_the_side_in_the_middle() -> None:
    prior = centre_prior(CPU)
    places = [(cell + 0.5) / CELLS - 0.5 for cell in range(CELLS)]
    expected = [[np.exp(-(y**2 + x**2) / (2 * 0.25**2)) for x in places] for y in places]
    torch.testing.assert_close(prior, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(prior, prior.flip(0))
