"""ADIOS in a training of two optimizers: resuming, logs, divergence, settings, gallery."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from adios_samples import FRAMEWORKS, adios_run, make_adios, make_views, with_optimizers
from contrastive_samples import small_encoders
from json_rows import read_rows
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate
from training_samples import (
    CPU,
    EPOCH,
    STEPS,
    Poison,
    assert_same_training,
    interrupt,
    make_training,
    newest,
    tiny,
)

from baselines import adios
from baselines.adios import Adios, OcclusionGallery
from baselines.adios_contrast import MocoContrast
from baselines.unet import OcclusionNetwork
from repro.data.images import IMAGENET_MEAN
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.training.batches.loading import TwoViews
from repro.training.pretraining import open_data
from repro.training.watching.gallery import PICTURE_SIDE, TITLE_HEIGHT
from repro.training.watching.hooks import DivergenceError

pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, RunFolder]:
    folders = {}
    with small_encoders():
        for framework in FRAMEWORKS:
            folders[framework] = RunFolder(tmp_path_factory.mktemp(framework))
            make_training(adios_run(framework), folders[framework]).run()
    return folders


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_interrupted_and_resumed_equals_undisturbed(
    undisturbed: Mapping[str, RunFolder], tmp_path: Path, framework: str, step: int
) -> None:
    folder = RunFolder(tmp_path)
    interrupt(adios_run(framework), folder, step)
    assert newest(folder.checkpoints)["step"] == step - 1
    make_training(adios_run(framework), folder).run()
    assert_same_training(folder.checkpoints, undisturbed[framework].checkpoints)
    ours, theirs = read_rows(folder.metrics), read_rows(undisturbed[framework].metrics)
    for name in ("step", "loss", "occlusion_loss", "encoder.lr", "occlusion.lr", "mask_share_1"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_checkpoint_holds_both_players(undisturbed: Mapping[str, RunFolder], framework: str) -> None:
    content = newest(undisturbed[framework].checkpoints)
    assert set(content["optimizer"]) == {"encoder", "occlusion"}
    assert all(optimizer["state"] for optimizer in content["optimizer"].values())
    assert len(content["schedulers"]) == 2
    assert content["model"]["_extra_state"] == {"steps": STEPS}
    assert not [name for name in content["model"] if "module." in name]


def test_a_checkpoint_with_other_optimizers_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    interrupt(adios_run("simclr"), folder, 2)
    path = checkpoints(folder.checkpoints)[0]
    content = newest(folder.checkpoints)
    content["optimizer"]["generator"] = content["optimizer"].pop("occlusion")
    torch.save(content, path)
    with pytest.raises(UserError, match=r"of another architecture: .*generator.* mend: choose another --out"):
        make_training(adios_run("simclr"), folder).run()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_rates_follow_their_schedules_and_every_number_is_logged(
    undisturbed: Mapping[str, RunFolder], framework: str
) -> None:
    rows = read_rows(undisturbed[framework].metrics)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for number, row in enumerate(rows):
        elapsed = number // EPOCH / 3 if framework == "mocov2" else number / STEPS
        factor = 0.5 * (1 + math.cos(math.pi * elapsed))
        assert row["encoder.lr"] == pytest.approx(0.03 * factor, rel=1e-9)
        assert row["occlusion.lr"] == pytest.approx(0.49876 * factor, rel=1e-9)
        assert sum(row[f"mask_share_{n}"] for n in (1, 2, 3, 4)) == pytest.approx(1, abs=1e-5)
        assert row["sparsity"] >= 4
        assert 0 < row["entropy"] <= math.log(4) + 1e-6
        assert {"loss", "occlusion_loss"} < set(row)


def test_log_lines_hold_the_mean_of_the_steps_since_the_last(
    undisturbed: Mapping[str, RunFolder], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    run = adios_run("simclr", {"machine.log_every": 2, "adios.single": True})
    make_training(run, folder).run()
    steps = read_rows(undisturbed["simclr"].metrics)
    for row, pair in zip(read_rows(folder.metrics), zip(steps[::2], steps[1::2], strict=True), strict=True):
        for name in ("loss", "occlusion_loss", "mask_share_2"):
            assert row[name] == pytest.approx((pair[0][name] + pair[1][name]) / 2, rel=1e-6)


@pytest.mark.parametrize("player", ["contrast.substrate.encoder", "occlusion"])
def test_either_players_divergence_stops_the_training(tmp_path: Path, player: str) -> None:
    folder = RunFolder(tmp_path)
    training = make_training(adios_run("simclr"), folder, Poison(3, player))
    with pytest.raises(DivergenceError, match=r"the gradient or loss of step 3 is not finite; .* adios.lr"):
        training.run()
    assert newest(folder.checkpoints)["step"] == 2


def test_a_loss_of_the_occlusion_network_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    training = make_training(adios_run("simclr"), RunFolder(tmp_path))
    step = training.model.train_step

    def poisoned(*arguments: Any, **named: Any) -> dict[str, Tensor]:
        out = step(*arguments, **named)
        return out | {"occlusion_loss": out["occlusion_loss"] * float("nan")}

    with (
        patch.object(training.model, "train_step", poisoned),
        pytest.raises(DivergenceError, match=r"loss of step 1 is not finite"),
    ):
        training.run()


def test_one_optimizer_is_refused_with_the_reason(tmp_path: Path) -> None:
    training = make_training(adios_run("simclr"), RunFolder(tmp_path))
    alone = {"encoder": training.optimizers["encoder"]}
    with pytest.raises(
        UserError, match=r"two networks in turn, .* was given: only one; mend: optimizers named encoder"
    ):
        replace(training, optimizers=alone).run()
    model = make_adios("simclr")
    with pytest.raises(UserError, match=r"was given: encoder, other; mend: "):
        model.train_step(make_views(), with_optimizers(model, names=("encoder", "other")))


def test_a_joint_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="its two networks have a loss each"):
        make_adios("simclr")(make_views())


def test_a_crop_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.crop=36 cannot be halved 3 times"):
        make_training(adios_run("simclr", {"data.crop": 36}), RunFolder(tmp_path))


def test_settings_reach_both_players(tmp_path: Path) -> None:
    changes = {
        "adios.masks": 3,
        "adios.base_filters": 16,
        "adios.norm": "instance",
        "adios.lr": 0.2,
        "adios.momentum": 0.8,
        "adios.weight_decay": 0.01,
        "adios.single": False,
        "adios.alpha_sparsity": 0.3,
        "adios.alpha_entropy": 0.4,
        "optimization.lars_eta": 0.003,
        "machine.channels_last": True,
        "seed": 5,
    }
    training = make_training(adios_run("mocov2", changes), RunFolder(tmp_path))
    model = training.model
    assert isinstance(model, Adios)
    assert isinstance(model.contrast, MocoContrast)
    assert (model.single, model.alpha_sparsity, model.alpha_entropy, model.seed) == (False, 0.3, 0.4, 5)
    assert model.occlusion.head.weight.shape == (3, 16, 1, 1)
    assert isinstance(model.occlusion.down[0][1], nn.InstanceNorm2d)
    scaled, plain = training.optimizers["occlusion"].param_groups
    assert (scaled["lr"], scaled["momentum"], scaled["weight_decay"]) == (0.2, 0.8, 0.01)
    assert (plain["lr"], plain["weight_decay"]) == (0.2, 0.0)
    assert scaled["trust_coeff"] == plain["trust_coeff"] == 0.003
    optimised = {id(p) for group in (scaled, plain) for p in group["params"]}
    assert optimised == {id(p) for p in model.occlusion.parameters()}
    (group,) = training.optimizers["encoder"].param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.contrast.substrate.encoder.parameters()}
    assert model.contrast.substrate.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_encoder_starts_as_that_of_the_plain_row(tmp_path: Path) -> None:
    for framework in FRAMEWORKS:
        plain, masked = (make_training(tiny(f"{framework}{suffix}"), RunFolder(tmp_path)) for suffix in ("", "+adios"))
        substrate = masked.model.contrast.substrate.state_dict()
        for name, tensor in plain.model.state_dict().items():
            if isinstance(tensor, Tensor):
                assert torch.equal(tensor, substrate[name]), name


def test_the_gallery_shows_each_image_without_what_each_mask_hides(tmp_path: Path) -> None:
    run = adios_run("simclr", {"optimization.epochs": 1})
    training = make_training(run, RunFolder(tmp_path))
    path = tmp_path / "gallery" / "masks.png"
    hook = adios.build_learner(run, open_data(run, "train"), CPU).gallery(path)
    assert isinstance(hook, OcclusionGallery)
    assert isinstance(training.model, Adios)
    replace(training, hooks=[OcclusionGallery(training.model, path)]).run()
    with Image.open(path) as picture:
        assert picture.size == (165 * 6, 1353)  # both views and four masks
        assert picture.convert("L").getextrema()[0] < 100


def test_a_column_of_the_gallery_lacks_what_its_mask_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_to_the_first(_: nn.Module, images: Tensor) -> Tensor:
        masks = images.new_zeros(len(images), 4, *images.shape[2:])
        masks[:, 0] = 1
        return masks

    monkeypatch.setattr(OcclusionNetwork, "forward", all_to_the_first)
    run = adios_run("simclr")
    learner = adios.build_learner(run, open_data(run, "train"), CPU)
    hook: Any = learner.gallery(tmp_path / "masks.png")
    hook.after_train_epoch(SimpleNamespace(train_dataloader=SimpleNamespace(dataset=learner.dataset)))
    with Image.open(tmp_path / "masks.png") as picture:
        view, covered, *bare, _ = np.split(np.asarray(picture)[TITLE_HEIGHT:], 6, axis=1)
    assert all(np.array_equal(each, view) for each in bare)
    assert np.abs(covered[:PICTURE_SIDE, 4:PICTURE_SIDE] - 255 * np.array(IMAGENET_MEAN)).max() < 1.01


def test_a_fixed_batch_of_scenes_has_masks_that_sum_to_one_after_training(
    undisturbed: Mapping[str, RunFolder],
) -> None:
    run = adios_run("simclr")
    dataset = TwoViews(open_data(run, "train"), run.data.crop, run.augmentation, run.seed)
    model = make_training(run, undisturbed["simclr"]).model
    model.load_state_dict(newest(undisturbed["simclr"].checkpoints)["model"])
    batch = default_collate([dataset[0, index] for index in range(4)])
    masks = model.occlusion(model.data_preprocessor(batch)["views"].query)
    torch.testing.assert_close(masks.sum(1), torch.ones(4, 32, 32), rtol=0, atol=1e-6)
