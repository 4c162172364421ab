"""Caltech-101 and Flowers-102: parts, the splits of the protocols, wrong roots, `salmask data verify`."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Caltech101
from transfer_samples import (
    FLOWERS,
    KINDS,
    caltech_images,
    flower_files,
    make_caltech,
    make_flowers,
)
from typer.testing import CliRunner

from repro.data import caltech, flowers
from repro.data.catalogue import DATASETS, open_images
from repro.data.commands import app
from repro.data.flowers import eighty_ten_ten, official
from repro.data.subsets import Subset, apportion, divide, join, share_of, sizes
from repro.data.verification.checks import verify
from repro.errors import UserError
from repro.settings.sections import ScenesSettings

pytestmark = pytest.mark.usefixtures("miniatures")


@pytest.fixture(scope="module")
def caltech_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_caltech(tmp_path_factory.mktemp("caltech"))


@pytest.fixture(scope="module")
def flowers_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flowers(tmp_path_factory.mktemp("flowers"))


class Pool:
    """Labels without images."""

    def __init__(self, targets: list[int], classes: int) -> None:
        self.targets, self.classes = targets, tuple(f"class {label}" for label in range(classes))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (index % 256, 0, 0)), self.targets[index]

    def fingerprint(self) -> str:
        return "pool"


# Parts


def test_a_total_is_shared_out_by_largest_remainders() -> None:
    # 10 * (7, 5, 3) / 15 = 4.67, 3.33, 2: the one that is left goes to the first class.
    assert apportion([7, 5, 3], 10) == [5, 3, 2]
    assert apportion([1, 1, 1], 2) == [1, 1, 0]
    # 5.5, 3.9 and .6: the two that are left go to the largest remainders, however small their classes.
    assert apportion([55, 39, 6], 10) == [5, 4, 1]
    assert apportion([40, 0, 258], 298) == [40, 0, 258]
    rng = np.random.default_rng(0)
    for _ in range(50):
        available = rng.integers(1, 300, 102).tolist()
        total = int(rng.integers(0, sum(available)))
        counts = apportion(available, total)
        assert sum(counts) == total
        quotas = [size * total / sum(available) for size in available]
        assert all(int(quota) <= count <= int(quota) + 1 for quota, count in zip(quotas, counts, strict=True))


def test_parts_are_disjoint_whole_and_a_function_of_the_seed_alone() -> None:
    pool = Pool([label for label in range(4) for _ in range(10 + label)], 4)
    parts = divide(pool, [[3] * 4, [2, 0, 1, 5]], seed=1)
    assert [sizes(part) for part in parts] == [[3, 3, 3, 3], [2, 0, 1, 5], [5, 8, 8, 5]]
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(len(pool)))
    again = divide(pool, [[3] * 4, [2, 0, 1, 5]], seed=1)
    assert all(np.array_equal(first.indices, second.indices) for first, second in zip(parts, again, strict=True))
    other_parts = divide(pool, [[3] * 4, [2, 0, 1, 5]], seed=2)
    assert not np.array_equal(parts[0].indices, other_parts[0].indices)
    # If a class grows, the draws of the others stay the same.
    larger = Pool([*pool.targets, 0, 0, 0], 4)
    indices = divide(larger, [[3] * 4], seed=1)[0].indices
    assert set(parts[0].indices[parts[0].indices >= 10]) == set(indices[(indices >= 10) & (indices < len(pool))])


def test_a_subset_of_a_subset_reads_the_pool() -> None:
    pool = Pool([0, 1, 0, 1, 1], 2)
    inner = Subset(Subset(pool, [4, 2, 0]), [1, 0])
    assert inner.pool is pool
    assert (inner.indices.tolist(), inner.targets) == ([2, 4], [0, 1])
    assert inner[1][0].getpixel((0, 0)) == (4, 0, 0)
    assert inner.fingerprint() != Subset(pool, [4, 2]).fingerprint()
    assert inner.fingerprint() == Subset(pool, [2, 4]).fingerprint()
    relabelled = Pool([0, 1, 1, 1, 0], 2)
    assert Subset(relabelled, [2, 4]).fingerprint() != inner.fingerprint()
    assert join(Subset(pool, [4]), Subset(pool, [1, 0])).indices.tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match=r"^only parts of one pool can be joined$"):
        join(Subset(pool, [4]), Subset(relabelled, [1]))


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1267), (0.1, 12669)])
def test_a_share_of_the_labels_is_balanced_and_of_the_right_size(share: float, expected: int) -> None:
    # ImageNet-100's training images: 126,689, of 732 to 1,300 a class.
    available = apportion(list(range(900, 1000)), 126_689)
    pool = Pool([label for label, count in enumerate(available) for _ in range(count)], 100)
    part = share_of(pool, share, seed=0)
    counts = sizes(part)
    assert len(part) == expected
    assert max(counts) - min(counts) <= 1


def test_a_share_leaves_no_class_out_and_takes_no_more_than_there_is() -> None:
    pool = Pool([0] * 30 + [1] * 2 + [2] * 30, 3)
    assert sizes(share_of(pool, 0.01, seed=0)) == [1, 1, 1]
    assert sizes(share_of(pool, 0.5, seed=0)) == [11, 2, 10]
    assert sizes(Subset(pool, [0])) == [1, 0, 0]  # also of a part without the last classes


# The splits of the protocols

GOLDEN = [
    ([0, 2, 3], "d389131af306"),
    ([4, 7, 9], "8b4ee0abf19b"),
    ([1, 23, 34], "1376c049c79a"),
    ([0, 2, 3], "af75ac13ce48"),
    ([1, 4, 12], "ddc2f817b680"),
    ([7, 11, 13], "cd39c2f051bf"),
    ([1, 4, 6], "67ee05baeb38"),
]
"""First images and digest of Flowers-102's train, val and test: of 25, 5 and the rest per class, and of a tenth."""


