"""The audit: the shares that are hidden, measured on the network's inputs against objects with known masks."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit_samples import LARGE, METHOD, Bright, Discs, discs, plain_colours
from numpy.typing import NDArray
from PIL import Image
from training_samples import CPU, fixed_batch, refused, salmask, tiny, words

from repro.errors import UserError
from repro.methods.audit import (
    OURS,
    RANDOM,
    RELEASED,
    Audit,
    HiddenShares,
    audit,
    hidden_pixels,
    variants,
)
from repro.methods.audit_page import write
from repro.saliency import sources
from repro.saliency.localizer import Localizer
from repro.settings.choices import Backend, Branch, Guidance, Resizer, Source, Strategy
from repro.settings.run import Run
from repro.settings.sections import FidelitySettings
from repro.training import learner
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.gallery import GAP, PICTURE_SIDE, TITLE_HEIGHT
from repro.training.watching.true_objects import ObjectMasks, load_batch

FILES = ["audit.html", "gallery.png", "where.png", "statistics.json"]


@pytest.fixture(scope="module")
def red() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "build_localizer", lambda *_, **__: Localizer(Bright()))
        yield


@pytest.fixture(scope="module")
def result(red: None) -> Audit:
    return audited(plain_colours())


def audited(run: Run, count: int = 64) -> Audit:
    return audit(run, discs(count), count=count, gallery_images=4, device=CPU)


def text_of(page: Path) -> str:
    """A page without its pictures, whose base64 may spell any short word by chance."""
    return re.sub(r'src="data:[^"]*"', "", page.read_text())


def by(result: Audit, variant: str, view: str) -> dict[str, Any]:
    (row,) = [row for row in result.masks if (row["patches by"], row["view"]) == (variant, view)]
    return row


@pytest.mark.parametrize(
    ("backend", "resizer"),
    [(Backend.device, Resizer.pil), (Backend.reference, Resizer.pil), (Backend.device, Resizer.torch)],
)
def test_object_masks_are_cropped_and_flipped_with_their_scenes(backend: Backend, resizer: Resizer) -> None:
    run = plain_colours()
    run = replace(run, augmentation=replace(run.augmentation, backend=backend, resizer=resizer))
    batch, objects = load_batch(run, discs(), discs().main_mask, list(range(24)), CPU)
    maker = learner.build_view_maker(variants(run)[RANDOM], CPU)
    stages = maker.stages(batch)
    for name, pixels in (("query", stages.query), ("key", stages.key)):
        red = pixels[:, 0] > pixels[:, 2]
        apart = (red != objects[name]).float().mean((1, 2))
        assert apart.max() < 0.01  # a pixel of the rim
    assert not torch.equal(objects["query"], objects["key"])


def test_masks_stand_for_scenes_of_the_same_length_and_labels() -> None:
    scenes = discs(5)
    masks = ObjectMasks(scenes, scenes.main_mask)
    assert (len(masks), masks.targets, masks.fingerprint()) == (5, scenes.targets, scenes.fingerprint())
    image, label = masks[3]
    assert np.array_equal(np.asarray(image) == 255, scenes.scene(3).instances[0].mask)
    assert label == scenes.targets[3]


def test_shares_are_those_counted_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.random((3, 3, 8, 8)) < 0.4
    front = rng.random((3, 2, 2)) < 0.5
    front[2] = True  # no background at all
    objects = rng.random((3, 8, 8)) < 0.3
    result = HiddenShares.measure(*(torch.from_numpy(part) for part in (hidden, front, objects)))

    def share(image: int, region: NDArray[np.bool_]) -> float:
        amount, size = 0.0, 0
        for row in range(8):
            for column in range(8):
                if region[row, column]:
                    amount += sum(bool(hidden[image, channel, row, column]) for channel in range(3)) / 3
                    size += 1
        return amount / size if size else float("nan")

    for image in range(3):
        cells = np.kron(front[image], np.ones((4, 4), dtype=bool))
        for region, values in (
            (cells, result.foreground),
            (~cells, result.background),
            (objects[image], result.object),
            (~objects[image], result.ground),
            (np.ones((8, 8), dtype=bool), result.all),
        ):
            assert values[image].item() == pytest.approx(share(image, region), rel=1e-5, nan_ok=True)
    row = result.row()
    shares = {"hidden %": result.all, "of foreground": result.foreground, "of background": result.background[:2]}
    for name, values in (shares | {"of object": result.object, "of ground": result.ground}).items():
        assert row[name] == pytest.approx(100 * values.mean().item(), abs=0.051), name
    spread = (result.foreground - result.background)[:2].double().std().item()
    assert row["± difference"] == pytest.approx(100 * spread, abs=0.051)


def test_ours_hides_the_object_in_the_hard_negative_alone_and_evenly_in_the_query(result: Audit) -> None:
    query, hard = by(result, OURS, "query"), by(result, OURS, "hard negative")
    # U(0.05, 0.25) of 16 cells, rounded in each stratum; the standard error over 64 views is below one point.
    assert 11 < query["hidden %"] < 19
    assert abs(query["of foreground"] - query["of background"]) < 4
    assert hard["of background"] == 0
    assert 50 < hard["of foreground"] < 60
    assert hard["of object"] > 1.6 * hard["of ground"]
    assert hard["own image's %"] == 100
    assert {row["view"] for row in result.masks} == {"query", "hard negative"}


def test_random_patches_know_no_object_and_the_released_code_not_its_place(result: Audit) -> None:
    random, released = by(result, RANDOM, "hard negative"), by(result, RELEASED, "hard negative")
    error = random["± difference"] / 8  # standard error of the mean over 64 views
    assert abs(random["of foreground"] - random["of background"]) < 4 * error < 15
    assert released["of background"] > 5
    assert released["own image's %"] == 25  # two groups of a batch of 8
    maps = {row["map"]: row for row in result.maps}
    assert maps[OURS]["foreground %"] == maps[RELEASED]["foreground %"] == maps["as many at random"]["foreground %"]
    assert abs(maps[OURS]["lean"]) < 0.12
    assert maps[RELEASED]["lean"] > 0.25  # rows sorted: the defect in one number
    assert maps[OURS]["mean IoU"] > maps[RELEASED]["mean IoU"] > 0
    assert maps[OURS]["mean IoU"] > maps["as many at random"]["mean IoU"] + 0.1
    left_to_right = result.frequencies[RELEASED].mean(0)
    assert (left_to_right.diff() >= 0).all()
    assert not (result.frequencies[OURS].mean(0).diff() >= 0).all()
    assert result.frequencies["true object"].shape == result.frequencies[OURS].shape


@pytest.mark.usefixtures("red")
@pytest.mark.parametrize(("batch", "splits", "count"), [(8, 2, 10), (8, 1, 10), (40, 1, 45), (12, 3, 5)])
def test_the_released_hard_negatives_share_is_trainings_whatever_is_audited(
    batch: int, splits: int, count: int
) -> None:
    run = plain_colours(**{"optimization.batch": batch, "moco.queue": 4 * batch, "moco.bn_splits": splits})
    views = learner.build_view_maker(variants(run)[RELEASED], CPU)(fixed_batch(run, batch))["views"]
    assert views.hard_negative is not None
    assert len(views.hard_negative) == splits
    share = by(audited(run, count), RELEASED, "hard negative")["own image's %"]
    assert share == round(100 * len(views.hard_negative) / batch, 1)


@pytest.mark.usefixtures("red")
def test_a_row_that_masks_both_branches_is_audited_in_both() -> None:
    result = audited(plain_colours("mocov2+mscn"), 32)
    assert {row["view"] for row in result.masks} == {"query", "key"}
    assert [row["patches by"] for row in result.masks] == [OURS, RANDOM, RELEASED] * 2


@pytest.mark.usefixtures("red")
def test_a_row_that_masks_the_key_is_audited_in_it_and_in_its_hard_negative() -> None:
    result = audited(plain_colours("mocov2+ours-blur@key"), 32)
    assert [(row["patches by"], row["view"]) for row in result.masks] == [
        (variant, view) for view in ("key", "hard negative") for variant in (OURS, RANDOM, RELEASED)
    ]
    key, hard = by(result, OURS, "key"), by(result, OURS, "hard negative")
    assert 10 < key["hidden %"] < 20  # U(0.05, 0.25), as in the query of other rows
    assert abs(key["of foreground"] - key["of background"]) < 6
    assert hard["of background"] == 0
    assert 50 < hard["of foreground"] < 60


def test_three_ways_of_choosing_patches_and_a_fourth_where_the_row_is_none_of_them() -> None:
    run = tiny(METHOD, LARGE)
    three = variants(run)
    assert list(three) == [OURS, RANDOM, RELEASED]
    assert three[OURS] == run
    assert three[RANDOM].masking.guidance is Guidance.random
    assert set(vars(three[RELEASED].fidelity).values()) == {Source.released}
    assert list(variants(tiny("mocov2+ours-hp-released", LARGE))) == [OURS, RANDOM, RELEASED]
    switched = tiny("mocov2+ours-hp-released-noise", LARGE)
    assert list(variants(switched)) == ["mocov2+ours-hp-released-noise", OURS, RANDOM, RELEASED]
    assert variants(switched)["mocov2+ours-hp-released-noise"] == switched
    of_simclr = variants(tiny("simclr+ours-hp", LARGE))[RELEASED].fidelity
    assert of_simclr == replace(
        FidelitySettings(**dict.fromkeys(vars(FidelitySettings()), Source.released)), hard_negative=Source.paper
    )


def test_the_page_of_a_run_without_a_network_names_none(tmp_path: Path) -> None:
    sources = {"localizer.source": "truth", "localizer.hard_negative_source": "centre"}
    page = write(audited(plain_colours(**sources), count=4), tmp_path)[0].read_text()
    assert "<dt>foreground by</dt><dd>truth, of hard negatives centre</dd>" in page
    assert "<dt>localizer</dt>" not in page


def test_the_page_of_another_framework_and_of_high_pass_masking_says_what_is_theirs(tmp_path: Path) -> None:
    sources = {"localizer.source": "truth", "masking.branch": "both", "masking.focal_probability": 0.25}
    page = write(audited(plain_colours("simclr+ours-hp", **sources), count=4), tmp_path)[0].read_text()
    assert "<dt>masks</dt><dd>high_pass, both masked</dd>" in page
    assert "In 25% of the images high-pass masking is focal" in page
    assert "the released code has" not in page


def test_where_no_view_shows_an_object_its_statistics_are_absent(red: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Discs, "main_mask", lambda *_: np.zeros((112, 112), bool))
    result = audited(plain_colours(), count=4)
    assert {row[key] for row in result.maps for key in ("mean IoU", "precision", "recall")} == {None}
    json.dumps(result.statistics(), allow_nan=False)


def test_true_masks_have_no_released_map() -> None:
    for changes in ({"localizer.source": "truth"}, {"localizer.hard_negative_source": "random"}):
        released = variants(tiny(METHOD, LARGE | changes))[RELEASED].fidelity
        assert released == replace(
            FidelitySettings(**dict.fromkeys(vars(FidelitySettings()), Source.released)), saliency_map=Source.paper
        )


@pytest.mark.usefixtures("red")
def test_views_too_small_for_a_released_hard_negative_have_the_papers(tmp_path: Path) -> None:
    small = plain_colours(**{"masking.hard_negative": True, "data.crop": 32})
    released = variants(small)[RELEASED].fidelity
    assert released == replace(
        FidelitySettings(**dict.fromkeys(vars(FidelitySettings()), Source.released)), hard_negative=Source.paper
    )
    page = write(audited(small, count=8), tmp_path)[0].read_text()
    assert "at 32 px the released code has the paper's hard negatives here" in page
    assert "the released code has one for all" not in page


@pytest.mark.usefixtures("red")
def test_a_row_at_random_has_no_map_whatever_its_name() -> None:
    run = plain_colours("mocov2+ours-hp-random", **{"fidelity.noise": "released"})
    result = audited(run, 4)
    assert [row["map"] for row in result.maps] == [OURS, RELEASED, "as many at random"]
    assert [title for title, _ in result.columns if title.endswith(" map")] == ["saliency map", "released map"]
    assert {row["patches by"] for row in result.masks} == {run.method, OURS, RANDOM, RELEASED}


@pytest.mark.parametrize(("method", "what"), [("mocov2", "nothing"), ("mocov2+adios", "with an occlusion network")])
def test_rows_without_patches_are_refused(method: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(method)} masks {what}.*; mend: audit a row that masks patches"):
        variants(tiny(method))


def test_they_are_refused_before_anybody_is_asked_for_data() -> None:
    assert "mocov2 masks nothing; mend: audit a row that masks patches" in refused("audit", "mocov2")


def test_what_is_hidden_is_read_off_the_networks_input() -> None:
    """Plant a fault behind the masking's back: the audit must see it."""
    run = plain_colours()
    maker = learner.build_view_maker(variants(run)[RANDOM], CPU)
    batch, _ = load_batch(run, discs(), None, list(range(4)), CPU)
    stages = maker.stages(batch)
    assert isinstance(maker, ViewMaker)
    before = hidden_pixels(stages, maker)
    stages.views.query[:, :, :7, :7] += 1
    after = hidden_pixels(stages, maker)
    assert after["query"][:, :, :7, :7].all()
    assert torch.equal(before["query"][:, :, 7:, 7:], after["query"][:, :, 7:, 7:])
    assert run.masking.branch is Branch.query
    assert run.masking.strategy is Strategy.strong_blur


