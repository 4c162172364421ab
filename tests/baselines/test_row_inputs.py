"""The network's inputs in each row: which views are masked, and how they are filtered and cropped."""

from typing import Any

import pytest
import torch
from torch import Tensor
from training_samples import CPU, fixed_batch, tiny

from baselines import resolve
from repro.masking.filters import high_pass
from repro.settings.choices import FilterLibrary
from repro.training.learner import build_view_maker


def inputs_of(name: str, **changes: Any) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """The network's inputs in a row, and the same inputs without masks, high-passed or not."""
    run = tiny(name, {"masking.guidance": "random", **changes})
    maker = build_view_maker(run, CPU)
    stages = maker.stages(fixed_batch(run))
    unmasked = {"query": maker.normalise(stages.query), "key": maker.normalise(stages.key)}
    if run.masking.strategy == "high_pass":
        unmasked = {view: high_pass(images) for view, images in unmasked.items()}
    views = stages.views
    return {"query": views.query, "key": views.key, "hard": views.hard_negative}, unmasked


@pytest.mark.parametrize(
    ("name", "masked", "hard"),
    [
        ("mocov2", set(), False),
        ("simclr", set(), False),
        ("mocov2+mscn", {"query", "key"}, False),
        ("simclr+mscn", {"query", "key"}, False),
        ("mocov2+mscn@query", {"query"}, False),
        ("mocov2+adios", set(), False),
        ("mocov2+ours-hp", {"query"}, True),
        ("simclr+ours-blur", {"query"}, True),
        ("simclr+ours-mean", {"query"}, True),
        ("mocov2+ours-hp@key", {"key"}, True),
        ("mocov2+ours-hp@key-no-hard-negative", {"key"}, False),
        ("mocov2+ours-blur@both-no-hard-negative", {"query", "key"}, False),
        ("mocov2+ours-mean@both", {"query", "key"}, True),
        ("simclr+ours-hp@both", {"query", "key"}, True),
        ("mocov2+ours-hp-no-hard-negative", {"query"}, False),
        ("mocov2+ours-hp-no-masks", set(), False),
    ],
)
def test_a_row_masks_the_views_that_it_should(name: str, masked: set[str], hard: bool) -> None:
    views, unmasked = inputs_of(name)
    differing = {view for view, images in unmasked.items() if not torch.equal(views[view], images)}  # type: ignore[arg-type]
    assert differing == masked
    assert (views["hard"] is not None) == hard
    if hard:
        assert not torch.equal(views["hard"], views["key"])  # type: ignore[arg-type]


def test_the_machine_says_who_filters() -> None:
    for library in FilterLibrary:
        views, unmasked = inputs_of("mocov2+ours-hp", **{"machine.filter_library": library.value})
        assert views["key"] is not None
        # Equal to the bit with the run's own library; the other one rounds differently.
        assert torch.equal(views["key"], unmasked["key"]) is (library is FilterLibrary.torch)
        torch.testing.assert_close(views["key"], unmasked["key"], rtol=0, atol=2e-6)


def test_without_focal_masks_every_image_loses_patches() -> None:
    grid, side = 4, 8  # 32 px on the smallest grid
    for name, focal in (("mocov2+ours-hp", True), ("mocov2+ours-hp-no-focal", False)):
        views, unmasked = inputs_of(name, **{"masking.focal_probability": 1.0} if focal else {})
        differs = (views["query"] != unmasked["query"]).unflatten(3, (grid, side)).unflatten(2, (grid, side))
        share = differs.float().mean((3, 5))
        assert bool(((share > 0) & (share < 1)).any()) == focal  # a window's edge cuts through cells, patches fill them


def test_simclrs_crops_are_bicubic_at_the_same_places() -> None:
    bilinear, bicubic = (
        fixed_batch(tiny("simclr", {"augmentation.interpolation": kind})) for kind in ("bilinear", "bicubic")
    )
    assert resolve("simclr").augmentation.interpolation == "bicubic"
    for name in ("query", "key"):
        assert torch.equal(bilinear[f"{name}_draw"], bicubic[f"{name}_draw"])
        assert not torch.equal(bilinear[name], bicubic[name])
        assert (bilinear[name].float() - bicubic[name].float()).abs().mean() < 3  # of 255: sharper, but the same crop
