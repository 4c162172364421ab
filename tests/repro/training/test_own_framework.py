"""A framework that a user added, and the mistakes made in one: each is one line before hours are spent."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from training_samples import CPU, tiny

from baselines import METHODS, build_learner, resolve
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.simclr import SimCLR, build
from repro.errors import UserError
from repro.masking.views import Views
from repro.runs.folder import RunFolder
from repro.scenes.dataset import Scenes
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.sections import Framework
from repro.training.learner import build_model
from repro.training.pretraining import prepare_pretraining

RUN = tiny("simclr")
WHERE = "FRAMEWORKS (repro/settings/frameworks.py) has the model of simclr at "


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a model's module and place to the table."""

    def enter(module: object, place: str = "own_model:build") -> None:
        monkeypatch.setitem(sys.modules, "own_model", cast(Any, module))
        entry = replace(FRAMEWORKS[Framework.simclr], model=place)
        monkeypatch.setitem(cast(dict[Framework, object], FRAMEWORKS), Framework.simclr, entry)

    return enter


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("own_model:bild", "which has no bild; mend: write it, or correct its name"),
        ("own_modle:build", "and there is no module own_modle; mend: write it, or correct its name"),
        ("own_model:alone", "which has no function alone(run, preprocessor); mend: docs/extend.md has an example"),
        ("own_model:none", "which returned NoneType without an encoder to train; mend: a ContrastiveModel"),
        ("own_model:network", "which returned Identity without an encoder to train; mend: a ContrastiveModel"),
        ("own_model:headless", "which returned Headless without an encoder to train; mend: a ContrastiveModel"),
    ],
)
def test_what_is_no_model_is_refused(framework: Callable[..., None], place: str, line: str) -> None:
    """It used to be an AttributeError or a TypeError, told as a fault of salmask's own."""
    headless = type("Headless", (ContrastiveModel,), {"losses": lambda *_: {}})
    module = SimpleNamespace(
        build=build,
        alone=lambda run: None,
        none=lambda *_: None,
        network=lambda *_: nn.Identity(),
        headless=lambda *_: headless(),
    )
    framework(module, place)
    with pytest.raises(UserError) as refusal:
        build_model(RUN, None)
    assert str(refusal.value).startswith(f"{WHERE}{place}, {line}")


def test_an_encoder_that_no_backbone_could_be_read_of_is_refused_before_it_is_trained(
    framework: Callable[..., None], tmp_path: Path
) -> None:
    """It used to be trained to the end, and nothing could read the resulting `backbone.pth`."""

    def with_own_encoder(run: Any, preprocessor: nn.Module | None) -> SimCLR:
        model = build(run, preprocessor)
        model.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return model

    framework(SimpleNamespace(build=with_own_encoder))
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError) as refusal:
        prepare_pretraining(RUN, folder, CPU, build_learner)
    assert str(refusal.value) == (
        "the encoder is not the resnet18 of width 8 that encoder.arch and encoder.width name: there is no conv1.weight"
        "; mend: the network that `build_encoder` (repro/contrastive/encoders.py) returns"
    )
    assert not folder.path.exists()


def test_an_encoder_of_another_width_or_with_more_than_is_saved_is_refused(framework: Callable[..., None]) -> None:
    def wider(run: Any, preprocessor: nn.Module | None) -> SimCLR:
        return build(replace(run, encoder=replace(run.encoder, width=16)), preprocessor)

    def more(run: Any, preprocessor: nn.Module | None) -> SimCLR:
        model = build(run, preprocessor)
        model.encoder.adapter = nn.Linear(2, 2)
        return model

    framework(SimpleNamespace(build=wider))
    with pytest.raises(UserError, match=r"name: conv1\.weight is \(16, 3, 7, 7\), not \(8, 3, 7, 7\); mend: "):
        prepare_pretraining(RUN, RunFolder(Path("nowhere")), CPU, build_learner)
    framework(SimpleNamespace(build=more))
    with pytest.raises(UserError, match=r"name: adapter\.weight is \(2, 2\); mend: "):
        prepare_pretraining(RUN, RunFolder(Path("nowhere")), CPU, build_learner)


