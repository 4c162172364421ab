"""A person's own saliency: which files are whose, what they hold, and runs whose masks are drawn by them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_samples import CPU, OURS, refused, salmask, words

from repro.data.folders import FolderImages
from repro.data.splits import names_of
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.runs.localizer_files import files_by_name, hash_files
from repro.runs.saliency_sources import CELLS, SaliencySource, SourceKind
from repro.runs.sections import LocalizerSettings
from repro.saliency.image_maps import load_maps
from repro.saliency.maps_of_files import FileMaps, maps_of_files
from repro.saliency.true_maps import true_maps
from repro.scenes.dataset import Scenes

pytestmark = pytest.mark.usefixtures("own_maps")

MAPS, MASKS = SaliencySource(SourceKind.maps), SaliencySource(SourceKind.masks)
ON_FILES = {"data.dataset": "folder", "moco.bn_splits": 1, "optimization.batch": 4, "optimization.epochs": 1}


def save(path: Path, numbers: Any) -> Path:
    """Writes a map as a picture or as an array, by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, numbers)
    else:
        Image.fromarray(numbers).save(path)
    return path


def write_maps(root: Path, folder: Path) -> Path:
    """Writes a map for each training image of a folder: an object of its own, in grey or as an array."""
    for number, image in enumerate(sorted((root / "train").glob("*/*"))):
        numbers = np.zeros((20, 30), dtype=np.uint8)
        numbers[number : number + 8, 2 * number : 2 * number + 9] = 200
        save(folder / image.parent.name / f"{image.stem}{'.npy' if number % 2 else '.png'}", numbers)
    return folder


def test_maps_are_named_as_their_images_and_lie_where_those_do(tmp_path: Path) -> None:
    for file in ("b/2.png", "b/10.npy", "a/x/1.png", "top.npy", "._a.png", "a/.hidden/3.png", "notes.txt"):
        (tmp_path / "maps" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "maps" / file).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "5.png").write_bytes(b"")
    (tmp_path / "maps" / "linked").symlink_to(tmp_path / "elsewhere")
    expected = {"a/x/1": "a/x/1.png", "b/10": "b/10.npy", "b/2": "b/2.png", "linked/5": "linked/5.png"}
    assert files_by_name(tmp_path / "maps") == {**expected, "top": "top.npy"}


