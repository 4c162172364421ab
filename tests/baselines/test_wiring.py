"""Settings, seeds and splits arrive where they are used: in models, schedules, masks, and the choice of weights."""

import pkgutil
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import CPU, EPOCH, OURS, fixed_batch, make_training, tiny, with_random_backbone

from baselines import build_learner, resolve
from downstream import logistic
from downstream.features import FeatureStore
from downstream.finetune import FineTuned
from downstream.linear import LinearProbe
from downstream.measurement import Target
from downstream.partitions import standard
from downstream.tasks import evaluate
from repro.backbones.backbone import load_backbone
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.masking.filters import high_pass
from repro.runs.folder import RunFolder
from repro.saliency.foregrounds import RandomCells
from repro.saliency.sources import build_foregrounds, map_source
from repro.settings.choices import Anchor
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.saliency_sources import SaliencySource, SourceKind
from repro.settings.sections import Framework
from repro.training.learner import build_view_maker
from repro.training.pretraining import open_data

RUN = tiny(changes={"logistic.values": 5})
SMALL = {"arch": "resnet18", "width": 8, "dim": 24}


def test_mocos_own_settings_reach_its_model() -> None:
    own = {"temperature": 0.3, "hard_negative_weight": 1.5, "momentum": 0.75, "queue": 256, "bn_splits": 2}
    run = resolve("mocov2", {"encoder": SMALL, "seed": 7, "moco": own})
    model: Any = pkgutil.resolve_name(FRAMEWORKS[Framework.mocov2].model)(run, None)
    assert (model.temperature, model.hard_negative_weight) == (0.3, 1.5)
    assert (model.queue.keys.shape, model.groups, model.shuffles.seed) == ((24, 256), 2, 7)
    query, key = (next(encoder.parameters()) for encoder in (model.encoder_q, model.encoder_k))
    before = key.clone()
    with torch.no_grad():
        query.add_(1.0)
    model.encoder_k.update(model.encoder_q)
    torch.testing.assert_close(key, before + 0.25)


def test_simclrs_own_settings_reach_its_model() -> None:
    own = {
        "temperature": 0.3,
        "hard_negative_weight": 1.5,
        "hard_negative_anchor": "both",
        "hard_negative_stopgrad": True,
    }
    run = resolve("simclr", {"encoder": SMALL, "simclr": own})
    model: Any = pkgutil.resolve_name(FRAMEWORKS[Framework.simclr].model)(run, None)
    assert (model.temperature, model.hard_negative_weight) == (0.3, 1.5)
    assert (model.hard_negative_anchor, model.hard_negative_stopgrad) == (Anchor.both, True)


@pytest.mark.parametrize("method", ["supervised", "mocov2+adios", "simclr+adios"])
def test_the_seed_decides_a_competitors_first_weights_and_views(method: str) -> None:
    def drawn(seed: int) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        run = tiny(method, {"seed": seed})
        learner = build_learner(run, open_data(run, "train"), CPU)
        kernels = {name: p for name, p in learner.model.named_parameters() if p.ndim > 1}
        box = f"{learner.dataset.names[0]}_box"  # type: ignore[attr-defined]
        return kernels, [learner.dataset[0, index][box].tolist() for index in range(4)]

    (weights, boxes), (same_weights, same_boxes), (other_weights, other_boxes) = map(drawn, (0, 0, 5))
    assert boxes == same_boxes
    assert boxes != other_boxes
    for name, kernel in weights.items():
        assert torch.equal(kernel, same_weights[name]), name
        assert not torch.equal(kernel, other_weights[name]), name


@pytest.mark.usefixtures("own_maps")
def test_the_seed_decides_random_cells_and_an_untrained_networks_maps() -> None:
    settings = {"localizer.source": "random", "localizer.weights": "random"}
    images = open_data(tiny(OURS), "train")
    runs = [tiny(OURS, settings | {"seed": seed}) for seed in (0, 5)]
    one, other = (build_foregrounds(run, CPU, images)[0] for run in runs)
    assert isinstance(one, RandomCells)
    assert isinstance(other, RandomCells)
    assert not torch.equal(one.ranks, other.ranks)
    network = SaliencySource(SourceKind.network)
    assert [map_source(run, images, network).identity["seed"] for run in runs] == [0, 5]


def test_a_rate_that_changes_by_steps_ends_with_the_last_of_them(tmp_path: Path) -> None:
    run = tiny("simclr", {"optimization.epochs": 10, "optimization.warmup_share": 0.2, "encoder.width": 8})
    training = make_training(run, RunFolder(tmp_path))
    rates = []
    for _ in range(10 * EPOCH):
        rates.append(training.optimizers["main"].param_groups[0]["lr"] / run.optimization.lr)
        training.optimizers["main"].step()
        for scheduler in training.schedulers["main"]:
            scheduler.step()
    warmup = [1e-4 + (1 - 1e-4) * step / 3 for step in range(4)]
    assert rates == pytest.approx(warmup + [(1 + cos(pi * step / 16)) / 2 for step in range(16)], rel=1e-6)


def test_masks_are_drawn_anew_for_each_epoch_batch_and_seed() -> None:
    run = tiny(OURS, {"masking.guidance": "random"})  # masks do not depend on a map
    maker, batch = build_view_maker(run, CPU), fixed_batch(run)
    first = maker(batch)["views"].query
    assert torch.equal(maker(batch)["views"].query, first)
    for name in ("epoch", "index"):
        assert not torch.equal(maker(batch | {name: batch[name] + 1})["views"].query, first), name
    other = build_view_maker(tiny(OURS, {"masking.guidance": "random", "seed": 1}), CPU)
    assert not torch.equal(other(batch)["views"].query, first)


def test_the_weight_is_chosen_on_images_that_are_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[tuple[Any, Any]] = []
    honest = logistic.fit_path

    def spy(train: Any, held_out: Any, *args: Any, **named: Any) -> Any:
        handed.append((train, held_out))
        return honest(train, held_out, *args, **named)

    monkeypatch.setattr(logistic, "fit_path", spy)
    folder = with_random_backbone(RUN, tmp_path)
    evaluate(RUN, folder, "logistic", CPU)
    store = FeatureStore.of(RUN, folder, CPU, "logistic")
    partition = standard(Target("scenes", None, RUN.data.scenes), seed=0)
    for (features, labels), images in zip(handed[0], (partition.fit, partition.held_out), strict=True):
        assert np.array_equal(features, store(images))
        assert labels.tolist() == list(images.targets)


@pytest.mark.parametrize("kind", [LinearProbe, FineTuned])
@pytest.mark.parametrize("input_filter", ["none", "high_pass"])
def test_a_classifier_is_trained_on_what_its_backbone_was(kind: Any, input_filter: str, tmp_path: Path) -> None:
    backbone = load_backbone(with_random_backbone(RUN, tmp_path, input_filter).backbone)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = {"images": pixels, "labels": torch.zeros(2, dtype=torch.long)}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (pixels / 255 - mean) / std
    expected = high_pass(expected) if input_filter == "high_pass" else expected
    torch.testing.assert_close(kind(backbone, 8).data_preprocessor(batch)["images"], expected)
