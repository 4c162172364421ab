"""Saving and restoring a training: its checkpoints hold everything that the next step depends on.

Batches, views and masks need no saving: they are functions of seed, epoch and index (see `repro.randomness`), and the
loop tells the loader at which batch of which epoch to begin.
"""

import logging
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import _ParamScheduler

from repro.backbones.weights import not_finite
from repro.contrastive.batch_norm import gather_statistics, set_statistics
from repro.errors import UserError, one_line, shortened
from repro.filesystem.files import reading
from repro.processes.distributed import gather_objects, rank, unwrapped, world_size
from repro.quantities import counted
from repro.runs.schemas import CHECKPOINT
from repro.runs.stopping import STOP
from repro.training.checkpoints.files import kept_checkpoint, newest_checkpoint, refusing, save_checkpoint
from repro.training.checkpoints.generators import generators, set_generators
from repro.training.checkpoints.stop_agreement import StopAgreement
from repro.training.checkpoints.writer import BackgroundWriter
from repro.training.watching.hooks import DivergenceError, FiniteGuard, RuntimeInfo, restore_window

log = logging.getLogger("salmask")

FORMAT = 1
"""Version of a checkpoint's layout."""


class SaveCheckpoint(Hook):
    """Saves a checkpoint every so many steps and at the end of each epoch."""

    # After every other hook: mmengine's schedulers (LOW) must have set the learning rate of the next step, and the
    # metrics of this step must have been written, before the state is taken.
    priority = "VERY_LOW"

    def __init__(
        self,
        folder: Path,
        run_id: str,
        every: int,
        guard: FiniteGuard,
        info: RuntimeInfo,
        health: Path | None,
        *,
        saves: bool,
        data: str,
    ) -> None:
        """Prepares to save.

        Args:
            folder: Where the checkpoints go.
            run_id: The run that they belong to.
            every: Steps between two checkpoints of an epoch.
            guard: Is asked before each checkpoint whether all numbers so far were finite.
            info: Knows the numbers of the steps since the last line of the log.
            health: The run's record of what went wrong, if it keeps one.
            saves: Whether to save at all; a process that is asked to stop ends after its step in any case.
            data: Fingerprint of the images; empty where the checkpoints do not hold it.
        """
        self.folder, self.run_id, self.every, self.guard, self.info = folder, run_id, every, guard, info
        self.health, self.saves, self.data = health, saves, data
        guard.kept = self.kept
        self._writer = BackgroundWriter()
        self._agreement = StopAgreement()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Saves within an epoch, and ends the process if it was asked to stop."""
        # The epoch's last step is left to `after_train_epoch`: schedulers that step by epoch have not done so yet, and
        # a training resumed from here would skip their step.
        if self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        stop = self._agreement.after_step()
        if stop or self.every_n_train_iters(runner, self.every):
            # mmengine counts a step after its hooks, so that `runner.iter` is still the number of this one, from 0.
            self._save(runner, runner.iter + 1, runner.epoch)
        if stop:
            self.wait()
            STOP.now()

    def after_train_epoch(self, runner: Any) -> None:
        """Saves after the schedulers have stepped, and ends the process if it was asked to stop."""
        # mmengine has counted the last step by now, but counts the epoch only after these hooks.
        self._save(runner, runner.iter, runner.epoch + 1)
        if self._agreement.at_once() and runner.epoch + 1 < runner.max_epochs:
            self.wait()
            STOP.now()

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk; to be called however the training ends.

        Raises:
            UserError: It cannot be written, or the disk is full; the earlier checkpoints are untouched.
        """
        self._writer.wait()

    def kept(self) -> str:
        """Returns, in words, which checkpoint there is to go back to, and which symptoms the training had by then."""
        self.wait()
        return kept_checkpoint(self.folder, self.health)

    def _save(self, runner: Any, step: int, epoch: int) -> None:
        if not self.saves:
            return
        # First of all, as a checkpoint with numbers that are not finite would replace a good one.
        self.guard.verify()
        state = unwrapped(runner.model).state_dict()
        # Gradients may be finite and the step still be too long, so that the weights are checked as well.
        if bad := not_finite(state):
            raise DivergenceError(
                f"weights after step {step} are not finite ({shortened(bad, 3)}); {self.kept()}",
                mend=self.guard.mend,
            )
        # Collectives, so every rank takes part, also those that write nothing.
        rank_generators, window = gather_objects(generators()), self.info.window(runner)
        rank_statistics = gather_statistics(unwrapped(runner.model)) if world_size() > 1 else []
        if rank() == 0:
            content = {
                "format": FORMAT,
                "run_id": self.run_id,
                "step": step,
                "epoch": epoch,
                "world_size": world_size(),
                "model": state,
                "optimizer": runner.optim_wrapper.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in schedulers_of(runner)],
                "generators": rank_generators,
                # Log lines are means over steps: the next one includes those before the interruption.
                "window": window,
                **({"data": self.data} if self.data else {}),
                # The model's state holds those of rank 0 alone.
                **({"statistics": rank_statistics} if rank_statistics else {}),
            }
            self._writer.write(content, partial(save_checkpoint, self.folder, step))