def test_the_hash_is_of_names_and_contents_and_not_of_the_place(tmp_path: Path) -> None:
    for place, order in (("one", (0, 1)), ("two", (1, 0))):
        for number in order:
            save(tmp_path / place / f"c/{number}.npy", np.full((2, 2), number))
    before = hash_files(tmp_path / "one")
    assert hash_files(tmp_path / "two") == before
    save(tmp_path / "one" / "c/1.npy", np.full((2, 2), 3))  # of the same size
    assert hash_files(tmp_path / "one") != before
    (tmp_path / "two" / "c/1.npy").rename(tmp_path / "two" / "c/2.npy")
    assert hash_files(tmp_path / "two") != before


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (shutil.rmtree, "{0} cannot be read (No such file or directory)"),
        (lambda folder: (folder / "c/1.npy").rename(folder / "c/1.txt"), "holds no file that ends with .npy or .png"),
        (lambda folder: (folder / "c/1.png").write_bytes(b""), "holds c/1.npy and c/1.png; mend: remove one of them"),
        (lambda folder: os.mkfifo(folder / "c/2.npy"), "c/2.npy is no regular file"),
    ],
)
def test_a_folder_that_holds_no_maps_is_refused(spoil: Callable[[Path], object], line: str, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    save(folder / "c/1.npy", np.zeros((2, 2)))
    spoil(folder)
    with pytest.raises(UserError) as caught:
        hash_files(folder)
    assert line.format(folder) in str(caught.value)


def test_a_map_has_the_mean_of_each_cell_whatever_its_unit_and_a_mask_the_share_that_is_not_zero(
    tmp_path: Path,
) -> None:
    numbers = np.random.default_rng(1).uniform(0, 1, (48, 32))
    means = numbers.reshape(CELLS, 3, CELLS, 2).mean((1, 3)) / numbers.max()
    files = {
        "1.npy": numbers,
        "2.npy": 1e300 * numbers,  # single precision has no such number
        "3.npy": (1e-30 * numbers).astype(np.float32),
        "4.png": (numbers * 65535).astype(np.uint16),
        "5.png": (numbers * 255).round().astype(np.uint8),
    }
    for file, content in files.items():
        save(tmp_path / file, content)
    graded = FileMaps(tmp_path, list(files), graded=True)
    for index, tolerance in enumerate((1e-6, 1e-6, 1e-6, 2e-5, 4e-3)):
        np.testing.assert_allclose(graded(index).numpy(), means, atol=tolerance, err_msg=str(index))
    mask = (numbers > 0.7).astype(np.uint8)
    palette = Image.fromarray(mask * 7).convert("L")
    palette = Image.fromarray(np.asarray(palette), mode="L").convert("P")
    palette.putdata((mask * 7).ravel().tolist())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(mask * 255).convert("1").save(tmp_path / "bits.png")
    masks = {"mask.npy": mask > 0, "labels.npy": -3.0 * mask, "mask.png": mask}
    for file, content in masks.items():
        save(tmp_path / file, content)
    shares = mask.reshape(CELLS, 3, CELLS, 2).mean((1, 3))
    files_of_masks = [*masks, "palette.png", "bits.png"]
    for index, file in enumerate(files_of_masks):
        cells = FileMaps(tmp_path, files_of_masks, graded=False)(index)
        np.testing.assert_allclose(cells.numpy(), shares, atol=1e-6, err_msg=file)


def test_the_grid_of_a_network_is_finer_or_coarser_than_ours(tmp_path: Path) -> None:
    save(tmp_path / "7.npy", np.eye(7))
    save(tmp_path / "32.npy", np.kron(np.eye(2), np.ones((16, 16))))
    coarse, fine = (FileMaps(tmp_path, ["7.npy", "32.npy"], graded=True)(index) for index in (0, 1))
    assert torch.equal(fine, torch.kron(torch.eye(2), torch.ones(8, 8)))
    assert torch.equal(coarse, coarse.T)
    assert coarse.argmax(1)[0] == 0
    assert coarse[0, 0] == coarse[-1, -1] == 1
    assert coarse[0, -1] == 0


UNFIT = {
    "nan.npy": (np.array([[0, np.nan]]), "holds NaN or an infinite number"),
    "infinite.npy": (np.array([[0, -np.inf]]), "holds NaN or an infinite number"),
    "channels.npy": (np.zeros((3, 4, 4)), "is of shape 3×4×4, where a map has rows and columns"),
    "number.npy": (np.float64(3), "is of shape (), where a map has rows and columns"),
    "nothing.npy": (np.zeros((0, 4)), "is of shape 0×4, where a map has rows and columns"),
    "words.npy": (np.array([["a"]]), "holds no array of numbers"),
    "complex.npy": (np.array([[1j]]), "holds no array of numbers"),
    "objects.npy": (np.array([[{}]], dtype=object), "cannot be decoded"),
    "colours.png": (np.zeros((4, 4, 3), dtype=np.uint8), "its mode is RGB, and not one channel of grey"),
}


@pytest.mark.parametrize("file", UNFIT)
def test_what_is_no_map_is_refused_by_name(file: str, tmp_path: Path) -> None:
    numbers, reason = UNFIT[file]
    save(tmp_path / file, numbers)
    with pytest.raises(UserError) as caught:
        FileMaps(tmp_path, [file], graded=True)(0)
    assert str(caught.value).startswith(f"localizer.files={tmp_path}: {file} ")
    assert reason in str(caught.value)


def test_a_palette_numbers_objects_and_grades_nothing(tmp_path: Path) -> None:
    Image.new("P", (4, 4), 3).save(tmp_path / "1.png")
    assert FileMaps(tmp_path, ["1.png"], graded=False)(0).eq(1).all()
    with pytest.raises(UserError, match="its mode is P, and not one channel of grey"):
        FileMaps(tmp_path, ["1.png"], graded=True)(0)


@pytest.mark.parametrize("file", ["torn.npy", "torn.png"])
def test_a_torn_file_is_refused_by_name(file: str, tmp_path: Path) -> None:
    whole = save(tmp_path / file, np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"localizer.files={tmp_path}: {file} cannot be decoded"):
        FileMaps(tmp_path, [file], graded=False)(0)


def test_masks_of_files_are_the_true_masks_of_the_same_images(tmp_path: Path) -> None:
    scenes = Scenes("train", count=10, size=64)
    for index in range(len(scenes)):
        image, label = scenes[index]
        name = f"{label}/{index:02d}.png"
        save(tmp_path / "data/train" / name, np.asarray(image))
        save(tmp_path / "masks" / name, scenes.main_mask(index))
    images = FolderImages(tmp_path / "data", "train")
    maps = load_maps(maps_of_files(MASKS, LocalizerSettings(files=str(tmp_path / "masks")), images), images, CPU)
    numbers = [int(Path(name).stem) for name in images.names]
    expected = load_maps(true_maps(SaliencySource(SourceKind.truth), scenes), scenes, CPU)[numbers]
    assert torch.equal(maps, expected)


def test_a_part_of_the_images_has_the_maps_of_its_own(folder_root: Path, tmp_path: Path) -> None:
    images = FolderImages(folder_root, "train")
    settings = LocalizerSettings(files=str(write_maps(folder_root, tmp_path / "maps")))
    part = Subset(images, [7, 2])
    assert names_of(part) == [images.names[7], images.names[2]]
    whole, of_part = (load_maps(maps_of_files(MAPS, settings, of), of, CPU) for of in (images, part))
    assert torch.equal(of_part, whole[[7, 2]])
    assert whole.float().mean((1, 2)).abs().max() < 1e-3
    assert whole.float().std((1, 2), correction=0) == pytest.approx(1, abs=1e-3)


@pytest.fixture
def maps(folder_root: Path, tmp_path: Path) -> Path:
    return write_maps(folder_root, tmp_path / "maps")


def of_files(folder_root: Path, out: Path, **changes: Any) -> list[str]:
    """The command line of a pretraining by files."""
    settings = {**ON_FILES, **{f"localizer.{name}": value for name, value in changes.items()}}
    return ["pretrain", OURS, *words(settings), "--root", str(folder_root), "--out", str(out)]


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_draws_its_masks_by_files_and_is_known_by_what_they_hold(
    cached: bool, folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(maps, tmp_path / "elsewhere")
    out, pixels = tmp_path / "runs", []
    if cached:
        pixels = ["data.cached_side=32", f"machine.data_cache={tmp_path / 'pixels'}"]
        into = ("--to", str(tmp_path / "pixels"))
        assert salmask("data", "cache", "folder", "--root", str(folder_root), "--side", "32", *into).code == 0
    ended = [
        salmask(*of_files(folder_root, out, source="maps", hard_negative_source="masks", files=folder), *pixels)
        for folder in (maps, elsewhere)
    ]
    assert [one.code for one in ended] == [0, 0], ended
    (run,) = out.glob("*/*/run.yaml")  # the second one found the first one's, finished
    assert f"files_sha256: {hash_files(maps)}" in run.read_text()


def test_maps_that_changed_since_the_run_began_are_refused(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    command = of_files(folder_root, out, source="masks", files=maps, files_sha256=hash_files(maps))
    save(maps / "ant/0.png", np.ones((4, 4), dtype=np.uint8))
    assert refused(*command) == (
        f"localizer.files={maps} does not hold what the run was made with: it has another SHA-256; mend: put these "
        "files back, or begin a new run"
    )


def test_images_without_a_map_are_counted_before_anything_is_trained(
    folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    (maps / "ant/0.png").unlink()
    (maps / "zebra/3.npy").unlink()
    assert refused(*of_files(folder_root, tmp_path / "runs", source="maps", files=maps)) == (
        f"localizer.files={maps}: of 12 images 2 (ant/0, zebra/3) have no map; mend: a file of each image's name that "
        "ends with .png or .npy"
    )


def test_a_file_for_two_images_is_refused(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    shutil.copy(folder_root / "train/ant/0.png", folder_root / "train/ant/0.jpg")
    assert refused(*of_files(folder_root, tmp_path / "runs", source="maps", files=maps)) == (
        f"localizer.files={maps}: names of several images, but for their endings, are 1 (ant/0); mend: rename all but "
        "one of each"
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"localizer.source": "maps"},
            "localizer.source=maps without files; mend: localizer.files=DIR, with a file for each image",
        ),
        (
            {"localizer.files": "MAPS"},
            "localizer.files play no part with localizer.source=network; mend: localizer.source=maps or "
            "localizer.source=masks, or leave them out",
        ),
        (
            {"localizer.source": "masks", "localizer.files": "MAPS", "data.dataset": "scenes"},
            "localizer.source=masks on drawn scenes, which are no files; mend: localizer.source=truth",
        ),
        (
            {"localizer.source": "masks", "localizer.files": "MAPS", "fidelity.saliency_map": "released"},
            "fidelity.saliency_map=released sorts what a network finds, and localizer.source=masks is by true masks; "
            "mend: fidelity.saliency_map=paper",
        ),
        (
            {"localizer.source": "masks", "localizer.files": "/nowhere"},
            "localizer.files: /nowhere cannot be read (No such file or directory); mend: a folder that can be "
            "read, with a file for each image",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, str], line: str, folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    given = {key: str(maps) if value == "MAPS" else value for key, value in settings.items()}
    root = [] if "data.dataset" in given else ["--root", str(folder_root)]
    command = ["pretrain", OURS, *words({**ON_FILES, **given}), *root, "--out", str(tmp_path / "runs")]
    assert refused(*command) == line
    assert not list(tmp_path.glob("runs/**/run.yaml"))


def test_other_commands_know_of_files(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    of_maps = ["localizer.source=maps", f"localizer.files={maps}"]
    saliency = salmask("data", "saliency", "folder", "--root", str(folder_root), *of_maps)
    assert saliency.code == 0, saliency
    assert "16×16" in saliency.out
    settings = words({**ON_FILES, "localizer.source": "maps", "localizer.files": maps})
    page = tmp_path / "audit"
    audit = salmask("audit", OURS, *settings, "--root", str(folder_root), "--count", "4", "--out", str(page))
    assert audit.code == 0, audit
    cost = salmask("methods", "cost", OURS, *settings, "--rounds", "0")
    assert cost.code == 0, cost
