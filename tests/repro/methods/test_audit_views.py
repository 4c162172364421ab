"""What the audit measures and shows of the views that training sees first, counted by hand."""

import io
from itertools import product
from unittest.mock import MagicMock

import matplotlib
import numpy as np
import pytest
import torch
from audit_samples import Bright, discs, plain_colours
from PIL import Image
from torch import Tensor
from training_samples import CPU

from repro.methods.audit import OURS, RANDOM, RELEASED, HiddenShares, audit, hidden_pixels, variants
from repro.methods.audit_page import draw_frequencies
from repro.saliency import sources
from repro.saliency.localizer import Localizer
from repro.training import learner
from repro.training.batches.loading import EpochBatches
from repro.training.watching.gallery import overlay
from repro.training.watching.true_objects import load_batch


@pytest.fixture(autouse=True)
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "build_localizer", lambda *_, **__: Localizer(Bright()))


def test_all_is_measured_and_shown_of_the_views_of_trainings_first_epoch() -> None:
    """Of 38 images, with batch-norm groups of 12 images: the second batch begins with the 37th."""
    run = plain_colours(**{"seed": 5, "optimization.batch": 12, "moco.queue": 48, "moco.bn_splits": 1})
    images, order = discs(), [index for batch in EpochBatches(64, 32, 5) for _, index in batch]
    result = audit(run, images, count=38, gallery_images=16, device=CPU)
    makers = {name: learner.build_view_maker(variant, CPU) for name, variant in variants(run).items()}
    shares: dict[tuple[str, str], list[HiddenShares]] = {}
    cells: dict[str, list[Tensor]] = {OURS: [], RELEASED: []}
    true: list[Tensor] = []
    shown: dict[str, Tensor] = {}
    for indices in (order[:36], order[36:38]):
        batch, objects = load_batch(run, images, images.main_mask, indices, CPU)
        stages = {name: maker.stages(batch) for name, maker in makers.items()}
        ours, hidden = stages[OURS], {name: hidden_pixels(stages[name], maker) for name, maker in makers.items()}
        fronts = {"query": ours.query_foreground, "key": ours.key_foreground}
        for name, view in product(makers, ("query", "hard negative")):
            source = "query" if view == "query" else "key"
            step = 12 if (name, view) == (RELEASED, "hard negative") else 1  # of the group's first image alone
            measured = HiddenShares.measure(hidden[name][view], fronts[source][::step], objects[source][::step])
            shares.setdefault((name, view), []).append(measured)
        for name in cells:
            cells[name] += [stages[name].query_foreground, stages[name].key_foreground]
        true += [objects["query"], objects["key"]]
        if not shown:
            query, key = ours.query[:16], ours.key[:16]
            shown = {"query view": query, "key view": key, "its object": overlay(query, objects["query"][:16])}
            shown |= {f"{name} map": overlay(query, stages[name].query_foreground[:16]) for name in cells}
            shown |= {f"query, {name}": query.where(~hidden[name]["query"][:16], 0.1) for name in makers}
            shown |= {f"hard, {name}": key.where(~hidden[name]["hard negative"][:16], 0.1) for name in (OURS, RANDOM)}
            shown[f"hard, {RELEASED}"] = torch.ones_like(key)
            shown[f"hard, {RELEASED}"][::12] = torch.where(hidden[RELEASED]["hard negative"][:2], 0.1, key[::12])
    for (name, view), batches in shares.items():
        (row,) = [row for row in result.masks if (row["patches by"], row["view"]) == (name, view)]
        expected = HiddenShares.concatenate(batches).row()
        assert {key: row[key] for key in expected} == expected, (name, view)
    columns = dict(result.columns)
    assert columns.keys() == shown.keys()
    for title, pictures in shown.items():
        torch.testing.assert_close(columns[title], pictures, rtol=0, atol=0, msg=title)
    mask = torch.cat(true)
    for name, batches in cells.items():
        front = torch.cat(batches)
        (row,) = [row for row in result.maps if row["map"] == name]
        assert row["foreground %"] == pytest.approx(100 * front.float().mean().item(), abs=0.051)
        assert row["lean"] == pytest.approx(
            np.mean([each.nonzero()[:, 1].float().mean() for each in front]) / 1.5 - 1, abs=6e-4
        )
        wide = front.repeat_interleave(28, 1).repeat_interleave(28, 2)
        fit = [float((one & other).sum() / (one | other).sum()) for one, other in zip(wide, mask, strict=True)]
        assert row["mean IoU"] == pytest.approx(np.mean(fit), abs=6e-4)
        torch.testing.assert_close(result.frequencies[name], front.float().mean(0))
    within = mask.float().mean(0).reshape(4, 28, 4, 28).mean((1, 3))
    torch.testing.assert_close(result.frequencies["true object"], within)


def test_of_some_images_only_their_maps_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    build = MagicMock(wraps=learner.build_view_maker)
    monkeypatch.setattr("repro.methods.audit.build_view_maker", build)
    for count, only in ((4, 4), (8, None)):
        build.reset_mock()
        audit(plain_colours(), discs(8), count=count, gallery_images=1, device=CPU)
        asked = [call.kwargs["only"] for call in build.call_args_list]
        assert [each and len(each) for each in asked] == [only] * 3


def test_a_map_is_drawn_on_the_scale_from_never_to_always() -> None:
    picture = Image.open(io.BytesIO(draw_frequencies({"a": torch.full((4, 4), 0.25)}))).convert("RGB")
    colours = {colour for count, colour in picture.getcolors(1 << 16) or [] if count > 10_000}
    assert colours == {(255, 255, 255), matplotlib.colormaps["cividis"](0.25, bytes=True)[:3]}