def flower_pool() -> Pool:
    """8,189 labels of 102 kinds, 40 to 258 of each, as Flowers-102 has them."""
    available = [40 + count for count in apportion(list(range(1, 103)), 8189 - 40 * 102)]
    return Pool([label for label, count in enumerate(available) for _ in range(count)], 102)


def test_the_paper_like_flowers_split_has_the_published_sizes_in_every_seed() -> None:
    pool = flower_pool()
    total = np.array(sizes(pool))
    for seed in (0, 1):
        train, val, test = eighty_ten_ten(pool, seed)  # type: ignore[arg-type]
        assert (len(train), len(val), len(test)) == (6552, 818, 819)
        assert not set(train.indices) & set(val.indices)
        assert len(set(train.indices) | set(val.indices) | set(test.indices)) == 8189
        for part, share in ((val, 818), (test, 819)):
            assert np.abs(np.array(sizes(part)) - total * share / 8189).max() < 1


def test_drawn_parts_are_of_the_images_that_recorded_numbers_are_of() -> None:
    """A different draw of equal size would pass all other tests here, and no recorded number could be reproduced."""
    pool = flower_pool()
    parts = [*eighty_ten_ten(pool, 0), *caltech.split(pool, 2), share_of(pool, 0.1, 0)]  # type: ignore[arg-type]
    drawn = [(part.indices[:3].tolist(), hashlib.sha256(part.indices.tobytes()).hexdigest()[:12]) for part in parts]
    assert drawn == GOLDEN


