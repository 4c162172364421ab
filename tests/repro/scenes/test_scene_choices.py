"""Grounds from a pool, grounds or colours that go with the class, and classes of several members: what each changes."""

import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from training_samples import tiny

from repro.data.catalogue import open_images
from repro.errors import UserError
from repro.randomness import Purpose, stream
from repro.scenes.dataset import Scenes
from repro.scenes.grounds import Grounds
from repro.scenes.shapes import OUTLINES, Outline, Shapes, bend_outline
from repro.scenes.textures import Floats, fill_outline
from repro.settings.comparison import sizes_below_recipe
from repro.settings.sections import ScenesSettings

SIDE = 64


def flat_texture(rng: np.random.Generator, side: int) -> Floats:
    """A texture of one colour, by which a ground's texture in the pool is recognised."""
    return np.broadcast_to(rng.random((3, 1, 1), dtype=np.float32), (3, side, side)).copy()


def grounds(**settings: Any) -> Grounds:
    return Grounds(flat_texture, SIDE, **{"pool": 6, "context": 0.0, "classes": 3, "seed": 5, **settings})


def textures(source: Grounds, labels: Iterable[int]) -> list[tuple[float, ...]]:
    """The colour of the ground of each scene, given the scenes' labels."""
    drawn = [source(np.random.default_rng(index), label) for index, label in enumerate(labels)]
    assert all(ground.shape == (3, SIDE, SIDE) and ground.dtype == np.float32 for ground in drawn)
    return [tuple(ground[:, 0, 0].tolist()) for ground in drawn]


# Grounds


def test_without_a_pool_no_two_scenes_share_a_ground() -> None:
    assert len(set(textures(grounds(pool=0), [0] * 50))) == 50


def test_a_pool_is_all_the_textures_that_there_are_each_as_often() -> None:
    drawn = textures(grounds(), [0] * 3000)
    counts = [drawn.count(texture) for texture in set(drawn)]
    assert len(counts) == 6
    # The standard deviation of each count is 20.
    assert all(abs(count - 500) < 80 for count in counts)


def test_context_is_the_share_of_scenes_on_a_ground_of_their_class() -> None:
    count = 3000
    own = [set(textures(grounds(context=1.0), [label] * 60)) for label in range(3)]
    assert [len(of_class) for of_class in own] == [2, 2, 2]
    assert len(set.union(*own)) == 6, "no two classes own the same ground"
    for context in (0.0, 0.4, 0.75):
        drawn = textures(grounds(context=context), [1] * count)
        share = sum(texture in own[1] for texture in drawn) / count
        # A ground from the whole pool is the class's own by chance. Four standard deviations are at most .036.
        assert share == pytest.approx(context + (1 - context) / 3, abs=0.036)


def test_a_pool_that_does_not_divide_gives_each_class_as_many_within_one() -> None:
    own = [set(textures(grounds(pool=7, context=1.0), [label] * 80)) for label in range(3)]
    assert [len(of_class) for of_class in own] == [3, 2, 2]
    assert len(set.union(*own)) == 7


def test_scenes_show_different_pieces_of_a_texture() -> None:
    def sheet(rng: np.random.Generator, side: int) -> Floats:
        assert side == 96
        return np.tile(np.linspace(0, 1, side * side, dtype=np.float32).reshape(side, side), (3, 1, 1))

    source = Grounds(sheet, SIDE, pool=1, context=0.0, classes=1, seed=0)
    whole = sheet(np.random.default_rng(0), 96)[0]
    corners, orders = set(), set()
    for index in range(200):
        piece = source(np.random.default_rng(index), 0)[0]
        corners.add(float(piece.min()))
        right, down = piece[0, -1] - piece[0, 0], piece[-1, 0] - piece[0, 0]
        orders.add((bool(right > 0), bool(down > 0), bool(abs(right) > abs(down))))
        assert whole.min() - 0.01 <= piece.min() <= piece.max() <= whole.max() + 0.01
    assert len(corners) > 40
    assert len(orders) == 8, "all turns and mirror images"


def test_both_splits_have_the_same_pool() -> None:
    pools = []
    for split in ("train", "val"):
        scenes = Scenes(split, count=40, classes=4, size=SIDE, grounds=4, seed=3)
        scenes[0]
        for index in range(40):
            scenes.backdrop(index)
        assert sorted(scenes._grounds._sheets) == [0, 1, 2, 3]
        pools.append([scenes._grounds._sheets[number].tobytes() for number in range(4)])
    assert pools[0] == pools[1]
    assert len(set(pools[0])) == 4