def test_the_page_needs_nothing_beside_it_and_the_pictures_are_pictures(result: Audit, tmp_path: Path) -> None:
    paths = write(result, tmp_path)
    assert [path.name for path in paths] == FILES
    for path in paths[1:3]:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.convert("L").getextrema()[0] < 100  # the picture is not blank
    titles = [title for title, _ in result.columns]
    assert titles == [
        *("query view", "its object", "saliency map", "released map"),
        *("query, saliency", "query, random", "query, released"),
        *("key view", "hard, saliency", "hard, random", "hard, released"),
    ]
    assert [len(pictures) for _, pictures in result.columns] == [4] * 11
    released = result.columns[-1][1]  # of its four images only the first, as groups have eight
    assert (released != 1).flatten(1).any(1).tolist() == [True, False, False, False]
    page = paths[0].read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    facts = {"foreground by": "network", "masks": "strong_blur, query masked", "data": "scenes", "images": "64"}
    for name, text in (facts | {"run": result.run.id, "view": "112 px"}).items():
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page
    assert f"<h1>Mask audit of {METHOD}</h1>" in page
    assert "; the released code has one for all 4 queries of a batch-norm group" in page
    assert "focal" not in text_of(paths[0])  # as high-pass masking alone is
    assert f"<dt>localizer</dt><dd>{result.run.localizer.network}</dd>" in page
    for row in result.masks + result.maps:
        for name, value in row.items():
            # The decimals of a column are the same in all of its rows.
            decimals = 3 if name in ("lean", "mean IoU", "precision", "recall") else 1
            shown = f"{value:.{decimals}f}" if isinstance(value, float) else "–" if value is None else value
            assert f">{shown}<" in page
    assert json.loads(paths[3].read_text()) == result.statistics()