def test_the_official_flowers_split_is_what_the_lists_say(flowers_root: Path) -> None:
    parts = official(flowers_root)
    assert [len(part) for part in parts] == [24, 36, 180]
    assert len({int(index) for part in parts for index in part.indices}) == FLOWERS
    order = np.random.default_rng(0).permutation(FLOWERS) + 1
    first = parts[0].pool
    assert isinstance(first, flowers.FileImages)
    assert first.files[:24] == [f"jpg/image_{number:05d}.jpg" for number in order[:24]]
    assert parts[0].targets == [(number - 1) % KINDS for number in order[:24].tolist()]
    image, label = parts[2][5]
    number = order[65]
    assert label == (number - 1) % KINDS
    expected = Image.open(io.BytesIO(flower_files()[f"jpg/image_{number:05d}.jpg"])).convert("RGB")
    assert image.tobytes() == expected.tobytes()
    assert first.classes[0] == "pink primrose"


def test_caltech_is_read_without_its_background_and_greys_become_rgb(caltech_root: Path) -> None:
    pool = caltech.open_pool(caltech_root)
    assert pool.classes == ("Faces", "accordion", "yin_yang")
    assert sizes(pool) == [33, 31, 36]
    images = caltech_images()
    for index in (0, 1, 4, 33, 99):
        image, label = pool[index]
        assert image.mode == "RGB"
        expected = Image.open(io.BytesIO(images[pool.files[index]])).convert("RGB")
        assert image.tobytes() == expected.tobytes()
        assert pool.files[index].startswith(f"{pool.classes[label]}/")
    assert caltech.open_pool(caltech_root / "caltech101").files == pool.files


def test_caltech_trains_on_thirty_of_a_class_and_scores_the_rest(caltech_root: Path) -> None:
    pool = caltech.open_pool(caltech_root)
    fit, held_out, rest = caltech.split(pool, seed=0)
    assert [sizes(part) for part in (fit, held_out, rest)] == [[25] * 3, [5] * 3, [3, 1, 6]]
    assert len({*fit.indices, *held_out.indices, *rest.indices}) == len(pool)
    assert not np.array_equal(caltech.split(pool, seed=1)[0].indices, fit.indices)
    train = open_images("caltech101", "train", caltech_root, ScenesSettings())
    assert isinstance(train, Subset)
    assert set(train.indices) == {*fit.indices, *held_out.indices}


def test_caltech_with_too_few_images_of_a_class_is_refused(tmp_path: Path) -> None:
    root = make_caltech(tmp_path)
    (root / "caltech101/101_ObjectCategories/accordion/image_0031.jpg").unlink()
    with pytest.raises(UserError, match="accordion: 30 images, where more than 30 are needed"):
        caltech.split(caltech.open_pool(root), seed=0)


# Wrong roots


