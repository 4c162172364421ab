from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from json_rows import read_rows, write_rows
from PIL import Image
from torch import Tensor
from training_samples import CPU, assert_same_training, files_below, stop_before, tiny, with_random_backbone

from downstream import linear
from downstream.epoch_scores import read_scores
from downstream.features import FeatureStore
from downstream.linear import LinearProbe, assert_unchanged, best_head_scores, build_training, folder_of_probe
from downstream.measurement import averaged, measurements, scores
from downstream.tasks import evaluate as evaluate_by_name
from repro.backbones.backbone import load_backbone
from repro.errors import UserError
from repro.filesystem.files import LONGEST_NAME, write_atomically
from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.settings.protocols import ProbeSettings
from repro.settings.run import Run
from repro.training.batches.loading import EpochBatches
from repro.training.pretraining import open_data
from repro.training.runner import Training

RUN = tiny()
PROTOCOL = "linear-moco-v1[epochs=5,batch=16]"


def evaluate(run: Run, folder: RunFolder, device: torch.device) -> list[Result]:
    return evaluate_by_name(run, folder, "linear", device)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Result]]:
    folder = with_random_backbone(RUN, tmp_path_factory.mktemp("probed"))
    return folder, evaluate(RUN, folder, CPU)


def probe_folder(folder: RunFolder) -> Path:
    return folder.path / "probes" / f"scenes-{PROTOCOL}"


def store_of(folder: RunFolder) -> FeatureStore:
    return FeatureStore.of(folder.load(), folder, CPU, "linear")


def training(folder: RunFolder, run: Run = RUN) -> Training:
    train, val = open_data(run, "train"), open_data(run, "val")
    probe = folder_of_probe(folder, "scenes", run.probe.protocol().name)
    return build_training(run, folder, probe, store_of(folder), train, val)


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    return read_rows(probe_folder(folder) / "metrics.jsonl")


@pytest.fixture(scope="module")
def validation(probed: tuple[RunFolder, list[Result]]) -> tuple[Tensor, Tensor]:
    """Features and labels; tests/downstream/test_features.py compares features with torchvision's own transforms."""
    val = open_data(RUN, "val")
    return torch.from_numpy(store_of(probed[0])(val)), torch.tensor(val.targets)


def test_the_rows_say_what_the_final_classifier_scores_directly(
    probed: tuple[RunFolder, list[Result]], validation: tuple[Tensor, Tensor]
) -> None:
    folder, rows = probed
    features, labels = validation
    final = torch.load(probe_folder(folder) / "checkpoints" / "step_00000010.pth", weights_only=True)["model"]
    assert set(final) == {"heads.0.weight", "heads.0.bias"}
    order = (features @ final["heads.0.weight"].T + final["heads.0.bias"]).argsort(1, descending=True)
    hits = order == labels.unsqueeze(1)
    values = {row.metric: row.value for row in rows}
    assert values["top1"] == pytest.approx(100 * hits[:, 0].float().mean().item(), abs=1e-4)
    assert values["top5"] == pytest.approx(100 * hits[:, :5].any(1).float().mean().item(), abs=1e-4)
    assert values["top1"] < values["top5"] <= 100
    of_class = [hits[labels == label, 0].float().mean().item() for label in range(8)]
    assert values["mean_per_class"] == pytest.approx(100 * float(np.mean(of_class)), abs=1e-4)
    epochs = [row["top1"] for row in rows_of(folder) if "top1" in row]
    assert len(epochs) == 5
    assert values["top1_best"] == max(epochs)
    assert values["top1"] == epochs[-1]


def test_the_rows_are_on_file_with_their_run_and_protocol(probed: tuple[RunFolder, list[Result]]) -> None:
    folder, rows = probed
    assert read(folder.results) == (rows, [])
    assert [row.metric for row in rows] == ["top1", "top5", "mean_per_class", "top1_best"]
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
    assert len(folder.results.read_text().splitlines()) == 4


def test_the_learning_rate_falls_tenfold_at_three_and_at_four_fifths(probed: tuple[RunFolder, list[Result]]) -> None:
    rates = [row["lr"] for row in rows_of(probed[0]) if "lr" in row]
    expected = [rate for rate in (30.0, 30.0, 30.0, 3.0, 0.3) for _ in range(2)]
    assert rates == pytest.approx(expected)


