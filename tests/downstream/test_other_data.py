"""An evaluation knows which images it measured: numbers and unfinished trainings of other images are not used."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from image_samples import write_image
from json_rows import read_rows, write_rows
from PIL import Image
from training_samples import CPU, refused, salmask, tiny, with_random_backbone
from transfer_samples import make_caltech

from downstream.crops import CentralCrops
from downstream.measurement import Target
from downstream.partitions import scored_images
from downstream.scored_pictures import pictures_of_scored
from downstream.tasks import evaluate
from repro.data import caltech
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, images_of_splits, read
from repro.runs.records import read as read_results

KNN = ("--task", "knn", "--data", "folder", "knn.neighbours=[3]")
QUICK = {
    **{"probe.epochs": 1, "probe.splits": 2, "logistic.values": 2, "logistic.splits": 2, "knn.neighbours": [3]},
    **{"finetune.epochs": 1, "finetune.batch": 8},
}


def data(root: Path, seed: int, side: int = 12) -> Path:
    """Two classes of images of some size; their files are PNGs."""
    for split, count in (("train", 6), ("val", 3)):
        for name in ("ant", "bee"):
            for index in range(count):
                seed += 1
                write_image(root / split / name / f"{index}.png", seed, size=(side, side))
    return root


def test_numbers_of_other_images_are_not_given_for_those_of_a_root(folder: RunFolder, tmp_path: Path) -> None:
    first, other = data(tmp_path / "a", 0), data(tmp_path / "b", 50, side=16)
    moved = shutil.copytree(first, tmp_path / "moved")
    ended = salmask("eval", str(folder.path), *KNN, "--root", str(first))
    assert ended.code == 0, ended.err
    before = folder.results.read_text()
    line = refused("eval", str(folder.path), *KNN, "--root", str(other))
    assert line == (
        f"{folder.path} holds knn on folder measured on other images than those in {other}; mend: leave --root out to "
        "read the recorded rows, or evaluate a copy of the folder that has only run.yaml and backbone.pth"
    )
    # Among several tasks, the later ones are checked too, before the first one takes its time.
    tasks = ("--task", "knn@scenes,knn@folder", "knn.neighbours=[3]", "--root", f"folder={other}")
    assert "measured on other images" in refused("eval", str(folder.path), *tasks)
    assert folder.results.read_text() == before
    for arguments in ((), ("--root", str(first)), ("--root", str(moved))):
        again = salmask("eval", str(folder.path), *KNN, *arguments)
        assert (again.code, again.out, folder.results.read_text()) == (0, ended.out, before)


def test_the_mend_measures_the_other_images(folder: RunFolder, tmp_path: Path) -> None:
    first, other = data(tmp_path / "a", 0), data(tmp_path / "b", 50, side=16)
    assert salmask("eval", str(folder.path), *KNN, "--root", str(first)).code == 0
    copy = RunFolder(tmp_path / "copies" / folder.path.parent.name / folder.path.name)
    copy.path.mkdir(parents=True)
    for name in ("run.yaml", "backbone.pth"):
        shutil.copy(folder.path / name, copy.path)
    assert salmask("eval", str(copy.path), *KNN, "--root", str(other)).code == 0
    images = {
        read(where, FileReference(row.predictions, row.predictions_sha256)).images
        for where in (folder, copy)
        for row in read_results(where.results)[0]
    }
    assert len(images) == 2


@pytest.mark.parametrize("lost", ["the file", "what names it"])
def test_rows_without_predictions_cannot_be_compared(folder: RunFolder, tmp_path: Path, lost: str) -> None:
    first, other = data(tmp_path / "a", 0), data(tmp_path / "b", 50, side=16)
    assert salmask("eval", str(folder.path), *KNN, "--root", str(first)).code == 0
    if lost == "the file":
        shutil.rmtree(folder.path / "predictions")
    else:
        rows = read_rows(folder.results)
        write_rows(folder.results, (row | {"predictions": "", "predictions_sha256": ""} for row in rows))
    before = folder.results.read_text()
    assert salmask("eval", str(folder.path), *KNN, "--root", str(other)).code == 0
    assert folder.results.read_text() == before


def test_data_that_are_drawn_have_no_root_to_compare(folder: RunFolder, tmp_path: Path) -> None:
    tasks = ("eval", str(folder.path), "--task", "knn", "knn.neighbours=[3]")
    assert salmask(*tasks).code == 0
    assert salmask(*tasks, "--root", str(tmp_path)).code == 0


@pytest.mark.usefixtures("miniatures")
@pytest.mark.parametrize("dataset", ["scenes", "caltech101"])
@pytest.mark.parametrize("task", ["linear", "logistic", "knn", "finetune", "semi-10"])
def test_the_images_that_a_task_scores_are_known_beforehand(task: str, dataset: str, tmp_path: Path) -> None:
    run = tiny(changes=QUICK)
    folder = with_random_backbone(run, tmp_path / "runs")
    root = make_caltech(tmp_path / "data") if dataset == "caltech101" else None
    rows = evaluate(run, folder, f"{task}@{dataset}", CPU, root)
    assert {row.split for row in rows} == {"test" if dataset == "caltech101" else "val"}
    named = {FileReference(row.predictions, row.predictions_sha256) for row in rows if row.predictions}
    assert named
    scored = scored_images(run, Evaluation.parse(f"{task}@{dataset}", run).task, Target(dataset, root, run.data.scenes))
    parts = list(scored)
    assert len(parts) == (2 if dataset == "caltech101" and task in ("linear", "logistic") else 1)
    fingerprint = images_of_splits([part.fingerprint() for part in parts])
    assert {read(folder, each).images for each in named} == {fingerprint}


@pytest.mark.usefixtures("miniatures")
def test_a_picture_opens_one_of_the_drawn_splits_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALMASK_DATA", str(make_caltech(tmp_path)))
    draw = MagicMock(wraps=caltech.split)
    monkeypatch.setattr(caltech, "split", draw)
    pictures = pictures_of_scored(tiny(), "linear", "caltech101", [(0, 1), (1, 1)])
    draw.assert_called_once()
    crop, _ = CentralCrops(caltech.open_pool(tmp_path), 32)[1]  # an image's number is its place in the whole pool
    for picture in pictures:
        shown = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
        assert np.abs(shown - crop.permute(1, 2, 0).numpy()).mean() < 12  # what JPEG takes of a noisy image


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_a_training_goes_on_on_the_images_that_it_began_on_alone(task: str, tmp_path: Path) -> None:
    run = tiny(changes={"probe.epochs": 2, "finetune.epochs": 2, "finetune.batch": 6})
    folder = with_random_backbone(run, tmp_path / "runs")
    first, other = data(tmp_path / "a", 0), data(tmp_path / "b", 50, side=16)
    expected = evaluate(run, folder, f"{task}@folder", CPU, first)
    folder.results.unlink()  # as if the training was interrupted before its rows were written
    (checkpoints,) = folder.path.glob("*/folder-*/checkpoints")
    metrics = checkpoints.with_name("metrics.jsonl")
    before = metrics.read_bytes()
    with pytest.raises(UserError, match=r"step_\d+\.pth is from a training on other data \(fingerprint ") as refusal:
        evaluate(run, folder, f"{task}@folder", CPU, other)
    assert refusal.value.mend == f"delete {checkpoints.parent} to start anew, or restore the data"
    assert (metrics.read_bytes(), folder.results.exists()) == (before, False)
    assert [row.value for row in evaluate(run, folder, f"{task}@folder", CPU, first)] == [row.value for row in expected]
    folder.results.unlink()
    for path in checkpoints.glob("*.pth"):
        content = torch.load(path, weights_only=True)
        torch.save({name: value for name, value in content.items() if name != "data"}, path)
    with pytest.raises(UserError, match=r"is from a training on other data \(fingerprint unknown, now \w"):
        evaluate(run, folder, f"{task}@folder", CPU, first)


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_a_classifier_that_does_not_give_its_trainings_number_makes_no_row(task: str, tmp_path: Path) -> None:
    """For example, if the file of scores is another training's."""
    run = tiny(changes={"probe.epochs": 2, "finetune.epochs": 2, "finetune.batch": 8})
    folder = with_random_backbone(run, tmp_path / "runs")
    evaluate(run, folder, task, CPU)
    folder.results.unlink()
    (metrics,) = folder.path.glob("*/scenes-*/metrics.jsonl")
    rows = read_rows(metrics)
    write_rows(metrics, (row | {"top1": 99.0} if "top1" in row else row for row in rows))
    with pytest.raises(UserError, match=rf"{task} on scenes: .*, not the 99\.00 %.*; mend: remove what .* of scenes"):
        evaluate(run, folder, task, CPU)
    assert not folder.results.exists()


def test_splits_whose_labels_mean_other_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is for a user's own data set; the built-in ones refuse it themselves."""
    classes = {"train": ("ant", "bee"), "val": ("bee", "ant")}
    monkeypatch.setattr(Target, "open", lambda _, split: SimpleNamespace(classes=classes[split]))
    with pytest.raises(UserError, match="own: train and val have different classes; mend: salmask data verify"):
        Target("own", None, tiny().data.scenes).open_both()