def test_the_command_measures_scenes_and_folders_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = words({**LARGE, "augmentation.blur_probability": 0})
    ended = salmask("audit", METHOD, *settings, "--count", "4", "--show", "2", "--out", str(tmp_path / "a"), "--json")
    assert ended.code == 0, ended.err
    statistics = json.loads(ended.out)
    assert statistics["images"] == 4
    assert statistics["masks"][0]["of object"] > 0
    for split in ("train", "val"):
        folder = tmp_path / "data" / split / "thing"
        folder.mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    kept = [word for word in settings if not word.startswith("data.")] + ["data.crop=56"]
    ended = salmask("audit", METHOD, *kept, "--data", "folder", "--root", str(tmp_path / "data"), "--count", "3")
    for column in ("lean", "± difference", "of object, of ground", "own image's %"):
        assert f"\n{column}: " in ended.out
    assert ended.code == 0, ended.err
    folder = Path("runs", "audit", METHOD)
    assert ended.out.splitlines()[-4:] == [str(folder / name) for name in FILES]
    without = json.loads((folder / "statistics.json").read_text())
    assert without["masks"][0]["of object"] is None
    assert "mean IoU" not in without["maps"][0]
    assert "IoU" not in text_of(folder / "audit.html")  # nor is IoU explained
    # A row of pictures for each image that is shown: two, as asked for, and three of the eight that there might be.
    heights = [Image.open(place / "gallery.png").height - TITLE_HEIGHT for place in (tmp_path / "a", folder)]
    assert heights == [2 * (PICTURE_SIDE + GAP), 3 * (PICTURE_SIDE + GAP)]


