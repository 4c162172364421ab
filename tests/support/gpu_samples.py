"""Runs on a GPU, and the mark of tests that need one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from training_samples import make_training, tiny

from repro.runs.folder import RunFolder
from repro.settings.run import Run

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda", 0)


def on_gpu(method: str = "mocov2", **changes: Any) -> Run:
    """A tiny run on the GPU. The released code normalises single images, which needs views of more than one cell."""
    crop = 64 if "released" in method else 32
    usual = {"machine.device": "cuda", "localizer.weights": "random", "data.crop": crop, "encoder.width": 64}
    return tiny(method, usual | {key.replace("__", "."): value for key, value in changes.items()})


def trained(run: Run, path: Path, device: torch.device, *hooks: Hook) -> RunFolder:
    folder = RunFolder(path)
    make_training(run, folder, *hooks, device=device).run()
    return folder
