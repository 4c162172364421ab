"""Checkpoints of a training: atomic, the last two kept, everything that the next step depends on.

What is not in a checkpoint needs no saving: batches, views and masks are functions of seed, epoch and index (see
`repro.randomness`), and the loader is told by the loop at which batch of which epoch to begin.
"""

import logging
import random
import re
from collections.abc import Callable
from functools import partial
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

from repro.backbones.checkpoint import not_finite, read_checkpoint, write_checkpoint
from repro.contrastive.batch_norm import gather_statistics, set_statistics
from repro.distributed import await_file, decided_by_first, rank, world_size
from repro.errors import UserError, one_line, shortened
from repro.files import reading
from repro.presence import is_file
from repro.runs.folder import CHECKPOINTS_KEPT
from repro.runs.health import read_symptoms
from repro.runs.schemas import CHECKPOINT
from repro.runs.stopping import STOP
from repro.training.checkpoint_writer import BackgroundWriter
from repro.training.hooks import DivergenceError, FiniteGuard, RuntimeInfo, restore_window
from repro.training.stop_agreement import StopAgreement

log = logging.getLogger("salmask")

FORMAT = 1
"""Version of a checkpoint's layout."""
_NAME = re.compile(r"step_\d{8,}\.pth")
"""Name of a checkpoint: the number of its step, of eight digits at least."""


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
        health: Path | None = None,
        *,
        saves: bool = True,
        data: str = "",
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
        """Saves within an epoch, and ends the process where that was asked for."""
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
        """Saves after the schedulers have stepped, and ends the process where that was asked for."""
        # By now the last step is counted, but the epoch is not: that follows these hooks.
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
        """Returns which checkpoint there is to go back to, and since when the training had been going wrong before."""
        self.wait()
        return kept_checkpoint(self.folder, self.health)

    def _save(self, runner: Any, step: int, epoch: int) -> None:
        if not self.saves:
            return
        # First of all: a checkpoint with numbers that are not finite would push a good one out.
        self.guard.verify()
        state = unwrapped(runner.model).state_dict()
        # Gradients may be finite, and the step too long for the weights: what every later number is made of is asked.
        if bad := not_finite(state):
            raise DivergenceError(
                f"weights after step {step} are not finite ({shortened(bad, 3)}); {self.kept()}",
                mend=self.guard.mend,
            )
        # Collectives, so every rank takes part, also those that write nothing.
        rank_generators, window = gather_generators(), self.info.window(runner)
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
                # Lines of the log are means over steps: the next one is to be of those before the interruption too.
                "window": window,
                **({"data": self.data} if self.data else {}),
                # Those in the model's state are rank 0's.
                **({"statistics": rank_statistics} if rank_statistics else {}),
            }
            self._writer.write(content, partial(save_checkpoint, self.folder, step))