def test_grounds_that_find_no_room_in_memory_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = grounds()
    expected = textures(kept, [0] * 40)
    assert len(kept._sheets) == 6
    assert not pickle.loads(pickle.dumps(kept))._sheets
    monkeypatch.setattr("repro.scenes.grounds._MOST_BYTES", 2 * 3 * 96 * 96)
    short = grounds()
    assert textures(short, [0] * 40) == expected
    assert len(short._sheets) == 2


# Members of drawn classes


def sprites(source: Shapes, label: int, count: int) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(source.sprite(np.random.default_rng(index), label, 48)) for index in range(count)]


def hue(sprite: np.ndarray[Any, Any]) -> Floats:
    """The ratios of the mean red, green and blue of an object: light does not change them."""
    mean = sprite[sprite[..., 3] > 200][:, :3].mean(axis=0)
    return mean / mean.sum()


def groups(hues: list[Floats], apart: float) -> int:
    """The number of groups if every two hues within `apart` are in one group."""
    first: list[Floats] = []
    for value in hues:
        if all(np.abs(value - other).max() > apart for other in first):
            first.append(value)
    return len(first)


def test_a_member_keeps_its_colours_and_a_class_without_members_has_none() -> None:
    # Plain surfaces: how much of each colour of stripes is visible depends on the pose.
    assert Shapes(1).names == ("plain disc",)
    without = groups([hue(sprite) for sprite in sprites(Shapes(1), 0, 60)], 0.02)
    three = groups([hue(sprite) for sprite in sprites(Shapes(1, members=3), 0, 60)], 0.02)
    assert three == 3
    assert without > 15


@pytest.mark.parametrize("members", [0, 40])
def test_colour_is_the_share_of_objects_in_the_colours_of_their_class(members: int) -> None:
    own = hue(sprites(Shapes(1, members=members, colour=1.0), 0, 1)[0])
    for colour in (0.0, 0.4, 1.0):
        source = Shapes(1, members=members, colour=colour)
        share = np.mean([np.abs(hue(sprite) - own).max() < 0.02 for sprite in sprites(source, 0, 200)])
        # Of 40 members, the share is one within 0.16 (two standard deviations); by chance, another has these hues.
        assert share == pytest.approx(colour, abs=0.16 if members and colour == 0.4 else 0.09)


def test_with_colours_scenes_differ_in_the_colours_of_objects_alone() -> None:
    settings = {"count": 24, "classes": 6, "size": SIDE, "members": 3, "grounds": 6, "context": 0.5}
    for split in ("train", "val"):
        plain, coloured = Scenes(split, **settings), Scenes(split, **settings, colour=1.0)
        for index in range(24):
            mask = plain.main_mask(index)
            assert np.array_equal(mask, coloured.main_mask(index))
            changed = np.any(np.asarray(plain[index][0]) != np.asarray(coloured[index][0]), axis=-1)
            assert changed[mask].mean() > 0.9
            assert not changed[~_near(mask)].any()


def test_each_class_has_colours_of_its_own_and_another_seed_gives_others() -> None:
    def hues(**settings: Any) -> list[Floats]:
        source = Shapes(6, colour=1.0, **settings)
        return [hue(sprites(source, label, 1)[0]) for label in range(6)]

    train, val, others = hues(), hues(members=4, held_out=True), hues(seed=1)
    for label, own in enumerate(val):  # poses and surfaces move the mean of two colours a little
        assert np.argmin([np.abs(own - value).max() for value in train + others]) == label


