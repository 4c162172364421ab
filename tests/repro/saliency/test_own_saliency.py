"""Maps and true masks of a user's own images, and runs whose masks they guide."""

import io
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from image_samples import save_numbers, write_objects
from PIL import Image
from training_samples import CPU, OURS, TINY, refused, salmask, tiny, words

from baselines import resolve
from downstream.crops import CentralCrops
from downstream.measurement import Target
from downstream.scored_pictures import pictures_of_scored
from repro.data.folders import FolderImages
from repro.data.image_numbers import ImageNumbers
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.health import read_symptoms
from repro.saliency.image_maps import load_maps
from repro.saliency.maps_of_files import FileMaps, maps_of_files
from repro.saliency.true_maps import TrueMaps, true_maps
from repro.saliency.true_masks import FileMasks, true_masks
from repro.scenes.dataset import Scenes
from repro.settings.identity import plain as plain_settings
from repro.settings.image_files import hash_files
from repro.settings.saliency_sources import CELLS, SaliencySource, SourceKind
from repro.settings.sections import LocalizerSettings
from repro.training.watching.true_objects import load_batch
from results.plots.dose import family_of

pytestmark = pytest.mark.usefixtures("own_maps")

TRUTH = SaliencySource(SourceKind.truth)
ON_FILES = {"data.dataset": "folder", "moco.bn_splits": 1, "optimization.batch": 4, "optimization.epochs": 1}


@pytest.fixture
def maps(folder_root: Path, tmp_path: Path) -> Path:
    return write_objects(folder_root, tmp_path / "maps")


def numbers_in(folder: Path, *files: str) -> ImageNumbers:
    return ImageNumbers("localizer.files", folder, list(files), False, "")


def test_a_map_has_the_mean_of_each_cell_whatever_its_unit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).uniform(0, 1, (48, 32))
    means = (numbers.reshape(CELLS, 3, CELLS, 2).mean((1, 3)) - numbers[0, 0]) / numbers.max()
    files = {
        "1.npy": numbers,
        "2.npy": 1e300 * numbers,  # too large for single precision
        "3.npy": (1e-30 * numbers).astype(np.float32),
        "4.png": (numbers * 65535).astype(np.uint16),
        "5.png": (numbers * 255).round().astype(np.uint8),
    }
    for file, content in files.items():
        save_numbers(tmp_path / file, content)
    read = FileMaps(numbers_in(tmp_path, *files))
    for index, tolerance in enumerate((1e-6, 1e-6, 1e-6, 2e-5, 8e-3)):
        np.testing.assert_allclose(read(index).numpy(), means, atol=tolerance, err_msg=str(index))
    save_numbers(tmp_path / "far.npy", 1e8 + numbers)  # constant in single precision
    far = FileMaps(numbers_in(tmp_path, "far.npy"))(0).numpy()
    np.testing.assert_allclose(far * 1e8, means * numbers.max(), atol=1e-6)
    save_numbers(tmp_path / "negative.npy", -numbers)
    np.testing.assert_allclose(FileMaps(numbers_in(tmp_path, "negative.npy"))(0).numpy(), -means, atol=1e-6)
    save_numbers(tmp_path / "constant.npy", np.full((7, 9), 0.1))
    assert not FileMaps(numbers_in(tmp_path, "constant.npy"))(0).any()


def test_a_networks_grid_may_be_finer_or_coarser_than_ours(tmp_path: Path) -> None:
    save_numbers(tmp_path / "7.npy", np.eye(7))
    save_numbers(tmp_path / "32.npy", np.kron(np.eye(2), np.ones((16, 16))))
    coarse, fine = (FileMaps(numbers_in(tmp_path, "7.npy", "32.npy"))(index) for index in (0, 1))
    assert torch.equal(fine, torch.kron(torch.eye(2), torch.ones(8, 8)) - 1)
    assert torch.equal(coarse, coarse.T)
    assert coarse[0, 0] == coarse[-1, -1] == 0  # less the first number, 1
    assert coarse[0, -1] == -1