@pytest.mark.parametrize("dataset", ["caltech101", "flowers102"])
def test_a_wrong_root_is_named_and_left_untouched(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for split in ("train", "val"):
        with pytest.raises(
            UserError, match=rf"{tmp_path}: holds no .*; mend: unpack with `salmask data prepare {dataset}`"
        ):
            open_images(dataset, split, tmp_path, ScenesSettings())  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_odd_files_in_caltech_are_named(tmp_path: Path) -> None:
    folder = make_caltech(tmp_path) / "caltech101/101_ObjectCategories"
    (folder / "Faces/image_0007.jpg").rename(folder / "Faces/image_0099.jpg")
    with pytest.raises(UserError, match=r"Faces: image_0007\.jpg is missing or does not belong there"):
        caltech.open_pool(tmp_path)
    (folder / "extra").mkdir()
    with pytest.raises(UserError, match=r"5 class folders, BACKGROUND_Google among them, where Caltech-101 has 3 and"):
        caltech.open_pool(tmp_path)


def test_what_systems_leave_in_caltech_is_no_class_and_no_image(caltech_root: Path, tmp_path: Path) -> None:
    """torchvision's class takes every name in its folder for a class: a stray file ended in a NotADirectoryError."""
    folder = make_caltech(tmp_path) / "caltech101/101_ObjectCategories"
    for name in (".ipynb_checkpoints", "@eaDir"):
        (folder / name).mkdir()
    for place in (folder, folder / "Faces"):
        (place / ".DS_Store").touch()
    pool = caltech.open_pool(tmp_path)
    assert pool.classes == ("Faces", "accordion", "yin_yang")
    assert pool.fingerprint() == caltech.open_pool(caltech_root).fingerprint()


def test_caltech_is_listed_as_torchvision_lists_it(caltech_root: Path) -> None:
    pool, theirs = caltech.open_pool(caltech_root), Caltech101(caltech_root)
    assert list(pool.classes) == theirs.categories
    assert pool.targets == list(theirs.y)
    assert [int(file[-8:-4]) for file in pool.files] == list(theirs.index)


def test_flowers_that_are_missing_are_told_when_the_data_are_opened(tmp_path: Path) -> None:
    """The lists name all images, whatever the folder holds, and `prepare` does nothing if the folder is there."""
    folder = make_flowers(tmp_path) / "flowers-102/jpg"
    first, second, *_ = sorted(path.name for path in folder.iterdir())
    (folder / first).unlink()
    (folder / second).unlink()
    with pytest.raises(UserError) as refused:
        official(tmp_path)
    assert str(refused.value) == (
        f"{folder.parent}: 2 (jpg/{first}, jpg/{second}) of 240 images missing; mend: remove {folder}, and "
        "`salmask data prepare flowers102` again"
    )


def test_a_list_of_flowers_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    base = make_flowers(tmp_path) / "flowers-102"
    content = (base / "setid.mat").read_bytes()
    (base / "setid.mat").write_bytes(content + b"\0")
    with pytest.raises(UserError, match=r"setid\.mat: its MD5 is [0-9a-f]{32}, the published file's"):
        official(tmp_path)
    (base / "setid.mat").unlink()
    with pytest.raises(UserError, match=r"setid\.mat: missing; mend: unpack with"):
        official(tmp_path)


# data verify


def test_both_verify_with_their_published_parts(caltech_root: Path, flowers_root: Path) -> None:
    report = verify("caltech101", caltech_root, workers=1)
    assert report.problems == []
    assert report.counts == {"all": {"Faces": 33, "accordion": 31, "yin_yang": 36}}
    assert report.warnings == [f"all: 100 images, where {DATASETS['caltech101'].title} has 8677"]
    report = verify("flowers102", flowers_root, workers=1)
    assert report.problems == []
    assert [report.total(split) for split in ("train", "val", "test")] == [24, 36, 180]
    assert [warning.split(",")[0] for warning in report.warnings] == [
        "train: 24 images",
        "val: 36 images",
        "test: 180 images",
    ]


def test_verify_finds_damage_and_copies_across_the_splits_of_flowers(tmp_path: Path) -> None:
    folder = make_flowers(tmp_path) / "flowers-102/jpg"
    train, _, test = official(tmp_path)
    pool = train.pool
    assert isinstance(pool, flowers.FileImages)
    first, copied, torn = (pool.folder / pool.files[i] for i in (0, int(test.indices[-1]), int(test.indices[0])))
    copied.write_bytes(first.read_bytes())
    torn.write_bytes(torn.read_bytes()[:200])
    report = verify("flowers102", tmp_path, workers=1)
    assert [(problem.kind, problem.path) for problem in report.problems] == [
        ("overlap", str(copied)),
        ("unreadable", str(torn)),
    ]
    assert report.problems[0].message == f"has the same content as {first}"
    (folder.parent / "imagelabels.mat").unlink()
    (problem,) = verify("flowers102", tmp_path, workers=1).problems
    assert (problem.kind, problem.path) == ("unusable", str(tmp_path))
    assert problem.message == f"flowers-102/imagelabels.mat: missing; mend: {flowers.MEND}"


def test_the_verify_command_prints_their_parts(flowers_root: Path) -> None:
    outcome = CliRunner().invoke(app, ["verify", "flowers102", "--root", str(flowers_root), "--workers", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert all(f" {split} " in outcome.stdout for split in ("train", "val", "test"))
    assert "no problems; every image decoded" in outcome.stdout
