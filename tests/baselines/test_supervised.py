"""The supervised row: what it trains on, that it learns and resumes like the others, and what it leaves behind."""

import json
from pathlib import Path

import pytest
import torch
from json_rows import read_rows
from torch import Tensor
from torch.utils.data import default_collate
from training_samples import (
    CPU,
    STEPS,
    assert_same_training,
    interrupt,
    make_training,
    newest,
    salmask,
    tiny,
    words,
)

from baselines import METHODS, build_learner, resolve
from baselines.supervised import Classifier
from repro.backbones.backbone import load_backbone
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.settings.run import Run
from repro.training import learner as core
from repro.training.batches.loading import OneView
from repro.training.learner import Learner
from repro.training.pretraining import open_data, pretrain


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = tiny("supervised")
    folder = RunFolder.of(run, tmp_path_factory.mktemp("supervised"))
    pretrain(run, folder, CPU, build_learner)
    return folder


def learner_of(run: Run) -> Learner:
    return build_learner(run, open_data(run, "train"), CPU)


def test_the_recipe_is_torchvisions_reference(tmp_path: Path) -> None:
    run = resolve("supervised")
    optimization = run.optimization
    assert (optimization.lr, optimization.batch, optimization.epochs) == (0.1, 256, 100)
    assert (optimization.momentum, optimization.weight_decay) == (0.9, 1e-4)
    augmentation = run.augmentation
    assert (augmentation.crop_scale_min, augmentation.flip_probability) == (0.08, 0.5)
    assert augmentation.jitter_probability == augmentation.grey_probability == augmentation.blur_probability == 0
    rates = []
    run = tiny("supervised", {"optimization.lr": 0.1, "optimization.epochs": 100})
    training = make_training(run, RunFolder(tmp_path))
    for _ in range(100):
        rates.append(training.optimizers["main"].param_groups[0]["lr"])
        training.optimizers["main"].step()
        for scheduler in training.schedulers["main"]:
            scheduler.step()
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 10)


def test_the_network_has_an_output_for_each_class_of_the_data() -> None:
    for classes in (4, 8):
        learner = learner_of(tiny("supervised", {"data.scenes.classes": classes}))
        assert learner.model(torch.zeros(2, 3, 32, 32), torch.zeros(2).long())["loss"].ndim == 0
        assert learner.encoder(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_the_loss_is_the_mean_negative_log_likelihood_and_the_accuracy_a_share() -> None:
    torch.manual_seed(0)
    model = Classifier("resnet18", 5).eval()
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 4, 0])
    outcome = model(images, labels)
    total, right = 0.0, 0
    for row, label in zip(model.encoder(images).tolist(), labels.tolist(), strict=True):
        normaliser = sum(torch.tensor(value).exp().item() for value in row)
        total -= row[label] - torch.tensor(normaliser).log().item()
        right += max(range(5), key=row.__getitem__) == label
    assert outcome["loss"].item() == pytest.approx(total / 6, rel=1e-5)
    assert outcome["accuracy"].item() == pytest.approx(right / 6)
    assert not outcome["accuracy"].requires_grad


def test_it_sees_one_crop_with_its_true_colours_and_half_of_them_flipped() -> None:
    run = tiny("supervised", {"data.scenes.train_count": 200})
    images = open_data(run, "train")
    dataset = OneView(images, run.data.crop, run.augmentation, run.seed)
    items = [dataset[0, index] for index in range(200)]
    assert set(items[0]) == {"view", "view_box", "view_draw", "size", "epoch", "index", "label"}
    assert [item["label"] for item in items] == list(images.targets)
    batch = default_collate(items)
    inputs = learner_of(run).model.data_preprocessor(batch)
    assert torch.equal(inputs["labels"], batch["label"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    crops = (batch["view"] / 255 - mean) / std
    flipped, upright = (
        torch.tensor([torch.equal(image, crop) for image, crop in zip(inputs["images"], expected, strict=True)])
        for expected in (crops.flip(-1), crops)
    )
    assert (flipped ^ upright).all()
    assert 70 < int(flipped.sum()) < 130


def test_the_loss_goes_down_on_a_fixed_batch() -> None:
    run = tiny("supervised")
    learner = learner_of(run)
    batch = default_collate([learner.dataset[0, index] for index in range(16)])
    losses: list[Tensor] = []
    for _ in range(8):
        loss = learner.model(**learner.model.data_preprocessor(batch))["loss"]
        learner.optimizers["main"].zero_grad()
        loss.backward()
        learner.optimizers["main"].step()
        losses.append(loss.detach())
    assert losses[-1] < 0.2 * losses[0]


def test_a_finished_run_is_a_backbone_without_its_classifier(undisturbed: RunFolder) -> None:
    backbone = load_backbone(undisturbed.backbone, arch="resnet18")
    assert (backbone.input_filter, backbone.features, backbone.run_id) == ("none", 64, tiny("supervised").id)
    state = newest(undisturbed.checkpoints)["model"]
    assert state["encoder.fc.weight"].shape == (8, 64)
    assert {name.partition(".")[0] for name in state} == {"encoder"}
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"]), name
    assert not undisturbed.gallery.exists()
    rows = read_rows(undisturbed.metrics)
    assert len(rows) == STEPS
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


def test_a_run_that_was_interrupted_ends_in_the_same_bits(undisturbed: RunFolder, tmp_path: Path) -> None:
    run = tiny("supervised")
    folder = RunFolder(tmp_path)
    interrupt(run, folder, 4)
    make_training(run, folder).run()
    assert_same_training(folder.checkpoints, undisturbed.checkpoints)


def test_the_command_trains_and_probes_it(tmp_path: Path) -> None:
    settings = words({"optimization.epochs": 1, "probe.epochs": 1})
    pretrained = salmask("pretrain", "supervised", *settings, "--out", str(tmp_path), "--json")
    assert pretrained.code == 0, pretrained.err
    probed = salmask("probe", json.loads(pretrained.out)["folder"], "--json")
    assert probed.code == 0, probed.err
    rows = json.loads(probed.out)
    assert rows[0]["framework"] == "supervised"
    assert rows[0]["metric"] == "top1"


def test_the_core_alone_and_masks_are_refused() -> None:
    run = tiny("supervised")
    with pytest.raises(UserError, match=r"framework=supervised with masking\.strategy=none is not part of the core"):
        core.build_learner(run, open_data(run, "train"), CPU)
    with pytest.raises(UserError, match=r"masking\.strategy=high_pass has no place in supervised learning"):
        tiny("supervised", {"masking.strategy": "high_pass"})
    assert "supervised" in METHODS


@pytest.mark.parametrize("changes", [{"optimization.precision": "bf16"}, {"machine.channels_last": True}])
def test_half_precision_and_the_other_layout_train_too(changes: dict[str, object], tmp_path: Path) -> None:
    run = tiny("supervised", {**changes, "optimization.epochs": 1})
    folder = RunFolder(tmp_path)
    make_training(run, folder).run()
    rows = read_rows(folder.metrics)
    assert [torch.tensor(row["loss"]).isfinite().item() for row in rows] == [True] * 2
