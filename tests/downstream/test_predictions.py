"""Predictions of single images: one small file that gives the row's number, and is refused once it was altered."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from json_rows import read_rows, write_rows
from run_samples import RESULT
from training_samples import CPU, tiny, with_random_backbone

from downstream.measurement import keep_predictions, predictions_of, scores
from downstream.tasks import evaluate
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, Predictions, joined, path_of_predictions, read, write
from repro.runs.records import ADDED, Result, append
from repro.runs.records import read as read_results
from repro.training.pretraining import open_data
from results.collection.collect import collect

RUN = tiny(changes={"knn.neighbours": [3, 7], "logistic.values": 3})


def drawn(count: int = 200, classes: int = 9, seed: int = 0) -> tuple[torch.Tensor, Subset]:
    """Logits that are right more often than chance, and the images that they belong to."""

    class Pool:
        def __init__(self) -> None:
            self.classes = [f"class {label}" for label in range(classes)]
            self.targets = np.random.default_rng(seed).integers(0, classes, 2 * count).tolist()

        def __len__(self) -> int:
            return len(self.targets)

        def fingerprint(self) -> str:
            return f"pool {seed}"

    images = Subset(Pool(), np.arange(1, 2 * count, 2))  # type: ignore[arg-type]
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(count), torch.tensor(images.targets)] += 1.5
    return logits, images


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_the_accuracies_are_those_of_the_scores(classes: int) -> None:
    logits, images = drawn(classes=classes)
    predictions = predictions_of(logits, images)
    for metric, value in scores(logits, torch.tensor(images.targets)).items():
        assert predictions.accuracy(metric) == pytest.approx(value, abs=1e-9), metric
    assert predictions.weights("mean_per_class").sum() == pytest.approx(1)
    assert predictions.image.tolist() == list(range(1, 400, 2))
    assert predictions.split.tolist() == [0] * 200
    assert predictions.prediction.tolist() == logits.argmax(1).tolist()
    assert predictions.score == pytest.approx(logits.softmax(1).max(1).values.numpy())
    assert predictions.images == images.fingerprint() != images.pool.fingerprint()


def test_several_splits_count_alike_however_large() -> None:
    parts = [predictions_of(*drawn(count, seed=seed)) for seed, count in enumerate((30, 300))]
    both = joined(parts)
    for metric in ("top1", "top5", "mean_per_class"):
        assert both.accuracy(metric) == pytest.approx(sum(part.accuracy(metric) for part in parts) / 2)
    assert both.split.tolist() == [0] * 30 + [1] * 300
    assert both.images not in {part.images for part in parts}
    assert joined(parts[:1]) is parts[0]


def test_a_file_gives_back_what_was_written_and_five_thousand_images_take_a_few_tens_of_kb(tmp_path: Path) -> None:
    folder, predictions = RunFolder(tmp_path), predictions_of(*drawn(5000, 100))
    path = path_of_predictions(folder, "linear", "imagenet100", "linear-moco-v1[epochs=20]")
    named = write(path, folder, predictions)
    assert named.name == "predictions/linear-imagenet100-linear-moco-v1[epochs=20].parquet"
    again = read(folder, named)
    for name, value in vars(predictions).items():
        assert np.array_equal(getattr(again, name), value), name
    assert path.stat().st_size < 35_000
    assert write(path, folder, predictions) == named  # the same predictions are the same file


def test_a_file_that_is_missing_altered_or_foreign_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    path = path_of_predictions(folder, "knn", "scenes", "knn-v1")
    named = write(path, folder, predictions_of(*drawn()))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"knn-scenes-knn-v1\.parquet was changed since it was written.*evaluate the run again"
    ):
        read(folder, named)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(folder, named)
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no predictions that this version reads"):
        read(folder, FileReference(named.name, hashlib.sha256(b"{}").hexdigest()))


def test_predictions_that_miss_the_number_are_not_kept_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, (logits, images) = RunFolder(tmp_path), drawn()
    predictions = predictions_of(logits, images)
    values = scores(logits, torch.tensor(images.targets))
    evaluation = Evaluation("linear", "scenes")
    kept = keep_predictions(folder, evaluation, "p", predictions, values)
    assert kept
    assert read(folder, kept).accuracy() == pytest.approx(values["top1"])
    # Two images of a small data set, or half a point of a large one, may differ by another device's rounding.
    for count, allowed in ((len(images), 2), (1000, 5)):
        predictions = predictions_of(*drawn(count))
        for missed in (allowed, -allowed, allowed + 1, -allowed - 1):
            off = {"top1": predictions.accuracy("top1") + 100 * missed / count}
            if abs(missed) == allowed:
                assert keep_predictions(folder, evaluation, "q", predictions, off) is None
                assert "are not kept" in caplog.text
                continue
            with pytest.raises(
                UserError, match=r"linear on scenes: the trained classifier gives .* its training's"
            ) as refusal:
                keep_predictions(folder, evaluation, "q", predictions, off)
            assert refusal.value.mend == f"remove what {tmp_path / 'probes'} holds of scenes, and evaluate again"
    # A single image of very many is told, and the last digits of a mean are not, wherever the limit lies.
    for count, missed in ((5000, 1), *((count, 2) for count in range(20, 60))):
        predictions = predictions_of(*drawn(count))
        off = {"top1": predictions.accuracy("top1") - 100 * missed / count}
        assert keep_predictions(folder, evaluation, "q", predictions, off) is None
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["linear-scenes-p.parquet"]


def test_the_first_rank_alone_keeps_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, predictions = FileReference("of rank 0", "0"), predictions_of(*drawn())
    monkeypatch.setattr("downstream.measurement.decided_by_first", lambda _: named)  # the decision on every other rank
    values = {"top1": predictions.accuracy("top1")}
    assert keep_predictions(RunFolder(tmp_path), Evaluation("linear", "scenes"), "p", predictions, values) is named
    assert not list(tmp_path.iterdir())


def explained(rows: list[Result]) -> list[Result]:
    return [row for row in rows if row.metric in ("top1", "top5", "mean_per_class")]


@pytest.mark.parametrize("task", ["knn", "logistic", "linear", "finetune", "semi-10"])
def test_each_row_names_the_file_that_it_can_be_made_of(task: str, tmp_path: Path) -> None:
    run = replace(RUN, probe=replace(RUN.probe, epochs=2), finetune=replace(RUN.finetune, epochs=2, batch=8))
    folder = with_random_backbone(run, tmp_path)
    rows = evaluate(run, folder, task, CPU)
    assert read_results(folder.results) == (rows, [])
    val = open_data(run, "val")
    for row in explained(rows):
        assert row.predictions == f"predictions/{task}-scenes-{row.protocol}.parquet"
        predictions = read(folder, FileReference(row.predictions, row.predictions_sha256))
        assert predictions.accuracy(row.metric) == pytest.approx(row.value, abs=1e-4), row.metric
        assert predictions.label.tolist() == list(val.targets)
        assert predictions.image.tolist() == list(range(len(val)))
        assert predictions.classes == tuple(val.classes)
        assert ((predictions.score > 0) & (predictions.score <= 1 + 1e-6)).all()
    assert not any(row.predictions for row in rows if row not in explained(rows))
    assert len({row.predictions for row in explained(rows)}) == (2 if task == "knn" else 1)


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_a_training_that_ended_earlier_is_asked_again(task: str, tmp_path: Path) -> None:
    run = replace(RUN, probe=replace(RUN.probe, epochs=2), finetune=replace(RUN.finetune, epochs=2, batch=8))
    folder = with_random_backbone(run, tmp_path)
    rows = evaluate(run, folder, task, CPU)
    (folder.path / rows[0].predictions).unlink()
    folder.results.unlink()
    again = evaluate(run, folder, task, CPU)
    assert [row.predictions_sha256 for row in again] == [row.predictions_sha256 for row in rows]


def test_rows_of_older_versions_stay_valid_beside_new_ones(tmp_path: Path) -> None:
    folders = [tmp_path / "demo" / "mocov2" / f"s{seed}-{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        row = replace(RESULT, run_id=str(seed), seed=seed, method="mocov2", value=1.0 + seed)
        append(folder / "results.jsonl", [row])
        append(folder / "results.jsonl", [replace(row, metric="top5", predictions="a.parquet", predictions_sha256="b")])
    old = folders[0] / "results.jsonl"
    lines = read_rows(old)
    lines[0] = {name: value for name, value in lines[0].items() if name not in ADDED}
    write_rows(old, lines)
    frame = collect([tmp_path])
    assert frame.attrs["warnings"] == []
    assert frame["predictions"].tolist() == ["", "a.parquet"] * 2
    results, warnings = read_results(old)
    assert (results[0].predictions, warnings) == ("", [])


def test_joined_predictions_keep_their_type() -> None:
    both = joined([predictions_of(*drawn(20)), predictions_of(*drawn(30, seed=1))])
    assert isinstance(both, Predictions)
    assert {name: value.dtype.name for name, value in vars(both).items() if isinstance(value, np.ndarray)} == {
        "split": "int32",
        "image": "int32",
        "label": "int32",
        "prediction": "int32",
        "score": "float32",
        "place": "uint8",
    }
