"""One training of a detector with detectron2's trainer, exact on resume: every draw is a function of seed and step."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.engine.hooks import LRScheduler, PeriodicWriter
from detectron2.modeling import GeneralizedRCNN
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage, TensorboardXWriter
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from downstream.detection.data import DetectionData, make_train_loader
from repro.backbones.checkpoint import read_checkpoint
from repro.distributed import barrier, rank, world_size
from repro.errors import UserError
from repro.files import write_atomically
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import RunFolder
from repro.runs.sections import MachineSettings
from repro.training.hooks import DivergenceError, forget_after
from repro.training.resume import KEPT, checkpoints

log = logging.getLogger("salmask")
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Trial:
    """One training: what it is, and where its files go."""

    task: str
    run_id: str
    protocol: str
    index: int
    """From 0."""
    seed: int
    """Of this trial alone: order, augmentation, sampled regions, and what is new in the detector."""
    place: Path
    folder: RunFolder
    cfg: CfgNode
    data: DetectionData
    machine: MachineSettings
    device: torch.device

    @property
    def final(self) -> Path:
        """The trained detector; `{"model": …}`, as detectron2's own tools read it."""
        return self.place / "model_final.pth"

    @property
    def scores(self) -> Path:
        """What the trained detector scored."""
        return self.place / "scores.json"

    def scored(self) -> dict[str, float]:
        """The scores that stand in the file; empty where it has none of this training."""
        if not self.scores.exists():
            return {}
        content = json.loads(self.scores.read_text())
        same = all(content.get(name) == value for name, value in self.identity().items())
        return dict(content["scores"]) if same else {}

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with; its folder names the protocol."""
        return {"run_id": self.run_id, "trial": self.index, "data": self.data.fingerprint}


def train(trial: Trial, model: GeneralizedRCNN) -> float:
    """Train a detector to the end of its schedule, from wherever its newest checkpoint left off.

    Args:
        trial: what to train.
        model: built from the backbone; it holds the trained weights afterwards, as `trial.final` does.

    Returns:
        Seconds that all attempts took together.

    Raises:
        DivergenceError: a loss or weight was not finite.
        UserError: a checkpoint is of another training.
    """
    cfg, solver = trial.cfg, trial.cfg.SOLVER
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    start, seconds = restore(trial, model, optimizer, scheduler)
    identity = trial.identity()
    clock = Stopwatch(seconds)
    if start < solver.MAX_ITER:
        trainer = SimpleTrainer(
            distributed(model, trial.device),
            training_batches(trial, start),
            optimizer,
            gather_metric_period=trial.machine.log_every,
        )
        saver = Saver(trial, identity, model, optimizer, scheduler, clock)
        trainer.register_hooks(
            [SeedRegions(trial.seed), LRScheduler(optimizer, scheduler), Progress(trial, clock), saver]
        )
        if rank() == 0:
            forget_after(trial.place / "metrics.jsonl", start)
            writer = TensorboardXWriter(str(trial.place / "tensorboard"))
            trainer.register_hooks([PeriodicWriter([writer], trial.machine.log_every)])
        try:
            trainer.train(start, solver.MAX_ITER)
        except FloatingPointError as error:
            raise divergence(trial, str(error).splitlines()[0]) from error
    estimate_norms(trial, model)
    if rank() == 0:
        content = {**identity, "model": model.state_dict(), "seconds": clock.seconds()}
        write_atomically(trial.final, lambda file: torch.save(content, file))
        for done in checkpoints(trial.place):
            done.unlink()
    barrier()
    return clock.seconds()


def divergence(trial: Trial, what: str) -> DivergenceError:
    """The error that ends a training of numbers that are none."""
    return DivergenceError(
        f"{trial.place}: {what} the last good checkpoint is kept", mend="a lower detection.base_lr, or a larger batch"
    )


def distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """DDP where there is a process group."""
    if world_size() == 1:
        return model
    ids = None if device.type == "cpu" else [device.index]
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def training_batches(trial: Trial, start: int) -> Iterable[list[dict[str, Any]]]:
    """This rank's batches from a step on."""
    return make_train_loader(
        trial.data,
        DatasetMapper(trial.cfg, is_train=True),
        batch=trial.cfg.SOLVER.IMS_PER_BATCH,
        seed=trial.seed,
        start=start,
        workers=trial.machine.workers,
    )


def estimate_norms(trial: Trial, model: GeneralizedRCNN) -> None:
    """Replace running statistics by averages over further batches, as detectron2's PRECISE_BN does after training."""
    precise, start = trial.cfg.TEST.PRECISE_BN, trial.cfg.SOLVER.MAX_ITER
    if not precise.ENABLED:
        return

    def batches() -> Iterator[Any]:
        for step, batch in enumerate(training_batches(trial, start), start):
            seed_regions(trial.seed, step)
            yield batch

    log.info("%s trial %d: running statistics over %d batches", trial.task, trial.index, precise.NUM_ITER)
    model.train()
    # The losses are computed on the way, as in detectron2's hook, which needs an event storage to write them to.
    with EventStorage(start):
        update_bn_stats(model, batches(), precise.NUM_ITER)


