import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_samples import CPU, tiny, with_random_backbone
from transfer_samples import make_caltech

from downstream import knn, measurement
from downstream.features import FeatureStore
from downstream.knn import vote
from downstream.measurement import Target
from downstream.partitions import standard
from downstream.tasks import evaluate
from repro.backbones.backbone import load_backbone
from repro.data.catalogue import open_images
from repro.data.splits import Images, Split
from repro.errors import UserError
from repro.runs.predictions import FileReference
from repro.runs.predictions import read as read_predictions
from repro.runs.records import read
from repro.settings.protocols import KnnSettings
from repro.training.pretraining import open_data

RUN = tiny(changes={"knn.neighbours": [3, 7]})


def vote_by_hand(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Wu et al. 2018, section 3.4, one image at a time."""
    votes = torch.zeros(len(queries), classes, dtype=torch.float64)
    for number, query in enumerate(queries.double()):
        similarities = [
            (float(query @ neighbour / (query.norm() * neighbour.norm())), int(label))
            for neighbour, label in zip(bank.double(), labels, strict=True)
        ]
        weights: defaultdict[int, float] = defaultdict(float)
        for s, label in sorted(similarities, reverse=True)[:k]:
            weights[label] += math.exp(s / temperature)
        for label, weight in weights.items():
            votes[number, label] = weight
    return votes


@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_a_plain_loop(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(40, 16, generator=rng) * 3, torch.randn(23, 16, generator=rng)
    labels = torch.randint(0, 5, (40,), generator=rng)
    expected = vote_by_hand(queries, bank, labels, 6, k, temperature)
    for chunk in (5, 1024):
        monkeypatch.setattr(knn, "QUERIES", chunk)
        votes = vote(queries, bank, labels, 6, k, temperature)
        torch.testing.assert_close(votes, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_near_neighbours_outvote_many_far_ones() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, -0.8]])
    query = torch.tensor([[5.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1])
    assert vote(query, bank, labels, 2, 4, 0.07).argmax() == 0
    assert vote(query, bank, labels, 2, 4, 10.0).argmax() == 1


def test_the_lowest_temperature_that_is_allowed_is_of_finite_votes() -> None:
    """Below it votes were infinite, and all classes with a near neighbour tied, whichever was nearest."""
    features = torch.eye(3)
    assert vote(features, features, torch.arange(3), 3, 3, 0.002).isfinite().all()
    with pytest.raises(UserError, match=r"knn\.temperature=0\.0001 is out of range; mend: 0\.002 or more"):
        tiny(changes={"knn.temperature": 0.0001})


def test_each_k_is_a_protocol_with_rows_of_its_own(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    rows = evaluate(RUN, folder, "knn", CPU)
    assert read(folder.results) == (rows, [])
    assert [(row.protocol, row.metric) for row in rows] == [
        (f"knn-v1[k={k}]", metric) for k in (3, 7) for metric in ("top1", "top5", "mean_per_class")
    ]
    assert {(row.task, row.dataset, row.split) for row in rows} == {("knn", "scenes", "val")}
    store = FeatureStore.of(RUN, folder, CPU, "knn")
    train, val = open_data(RUN, "train"), open_data(RUN, "val")
    bank, queries = torch.from_numpy(store(train)), torch.from_numpy(store(val))
    votes = vote_by_hand(queries, bank, torch.tensor(train.targets), 8, 7, 0.07)
    hits = np.mean(votes.argmax(1).numpy() == np.array(val.targets))
    assert rows[3].value == pytest.approx(100 * hits)
    # The score is the share of the votes that the winning class got.
    predictions = read_predictions(folder, FileReference(rows[3].predictions, rows[3].predictions_sha256))
    np.testing.assert_allclose(predictions.score, votes.max(1).values / votes.sum(1), rtol=1e-5)


@pytest.mark.parametrize("task", ["knn", "logistic", "linear", "finetune"])
def test_what_is_checked_is_measured_and_opened_once(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing a large data set takes long on a shared file system."""
    opened: list[str] = []

    def counted(dataset: str, split: Split, *rest: Any) -> Images:
        opened.append(split)
        return open_images(dataset, split, *rest)

    monkeypatch.setattr(measurement, "open_images", counted)
    evaluate(RUN, with_random_backbone(RUN, tmp_path), task, CPU)
    assert sorted(opened) == ["train", "val"]


def test_one_missing_protocol_makes_the_evaluation_again(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    evaluate(RUN, folder, "knn", CPU)
    more = tiny(changes={"knn.neighbours": [3, 11]})
    assert {row.protocol for row in evaluate(more, folder, "knn", CPU)} == {"knn-v1[k=3]", "knn-v1[k=11]"}
    before = folder.results.read_text()
    evaluate(tiny(changes={"knn.neighbours": [7]}), folder, "knn", CPU)
    assert folder.results.read_text() == before


def test_the_protocols_are_twenty_and_two_hundred_neighbours() -> None:
    settings = KnnSettings()
    assert [settings.protocol(k).name for k in settings.neighbours] == ["knn-v1[k=20]", "knn-v1[k=200]"]
    assert KnnSettings(temperature=0.1).protocol(20).name == "knn-v1[k=20,temperature=0.1]"


def test_more_neighbours_than_images_are_refused(tmp_path: Path) -> None:
    run = tiny()
    folder = with_random_backbone(run, tmp_path)
    with pytest.raises(UserError, match=r"knn.neighbours=200, but scenes has only 20 training images; mend: knn.neig"):
        evaluate(run, folder, "knn", CPU)
    # Refused before any feature is computed; as many neighbours as images are allowed.
    all_of_them, target = tiny(changes={"knn.neighbours": [20]}), Target("scenes", None, run.data.scenes)
    backbone = load_backbone(folder.backbone)
    knn.check(all_of_them, target, backbone)
    with pytest.raises(UserError, match=r"knn.neighbours=200, but scenes has only 20 training images"):
        knn.check(run, target, backbone)
    with pytest.raises(UserError, match=r"knn\.neighbours holds 0, which is out of range; mend: 1 or more"):
        tiny(changes={"knn.neighbours": [0]})
    with pytest.raises(UserError, match=r"knn\.neighbours=20 is not a list of whole numbers; mend: .*=\[1,2\]"):
        tiny(changes={"knn.neighbours": 20})


@pytest.mark.usefixtures("miniatures")
def test_of_splits_that_are_drawn_the_first_one_is_measured(tmp_path: Path) -> None:
    root, folder = make_caltech(tmp_path / "data"), with_random_backbone(RUN, tmp_path / "runs")
    row, *_ = evaluate(RUN, folder, "knn@caltech101", CPU, root)
    first, second = (standard(Target("caltech101", root, RUN.data.scenes), seed).scored for seed in (0, 1))
    assert first.fingerprint() != second.fingerprint()
    predictions = read_predictions(folder, FileReference(row.predictions, row.predictions_sha256))
    assert predictions.images == first.fingerprint()
