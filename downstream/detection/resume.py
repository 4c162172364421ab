"""Checkpoints of a detector's training, and the trained detector: saved, read again, refused if of another training."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn

from downstream.detection.cost import Cost
from downstream.detection.trial import Trial
from repro.backbones.checkpoint import read_checkpoint
from repro.backbones.weights import not_finite
from repro.errors import UserError, one_line, shortened
from repro.processes.distributed import rank
from repro.runs.schemas import Field, Schema
from repro.runs.stopping import STOP
from repro.training.checkpoints.files import kept_checkpoint, newest_checkpoint, refusing, save_checkpoint
from repro.training.checkpoints.stop_agreement import StopAgreement
from repro.training.watching.hooks import DivergenceError

log = logging.getLogger("salmask")
_TRAINED = Schema(
    {
        "model": Field(dict),
        "seconds": Field(float, low=0),
        "peak_memory_gib": Field(float, low=0),
    },
    mend="remove it: the detector is trained again",
)
"""A trial's `model_final.pth`. Its other entries, as those of a checkpoint, are `Trial.identity`."""
_CHECKPOINT = Schema(
    {
        "model": Field(dict),
        "optimizer": Field(dict),
        "scheduler": Field(dict),
        "step": Field(int, low=1),
        "seconds": Field(float, low=0),
    },
    mend="remove it",  # `refusing` replaces it by what the training does then
)


class Stopwatch:
    """Counts the seconds of a training over all its attempts."""

    def __init__(self, before: float) -> None:
        """Starts the clock; `before` are the seconds of earlier attempts."""
        self.before, self.started = before, time.monotonic()

    def seconds(self) -> float:
        """Returns the seconds of earlier attempts and of this one so far."""
        return self.before + time.monotonic() - self.started


def divergence(trial: Trial, what: str) -> DivergenceError:
    """Makes the error that ends a training whose numbers are not finite.

    Args:
        trial: What was trained.
        what: The number, with a punctuation mark at its end.
    """
    return DivergenceError(
        f"{trial.path}: {what} {kept_checkpoint(trial.path)}", mend="a lower detection.base_lr, or a larger batch"
    )


class Saver(HookBase):
    """Saves checkpoints on rank 0, none with a weight that is not finite; see `repro.training.checkpoints.resume`.

    If any rank is asked to stop, all ranks end after the same step, which is saved.
    """

    def __init__(
        self,
        trial: Trial,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        clock: Stopwatch,
    ) -> None:
        """Prepares to save.

        Args:
            trial: Says where to save, and how often; its identity is part of every checkpoint.
            model: Without DDP's wrapper.
            optimizer: Of the model.
            scheduler: Of the optimizer.
            clock: Seconds of all attempts so far.
        """
        self.trial, self.clock = trial, clock
        self._agreement = StopAgreement()
        self.stateful = {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def after_step(self) -> None:
        """Saves every `checkpoint_every` steps, after the last one, and before a requested stop."""
        step = self.trainer.iter + 1
        # A collective: called on every rank, before anything that only rank 0 does.
        stop = self._agreement.after_step() and step != self.trainer.max_iter
        if rank() == 0 and (stop or step == self.trainer.max_iter or not step % self.trial.machine.checkpoint_every):
            self._save(step)
        if stop:
            STOP.now()

    def _save(self, step: int) -> None:
        content: dict[str, Any] = {name: owner.state_dict() for name, owner in self.stateful.items()}
        # The trainer looks at losses only, and a weight may turn infinite in the step that follows a finite loss.
        if not_finite(content["model"]):
            raise divergence(self.trial, f"a weight of step {step} is not finite;")
        content |= {**self.trial.identity(), "step": step, "seconds": self.clock.seconds()}
        save_checkpoint(self.trial.path, step, content)


def restore(trial: Trial, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> tuple[int, float]:
    """Restores a training from its newest readable checkpoint; a torn one is passed over for the one before.

    Args:
        trial: What is trained.
        model: Without DDP's wrapper.
        optimizer: Of the model.
        scheduler: Of the optimizer.

    Returns:
        The step to resume from, 0 if there is no checkpoint, and the seconds spent so far.

    Raises:
        UserError: A checkpoint is of another training or does not fit, or none can be read.
    """

    def check(content: dict[str, Any], path: Path) -> None:
        require_same(content, trial, path)
        with refusing(path):
            _CHECKPOINT.verify(content, path)

    newest = newest_checkpoint(trial.path, check)
    if newest is None:
        return 0, 0.0
    path, content = newest
    with refusing(path):
        for name, owner in (("model", model), ("optimizer", optimizer), ("scheduler", scheduler)):
            _load(owner, content[name], path, _CHECKPOINT.mend)
    log.info("resumed from %s at step %d", path, content["step"])
    return int(content["step"]), float(content["seconds"])


def _load(owner: Any, state: dict[str, Any], path: Path, mend: str) -> None:
    """Loads the state of a model, an optimizer or a scheduler; refuses one that is not finite or does not fit."""
    if bad := not_finite(state):
        raise UserError(f"{path}: weights that are not finite: {shortened(bad, 3)}", mend=mend)
    try:
        owner.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} does not fit its training: {one_line(error)[:200]}", mend=mend) from error


def require_same(content: dict[str, Any], trial: Trial, path: Path) -> None:
    """Refuses a checkpoint of another training.

    Args:
        content: Of the checkpoint.
        trial: Whose checkpoint it should be.
        path: The checkpoint's file, for the message.

    Raises:
        UserError: It is of another training; says how it differs.
    """
    if difference := trial.difference(content):
        raise UserError(
            f"{path} is of another training: {difference}",
            mend=f"delete {trial.path} to start anew, or restore the data",
        )


def load_trained(trial: Trial, model: nn.Module) -> Cost:
    """Loads the trained detector of a trial.

    Args:
        trial: The trial, trained to its end.
        model: Gets the weights of `trial.final`.

    Returns:
        What the training took.

    Raises:
        UserError: The file is torn, of another training, or holds no detector that was trained.
    """
    content = read_checkpoint(trial.final)
    require_same(content, trial, trial.final)
    _TRAINED.verify(content, trial.final)
    _load(model, content["model"], trial.final, _TRAINED.mend)
    return Cost(float(content["seconds"]), float(content["peak_memory_gib"]))