def seed_regions(seed: int, step: int) -> None:
    """Make the regions that RPN and heads are trained on a function of seed, step and rank."""
    torch.manual_seed(stream_seed(seed, Purpose.regions, step, rank()))


class SeedRegions(HookBase):
    """Names the randomness of each step, so that a resumed training samples as an undisturbed one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed torch's generators; nothing waits for the device."""
        seed_regions(self.seed, self.trainer.iter)


class Stopwatch:
    """Seconds over all attempts."""

    def __init__(self, before: float) -> None:
        self.before, self.started = before, time.monotonic()

    def seconds(self) -> float:
        """Those before and those of this attempt."""
        return self.before + time.monotonic() - self.started


class Progress(HookBase):
    """Losses as lines of `metrics.jsonl` and of the log, and a true `status.json`; rank 0 only."""

    def __init__(self, trial: Trial, clock: Stopwatch) -> None:
        self.trial, self.clock, self._beat = trial, clock, 0.0

    def before_train(self) -> None:
        """Say that it runs."""
        self._since, self._from = time.monotonic(), self.trainer.iter
        self._status(self.trainer.iter)

    def after_step(self) -> None:
        """Tell the log every so often."""
        step, every = self.trainer.iter + 1, self.trial.machine.log_every
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS or step == self.trainer.max_iter:
            self._status(step)
        if step % every or rank():
            return
        pace = (time.monotonic() - self._since) / (step - self._from)
        self._since, self._from = time.monotonic(), step
        latest = self.trainer.storage.latest()
        values = {name: value for name, (value, when) in latest.items() if when == self.trainer.iter}
        with (self.trial.place / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "seconds_per_iteration": pace, **values}) + "\n")
        left = timedelta(seconds=round(pace * (self.trainer.max_iter - step)))
        log.info(
            "%s trial %d  [%d/%d]  loss %.3f  lr %.2g  %.2f s/iteration  eta %s",
            *(self.trial.task, self.trial.index, step, self.trainer.max_iter, values["total_loss"]),
            *(self.trainer.optimizer.param_groups[0]["lr"], pace, left),
        )

    def _status(self, step: int) -> None:
        if rank() == 0:
            self._beat = time.monotonic()
            self.trial.folder.set_status("running", task=self.trial.task, step=step, steps=self.trainer.max_iter)


class Saver(HookBase):
    """Checkpoints: atomic, the last two kept, none with a weight that is not finite."""

    def __init__(
        self,
        trial: Trial,
        identity: dict[str, Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        clock: Stopwatch,
    ) -> None:
        self.trial, self.identity, self.clock = trial, identity, clock
        self.parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def after_step(self) -> None:
        """Save every so many steps, and after the last."""
        step = self.trainer.iter + 1
        if rank() or (step % self.trial.machine.checkpoint_every and step != self.trainer.max_iter):
            return
        content: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        if not all(bool(value.isfinite().all()) for value in content["model"].values()):
            raise divergence(self.trial, f"a weight of step {step} is not finite;")
        content |= {**self.identity, "step": step, "seconds": self.clock.seconds()}
        write_atomically(self.trial.place / f"step_{step:08d}.pth", lambda file: torch.save(content, file))
        for old in checkpoints(self.trial.place)[KEPT:]:
            old.unlink()


def restore(trial: Trial, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> tuple[int, float]:
    """Put a training where its newest readable checkpoint left off; a torn one gives way to the one before.

    Returns:
        The step to go on from, 0 where there is no checkpoint, and the seconds spent so far.

    Raises:
        UserError: a checkpoint is of another training, or none can be read.
    """
    if rank() == 0:
        for torn in trial.place.glob(".step_*"):  # left by a process that was killed while it wrote
            torn.unlink()
    found = checkpoints(trial.place)
    for path in found:
        try:
            content = read_checkpoint(path)
        except UserError as error:
            log.warning("%s; falling back to the one before", error)
            continue
        require_same(content, trial, path)
        for name, part in (("model", model), ("optimizer", optimizer), ("scheduler", scheduler)):
            part.load_state_dict(content[name])
        log.info("resumed from %s at step %d", path, content["step"])
        return int(content["step"]), float(content["seconds"])
    if found:
        raise UserError(f"no checkpoint in {trial.place} can be read", mend="delete the folder to start anew")
    return 0, 0.0


def require_same(content: dict[str, Any], trial: Trial, path: Path) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        UserError: says in what it differs.
    """
    for name, expected in trial.identity().items():
        if content.get(name) != expected:
            raise UserError(
                f"{path} is of another training: its {name} is {content.get(name)}, not {expected}",
                mend=f"delete {trial.place} to start anew, or restore the data",
            )


def load_trained(trial: Trial, model: nn.Module) -> float:
    """Load `trial.final` into a detector.

    Returns:
        Seconds that its training took.

    Raises:
        UserError: it is torn, or of another training.
    """
    content = read_checkpoint(trial.final)
    require_same(content, trial, trial.final)
    model.load_state_dict(content["model"])
    return float(content["seconds"])
