"""Runs that take seconds: their settings, which need no torch."""

from collections.abc import Mapping
from typing import Any

from baselines import resolve
from repro.settings.run import Run

OURS = "mocov2+ours-hp"
TINY: dict[str, Any] = {
    "data.dataset": "scenes",
    "data.crop": 32,
    "data.scenes.classes": 8,
    "data.scenes.size": 64,
    "data.scenes.train_count": 20,
    "data.scenes.val_count": 24,
    "encoder.arch": "resnet18",
    "encoder.dim": 16,
    "encoder.width": 8,
    "localizer.network": "efficientnet-lite0",
    "moco.queue": 32,
    "moco.bn_splits": 2,
    "optimization.epochs": 3,
    "optimization.batch": 8,
    "optimization.lr": 0.03,
    "probe.epochs": 5,
    "probe.batch": 16,
    "machine.workers": 0,
    "machine.device": "cpu",
    "machine.log_every": 1,
    "machine.checkpoint_every": 1,
}
EPOCH = 2
"""Steps of an epoch: 20 images in batches of 8, four left out."""
STEPS = 6


def tiny(method: str = "mocov2", changes: Mapping[str, Any] | None = None) -> Run:
    return resolve(method, {**TINY, **(changes or {})})


def words(changes: Mapping[str, Any] | None = None) -> list[str]:
    """The settings of `tiny` as a command line has them."""
    return [f"{key}={value}" for key, value in {**TINY, **(changes or {})}.items()]
