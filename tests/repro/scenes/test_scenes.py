import errno
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from repro.errors import UserError
from repro.scenes.dataset import Scenes
from repro.scenes.shapes import MOST_CLASSES, OUTLINES, PATTERNS, Shapes
from repro.scenes.textures import Floats, fill_outline, value_noise

STAMPS = {"a/disc": (220, 30, 30), "a/wide": (30, 200, 30), "b/disc": (40, 40, 230), "c/d/tall": (230, 210, 20)}


def digest(scenes: Scenes, indices: Iterable[int]) -> str:
    pixels = b"".join(np.asarray(scenes[i][0]).tobytes() for i in indices)
    return hashlib.sha256(pixels).hexdigest()


def write_stamp(
    path: Path,
    colour: tuple[int, int, int] = (200, 100, 50),
    box: tuple[int, int, int, int] = (10, 10, 70, 70),
    size: tuple[int, int] = (80, 80),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", size)
    ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
    image.save(path)


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Four cut-outs, and one file of each kind that must not be taken for one."""
    boxes = itertools.cycle([(10, 10, 70, 70), (2, 25, 78, 55), (10, 10, 70, 70), (25, 2, 55, 78)])
    for (name, colour), box in zip(STAMPS.items(), boxes, strict=False):
        write_stamp(tmp_path / f"{name}.png", colour, box)
    for skipped in ("a/disc_mirror", "a/wide_flip", "symbols/sign", "a/cartoon/clown", "cartoon/deep/clown"):
        write_stamp(tmp_path / f"{skipped}.png")
    write_stamp(tmp_path / "small.png", box=(2, 2, 36, 36), size=(39, 200))
    write_stamp(tmp_path / "empty.png", box=(40, 40, 41, 41))
    Image.new("RGBA", (80, 80), (9, 9, 9, 255)).save(tmp_path / "opaque.png")
    Image.new("RGB", (80, 80), (9, 9, 9)).save(tmp_path / "no_alpha.png")
    web = Image.new("RGBA", (300, 300))
    ImageDraw.Draw(web).rectangle((5, 5, 295, 295), outline=(0, 0, 0, 255), width=3)
    web.save(tmp_path / "web.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    scenes = Scenes("train", count=30, seed=3)
    again = Scenes("train", count=90, seed=3)
    assert digest(scenes, [7, 2, 29]) == digest(again, [7, 2, 29])
    assert digest(scenes, [7]) == digest(scenes, [7]) == digest(scenes, [-23])
    assert again.targets[:30] == scenes.targets
    assert digest(scenes, [7]) != digest(scenes, [8])
    assert digest(scenes, [7]) != digest(Scenes("train", count=30, seed=4), [7])


def test_a_folder_of_cut_outs_that_cannot_be_read_is_not_left_out(
    stamps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def closed(path: str) -> object:
        if path == f"{stamps}/b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=rf"^cut-outs {stamps}/b: Permission denied; mend: make it readable"):
        Scenes("train", count=4, classes=3, cutouts=stamps)
    (stamps / "b").rename(stamps / "lost+found")  # a folder without cut-outs
    assert Scenes("train", count=4, classes=3, cutouts=stamps).classes == ("a/disc", "a/wide", "c/d/tall")


def test_a_cut_out_without_permission_is_to_be_made_readable(stamps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(UserError, match=r"\.png: Permission denied; mend: make it readable or remove it$"):
        Scenes("train", count=4, classes=3, cutouts=stamps)


def test_cut_outs_are_found_in_linked_folders(stamps: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (stamps / "b").rename(elsewhere / "b")
    (stamps / "b").symlink_to(elsewhere / "b")
    assert Scenes("train", count=4, classes=4, cutouts=stamps).classes == tuple(STAMPS)
    (stamps / "b/back").symlink_to(stamps)
    with pytest.raises(UserError, match=r"b/back: a link that leads back to where it is; mend: remove the link$"):
        Scenes("train", count=4, classes=4, cutouts=stamps)


def test_a_file_that_is_no_cut_out_is_decoded_once_for_all_splits(
    stamps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.stem) or read(path))
    for split in ("train", "val"):
        Scenes(split, count=4, classes=2, cutouts=stamps)
    assert (opened.count("opaque"), opened.count("small")) == (1, 1)
    write_stamp(stamps / "opaque.png", box=(5, 5, 60, 60))
    assert "opaque" in Scenes("train", count=4, classes=5, cutouts=stamps).classes


def test_another_process_draws_the_same_scenes_and_needs_no_torch() -> None:
    program = (
        "import hashlib, sys, numpy as np\n"
        "from repro.scenes.dataset import Scenes\n"
        "scenes = Scenes('val', count=20, seed=5, classes=25, objects=3)\n"
        "pixels = b''.join(np.asarray(scenes[i][0]).tobytes() for i in (11, 0, 19))\n"
        "print(hashlib.sha256(pixels).hexdigest(), scenes.fingerprint(), 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    scenes = Scenes("val", count=20, seed=5, classes=25, objects=3)
    assert answer == [digest(scenes, (11, 0, 19)), scenes.fingerprint(), "False"]


def test_train_and_val_share_no_scene() -> None:
    seen = [digest(Scenes(split, count=40, size=64), [i]) for split in ("train", "val") for i in range(40)]
    assert len(set(seen)) == 80


def test_every_prefix_is_balanced_within_one() -> None:
    targets = Scenes("train", count=57).targets
    assert len(targets) == 57
    for stop in range(1, 58):
        counts = np.bincount(targets[:stop], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert targets[:10] != targets[10:20]
    assert targets != Scenes("val", count=57).targets


def test_items_are_the_scenes_image_and_the_main_objects_label() -> None:
    scenes = Scenes("train", count=12, objects=3)
    assert len(list(scenes)) == len(scenes) == 12
    for index, (image, label) in enumerate(scenes):
        scene = scenes.scene(index)
        assert image.mode == "RGB"
        assert image.size == (96, 96)
        assert np.array_equal(image, scene.image)
        assert label == scenes.targets[index] == scene.instances[0].label
    with pytest.raises(IndexError, match="scene 12 of 12"):
        scenes[12]


@pytest.mark.parametrize("size", [64, 96, 512])
def test_boxes_are_tight_and_objects_have_the_stated_size(size: int) -> None:
    scenes = Scenes("train", count=60 if size < 512 else 6, size=size, classes=60)
    for index in range(len(scenes)):
        (instance,) = scenes.scene(index).instances
        assert instance.mask.shape == (size, size)
        assert instance.mask.dtype == np.bool_
        x0, y0, x1, y1 = instance.box
        inside = instance.mask[y0:y1, x0:x1]
        assert np.count_nonzero(inside) == np.count_nonzero(instance.mask)
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        assert 0.55 * size - 3 <= max(x1 - x0, y1 - y0) <= 0.95 * size + 1


def test_pixels_change_where_the_mask_says_and_nowhere_else() -> None:
    scenes = Scenes("train", count=40, classes=40)
    for index in range(40):
        scene = scenes.scene(index)
        changed = np.any(np.asarray(scene.image) != np.asarray(scenes.backdrop(index)), axis=-1)
        mask = Image.fromarray(scene.instances[0].mask)
        reach = np.asarray(mask.convert("L").filter(ImageFilter.MaxFilter(7))) > 0  # a sharp tip fades over some pixels
        assert not changed[~reach].any()
        assert changed[scene.instances[0].mask].mean() > 0.97


def test_a_mask_holds_the_pixels_that_are_at_least_half_object(stamps: Path) -> None:
    # A red disc on a ground of known pixels: the share of red in a pixel tells its alpha without asking the renderer.
    scenes = Scenes("train", count=20, classes=1, size=128, cutouts=stamps)
    for index in range(20):
        scene = scenes.scene(index)
        picture, ground = (np.asarray(image, dtype=float) for image in (scene.image, scenes.backdrop(index)))
        mask = scene.instances[0].mask
        core = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(9))) > 0
        contrast = picture[core].mean(axis=0) - ground
        alpha = ((picture - ground) * contrast).sum(axis=-1) / np.maximum((contrast**2).sum(axis=-1), 1)
        clear = np.abs(contrast).max(axis=-1) > 80  # elsewhere noise and shading hide the difference
        assert mask[clear & (alpha > 0.65)].all()
        assert not mask[clear & (alpha < 0.35)].any()


def test_several_objects_hide_each_other_within_bounds() -> None:
    scenes = Scenes("train", count=60, classes=20, objects=4)
    numbers, hidden = Counter(), 0
    for index in range(60):
        instances = scenes.scene(index).instances
        numbers[len(instances)] += 1
        assert np.sum([instance.mask for instance in instances], axis=0).max() == 1, "masks overlap"
        layers = scenes._place(scenes._streams(index)[2], scenes.targets[index])
        whole = [np.count_nonzero(layer.alpha >= 0.5) for layer in layers]
        shares = [np.count_nonzero(instance.mask) / area for instance, area in zip(instances, whole, strict=True)]
        assert shares[0] >= 0.5
        assert min(shares) >= 0.2
        assert shares[-1] == 1, "nothing stands before the last object"
        hidden += min(shares) < 0.95
    assert sorted(numbers) == [1, 2, 3, 4]
    assert hidden >= 10


def describe(scenes: Scenes) -> dict[str, Floats]:
    """Per scene: mean RGB of the picture, of the object, and the object's 16×16 silhouette."""
    picture, surface, silhouette = [], [], []
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        (instance,) = scene.instances
        pixels = np.asarray(scene.image) / 255
        picture.append(pixels.mean(axis=(0, 1)))
        surface.append(pixels[instance.mask].mean(axis=0))
        mask = Image.fromarray(instance.mask).convert("L").crop(instance.box)
        silhouette.append(np.asarray(mask.resize((16, 16), Image.Resampling.BOX)).ravel() / 255)
    return {"picture": np.array(picture), "surface": np.array(surface), "silhouette": np.array(silhouette)}


def ridge_accuracy(
    train: Floats, train_labels: list[int], val: Floats, val_labels: list[int], strength: float
) -> float:
    def design(features: Floats) -> Floats:
        return np.hstack([np.ones((len(features), 1)), features - train.mean(axis=0)])

    x, targets = design(train), np.eye(10)[train_labels]
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ targets)
    return np.mean((design(val) @ weights).argmax(axis=1) == val_labels)