def test_validation_shows_other_members(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[tuple[int, ...]] = set()

    def spied(seed: int, purpose: Purpose, *names: int) -> np.random.Generator:
        drawn.add((seed, purpose, *names))
        return stream(seed, purpose, *names)

    def members(split: str, **settings: Any) -> set[tuple[int, ...]]:
        drawn.clear()
        scenes = Scenes(split, **{"count": 80, "classes": 2, "size": SIDE, "members": 4, "seed": 6, **settings})
        for index in range(80):
            scenes.scene(index)
        return set(drawn)

    monkeypatch.setattr("repro.scenes.shapes.stream", spied)
    seen = members("train")
    assert seen == {(6, Purpose.member, label, number) for label in range(2) for number in range(4)}
    unseen = members("val")
    assert len(unseen) == 8
    assert not seen & unseen
    assert seen <= members("train", members=8), "more members are the same ones and others"
    assert not seen & members("train", seed=7)


def silhouette(outline: Outline) -> np.ndarray[Any, Any]:
    low, high = outline.solid.min(axis=0), outline.solid.max(axis=0)
    scale, centre = 60 / (high - low).max(), (low + high) / 2
    hole = None if outline.hole is None else (outline.hole - centre) * scale + 32
    return fill_outline((64, 64), (outline.solid - centre) * scale + 32, hole) >= 128


def test_a_members_outline_is_its_own_and_still_its_classs() -> None:
    """By overlap with the outlines of all classes, for those that deform into each other most easily."""
    outlines = {name: silhouette(outline) for name, outline in OUTLINES.items()}
    nearest = Counter[bool]()
    for name, outline in OUTLINES.items():
        for member in range(20):
            bent = silhouette(bend_outline(np.random.default_rng(member), outline))
            overlap = {other: (bent & mask).sum() / (bent | mask).sum() for other, mask in outlines.items()}
            assert 0.4 < overlap[name] < 0.99, (name, member)
            nearest[max(overlap, key=overlap.__getitem__) == name] += 1
    assert nearest[True] > 0.8 * nearest.total()


# Members of classes of cut-outs


def write_cutout(path: Path, colour: tuple[int, int, int], box: tuple[int, int, int, int] = (5, 5, 75, 75)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (80, 80))
    ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
    image.save(path)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three folders of red, green and blue cut-outs, and some that have too few cut-outs or none."""
    for number in range(12):
        shade = 90 + 12 * number
        write_cutout(tmp_path / "colours" / "red" / f"{number:02}.png", (shade, 10, 10))
        write_cutout(tmp_path / "colours" / "green" / f"{number:02}.png", (10, shade, 10))
        write_cutout(tmp_path / "blue" / f"{number:02}.png", (10, 10, shade))
    for number in range(3):
        write_cutout(tmp_path / "few" / f"{number}.png", (200, 200, 200))
    write_cutout(tmp_path / "loose.png", (200, 200, 10))
    return tmp_path


def test_folders_are_the_classes_and_no_file_is_in_both_splits(labelled: Path) -> None:
    train, val = (Scenes(split, count=60, classes=3, cutouts=labelled, members=8) for split in ("train", "val"))
    assert train.classes == val.classes == ("blue", "colours/green", "colours/red")
    names = {
        split: [[cutout.name for cutout in members] for members in scenes._source._classes]
        for split, scenes in (("t", train), ("v", val))
    }
    assert [len(members) for members in names["t"]] == [8, 8, 8]
    assert [len(members) for members in names["v"]] == [2, 2, 2]
    for label, folder in enumerate(train.classes):
        assert not set(names["t"][label]) & set(names["v"][label])
        assert all(name.rpartition("/")[0] == folder for name in names["t"][label] + names["v"][label])
        assert max(names["t"][label]) < min(names["v"][label]), "neighbours in the alphabet are in one split"
    for scenes in (train, val):
        for index in range(30):
            scene = scenes.scene(index)
            (instance,) = scene.instances
            colour = np.asarray(scene.image)[instance.mask].mean(axis=0)
            assert colour.argmax() == {"blue": 2, "colours/green": 1, "colours/red": 0}[scenes.classes[instance.label]]
    assert set(train.targets) == {0, 1, 2}


def test_every_member_is_shown_as_often(tmp_path: Path) -> None:
    for name, box in (("0", (5, 5, 75, 75)), ("1", (5, 30, 75, 50)), ("2", (5, 5, 75, 75))):
        write_cutout(tmp_path / "a" / f"{name}.png", (200, 10, 10), box)
    source = Scenes("train", count=4, classes=1, cutouts=tmp_path, members=2)._source
    opaque = [np.asarray(source.sprite(np.random.default_rng(index), 0, 40))[..., 3] > 128 for index in range(400)]
    flat = sum(np.count_nonzero(mask) < 0.5 * 40**2 * np.pi / 4 for mask in opaque)
    assert abs(flat - 200) < 40  # four standard deviations


def test_both_splits_lend_the_same_colours_to_the_pool(labelled: Path) -> None:
    settings = {"count": 30, "classes": 3, "cutouts": labelled, "members": 8, "grounds": 3, "size": SIDE}
    pools = []
    for split in ("train", "val"):
        scenes = Scenes(split, **settings)
        pools.append([scenes._grounds._sheet(number).tobytes() for number in range(3)])
    assert pools[0] == pools[1]


def test_too_few_folders_say_how_many_there_are(labelled: Path) -> None:
    with pytest.raises(UserError, match=r"3 folders with 5 usable PNG files of their own, 4 needed; mend: fewer"):
        Scenes("train", count=4, classes=4, cutouts=labelled, members=4)
    assert len(Scenes("train", count=4, classes=4, cutouts=labelled, members=2).classes) == 4


def test_another_file_of_either_split_is_another_data_set(labelled: Path) -> None:
    def fingerprints() -> list[str]:
        return [Scenes(s, count=4, classes=3, cutouts=labelled, members=8).fingerprint() for s in ("train", "val")]

    before = fingerprints()
    write_cutout(labelled / "blue" / "00.png", (1, 2, 3))
    after = fingerprints()
    assert all(one != other for one, other in zip(before, after, strict=True))


# Scenes with all choices


CHOICES = {"grounds": 6, "context": 0.5, "members": 3, "colour": 0.5}


def test_scenes_of_every_choice_repeat_and_keep_their_masks() -> None:
    scenes = Scenes("train", count=24, classes=6, size=SIDE, **CHOICES)
    again = Scenes("train", count=60, classes=6, size=SIDE, **CHOICES)
    for index in range(24):
        scene = scenes.scene(index)
        assert np.array_equal(scene.image, again.scene(index).image)
        changed = np.any(np.asarray(scene.image) != np.asarray(scenes.backdrop(index)), axis=-1)
        assert changed[scene.instances[0].mask].mean() > 0.9
        assert not changed[~_near(scene.instances[0].mask)].any()


def _near(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    padded = np.pad(mask, 3)
    return np.any([padded[y : y + SIDE, x : x + SIDE] for y in range(7) for x in range(7)], axis=0)


@pytest.mark.parametrize("name", list(CHOICES))
def test_every_choice_makes_another_data_set_with_a_name_of_its_own(name: str) -> None:
    plain, chosen = ScenesSettings(), ScenesSettings(**{name: CHOICES[name], "grounds": 10})
    one, other = (Scenes.by_settings("train", settings) for settings in (plain, chosen))
    assert one.fingerprint() != other.fingerprint()
    assert plain.description == "10 classes, 1024 images"
    assert chosen.description.startswith("10 classes, 1024 images, 10 grounds")


def test_what_was_chosen_is_said_and_ids_of_older_runs_stay() -> None:
    settings = {f"data.scenes.{name}": value for name, value in {**CHOICES, "grounds": 8}.items()}
    run = tiny("mocov2", settings)
    departures = [str(departure) for departure in sizes_below_recipe(run)]
    assert (
        "scenes (8 classes, 20 images, 8 grounds (context 0.5), 3 members a class, colours by class 0.5)" in departures
    )
    assert tiny("mocov2", dict.fromkeys(settings, 0)).id == tiny().id
    with_grounds = [{"data.scenes.grounds": 8, key: value} for key, value in settings.items()]  # context needs them
    assert len({tiny("mocov2", changes).id for changes in with_grounds} | {tiny().id}) == 5


def test_settings_reach_both_splits() -> None:
    settings = ScenesSettings(
        classes=4, size=SIDE, train_count=12, val_count=8, grounds=4, context=1.0, members=2, colour=0.5
    )
    for split, count in (("train", 12), ("val", 8)):
        expected = Scenes(split, count=count, classes=4, size=SIDE, grounds=4, context=1.0, members=2, colour=0.5)
        opened = open_images("scenes", split, None, settings)  # type: ignore[arg-type]
        assert len(opened) == count
        assert opened.fingerprint() == expected.fingerprint()
        assert all(np.array_equal(opened[index][0], expected[index][0]) for index in range(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grounds": -1}, "grounds=-1 is out of range; mend: choose 0, or the number"),
        ({"grounds": 20, "context": 1.5}, "context=1.5 is out of range; mend: choose from 0 to 1"),
        ({"context": 0.5}, "=0.5 needs a ground of its own for each of 10 classes, and grounds=0; mend: grounds=10"),
        ({"grounds": 9, "context": 0.5}, "and grounds=9; mend: grounds=10 or more, or context=0"),
        ({"members": -1}, "members=-1 is out of range; mend: choose 0 at least"),
        ({"colour": 1.5}, "colour=1.5 is out of range; mend: choose from 0 to 1"),
        ({"colour": 0.5, "cutouts": Path()}, "colour=0.5: cut-outs keep their colours; mend: choose 0, or no cut-outs"),
    ],
)
def test_bad_choices_are_named_with_their_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scenes("train", count=4, **settings)


def test_what_systems_and_editors_leave_is_no_cutout(tmp_path: Path) -> None:
    """A hidden copy used to become a class of its own, and macOS's file beside each cut-out a refusal."""
    for number in range(4):
        write_cutout(tmp_path / "a" / f"{number}.png", (10 * number, 10, 10))
    names = Scenes("train", count=4, classes=2, cutouts=tmp_path).classes
    write_cutout(tmp_path / "a" / ".ipynb_checkpoints" / "0-checkpoint.png", (0, 10, 10))
    write_cutout(tmp_path / "@eaDir" / "0.png", (0, 10, 10))
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\26\7")
    assert Scenes("train", count=4, classes=2, cutouts=tmp_path).classes == names
