"""Checkpoints of a training: atomic, the last two kept, everything that the next step depends on."""

import logging
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import _ParamScheduler
from torch import nn

from repro.backbones.checkpoint import read_checkpoint
from repro.distributed import rank, world_size
from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.stopping import STOP
from repro.training.hooks import FiniteGuard

log = logging.getLogger("salmask")
KEPT = 2
FORMAT = 1


class SaveCheckpoint(Hook):
    """Saves every so many steps and at the end of each epoch; runs last, when all other state is final."""

    priority = "VERY_LOW"

    def __init__(self, folder: Path, run_id: str, every: int, guard: FiniteGuard) -> None:
        """Save below `folder`, after the guard has agreed."""
        self.folder, self.run_id, self.every, self.guard = folder, run_id, every, guard

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save within an epoch, and end where that was asked for; its last step is left to the epoch's end."""
        if self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        stop = (world_size() == 1 or self.every_n_train_iters(runner, self.guard.every)) and stop_is_agreed()
        if stop or self.every_n_train_iters(runner, self.every):
            self._save(runner, runner.iter + 1, runner.epoch)
        if stop:
            STOP.now()

    def after_train_epoch(self, runner: Any) -> None:
        """Save after the schedulers have stepped."""
        self._save(runner, runner.iter, runner.epoch + 1)
        if stop_is_agreed() and runner.epoch + 1 < runner.max_epochs:
            STOP.now()

    def _save(self, runner: Any, step: int, epoch: int) -> None:
        self.guard.verify()
        generators = gather_generators()
        if rank() == 0:
            content = {
                "format": FORMAT,
                "run_id": self.run_id,
                "step": step,
                "epoch": epoch,
                "world_size": world_size(),
                "model": unwrapped(runner.model).state_dict(),
                "optimizer": runner.optim_wrapper.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in schedulers_of(runner)],
                "generators": generators,
            }
            write_atomically(self.folder / f"step_{step:08d}.pth", lambda file: torch.save(content, file))
            for old in checkpoints(self.folder)[KEPT:]:
                old.unlink()


def stop_is_agreed() -> bool:
    """Whether any process was asked to stop; with several, all must ask at the same step, and all hear the same."""
    if world_size() > 1:
        asked = torch.tensor(STOP.signal, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        STOP.signal = int(asked)
    return bool(STOP.signal)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper, if there is one."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner


def schedulers_of(runner: Any) -> list[_ParamScheduler]:
    """Those of all optimizers, in the order in which the optimizers were named."""
    held = runner.param_schedulers
    return list(chain.from_iterable(held.values())) if isinstance(held, dict) else held


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, newest first; temporary files have other names."""
    return sorted(folder.glob("step_*.pth"), reverse=True)


def restore(runner: Any, folder: Path, run_id: str) -> int:
    """Put a runner where its newest readable checkpoint left off; a torn one gives way to the one before.

    Args:
        runner: built, not yet trained.
        folder: of the checkpoints.
        run_id: whose they must be.

    Returns:
        The step to go on from; 0 where there is no checkpoint.

    Raises:
        UserError: a checkpoint belongs to another run, or none can be read.
    """
    if rank() == 0:
        for torn in folder.glob(".step_*"):  # a process killed while it saved leaves its temporary file
            torn.unlink()
    found = checkpoints(folder)
    for path in found:
        try:
            content = read_checkpoint(path)
        except UserError as error:
            log.warning("%s; falling back to the one before", error)
            continue
        if content.get("run_id") != run_id:
            raise UserError(f"{path} belongs to run {content.get('run_id')}, not {run_id}", mend="choose another --out")
        _apply(runner, content, path)
        log.info("resumed from %s at step %d", path.name, content["step"])
        return int(content["step"])
    if found:
        raise UserError(f"no checkpoint in {folder} can be read", mend="delete the folder to start anew")
    return 0


def _apply(runner: Any, content: dict[str, Any], path: Path) -> None:
    try:
        unwrapped(runner.model).load_state_dict(content["model"])
        runner.optim_wrapper.load_state_dict(content["optimizer"])
        for scheduler, state in zip(schedulers_of(runner), content["schedulers"], strict=True):
            scheduler.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:  # mmengine asserts the optimizers' names
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is of another architecture: {detail}", mend="choose another --out") from error
    runner.train_loop._iter, runner.train_loop._epoch = content["step"], content["epoch"]
    if content["world_size"] == world_size():
        set_generators(content["generators"][rank()])
    else:
        log.warning("resumed on %d processes, saved on %d", world_size(), content["world_size"])


def generators() -> dict[str, Any]:
    """The state of this process's global random generators, in types that load safely."""
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generators(state: dict[str, Any]) -> None:
    """Put them back."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def gather_generators() -> list[dict[str, Any]]:
    """Those of every rank, in order."""
    if world_size() == 1:
        return [generators()]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, generators())
    return gathered


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