def test_a_row_that_masks_nothing_leaves_no_folder(tmp_path: Path) -> None:
    assert refused("audit", "mocov2", *words(), "--out", str(tmp_path / "a")).startswith("mocov2 masks nothing; mend: ")
    assert not (tmp_path / "a").exists()


def test_a_place_that_cannot_be_written_to_is_refused_before_any_image_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("repro.methods.audit.audit", pytest.fail)
    monkeypatch.setattr("repro.bench.step.measure", pytest.fail)
    for command, place in ((("audit", METHOD), "file/page"), (("bench", "step"), "file/steps.jsonl")):
        line = refused(*command, *words(), "--out", str(tmp_path / place))
        assert line.startswith(f"cannot write {tmp_path / place}: {tmp_path / 'file'} is not a folder; mend: --out ")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    for command, place in ((("audit", METHOD), "page"), (("bench", "step"), "steps.jsonl")):
        assert "is closed to this user, or read-only" in refused(*command, *words(), "--out", str(tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_each_view_is_localised_in_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "build_localizer", lambda *_, **__: Localizer(Bright()))
    run, images = plain_colours(), discs(8)
    maker, batch = learner.build_view_maker(run, CPU, images), fixed_batch(run)
    stages = maker.stages(batch)
    for name in ("query", "key"):
        view = maker.normalise(getattr(stages, name))
        found = getattr(stages, f"{name}_foreground")
        assert torch.equal(found, maker.foregrounds(view, batch, name))
    assert not torch.equal(stages.query_foreground, stages.key_foreground)
