"""Runs whose backbones have no default values, and their exports."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from run_samples import begun
from torch import Tensor
from training_samples import salmask, tiny

from repro.backbones.backbone import save_backbone
from repro.backbones.resnet import BASE_WIDTH
from repro.contrastive.encoders import build_encoder
from repro.runs.folder import RunFolder
from repro.settings.choices import Strategy

CROP = 64
"""Side of a run's crops in pixels."""


def trained(out: Path, method: str = "mocov2", **changes: Any) -> RunFolder:
    """A run with a random backbone, in which no weight or running statistic has its default value."""
    given = {name.replace("__", "."): value for name, value in changes.items()}
    run = tiny(method, {"data.crop": CROP, "encoder.width": BASE_WIDTH, **given})
    folder = begun(out, run)
    state = _weights(run.encoder.arch, run.encoder.dim)
    filtered = "high_pass" if run.masking.strategy is Strategy.high_pass else "none"
    save_backbone(folder.backbone, state, arch=run.encoder.arch, input_filter=filtered, run_id=run.id)
    return folder


@cache
def _weights(arch: str, dim: int) -> Mapping[str, Tensor]:
    """Weights and running statistics that differ from their default values; to be read only, as drawing takes long."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = build_encoder(arch, dim).state_dict()
        for name, tensor in state.items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    return state


def exported(folder: RunFolder, library: str, out: Path, *options: str) -> Path:
    ended = salmask("export", str(folder.path), "--to", library, "--out", str(out), *options)
    assert ended.code == 0, ended.err
    return out
