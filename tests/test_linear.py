import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from training_samples import CPU, StopBefore, assert_same_training, files_below, tiny, with_random_backbone

from downstream import linear
from downstream.linear import Evaluate, LinearProbe, accuracy, assert_unchanged, build_training, evaluate, read_scores
from repro.checkpoint import Backbone, load_backbone
from repro.errors import UserError
from repro.folder import RunFolder
from repro.loading import EpochBatches
from repro.masking import high_pass
from repro.pretrain import open_data
from repro.records import Result, read
from repro.run import Probe, Run
from repro.saliency import IMAGENET_MEAN, IMAGENET_STD
from repro.training import Training

RUN = tiny()
PROTOCOL = "linear-moco-v1[epochs=5,batch=16]"


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Result]]:
    folder = with_random_backbone(RUN, tmp_path_factory.mktemp("probed"))
    return folder, evaluate(RUN, folder, CPU)


def place(folder: RunFolder) -> Path:
    return folder.path / "probes" / f"scenes-{PROTOCOL}"


def training(folder: RunFolder, run: Run = RUN) -> Training:
    backbone = load_backbone(folder.backbone)
    train, val = open_data(run, "train"), open_data(run, "val")
    return build_training(run, folder, place(folder), backbone, train, val, CPU)


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place(folder) / "metrics.jsonl").read_text().splitlines()]


def direct_features(backbone: Backbone, size: int = 32) -> tuple[Tensor, Tensor]:
    """The validation features as torchvision's own transforms make them, one image at a time."""
    transform = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = open_data(RUN, "val")
    inputs = torch.stack([transform(images[index][0]) for index in range(len(images))])
    if backbone.input_filter == "high_pass":
        inputs = high_pass(inputs)
    with torch.no_grad():
        return backbone.network.eval()(inputs), torch.tensor(images.targets)


def test_the_rows_say_what_the_final_classifier_scores_directly(probed: tuple[RunFolder, list[Result]]) -> None:
    folder, rows = probed
    features, labels = direct_features(load_backbone(folder.backbone))
    final = torch.load(place(folder) / "checkpoints" / "step_00000010.pth", weights_only=True)["model"]
    assert set(final) == {"fc.weight", "fc.bias"}
    order = (features @ final["fc.weight"].T + final["fc.bias"]).argsort(1, descending=True)
    hits = order == labels.unsqueeze(1)
    values = {row.metric: row.value for row in rows}
    assert values["top1"] == pytest.approx(100 * hits[:, 0].float().mean().item(), abs=1e-4)
    assert values["top5"] == pytest.approx(100 * hits[:, :5].any(1).float().mean().item(), abs=1e-4)
    assert values["top1"] < values["top5"] <= 100
    scores = [row["top1"] for row in rows_of(folder) if "top1" in row]
    assert len(scores) == 5
    assert values["top1_best"] == max(scores)
    assert values["top1"] == scores[-1]


def test_the_rows_are_on_file_with_their_run_and_protocol(probed: tuple[RunFolder, list[Result]]) -> None:
    folder, rows = probed
    assert read(folder.results) == (rows, [])
    assert [row.metric for row in rows] == ["top1", "top5", "top1_best"]
    for row in rows:
        assert (row.run_id, row.seed, row.task, row.dataset, row.split) == (RUN.id, 0, "linear", "scenes", "val")
        assert (row.protocol, row.method, row.strategy) == (PROTOCOL, "mocov2", "none")
        assert "resnet18" in row.scale