def test_the_full_protocol_is_main_lincls(tmp_path: Path) -> None:
    run = replace(RUN, probe=ProbeSettings())
    full_training = training(with_random_backbone(run, tmp_path), run)
    assert (full_training.epochs, full_training.batch, full_training.loader.batch_sampler.batch) == (100, 256, 256)
    (head,) = full_training.model.heads
    std, mean = torch.std_mean(head.weight.detach())
    assert abs(float(mean)) < 0.002
    assert float(std) == pytest.approx(0.01, rel=0.1)
    assert not head.bias.any()
    (scheduler,) = full_training.schedulers["main"]
    assert dict(scheduler.milestones) == {60: 1, 80: 1}
    assert scheduler.gamma == 0.1
    (group,) = full_training.optimizers["main"].param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (30.0, 0.9, 0.0)


def test_a_probe_is_trained_by_the_settings_and_the_seed_of_its_run(probed: tuple[RunFolder, list[Result]]) -> None:
    other = replace(RUN, seed=5, probe=replace(RUN.probe, momentum=0.5, weight_decay=0.25))
    trainings = [training(probed[0], run) for run in (RUN, other)]
    (group,) = trainings[1].optimizers["main"].param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.25)
    first, second = ([*each.model.heads[0].parameters(), each.loader.dataset[0, 3]["images"]] for each in trainings)
    assert [torch.equal(*pair) for pair in zip(first, second, strict=True)] == [False, True, False]  # biases are 0
    first_order, second_order = (list(each.loader.batch_sampler) for each in trainings)
    assert first_order != second_order


def test_the_last_partial_batch_is_trained_on(probed: tuple[RunFolder, list[Result]]) -> None:
    loader = training(probed[0]).loader
    batches = loader.batch_sampler
    assert isinstance(batches, EpochBatches)
    sizes, indices = [], []
    for batch in batches:
        sizes.append(len(batch))
        indices += [index for _, index in batch]
    assert sizes == [16, 4]
    assert sorted(indices) == list(range(20))
    assert max(row["step"] for row in rows_of(probed[0])) == 5 * 2


@pytest.mark.parametrize("step", [4, 7], ids=["mid-epoch", "end of an epoch"])
def test_interrupted_and_resumed_equals_undisturbed(
    probed: tuple[RunFolder, list[Result]], tmp_path: Path, step: int
) -> None:
    undisturbed, expected = probed
    folder = with_random_backbone(RUN, tmp_path)
    stop_before(training(folder), step)
    rows = evaluate(RUN, folder, CPU)
    assert [row.value for row in rows] == [row.value for row in expected]
    assert_same_training(probe_folder(folder) / "checkpoints", probe_folder(undisturbed) / "checkpoints")
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


class Colours:
    """Noise around one colour for each class, which a linear classifier must be able to separate."""

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
        return f"colours {len(self)}"


def test_the_classifier_learns_what_the_features_tell_apart(tmp_path: Path) -> None:
    run = replace(RUN, encoder=replace(RUN.encoder, width=64))  # narrower networks separate the colours less well
    folder = with_random_backbone(run, tmp_path)
    build_training(run, folder, probe_folder(folder), store_of(folder), Colours(48, 0), Colours(30, 1)).run()
    epochs = read_scores(probe_folder(folder) / "metrics.jsonl", 5)
    assert epochs[-1]["top1"] == 100
    assert all(epoch["top5"] == 100 for epoch in epochs)  # there are three classes


def test_scores_count_hits_over_images_and_over_classes() -> None:
    logits = torch.eye(7).flip(0)[:4] + torch.arange(7) * 1e-3
    # Best class of row i is 6 - i; the others rank by their index.
    values = scores(logits, torch.tensor([6, 5, 0, 1]))
    assert (values["top1"], values["top5"], values["mean_per_class"]) == (50.0, 50.0, 50.0)
    values = scores(logits, torch.tensor([6, 6, 6, 6]))
    assert (values["top1"], values["top5"], values["mean_per_class"]) == (25.0, 100.0, 25.0)
    # Class 6 is right once in three images, class 3 once in one; the other five classes do not occur.
    values = scores(logits, torch.tensor([6, 6, 6, 3]))
    assert values["top1"] == 50.0
    assert values["mean_per_class"] == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert scores(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))["top5"] == 100.0


GRID = (30.0, 0.1, 1.0)


@pytest.fixture(scope="module")
def gridded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = replace(RUN, probe=replace(RUN.probe, lr_grid=GRID))
    folder = with_random_backbone(run, tmp_path_factory.mktemp("grid"))
    evaluate(run, folder, CPU)
    return folder