def schedulers_of(runner: Any) -> list[_ParamScheduler]:
    """Returns the schedulers of all optimizers, in the order in which the optimizers were named."""
    schedulers = runner.param_schedulers
    return list(chain.from_iterable(schedulers.values())) if isinstance(schedulers, dict) else schedulers


def restore(runner: Any, folder: Path, run_id: str, data: str) -> int:
    """Restores a runner from its newest readable checkpoint; a collective.

    Args:
        runner: Built, not yet trained.
        folder: Of the training's checkpoints.
        run_id: The run that the checkpoints must belong to.
        data: Fingerprint of the images; that in a checkpoint must be the same. Empty where checkpoints hold none.

    Returns:
        The step to resume from; 0 where there is no checkpoint.

    Raises:
        UserError: A checkpoint belongs to another run or to other images, its content is wrong, or none can be read.
    """

    def check(content: dict[str, Any], path: Path) -> None:
        with refusing(path):
            CHECKPOINT.verify(content, path)
        if content["run_id"] != run_id:
            raise UserError(f"{path} belongs to run {content.get('run_id')}, not {run_id}", mend="choose another --out")
        if (recorded := content.get("data", "")) != data:
            raise UserError(
                f"{path} is from a training on other data (fingerprint {recorded or 'unknown'}, now {data})",
                mend=f"delete {folder.parent} to start anew, or restore the data",
            )

    newest = newest_checkpoint(folder, check)
    if newest is None:
        return 0
    path, content = newest
    with refusing(path):
        _refuse_impossible(runner, content, path)
    _apply(runner, content, path)
    log.info("resumed from %s at step %d", path.name, content["step"])
    return int(content["step"])


def _refuse_impossible(runner: Any, content: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint whose step this training does not have, or whose weights are not finite or of another type.

    Raises:
        UserError: Names the file, and what is wrong with it.
    """
    step, epoch = content["step"], content["epoch"]
    if step > runner.max_iters or epoch != step // len(runner.train_dataloader):
        steps = counted(runner.max_iters, "step")
        raise UserError(
            f"{path}: its step {step} of epoch {epoch} does not exist in this training of {steps}", mend=CHECKPOINT.mend
        )
    if bad := not_finite(content["model"]):
        raise UserError(f"{path}: weights that are not finite: {shortened(bad, 3)}", mend=CHECKPOINT.mend)
    if not_finite({str(number): row for number, row in enumerate(content.get("statistics", []))}):
        raise UserError(f"{path}: running statistics that are not finite", mend=CHECKPOINT.mend)
    expected = unwrapped(runner.model).state_dict()
    # `load_state_dict` compares names and shapes alone, and would accept whole numbers as weights.
    other = [
        name
        for name, value in content["model"].items()
        if isinstance(value, torch.Tensor) and name in expected and value.dtype != expected[name].dtype
    ]
    if other:
        raise UserError(f"{path}: weights of another type: {shortened(other, 3)}", mend=CHECKPOINT.mend)


def _apply(runner: Any, content: dict[str, Any], path: Path) -> None:
    """Gives a runner the state that a checkpoint of its run holds; `path` is for errors."""
    try:
        model = unwrapped(runner.model)
        model.load_state_dict(content["model"])
        # Checkpoints of one process have none; nor have the oldest, which kept rank 0's for all in the model's state.
        if of_ranks := content.get("statistics", []):
            is_as_saved = len(of_ranks) == world_size()
            set_statistics(model, of_ranks[rank()] if is_as_saved else torch.stack(of_ranks).mean(0))
        runner.optim_wrapper.load_state_dict(content["optimizer"])
        for scheduler, state in zip(schedulers_of(runner), content["schedulers"], strict=True):
            scheduler.load_state_dict(state)
    # mmengine asserts the optimizers' names; for state of another form, each library raises errors of its own.
    except (RuntimeError, ValueError, KeyError, AssertionError, TypeError, AttributeError, IndexError) as error:
        detail = one_line(error)[:200]
        raise UserError(f"{path} is of another architecture: {detail}", mend="choose another --out") from error
    with refusing(path), reading(path, CHECKPOINT.mend):
        restore_window(runner, content.get("window", {}))
    # mmengine's counters have no setters.
    runner.train_loop._iter, runner.train_loop._epoch = content["step"], content["epoch"]
    # The global generators come last, so that nothing above draws from them after they are set. With another number of
    # processes they are not restored; neither batches nor views nor masks draw from them. Batches and views then go on
    # as before, but masks differ (`repro.randomness`).
    if content["world_size"] == world_size():
        with refusing(path), reading(path, CHECKPOINT.mend):
            set_generators(content["generators"][rank()])
    else:
        told = "resumed with another number of processes: %d, saved with %d"
        log.warning(told, world_size(), content["world_size"])
