"""The draws of a run of the study are those that it recorded: its order, views, masks and first weights.

Otherwise no recorded run could be reproduced, and no interrupted one resumed exactly. The expected numbers are in
`tests/golden/views.json`. After an intended change, write them anew:

    SALMASK_UPDATE_GOLDENS=1 python -m pytest tests/repro/training/test_recorded_views.py
"""

import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from places import EXAMPLES, GOLDEN
from torch import Tensor
from torch.utils.data import default_collate

from baselines import build_learner
from repro.settings.reading import load
from repro.settings.run import Run
from repro.training.batches.loading import EpochBatches
from repro.training.pretraining import open_data

VIEWS = GOLDEN / "views.json"
RUNS = {"high-pass": "mocov2+ours-hp", "mean": "mocov2+ours-mean", "blur": "simclr+ours-blur"}
STEP = 997
"""Every so many of the views' numbers one is recorded, from all images, all of their parts and all colours."""


def recorded(method: str) -> Run:
    """A run of the study with the centre prior instead of its localizer, which would have to be downloaded."""
    (path,) = (EXAMPLES / "study" / "runs" / method).glob("s1-*/run.yaml")
    run = load(path)
    return replace(run, localizer=replace(run.localizer, source="centre"))


def rounded(values: Tensor, step: int = 1) -> list[float]:
    return [round(value, 4) for value in values.detach().float().flatten()[::step].tolist()]


def drawn(run: Run) -> dict[str, Any]:
    images = open_data(run, "train")
    learner = build_learner(run, images, torch.device("cpu"))
    batches = EpochBatches(len(images), run.optimization.batch, run.seed)
    batches.seek(1, 3)
    names = next(iter(batches))[:8]
    items = [learner.dataset[name] for name in names]
    views = learner.model.data_preprocessor(default_collate(items))["views"]
    return {
        "order": [index for _, index in names],
        "boxes": [item[f"{view}_box"].tolist() for item in items for view in ("query", "key")],
        "draws": [rounded(item[f"{view}_draw"]) for item in items for view in ("query", "key")],
        "views": {name: rounded(getattr(views, name), STEP) for name in ("query", "key", "hard_negative")},
        "weights": [rounded(value.double().norm())[0] for value in learner.encoder.parameters()],
    }


@pytest.mark.parametrize("name", RUNS)
def test_orders_views_masks_and_first_weights_are_the_recorded_ones(name: str) -> None:
    expected, now = json.loads(VIEWS.read_text()), drawn(recorded(RUNS[name]))
    if os.environ.get("SALMASK_UPDATE_GOLDENS"):
        expected[name] = now
        VIEWS.write_text(json.dumps(expected, indent=1) + "\n")
    before = expected[name]
    assert (now["order"], now["boxes"]) == (before["order"], before["boxes"])
    assert np.allclose(now["draws"], before["draws"], atol=1e-3)
    assert np.allclose(now["weights"], before["weights"], rtol=1e-3)
    for view, values in before["views"].items():
        # Rounding may move a crop's pixel by a level of 255.
        assert np.mean(np.abs(np.subtract(now["views"][view], values)) > 0.03) < 0.02, view
