"""What a step does on a GPU, tried without one: all tensors are on one device, and the host never waits.

`tests/test_gpu.py` tries the same on a real GPU, with numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imitated_gpu import GPU, ImitatedGenerator, TwoDevices, WaitError, imitated_gpu
from torch import Tensor
from training_samples import CPU, tiny

from baselines import METHODS, TABLE1, build_learner
from repro.contrastive.loss_model import LossModel
from repro.settings.choices import Precision
from repro.settings.run import Run
from repro.training.batches.loading import RandomViews, make_loader
from repro.training.batches.resident import ResidentImages
from repro.training.batches.view_draws import ViewDraws
from repro.training.learner import Learner
from repro.training.pretraining import open_data, plan_batches
from repro.training.steps.precision import wrap_optimizers
from repro.training.steps.preprocess import Augmenter

FAST = "mocov2+ours-hp"
QUICK = ("supervised", "mocov2+mscn", "simclr+adios", "simclr+ours-blur")
"""With FAST in other tests, these cover all parts of a step; the other rows are tried at night."""


def rows(methods: Iterable[str], *quick: str) -> list[Any]:
    return [pytest.param(method, marks=[] if method in quick else pytest.mark.slow) for method in methods]


@pytest.fixture(autouse=True)
def imitated_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.training.steps.preprocess.Generator", ImitatedGenerator)


def on_gpu(method: str, **changes: Any) -> Run:
    """A tiny run. The released code normalises single images, which needs views of more than one cell."""
    usual = {
        "localizer.weights": "random",
        "data.crop": 64 if "released" in method else 32,
        "machine.channels_last": True,
        "optimization.precision": "bf16",
    }
    return tiny(method, usual | {key.replace("__", "."): value for key, value in changes.items()})


def loaded(run: Run, learner: Learner) -> list[dict[str, Tensor]]:
    """An epoch's batches, on the host."""
    return list(make_loader(learner.dataset, plan_batches(run, learner.dataset, CPU), 0))


# The imitation


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: values.tolist(),
        lambda values: bool(values.any()),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.cpu(),
        lambda values: values.to(CPU, non_blocking=True),
        lambda values: torch.empty(3).copy_(values),
    ],
)
def test_waits_are_refused(wait: Callable[[Tensor], Any]) -> None:
    with imitated_gpu():
        values = torch.zeros(3, device=GPU)
        with pytest.raises(WaitError):
            wait(values)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: torch.zeros(3).to(GPU),
        lambda: torch.zeros(3, device=GPU).copy_(torch.zeros(3)),
        lambda: torch.tensor(1.0, device=GPU),
    ],
)
def test_a_step_waits_for_no_copy_to_the_device_either(wait: Callable[[], Any]) -> None:
    with imitated_gpu() as gpu:
        with pytest.raises(WaitError), gpu.step():
            wait()
        with gpu.step():
            torch.zeros(3, device=GPU).copy_(torch.zeros(3), non_blocking=True).to(torch.float64)


def test_tensors_of_two_devices_are_refused() -> None:
    with imitated_gpu():
        values = torch.zeros(3, device=GPU)
        with pytest.raises(RuntimeError, match="devices"):
            values + torch.ones(3)
        with pytest.raises(RuntimeError, match="devices"):
            torch.where(torch.ones(3, dtype=torch.bool), values, values)
        assert (values + torch.ones(3).to(GPU)).device == GPU


def test_the_hosts_own_numbers_stay_numbers() -> None:
    with imitated_gpu():
        assert (torch.arange(3) + 1).tolist() == [1, 2, 3]


# Steps


def make_steps(
    gpu: TwoDevices, learner: Learner, batches: list[dict[str, Tensor]], precision: Precision
) -> dict[str, Tensor]:
    """Two steps, as optimizers make their state in the first; the scalars of the second."""
    wrapper = wrap_optimizers(learner.optimizers, precision, GPU)
    first, second = batches
    learner.model.train_step(first, wrapper)
    with gpu.step():
        losses: dict[str, Tensor] = learner.model.train_step(second, wrapper)
    return losses


