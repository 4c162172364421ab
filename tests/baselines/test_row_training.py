"""Each row trains, leaves a checkpoint, resumes bit by bit, and lowers its loss."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from json_rows import read_rows
from mmengine.optim import OptimWrapperDict
from torch import nn
from torch.utils.data import default_collate
from training_samples import CPU, STEPS, assert_same_training, interrupt, make_training, newest, tiny

from baselines import METHODS, TABLE1, build_learner
from repro.contrastive.queue import Queue
from repro.runs.folder import RunFolder
from repro.settings.choices import Precision
from repro.settings.run import Run
from repro.training.pretraining import open_data
from repro.training.steps.precision import wrap_optimizer


def train(run: Run, folder: RunFolder) -> None:
    make_training(run, folder).run()


@pytest.mark.parametrize("name", [*TABLE1, "mocov2+ours-hp@key", "mocov2+ours-hp-random"])
def test_each_row_trains_and_leaves_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    train(tiny(name, {"optimization.epochs": 1, "masking.guidance": "random"}), folder)
    content = newest(folder.checkpoints)
    assert (content["step"], content["epoch"]) == (2, 1)


@pytest.mark.parametrize("name", ["simclr+ours-hp", "simclr"])
def test_simclr_trains_in_mixed_precision_and_channels_last(name: str, tmp_path: Path) -> None:
    changes = {"optimization.epochs": 1, "masking.guidance": "random"}
    half = {**changes, "optimization.precision": "bf16", "machine.channels_last": True}
    losses, dtypes = [], set()
    for precision, settings in (("half", half), ("exact", changes)):
        folder = RunFolder(tmp_path / precision)
        train(tiny(name, settings), folder)
        dtypes |= {x.dtype for x in newest(folder.checkpoints)["model"].values()}
        losses.append(read_rows(folder.metrics)[0]["loss"])
    assert dtypes == {torch.float32, torch.int64}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.2)


FAST = "simclr+ours-hp"


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == FAST else pytest.mark.slow)
        for name in METHODS
        if not name.endswith("-checkpoint")  # needs a path
    ],
)
def test_each_row_resumes_bit_by_bit(name: str, tmp_path: Path) -> None:
    # The default localizer would be downloaded. The released code normalises single images, which needs larger views.
    run = tiny(name, {"localizer.weights": "random", "data.crop": 64 if "released" in name else 32})
    undisturbed, interrupted = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "interrupted")
    train(run, undisturbed)
    interrupt(run, interrupted, STEPS)
    train(run, interrupted)
    assert_same_training(interrupted.checkpoints, undisturbed.checkpoints)


class Fixed(nn.Module):
    """A data preprocessor that always returns the same batch."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self.data = data

    def forward(self, data: object, training: bool = False) -> dict[str, Any]:
        return self.data


@pytest.mark.parametrize("name", TABLE1)
def test_each_row_lowers_its_loss_on_a_fixed_batch(name: str) -> None:
    # One batch-norm group means no shuffling, which would only add noise here.
    run = tiny(name, {"moco.queue": 256, "moco.bn_splits": 1, "optimization.batch": 16})
    learner = build_learner(run, open_data(run, "train"), CPU)
    model: Any = learner.model
    batch = default_collate([learner.dataset[0, index] for index in range(16)])
    model.data_preprocessor = Fixed(model.data_preprocessor(batch, True))
    wrappers = {
        player: wrap_optimizer(optimizer, Precision.fp32, CPU) for player, optimizer in learner.optimizers.items()
    }
    wrapper = OptimWrapperDict(**wrappers) if len(wrappers) > 1 else wrappers["main"]
    queues = {queue: copy.deepcopy(queue.state_dict()) for queue in model.modules() if isinstance(queue, Queue)}
    losses: list[float] = []
    while len(losses) < 30 and not (len(losses) > 3 and max(losses[-3:]) < 0.85 * losses[0]):
        losses.append(model.train_step(batch, wrapper)["loss"].item())
        for queue, state in queues.items():
            queue.load_state_dict(state)  # otherwise the batch would be among its own negatives
    assert max(losses[-3:]) < 0.85 * losses[0], losses