def nearest_mean_accuracy(train: Floats, train_labels: list[int], val: Floats, val_labels: list[int]) -> float:
    means = np.array([train[np.array(train_labels) == label].mean(axis=0) for label in range(10)])
    distances = ((val[:, None] - means) ** 2).sum(axis=-1)
    return np.mean(distances.argmin(axis=1) == val_labels)


@pytest.mark.slow
def test_colour_tells_nothing_of_the_class_and_the_silhouette_much() -> None:
    train, val = Scenes("train", count=800, size=64), Scenes("val", count=600, size=64)
    seen, unseen = describe(train), describe(val)
    for part in ("picture", "surface"):
        sets = seen[part], train.targets, unseen[part], val.targets
        # Chance is 0.1 and its standard deviation over 600 scenes is 0.012: the bound is chance and four of them.
        assert ridge_accuracy(*sets, strength=1e-3) < 0.15
        assert nearest_mean_accuracy(*sets) < 0.15
    silhouettes = seen["silhouette"], train.targets, unseen["silhouette"], val.targets
    assert ridge_accuracy(*silhouettes, strength=10) > 0.5


def test_any_two_outlines_differ_by_a_tenth_of_their_area() -> None:
    masks = {}
    for name, outline in OUTLINES.items():
        scale = 31 / np.abs(outline.solid).max()
        hole = None if outline.hole is None else outline.hole * scale + 32
        masks[name] = fill_outline((64, 64), outline.solid * scale + 32, hole) >= 128
    for (first, a), (second, b) in itertools.combinations(masks.items(), 2):
        assert np.count_nonzero(a & b) / np.count_nonzero(a | b) < 0.9, (first, second)