def test_each_classifier_of_a_grid_is_the_one_that_a_probe_of_its_own_trains(
    gridded: RunFolder, probed: tuple[RunFolder, list[Result]], tmp_path: Path
) -> None:
    (checkpoint,) = gridded.path.glob("probes/*/checkpoints/step_00000010.pth")
    heads = torch.load(checkpoint, weights_only=True)["model"]
    for number, lr in enumerate(GRID):
        run = replace(RUN, probe=replace(RUN.probe, lr=lr))
        if lr == RUN.probe.lr:
            folder = probed[0]
        else:
            folder = with_random_backbone(run, tmp_path / str(number))
            evaluate(run, folder, CPU)
        (alone,) = folder.path.glob("probes/*/checkpoints/step_00000010.pth")
        single = torch.load(alone, weights_only=True)["model"]
        for name in ("weight", "bias"):
            torch.testing.assert_close(heads[f"heads.{number}.{name}"], single[f"heads.0.{name}"], rtol=1e-4, atol=1e-5)


def test_a_grid_reports_its_best_rate_and_says_so(gridded: RunFolder) -> None:
    rows = read(gridded.results)[0]
    assert {row.protocol for row in rows} == {"linear-moco-v1[epochs=5,batch=16,lr_grid=30+0.1+1]"}
    values = {row.metric: row.value for row in rows}
    top1_of_rate = {lr: values[f"top1@lr={lr:g}"] for lr in GRID}
    assert values["top1"] == max(top1_of_rate.values()) == top1_of_rate[values["lr"]]
    (metrics,) = gridded.path.glob("probes/*/metrics.jsonl")
    course = [row[f"top1@lr={values['lr']:g}"] for row in read_scores(metrics, 5)]
    assert (values["top1"], values["top1_best"]) == (course[-1], max(course))


def test_the_best_rate_is_that_of_the_last_epoch(tmp_path: Path) -> None:
    rows = [
        {"step": 3, "epoch": 1, "top1@lr=30": 90.0, "top1@lr=1": 10.0},
        {"step": 6, "epoch": 2, "top1@lr=30": 20.0, "top1@lr=1": 30.0, "top5@lr=1": 7.0, "mean_per_class@lr=1": 8.0},
    ]
    write_rows(tmp_path / "metrics.jsonl", rows)
    settings = ProbeSettings(epochs=2, lr_grid=(30.0, 1.0))
    assert best_head_scores(read_scores(tmp_path / "metrics.jsonl", settings.epochs), settings) == {
        "top1": 30.0,
        "top5": 7.0,
        "mean_per_class": 8.0,
        "top1_best": 30.0,
        "lr": 1.0,
        "top1@lr=30": 20.0,
        "top1@lr=1": 30.0,
    }


def test_a_probe_that_diverges_is_told_which_of_its_rates_to_lower(probed: tuple[RunFolder, list[Result]]) -> None:
    folder, _ = probed
    grid = replace(RUN, probe=replace(RUN.probe, lr_grid=GRID))
    mends = [training(folder, run).when_diverged for run in (RUN, grid)]
    assert mends == ["a lower probe.lr", "lower rates in probe.lr_grid"]


def test_a_grid_whose_names_no_file_can_have_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probing(rates: int) -> Run:
        grid = tuple(1000.5 + number for number in range(rates))
        return replace(RUN, probe=replace(RUN.probe, epochs=1, lr_grid=grid))

    names = {rates: f"linear-scenes-{probing(rates).probe.protocol().name}.parquet" for rates in range(1, 40)}
    # A file with the longest name can be written, although a temporary file with a longer name comes first.
    most = max(rates for rates, name in names.items() if len(name) <= LONGEST_NAME)
    write_atomically(tmp_path / names[most].ljust(LONGEST_NAME, "x"), lambda file: file.write(b""))
    folder = with_random_backbone(RUN, tmp_path)
    protocol = probing(most).probe.protocol().name
    monkeypatch.setattr(linear, "measure", lambda *_: measurements(protocol, "val", {"top1": 50.0}))
    assert [row.protocol for row in evaluate(probing(most), folder, CPU)] == [protocol]
    before = files_below(folder.path)
    with pytest.raises(UserError, match=rf"^the {most + 1} rates of probe\.lr_grid are part of .*; mend: fewer rates"):
        evaluate(probing(most + 1), folder, CPU)
    assert files_below(folder.path) == before


def test_drawn_splits_are_averaged_and_kept_apart_as_well() -> None:
    splits = [{"top1": 50.0, "top1_best": 51.0, "lr": 30.0}, {"top1": 60.0, "top1_best": 69.0, "lr": 10.0}]
    assert averaged(splits) == {
        "top1": 55.0,
        "top1_best": 60.0,
        "top1@split=0": 50.0,
        "top1_best@split=0": 51.0,
        "lr@split=0": 30.0,
        "top1@split=1": 60.0,
        "top1_best@split=1": 69.0,
        "lr@split=1": 10.0,
    }
    assert averaged(splits[:1]) == splits[0]


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