def test_maps_are_kept_with_mean_0_and_deviation_1(folder_root: Path, maps: Path) -> None:
    images = FolderImages(folder_root, "train")
    kept = load_maps(maps_of_files(LocalizerSettings(files=str(maps)), images), images, CPU).float()
    assert kept.shape == (12, CELLS, CELLS)
    assert kept.mean((1, 2)).abs().max() < 1e-3
    assert kept.std((1, 2), correction=0) == pytest.approx(1, abs=1e-3)
    save_numbers(maps / "ant/0.png", np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="its mode is RGB, and not one channel of grey"):
        maps_of_files(LocalizerSettings(files=str(maps)), images).prepare(images.names.index("ant/0.png"))


def test_other_files_of_the_same_images_have_maps_of_their_own(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    """Kept maps are named by what the files hold; images and settings alone do not tell two folders apart."""
    images, others = FolderImages(folder_root, "train"), tmp_path / "others"
    for file in maps.glob("*/*"):
        numbers = np.load(file) if file.suffix == ".npy" else np.asarray(Image.open(file))
        save_numbers(others / file.parent.name / f"{file.stem}.npy", numbers[::-1])
    of_maps = [load_maps(maps_of_files(LocalizerSettings(files=str(f)), images), images, CPU) for f in (maps, others)]
    torch.testing.assert_close(of_maps[1], of_maps[0].flip(1), rtol=0, atol=5e-3)
    assert not torch.equal(*of_maps)
    masks = [FileMasks(ImageNumbers.of(images, "data.masks", f, colours=True, sha256="")) for f in (maps, others)]
    first, second = (load_maps(true_maps(TRUTH, of_files), images, CPU) for of_files in masks)
    assert torch.equal(second, first.flip(1))
    assert not torch.equal(second, first)


@pytest.fixture
def scenes_on_disk(tmp_path: Path) -> Scenes:
    """Scenes that are also written as files in `data`, with their masks in `masks`."""
    scenes = Scenes("train", count=10, size=64)
    for index in range(len(scenes)):
        image, label = scenes[index]
        name = f"{label}/{index:02d}.png"
        save_numbers(tmp_path / "data/train" / name, np.asarray(image))
        save_numbers(tmp_path / "masks" / name, scenes.main_mask(index).astype(np.uint8) * (index + 1))
    return scenes


@pytest.mark.parametrize("source", ["truth", "truth-dilated-2", "truth-eroded-1"])
def test_masks_of_files_are_the_true_masks_of_the_same_images(
    source: str, scenes_on_disk: Scenes, tmp_path: Path
) -> None:
    run = tiny(OURS, {**ON_FILES, "localizer.source": source, "data.masks": str(tmp_path / "masks")})
    images = FolderImages(tmp_path / "data", "train")
    of_files = true_masks(run, images)
    assert isinstance(of_files, FileMasks)
    kept = load_maps(true_maps(SaliencySource.parse(source), of_files), images, CPU)
    numbers = [int(Path(name).stem) for name in images.names]
    of_scenes = true_maps(SaliencySource.parse(source), scenes_on_disk.main_mask)
    assert torch.equal(kept, load_maps(of_scenes, scenes_on_disk, CPU)[numbers])
    assert true_maps(TRUTH, of_files).identity.keys() - of_scenes.identity.keys() == {"masks"}


def test_a_mask_follows_the_views_of_its_image_whatever_its_own_size(scenes_on_disk: Scenes, tmp_path: Path) -> None:
    images = FolderImages(tmp_path / "data", "train")
    for file in (tmp_path / "masks").glob("*/*"):  # twice as wide and high
        mask = scenes_on_disk.main_mask(int(file.stem))
        save_numbers(file, np.kron(mask, np.ones((2, 2), dtype=bool)))
    run = tiny(OURS, {**ON_FILES, "data.masks": str(tmp_path / "masks")})
    numbers = [int(Path(name).stem) for name in images.names]
    _, objects = load_batch(run, images, true_masks(run, images), range(10), CPU)
    drawn = Subset(scenes_on_disk, numbers)
    _, expected = load_batch(run, drawn, lambda index: scenes_on_disk.main_mask(numbers[index]), range(10), CPU)
    for name in ("query", "key"):
        assert torch.equal(objects[name], expected[name])
        assert 0 < objects[name].float().mean() < 1


def test_an_image_without_an_object_stays_so_and_an_oblong_one_is_squeezed(tmp_path: Path) -> None:
    save_numbers(tmp_path / "none.npy", np.zeros((20, 30)))
    oblong = np.zeros((20, 80), dtype=bool)
    oblong[5:15, 20:60] = True  # half of either side
    save_numbers(tmp_path / "oblong.npy", oblong)
    masks = FileMasks(numbers_in(tmp_path, "none.npy", "oblong.npy"))
    for text in ("truth", "truth-dilated-1", "truth-eroded-1", "truth-shifted-3"):
        source = SaliencySource.parse(text)
        assert not TrueMaps(source, masks)(0).any()
        assert TrueMaps(source, masks)(1).any()
    truth, grown = (TrueMaps(SaliencySource.parse(text), masks)(1) for text in ("truth", "truth-dilated-2"))
    assert torch.equal(truth, torch.nn.functional.pad(torch.ones(8, 8), (4, 4, 4, 4)))
    assert grown[2:14, 6:10].eq(1).all()  # by two of sixteen cells, down and across alike
    assert grown[6:10, 2:14].eq(1).all()
    assert not grown[:2].any()
    assert not grown[:, :2].any()


def of_files(folder_root: Path, out: Path, **changes: Any) -> list[str]:
    """Command-line settings of a pretraining on the folder's images."""
    settings = {**ON_FILES, **{name.replace("__", "."): value for name, value in changes.items()}}
    return ["pretrain", OURS, *words(settings), "--root", str(folder_root), "--out", str(out)]


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_is_known_by_what_its_files_hold_and_not_by_where_they_lie(
    cached: bool, folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(maps, tmp_path / "elsewhere")
    out, pixels = tmp_path / "runs", []
    if cached:
        pixels = ["data.cached_side=32", f"machine.data_cache={tmp_path / 'pixels'}"]
        into = ("--to", str(tmp_path / "pixels"))
        assert salmask("data", "cache", "folder", "--root", str(folder_root), "--side", "32", *into).code == 0
    guided = {"localizer__source": "maps", "localizer__hard_negative_source": "truth"}
    for folder in (maps, elsewhere):
        ended = salmask(*of_files(folder_root, out, **guided, localizer__files=folder, data__masks=folder), *pixels)
        assert ended.code == 0, ended
    (run,) = out.glob("*/*/run.yaml")  # the second call found the finished run of the first
    assert run.read_text().count(f"s_sha256: {hash_files('data.masks', maps)}") == 2
    found = json.loads((run.parent / "foregrounds.json").read_text())
    assert found["hard negative"]["mean IoU"] > found["query"]["mean IoU"] > 0  # cells of the mask, and of the rule


@pytest.mark.parametrize(("setting", "source"), [("localizer__files", "maps"), ("data__masks", "truth")])
def test_files_that_changed_since_the_run_began_are_refused(
    setting: str, source: str, folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    digest = {f"{setting}_sha256": hash_files("data.masks", maps)}
    command = of_files(folder_root, tmp_path / "runs", localizer__source=source, **{setting: maps}, **digest)
    save_numbers(maps / "ant/0.png", np.ones((4, 4), dtype=np.uint8))
    assert refused(*command) == (
        f"{setting.replace('__', '.')}={maps} does not hold what the run was made with: it has another SHA-256; mend: "
        f"put these files back, or begin a new run, with {setting.replace('__', '.')}_sha256=''"
    )


def test_masks_that_only_measure_make_no_other_run(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    plain, measured = (resolve(OURS, {**TINY, **ON_FILES, "data.masks": masks}) for masks in ("", str(maps)))
    assert measured.id == plain.id
    assert measured.recipe == plain.recipe
    by_truth = resolve(OURS, {**TINY, **ON_FILES, "data.masks": str(maps), "localizer.source": "random"})
    assert by_truth.data.masks_sha256 == hash_files("data.masks", maps)
    # The same if the settings are those of a run that the masks guided.
    again = resolve(OURS, {**TINY, **ON_FILES}, {"data": plain_settings(by_truth.data)})
    assert again.id == plain.id
    # Only the masks that are looked at are read.
    with patch("repro.data.image_numbers.hash_once", side_effect=AssertionError):
        masks = true_masks(measured, FolderImages(folder_root, "train"))
        assert isinstance(masks, FileMasks)
        assert masks.numbers.colours
        assert masks(0).any()


@pytest.mark.end_to_end
def test_a_run_by_maps_and_one_by_masks_are_of_one_plot_and_one_report(
    folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    by_maps = {"localizer__source": "maps", "localizer__files": maps}
    for method, settings in ((OURS, by_maps), (f"{OURS}-by-truth", {"localizer__source": "truth"})):
        pretrain, _, *others = of_files(folder_root, out, data__masks=maps, **settings)
        ended = salmask(pretrain, method, *others)
        assert ended.code == 0, ended
        (run,) = out.glob(f"{method}/*")
        ended = salmask("eval", str(run), "--task", "knn", "knn.neighbours=[3]")
        assert ended.code == 0, ended
    assert len({family_of(RunFolder(run).load()) for run in out.glob("*/*")}) == 1
    for command in (
        ("plot", "saliency-dose", "--out", str(tmp_path)),
        ("report", "--out", str(tmp_path / "page.html")),
    ):
        ended = salmask(*command, "--runs", str(out), "--task", "knn")
        assert ended.code == 0, ended


def test_images_without_a_file_are_counted_before_anything_is_trained(
    folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    (maps / "ant/0.png").unlink()
    (maps / "zebra/3.npy").unlink()
    assert refused(*of_files(folder_root, tmp_path / "runs", localizer__source="random", data__masks=maps)) == (
        f"data.masks={maps}: 2 (ant/0, zebra/3) of 12 images without a file; mend: a file for each image, of its name "
        "and ending with .png or .npy"
    )


def test_a_file_for_two_images_is_refused(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    shutil.copy(folder_root / "train/ant/0.png", folder_root / "train/ant/0.jpg")
    assert refused(*of_files(folder_root, tmp_path / "runs", localizer__source="maps", localizer__files=maps)) == (
        f"localizer.files={maps}: names that several images have, but for their endings: 1 (ant/0); mend: rename all "
        "but one of each"
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"localizer.source": "maps"},
            "localizer.source=maps without files; mend: localizer.files=DIR, with a map of each image",
        ),
        (
            {"localizer.files": "MAPS"},
            "localizer.files play no part with localizer.source=network; mend: localizer.source=maps, or leave them "
            "out",
        ),
        (
            {"localizer.source": "maps", "localizer.files": "MAPS", "data.dataset": "scenes"},
            "localizer.source=maps on drawn scenes, which are no files; mend: localizer.source=truth",
        ),
        (
            {"data.masks": "MAPS", "data.dataset": "scenes"},
            "data.masks play no part on drawn scenes, which have masks of their own; mend: leave them out",
        ),
        (
            {"localizer.source": "maps", "localizer.files": "/nowhere"},
            "localizer.files: /nowhere cannot be read (No such file or directory); mend: localizer.files=DIR, a folder "
            "that can be read, with a file for each image",
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


def test_other_commands_know_of_maps_and_masks(folder_root: Path, maps: Path, tmp_path: Path) -> None:
    of_maps = ["localizer.source=maps", f"localizer.files={maps}"]
    root = ["--root", str(folder_root)]
    saliency = salmask("data", "saliency", "folder", *root, *of_maps)
    assert saliency.code == 0, saliency
    assert "16×16" in saliency.out
    settings = words({**ON_FILES, "localizer.source": "maps", "localizer.files": maps, "data.masks": maps})
    audit = salmask("audit", OURS, *settings, *root, "--count", "4", "--out", str(tmp_path / "audit"))
    assert audit.code == 0, audit
    measured = json.loads((tmp_path / "audit" / "statistics.json").read_text())
    ours, _, at_random = (row["mean IoU"] for row in measured["maps"])
    assert ours > at_random > 0
    cost = salmask("methods", "cost", OURS, *settings, "--rounds", "0")
    assert cost.code == 0, cost


def test_scored_images_are_shown_alone_where_maps_are_of_training_images(folder_root: Path, maps: Path) -> None:
    def size(**localizer: str) -> tuple[int, int]:
        settings = {**TINY, **ON_FILES, "machine.data_root": str(folder_root), "data.masks": str(maps)}
        run = resolve(OURS, settings, {f"localizer.{key}": value for key, value in localizer.items()})
        (picture,) = pictures_of_scored(run, "knn", "folder", [(0, 1)])
        return Image.open(io.BytesIO(picture)).size

    crop = TINY["data.crop"]
    assert size(source="maps", files=str(maps)) == size(source="truth") == (crop, crop)
    of_network = size(source="network")
    assert of_network[0] > 3 * crop  # with foreground and masked query beside it
    assert size(source="network", map="image") == of_network
    assert size(source="truth", hard_negative_source="network") == of_network


def test_a_scored_image_is_shown_with_its_foreground_and_its_masked_query(folder_root: Path) -> None:
    run = resolve(OURS, {**TINY, **ON_FILES, "machine.data_root": str(folder_root)})
    pictures = pictures_of_scored(run, "linear", "folder", [(0, 1), (0, 1), (1, 1)])
    first, again, of_another_split = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in pictures)
    side = TINY["data.crop"]
    crop, _ = CentralCrops(Target("folder", folder_root, run.data.scenes).open("val"), side)[1]
    image, foreground, query = (first[:, start : start + side] for start in range(0, first.shape[1], side + 4))
    assert np.abs(image - crop.permute(1, 2, 0).numpy()).mean() < 12  # what JPEG takes of a noisy image
    assert [np.abs(image - part).mean() > 20 for part in (foreground, query)] == [True, True]
    assert (first == again).all()
    # The split's seed draws the mask, and nothing else; JPEG's chroma reaches a pixel over the end of a block.
    assert (first == of_another_split)[:, : 2 * side - 2].all()
    assert (query != of_another_split[:, -side:]).any()
    with patch("downstream.scored_pictures.stretch", lambda inputs: torch.full_like(inputs, 1.5)):
        (picture,) = pictures_of_scored(run, "linear", "folder", [(0, 1)])
    assert (np.asarray(Image.open(io.BytesIO(picture)))[:, -side + 8 :] > 250).all()  # too bright is white, not dark


def test_maps_without_contrast_are_told_with_the_mend_that_applies(
    folder_root: Path, maps: Path, tmp_path: Path
) -> None:
    for file in maps.glob("*/*"):
        save_numbers(file, np.full((4, 4), 7, dtype=np.uint8))
    command = of_files(folder_root, tmp_path / "runs", localizer__source="maps", localizer__files=maps)
    ended = salmask(*command)
    assert ended.code == 0, ended
    (health,) = tmp_path.glob("runs/*/*/health.json")
    (symptom,) = read_symptoms(health)
    assert symptom.kind == "blind localizer"
    assert symptom.mend == f"see {health.parent}/gallery/masks.png; check that the files of localizer.files are graded"