def test_filled_outlines_cover_the_area_they_enclose() -> None:
    square = np.array([[2.5, 3.5], [12.5, 3.5], [12.5, 11.5], [2.5, 11.5]])
    hole = np.array([[5.0, 5.0], [8.0, 5.0], [8.0, 9.0], [5.0, 9.0]])
    assert fill_outline((16, 16), square).sum() / 255 == pytest.approx(80, rel=0.06)
    assert fill_outline((16, 16), square, hole).sum() / 255 == pytest.approx(68, rel=0.06)


def test_noise_spans_zero_to_one_and_more_octaves_are_rougher() -> None:
    def roughness(octaves: int) -> float:
        field = value_noise(np.random.default_rng(0), (64, 64), cells=3, octaves=octaves)
        assert field.min() == 0
        assert field.max() == 1
        return np.abs(np.diff(field, axis=0)).mean()

    assert roughness(1) < 0.8 * roughness(4)


def test_shapes_pair_every_outline_with_every_pattern() -> None:
    assert MOST_CLASSES >= 40
    names = Shapes(MOST_CLASSES).names
    assert set(names) == {f"{pattern} {outline}" for pattern in PATTERNS for outline in OUTLINES}
    assert len({name.split()[1] for name in names[:10]}) == 10
    assert Scenes("train", count=5, classes=12).classes == names[:12]


def test_cutouts_are_the_usable_files_in_path_order(stamps: Path) -> None:
    scenes = Scenes("train", count=8, classes=4, cutouts=stamps)
    assert scenes.classes == ("a/disc", "a/wide", "b/disc", "c/d/tall")
    assert Scenes("train", count=8, classes=2, cutouts=stamps).classes == ("a/disc", "b/disc")