def test_a_second_call_reads_the_rows_and_trains_nothing(
    probed: tuple[RunFolder, list[Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = probed
    monkeypatch.setattr(linear, "build_training", None)
    assert evaluate(RUN, folder, CPU) == rows
    assert len(folder.results.read_text().splitlines()) == 3


def test_the_learning_rate_falls_tenfold_at_three_and_at_four_fifths(probed: tuple[RunFolder, list[Result]]) -> None:
    rates = [row["lr"] for row in rows_of(probed[0]) if "lr" in row]
    expected = [rate for rate in (30.0, 30.0, 30.0, 3.0, 0.3) for _ in range(2)]
    assert rates == pytest.approx(expected)


def test_milestones_of_the_full_protocol_are_60_and_80(tmp_path: Path) -> None:
    run = replace(RUN, probe=Probe())
    made = training(with_random_backbone(run, tmp_path), run)
    (scheduler,) = made.schedulers
    assert dict(scheduler.milestones) == {60: 1, 80: 1}
    assert scheduler.gamma == 0.1
    (group,) = made.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (30.0, 0.9, 0.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "linear-moco-v1"),
        ({"epochs": 20}, "linear-moco-v1[epochs=20]"),
        ({"lr": 10.0, "batch": 128}, "linear-moco-v1[batch=128,lr=10]"),
    ],
)
def test_the_protocol_names_every_departure(settings: dict[str, Any], name: str) -> None:
    assert Probe(**settings).protocol == name


def test_the_last_partial_batch_is_trained_on(probed: tuple[RunFolder, list[Result]]) -> None:
    loader = training(probed[0]).loader
    batches = loader.batch_sampler
    assert isinstance(batches, EpochBatches)
    sizes, seen = [], []
    for batch in batches:
        sizes.append(len(batch))
        seen += [index for _, index in batch]
    assert sizes == [16, 4]
    assert sorted(seen) == list(range(20))
    assert max(row["step"] for row in rows_of(probed[0])) == 5 * 2


@pytest.mark.parametrize("step", [4, 7], ids=["mid-epoch", "end of an epoch"])
def test_interrupted_and_resumed_equals_undisturbed(
    probed: tuple[RunFolder, list[Result]], tmp_path: Path, step: int
) -> None:
    undisturbed, expected = probed
    folder = with_random_backbone(RUN, tmp_path)
    made = training(folder)
    with pytest.raises(KeyboardInterrupt):
        replace(made, hooks=[*made.hooks, StopBefore(step)], machine=replace(made.machine, checkpoint_every=1)).run()
    rows = evaluate(RUN, folder, CPU)
    assert [row.value for row in rows] == [row.value for row in expected]
    assert_same_training(place(folder) / "checkpoints", place(undisturbed) / "checkpoints")
    assert [row["step"] for row in rows_of(folder)] == [row["step"] for row in rows_of(undisturbed)]


@pytest.fixture
def tampered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    honest = LinearProbe.features

    def features(probe: LinearProbe, images: Tensor) -> Tensor:
        probe._backbone[0].bn1.running_mean.add_(1e-3)
        return honest(probe, images)

    monkeypatch.setattr(LinearProbe, "features", features)
    return with_random_backbone(RUN, tmp_path)


def test_a_backbone_that_probing_changed_voids_the_numbers(tampered: RunFolder) -> None:
    with pytest.raises(RuntimeError, match=r"probing changed the frozen backbone: bn1.running_mean; .* void"):
        evaluate(RUN, tampered, CPU)
    assert not tampered.results.exists()


def test_the_check_sees_the_smallest_change(probed: tuple[RunFolder, list[Result]]) -> None:
    network = load_backbone(probed[0].backbone).network
    assert_unchanged(network, probed[0].backbone)
    with torch.no_grad():
        weight = next(network.parameters())
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    with pytest.raises(RuntimeError, match=r"conv1\.weight"):
        assert_unchanged(network, probed[0].backbone)


class _Runner:
    """As much of mmengine's as `Evaluate` asks for."""

    def __init__(self, model: LinearProbe) -> None:
        self.model = model


def validation_features(backbone: Backbone, batch: int) -> tuple[Tensor, Tensor]:
    hook = Evaluate(open_data(RUN, "val"), 32, batch, 0)
    hook.before_train(_Runner(LinearProbe(backbone, 8)))
    return hook.features, hook.labels


@pytest.mark.parametrize("input_filter", ["none", "high_pass"])
def test_validation_features_match_direct_computation_in_any_batch_size(tmp_path: Path, input_filter: str) -> None:
    backbone = load_backbone(with_random_backbone(RUN, tmp_path, input_filter).backbone)
    expected, labels = direct_features(backbone)
    for batch in (5, 24):
        features, found = validation_features(backbone, batch)
        assert torch.equal(found, labels)
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_high_passed_backbones_see_high_passed_images(tmp_path: Path) -> None:
    plain = load_backbone(with_random_backbone(RUN, tmp_path / "plain").backbone)
    filtered = load_backbone(with_random_backbone(RUN, tmp_path / "hp", "high_pass").backbone)
    one, other = (validation_features(backbone, 24)[0] for backbone in (plain, filtered))
    assert float((one - other).norm() / one.norm()) > 0.1


class Colours:
    """Noise around one colour a class: what a linear classifier must be able to tell apart."""

    classes = ("red", "green", "blue")

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.targets = [index % 3 for index in range(count)]
        pixels = rng.integers(0, 100, (count, 40, 40, 3), dtype=np.uint8)
        for index, label in enumerate(self.targets):
            pixels[index, ..., label] += 120
        self.images = [Image.fromarray(picture) for picture in pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index], self.targets[index]

    def fingerprint(self) -> str:
        return "colours"


def test_the_classifier_learns_what_the_features_tell_apart(tmp_path: Path) -> None:
    folder = with_random_backbone(RUN, tmp_path)
    backbone = load_backbone(folder.backbone)
    build_training(RUN, folder, place(folder), backbone, Colours(48, 0), Colours(30, 1), CPU).run()
    scores = read_scores(place(folder) / "metrics.jsonl")
    assert scores[-1]["top1"] == 100
    assert all(score["top5"] == 100 for score in scores)  # of three classes


def test_accuracy_counts_hits() -> None:
    logits = torch.eye(7).flip(0)[:4] + torch.arange(7) * 1e-3
    # Best class of row i is 6 - i; the others rank by their index.
    assert accuracy(logits, torch.tensor([6, 5, 0, 1])) == (50.0, 50.0)
    assert accuracy(logits, torch.tensor([6, 6, 6, 6])) == (25.0, 100.0)
    assert accuracy(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == (0.0, 100.0)


def test_a_run_that_is_not_finished_cannot_be_probed(tmp_path: Path) -> None:
    folder = RunFolder.of(RUN, tmp_path)
    folder.prepare(RUN)
    with pytest.raises(UserError, match=r"its pretraining is not finished; mend: salmask pretrain first"):
        evaluate(RUN, folder, CPU)
    assert files_below(folder.path) == {"run.yaml"}


def test_a_backbone_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = with_random_backbone(tiny(changes={"encoder.arch": "resnet34"}), tmp_path)
    with pytest.raises(UserError, match=r"holds a resnet34, not a resnet18; mend: encoder.arch=resnet34"):
        evaluate(RUN, folder, CPU)
    assert not (folder.path / "probes").exists()