WEIGHT = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        (None, "returned NoneType, which contains no loss"),
        (WEIGHT * 2, "returned Tensor, which contains no loss"),
        ({"objective": WEIGHT * 2}, "returned a dictionary of objective, which contains no loss"),
        ({"loss": 2.0}, "returned a dictionary of loss, which contains no loss"),
        ({"loss": torch.ones(())}, "returned a loss without a gradient"),
    ],
)
def test_losses_that_cannot_be_trained_are_refused(losses: Any, line: str) -> None:
    """mmengine's AttributeErrors, and torch's about a gradient, used to be told as faults of salmask's own."""
    model = type("Own", (ContrastiveModel,), {"losses": lambda *_: losses})()
    with pytest.raises(UserError) as refusal:
        model(torch.zeros(1))
    assert str(refusal.value).startswith(f"Own.losses {line}; mend: ")


def test_losses_are_returned_as_they_are() -> None:
    parts: dict[str, Tensor] = {"loss": WEIGHT * 2, "accuracy": torch.ones(())}
    model = type("Own", (ContrastiveModel,), {"losses": lambda *_: parts})()
    assert model(torch.zeros(1)) is parts
    with torch.no_grad():
        assert model(torch.zeros(1)) is parts


class Predicting(SimCLR):
    """A short BYOL: a predictor on the encoder learns the embedding of the other view."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.predictor = nn.Linear(24, 24)
        self.frozen = nn.Linear(24, 24).requires_grad_(False)

    def losses(self, views: Views) -> dict[str, Tensor]:
        query, key = self.predictor(self.embed(views.query)), self.frozen(self.embed(views.key)).detach()
        return {"loss": -nn.functional.cosine_similarity(query, key).mean()}


def test_what_a_framework_trains_beside_its_encoder_is_trained(framework: Callable[..., None]) -> None:
    """A predictor used to keep its initial weights without a message: the optimizer had the encoder's alone."""

    def predicting(run: Any, preprocessor: nn.Module | None) -> SimCLR:
        return Predicting("resnet18", 24, width=8, data_preprocessor=preprocessor)

    framework(SimpleNamespace(build=predicting))
    images = Scenes("train", count=8, classes=2, size=64)
    learner = build_learner(RUN, images, CPU)
    model, optimizer = cast(Predicting, learner.model), learner.optimizers["main"]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer.param_groups[0]["lr"] = 1.0
    model(Views(*torch.randn(2, 4, 3, 64, 64)))["loss"].backward()
    optimizer.step()
    stays = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert {name for name in stays if "encoder" not in name} == {"frozen.weight", "frozen.bias"}


@pytest.mark.parametrize("method", ["mocov2", "simclr"])
def test_of_the_papers_frameworks_the_encoder_alone_is_trained(method: str) -> None:
    learner = build_learner(tiny(method), Scenes("train", count=8, classes=2, size=64), CPU)
    moved = {parameter for group in learner.optimizers["main"].param_groups for parameter in group["params"]}
    assert moved == set(learner.encoder.parameters())


def test_a_hard_negative_is_refused_where_a_framework_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be made of each image and never used, and tables called the row ours."""
    entry = replace(FRAMEWORKS[Framework.simclr], hard_negative_weight=None, title="BYOL")
    monkeypatch.setitem(cast(dict[Framework, object], FRAMEWORKS), Framework.simclr, entry)
    with pytest.raises(UserError) as refusal:
        resolve("simclr+ours-mean")
    assert str(refusal.value).endswith(
        'masking.hard_negative=true, and BYOL has no hard negative; mend: "masking": {"hard_negative": False} in the '
        "recipe of its entry of FRAMEWORKS"
    )
    # The row as the mend says it, and the plain row, which has no masks.
    mended = METHODS["simclr+ours-mean"].but({"masking": {"hard_negative": False}})
    monkeypatch.setitem(cast(dict[str, object], METHODS), "simclr+ours-mean", mended)
    assert not resolve("simclr+ours-mean").masking.hard_negative
    assert resolve("simclr").framework is Framework.simclr