def test_cutout_scenes_show_the_class_they_name(stamps: Path) -> None:
    scenes = Scenes("val", count=40, classes=4, cutouts=stamps)
    for index in range(40):
        scene = scenes.scene(index)
        (instance,) = scene.instances
        colour = np.asarray(scene.image)[instance.mask].mean(axis=0)
        expected = np.array(STAMPS[scenes.classes[instance.label]])
        assert (colour > colour.mean()).tolist() == (expected > expected.mean()).tolist()
        x0, y0, x1, y1 = instance.box
        if instance.label == 1:
            assert x1 - x0 > y1 - y0
        if instance.label == 3:
            assert x1 - x0 < y1 - y0


def test_cutout_scenes_repeat_and_survive_pickling(stamps: Path) -> None:
    scenes = Scenes("train", count=20, classes=4, objects=3, cutouts=stamps)
    copy = pickle.loads(pickle.dumps(scenes))
    again = Scenes("train", count=20, classes=4, objects=3, cutouts=stamps)
    assert digest(scenes, range(6)) == digest(copy, range(6)) == digest(again, range(6))
    assert digest(scenes, range(6)) != digest(Scenes("val", count=20, classes=4, objects=3, cutouts=stamps), range(6))
    assert scenes.fingerprint() == copy.fingerprint() == again.fingerprint()


@pytest.mark.parametrize(
    "change",
    [{"count": 21}, {"classes": 9}, {"size": 97}, {"seed": 1}, {"objects": 2}],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_tells_settings_apart(change: dict[str, int]) -> None:
    settings = {"count": 20, "classes": 10, "size": 96, "seed": 0, "objects": 1}
    assert Scenes("train", **settings).fingerprint() == Scenes("train", **settings).fingerprint()
    assert Scenes("train", **settings).fingerprint() != Scenes("train", **{**settings, **change}).fingerprint()
    assert Scenes("train", **settings).fingerprint() != Scenes("val", **settings).fingerprint()


def test_fingerprint_follows_the_cutouts_names_and_content(stamps: Path) -> None:
    def fingerprint() -> str:
        return Scenes("train", count=8, classes=4, cutouts=stamps).fingerprint()

    first = fingerprint()
    assert len(first) == 12
    assert int(first, 16) >= 0
    (stamps / "b/disc.png").rename(stamps / "b/ball.png")
    renamed = fingerprint()
    write_stamp(stamps / "b/ball.png", (1, 2, 3))
    assert len({first, renamed, fingerprint()}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "unknown split 'test'; mend: choose one of train, val"),
        ({"count": 0}, "count=0 is out of range; mend: choose from 1"),
        ({"size": 63}, "size=63 is out of range; mend: choose from 64 to 512"),
        ({"size": 513}, "size=513 is out of range; mend: choose from 64 to 512"),
        ({"seed": -1}, "seed=-1 is out of range; mend: choose from 0"),
        ({"objects": 0}, "objects=0 is out of range; mend: choose 1 at least"),
        ({"classes": 0}, "classes=0 is out of range .*; mend: choose from 1 to 60"),
        ({"classes": 61}, "classes=61 is out of range .*; mend: choose from 1 to 60"),
        ({"cutouts": Path("no/such/folder")}, "no/such/folder: no such folder; mend: .*tuxpaint-stamps-default"),
    ],
)
def test_bad_settings_are_named_with_their_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scenes(**{"split": "train", "count": 4, **settings})


def test_too_few_cutouts_say_how_many_there_are(stamps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4 usable PNG files found, 5 needed; mend: .*tuxpaint-stamps-default"):
        Scenes("train", count=4, classes=5, cutouts=stamps)
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(UserError, match=r"nothing: 0 usable PNG files found, 10 needed"):
        Scenes("train", count=4, cutouts=empty)
    with pytest.raises(UserError, match="classes=0"):
        Scenes("train", count=4, classes=0, cutouts=stamps)


def test_two_cutouts_of_one_name_are_no_two_classes(stamps: Path) -> None:
    """Exported as COCO, such a data set had two classes of one name."""
    write_stamp(stamps / "b/disc.PNG")
    assert Scenes("train", count=4, classes=1, cutouts=stamps).classes == ("a/disc",)
    with pytest.raises(UserError, match=r"two files are 'b/disc' but for their endings; mend: rename one of them"):
        Scenes("train", count=4, classes=5, cutouts=stamps)


def test_a_broken_cutout_is_named(stamps: Path) -> None:
    content = (stamps / "b/disc.png").read_bytes()
    (stamps / "b/disc.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"b/disc\.png: not a readable PNG .*; mend: replace or remove it"):
        Scenes("train", count=4, classes=2, cutouts=stamps)