# A row from a checkpoint needs one.
@pytest.mark.end_to_end
@pytest.mark.parametrize("method", rows((name for name in METHODS if not name.endswith("-checkpoint")), *QUICK))
def test_a_step_stays_on_the_device_and_never_waits(method: str) -> None:
    run = on_gpu(method)
    images = open_data(run, "train")
    if "-by-" in method:
        build_learner(run, images, CPU)  # makes maps of the objects, for which it may wait for copies to their file
    with imitated_gpu() as gpu:
        learner = build_learner(run, images, GPU)
        losses = make_steps(gpu, learner, loaded(run, learner), run.optimization.precision)
    assert {value.device for value in losses.values()} == {GPU}
    assert {parameter.device for parameter in learner.model.parameters()} == {GPU}
    stepped = {parameter for optimizer in learner.optimizers.values() for parameter in optimizer.state}
    assert stepped >= set(learner.encoder.parameters())


def test_autocast_is_on() -> None:
    run = on_gpu("simclr")
    images = open_data(run, "train")
    dtypes = []
    with imitated_gpu() as gpu:
        learner = build_learner(run, images, GPU)
        learner.encoder.layer1.register_forward_hook(lambda *passed: dtypes.append(passed[2].dtype))
        make_steps(gpu, learner, loaded(run, learner), run.optimization.precision)
    assert set(dtypes) == {torch.bfloat16}


@pytest.mark.end_to_end
def test_maps_of_whole_images_stay_on_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = on_gpu(FAST, localizer__map="image")
    images = open_data(run, "train")
    build_learner(run, images, CPU)  # makes the maps, for which it may wait for copies to their file
    with imitated_gpu() as gpu:
        learner = build_learner(run, images, GPU)
        losses = make_steps(gpu, learner, loaded(run, learner), run.optimization.precision)
    assert losses["loss"].device == GPU


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(64, 64)] * 20, id="one size", marks=pytest.mark.slow),
        pytest.param([(40, 40 + number) for number in range(20)], id="many sizes"),
    ],
)
def test_resident_images_are_cropped_on_the_device(
    sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.training.batches.resident.free_bytes", lambda device: float("inf"))
    run = on_gpu(FAST)
    images = open_data(run, "train")
    with imitated_gpu() as gpu:
        learner = build_learner(run, images, GPU)
        maker, views = learner.model.data_preprocessor, learner.dataset
        assert isinstance(maker, Augmenter)
        assert isinstance(views, RandomViews)
        resident = ResidentImages(np.array(sizes), GPU)
        maker.crop_from(resident, run.data.crop)
        learner = replace(learner, dataset=ViewDraws(views, resident.sizes))
        batches = list(make_loader(learner.dataset, plan_batches(run, images, CPU), 0))
        losses = make_steps(gpu, learner, batches, run.optimization.precision)
    assert losses["loss"].device == GPU


@pytest.mark.end_to_end
@pytest.mark.parametrize("method", rows([*TABLE1, "mocov2+ours-hp-released"], FAST))
def test_what_a_graph_captures_asks_the_host_for_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As `StepGraph` captures it: the whole batch is on the device, and generators and shuffles have been handed over.
    if "adios" in method:
        pytest.skip("its two networks take turns, and are never captured")
    run = on_gpu(method)
    images = open_data(run, "train")
    with imitated_gpu() as gpu:
        learner = build_learner(run, images, GPU)
        batches = loaded(run, learner)
        make_steps(gpu, learner, batches, run.optimization.precision)
        model, maker = learner.model, learner.model.data_preprocessor
        assert isinstance(model, LossModel)
        assert isinstance(maker, Augmenter)
        maker.before_capture()
        monkeypatch.setattr("repro.contrastive.shuffle.is_capturing", lambda: True)
        monkeypatch.setattr("repro.contrastive.moco.is_capturing", lambda: True)
        captured = {name: value.to(GPU) for name, value in batches[0].items()}
        with gpu.capture():
            losses = model(**maker(captured, True))
    assert losses["loss"].device == GPU