def save_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Writes a training's checkpoint of a step, then removes all but the newest `CHECKPOINTS_KEPT`.

    Args:
        folder: Of the training's checkpoints.
        step: Number of steps made.
        content: Tensors and plain values alone, as `read_checkpoint` reads nothing else.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the earlier checkpoints are untouched.
    """
    # In this order: at every moment there are whole checkpoints on the disk, whenever the process is killed.
    write_checkpoint(folder / f"step_{step:08d}.pth", content)
    for outdated in checkpoints(folder)[CHECKPOINTS_KEPT:]:
        outdated.unlink()


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside DDP's wrapper, or the model itself where there is no wrapper."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner


def schedulers_of(runner: Any) -> list[_ParamScheduler]:
    """Returns the schedulers of all optimizers, in the order in which the optimizers were named."""
    schedulers = runner.param_schedulers
    return list(chain.from_iterable(schedulers.values())) if isinstance(schedulers, dict) else schedulers


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, newest first; files of other names, such as copies, are left alone."""
    return sorted((path for path in folder.glob("step_*.pth") if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    """Returns the number of steps that a checkpoint is of, as its name tells."""
    return int(path.stem.removeprefix("step_"))


def kept_checkpoint(folder: Path, health: Path | None = None) -> str:
    """Returns, in words, which checkpoint a diverged training can go back to: the one that resuming would take.

    Args:
        folder: Of the training's checkpoints.
        health: Where the training recorded what went wrong; what had by that step is told as well.
    """
    if not (paths := checkpoints(folder)):
        return "there is no checkpoint of an earlier step"
    if not (newest := _first_readable(paths, lambda _: None)):
        return "no checkpoint of an earlier step can be read"
    step = _step(newest[0])
    earlier = [each for each in read_symptoms(health) if each.step <= step] if health else []
    return f"the checkpoint of step {step} is kept" + "".join(f", of a run with {symptom}" for symptom in earlier)


def newest_checkpoint(
    folder: Path, check: Callable[[dict[str, Any], Path], None]
) -> tuple[Path, dict[str, Any]] | None:
    """Finds and reads the newest readable checkpoint of a training; a torn one gives way to the one before.

    Rank 0 finds it, and all ranks read that one. Temporary files that a killed process left are removed on the way.

    Args:
        folder: Of the training's checkpoints.
        check: Is given the content and the path of the newest readable checkpoint, and raises a UserError where it
            belongs to another training.

    Returns:
        The path and the content, or nothing where the folder holds no checkpoint.

    Raises:
        UserError: There are checkpoints and none can be read, `check` refuses the newest readable one, or what has a
            checkpoint's name is no file.
    """
    here: list[dict[str, Any]] = []

    def find() -> Path | None:
        newest = _newest_readable(folder, check)
        here[:] = [newest[1]] if newest else []
        return newest[0] if newest else None

    path = decided_by_first(find)
    if path is None:
        return None
    await_file(path)
    return path, here[0] if here else read_checkpoint(path)


def _newest_readable(folder: Path, check: Callable[[dict[str, Any], Path], None]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the checkpoint to go on from, as `newest_checkpoint` does; on rank 0 alone."""
    # Nobody writes here now, as a training has its folder to itself; `write_atomically` puts a dot before the name of
    # what it has not finished.
    for leftover in folder.glob(".step_*"):
        leftover.unlink()
    paths = checkpoints(folder)
    if odd := [path for path in paths if not is_file(path)]:
        # Refused now: the training would fail where it comes to write there, after hours perhaps.
        raise UserError(f"{odd[0]} is no file, and stands in a checkpoint's place", mend="move it away")
    if newest := _first_readable(paths, lambda error: log.warning("%s; falling back to the one before", error.what)):
        # Not passed over: a stranger's is no accident, and an older one would be a stranger's as well.
        check(newest[1], newest[0])
    elif paths:
        # To begin anew silently would throw away what may have taken days.
        raise UserError(f"no checkpoint in {folder} can be read", mend="delete the folder to start anew")
    return newest


def _first_readable(paths: list[Path], tell: Callable[[UserError], None]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the first checkpoint that can be read, with its content; `tell` hears why those before it cannot."""
    # A disk may lose what it promised to keep. The one before costs some steps, no result: the same follow from it.
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            tell(error)
    return None


def restore(runner: Any, folder: Path, run_id: str, data: str = "") -> int:
    """Puts a runner where its newest readable checkpoint left off.

    Args:
        runner: Built, not yet trained.
        folder: Of the training's checkpoints.
        run_id: The run that the checkpoints must belong to.
        data: Fingerprint of the images, which must be those of the checkpoints, where these hold one; empty: any.

    Returns:
        The step to go on from; 0 where there is no checkpoint.

    Raises:
        UserError: A checkpoint belongs to another run, or to other images, or none can be read.
    """

    def check(content: dict[str, Any], path: Path) -> None:
        CHECKPOINT.verify(content, path)
        if content["run_id"] != run_id:
            raise UserError(f"{path} belongs to run {content.get('run_id')}, not {run_id}", mend="choose another --out")
        # Older versions wrote none.
        if data and content.get("data", data) != data:
            raise UserError(
                f"{path} is of a training on other data (fingerprint {content['data']}, now {data})",
                mend=f"delete {folder.parent} to start anew, or restore the data",
            )

    newest = newest_checkpoint(folder, check)
    if newest is None:
        return 0
    path, content = newest
    _refuse_impossible(runner, content, path)
    _apply(runner, content, path)
    log.info("resumed from %s at step %d", path.name, content["step"])
    return int(content["step"])


def _refuse_impossible(runner: Any, content: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint of a step that this training does not have, or of weights that none ends with.

    Raises:
        UserError: Names the file, and what is wrong with it.
    """
    step, epoch = content["step"], content["epoch"]
    if step > runner.max_iters or epoch != step // len(runner.train_dataloader):
        raise UserError(
            f"{path}: its step {step} of epoch {epoch} is none of this training's {runner.max_iters} steps",
            mend=CHECKPOINT.mend,
        )
    if bad := not_finite(content["model"]):
        raise UserError(f"{path}: weights that are not finite: {shortened(bad, 3)}", mend=CHECKPOINT.mend)
    if not_finite({str(number): row for number, row in enumerate(content.get("statistics", []))}):
        raise UserError(f"{path}: running statistics that are not finite", mend=CHECKPOINT.mend)
    expected = unwrapped(runner.model).state_dict()
    # `load_state_dict` compares names and shapes, and takes whole numbers for weights.
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
        # On one process there are none, and the first versions kept rank 0's for all, in the model's state.
        if of_ranks := content.get("statistics", []):
            is_as_saved = len(of_ranks) == world_size()
            set_statistics(model, of_ranks[rank()] if is_as_saved else torch.stack(of_ranks).mean(0))
        runner.optim_wrapper.load_state_dict(content["optimizer"])
        for scheduler, state in zip(schedulers_of(runner), content["schedulers"], strict=True):
            scheduler.load_state_dict(state)
    # mmengine asserts the optimizers' names; of what has another form each library raises what it likes.
    except (RuntimeError, ValueError, KeyError, AssertionError, TypeError, AttributeError, IndexError) as error:
        detail = one_line(error)[:200]
        raise UserError(f"{path} is of another architecture: {detail}", mend="choose another --out") from error
    with reading(path, CHECKPOINT.mend):
        restore_window(runner, content.get("window", {}))
    # mmengine's counters have no setters.
    runner.train_loop._iter, runner.train_loop._epoch = content["step"], content["epoch"]
    # The global generators come last, so that nothing above draws from them after they are set. Those of other ranks
    # would be of no use where the number of processes has changed; neither batches nor views nor masks draw from them.
    # With another number, batches and views go on as they were, and masks become others (`repro.randomness`).
    if content["world_size"] == world_size():
        with reading(path, CHECKPOINT.mend):
            set_generators(content["generators"][rank()])
    else:
        log.warning("resumed on %d processes, saved on %d", world_size(), content["world_size"])


def generators() -> dict[str, Any]:
    """Returns the states of this process's global random generators, in types that load without running code."""
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_generators(state: dict[str, Any]) -> None:
    """Restores the states that `generators` returned in this process's global random generators."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def gather_generators() -> list[dict[str, Any]]:
    """Returns the states of every process's generators, in the order of ranks; a collective."""
    if world_size() == 1:
        return [generators()]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, generators())
    return gathered


def _plain(value: Any) -> Any:
    """Returns the value with numpy's arrays as lists; loading with `weights_only` refuses the arrays."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
