"""One training of a detector with detectron2's trainer, exact on resume: every draw is a function of seed and step."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
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
from repro.runs.predictions import PREDICTIONS
from repro.runs.sections import MachineSettings
from repro.runs.stopping import STOP
from repro.training.hooks import HEARTBEAT_SECONDS, DivergenceError, forget_after
from repro.training.resume import checkpoints, newest_checkpoint, save_checkpoint
from repro.training.stop_agreement import StopAgreement

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class Trial:
    """One training: what it is, and where its files go."""

    task: str
    """`voc07+12` or `coco`."""
    run_id: str
    """Of the run whose backbone is the detector's."""
    protocol: str
    """Name of the protocol, with its departures."""
    index: int
    """Number of the trial, from 0."""
    seed: int
    """Of this trial alone: order, augmentation, sampled regions, and what is new in the detector."""
    path: Path
    """Folder of the trial's own files."""
    folder: RunFolder
    """Of the run."""
    cfg: CfgNode
    """detectron2's config, frozen."""
    data: DetectionData
    machine: MachineSettings
    device: torch.device

    @property
    def final(self) -> Path:
        """File of the trained detector; `{"model": …}`, as detectron2's own tools read it."""
        return self.path / "model_final.pth"

    @property
    def scores(self) -> Path:
        """File of what the trained detector scored."""
        return self.path / "scores.json"

    @property
    def detections(self) -> Path:
        """File of all that the trained detector detects on the images that are scored."""
        # Beside the predictions of other tasks, and not with the training's own files, which may be cleared away.
        return self.folder.path / PREDICTIONS / f"{self.task}-{self.path.parent.name}-{self.path.name}.json.gz"

    @property
    def metrics(self) -> Path:
        """File of the training's losses and learning rates."""
        return self.path / "metrics.jsonl"

    def recorded_scores(self) -> dict[str, float]:
        """Reads the scores of this training from their file; empty where there are none, or another training's."""
        if not self.scores.exists():
            return {}
        content = self._with_split_data(json.loads(self.scores.read_text(encoding="utf-8")))
        # The folder's name leaves the data out, whose annotations may have changed since.
        same = all(content.get(name) == value for name, value in self.scored_identity().items())
        return dict(content["scores"]) if same else {}

    def identity(self) -> dict[str, Any]:
        """Returns what a checkpoint of this training must agree with; its settings stand in its folder's name."""
        return {"run_id": self.run_id, "trial": self.index, "train_data": self.data.train_fingerprint}

    def scored_identity(self) -> dict[str, Any]:
        """Returns what scores of this training must agree with: what was trained, and what it is scored against.

        Where an annotation of the latter is corrected, the detector is scored again, and not trained again.
        """
        return {**self.identity(), "test_data": self.data.test_fingerprint}

    def difference(self, content: Mapping[str, Any]) -> str:
        """Says in what a checkpoint's content is of another training; returns "" where it is of this one."""
        content = self._with_split_data(content)
        for name, expected in self.identity().items():
            if content.get(name) != expected:
                # Older versions wrote one fingerprint of both splits, which cannot tell which of them has changed.
                if name not in content and "data" in content:
                    return f"its data is {content['data']}, not {self.data.fingerprint}"
                return f"its {name} is {content.get(name)}, not {expected}"
        return ""

    def _with_split_data(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a file's content with fingerprints of both splits, which older versions wrote as one, `data`."""
        if content.get("data") != self.data.fingerprint:
            return content
        return {
            "train_data": self.data.train_fingerprint,
            "test_data": self.data.test_fingerprint,
            **content,
        }


def train(trial: Trial, model: GeneralizedRCNN) -> float:
    """Trains a detector to the end of its schedule, from wherever its newest checkpoint left off.

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
            gather_metric_period=trial.machine.log_every,  # to gather waits for the device
        )
        saver = Saver(trial, identity, model, optimizer, scheduler, clock)
        trainer.register_hooks(
            # In this order after each step: the checkpoint holds the learning rate of the next one.
            [SeedRegions(trial.seed), LRScheduler(optimizer, scheduler), Progress(trial), saver]
        )
        if rank() == 0:
            # Steps after the checkpoint are made again, and would stand in the file twice.
            forget_after(trial.metrics, start)
            writer = TensorboardXWriter(str(trial.path / "tensorboard"))
            trainer.register_hooks([PeriodicWriter([writer], trial.machine.log_every)])
        try:
            with STOP.after_a_step():
                trainer.train(start, solver.MAX_ITER)
        except FloatingPointError as error:  # what detectron2's trainer raises at a loss that is not finite
            raise divergence(trial, str(error).splitlines()[0]) from error
    # Killed here, a training comes back with the checkpoint of its last step and goes on with the estimate.
    estimate_norms(trial, model)
    if rank() == 0:
        content = {**identity, "model": model.state_dict(), "seconds": clock.seconds()}
        write_atomically(trial.final, lambda file: torch.save(content, file))
        for checkpoint in checkpoints(trial.path):  # only now: until the detector is written they are all there is
            checkpoint.unlink()
    barrier()
    return clock.seconds()


def divergence(trial: Trial, what: str) -> DivergenceError:
    """Makes the error that ends a training whose numbers are not finite.

    Args:
        trial: what was trained.
        what: the number, with a punctuation mark at its end.
    """
    return DivergenceError(
        f"{trial.path}: {what} the last good checkpoint is kept", mend="a lower detection.base_lr, or a larger batch"
    )


def distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """Wraps a model in DDP where there is a process group.

    Buffers are not broadcast: the synchronised norms keep their statistics equal on all ranks by themselves.
    """
    if world_size() == 1:
        return model
    ids = None if device.type == "cpu" else [device.index]
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def training_batches(trial: Trial, start: int) -> Iterable[list[dict[str, Any]]]:
    """Makes this rank's batches from a step on, without end."""
    return make_train_loader(
        trial.data,
        DatasetMapper(trial.cfg, is_train=True),
        batch=trial.cfg.SOLVER.IMS_PER_BATCH,
        seed=trial.seed,
        start=start,
        workers=trial.machine.workers,
    )


def estimate_norms(trial: Trial, model: GeneralizedRCNN) -> None:
    """Replaces running statistics by averages over further batches, as detectron2's PRECISE_BN does after training.

    Running statistics follow the weights with a lag; averages over batches of the final weights have none.

    Args:
        trial: what was trained; nothing happens where its config does not ask for it.
        model: with its final weights.
    """
    precise, start = trial.cfg.TEST.PRECISE_BN, trial.cfg.SOLVER.MAX_ITER
    if not precise.ENABLED:
        return

    def batches() -> Iterator[Any]:
        """Yields further batches, each with the generators seeded by its own step."""
        # The steps after the last one: batches that no step of the training has named.
        for step, batch in enumerate(training_batches(trial, start), start):
            seed_regions(trial.seed, step)
            yield batch

    log.info("%s trial %d: running statistics over %d batches", trial.task, trial.index, precise.NUM_ITER)
    model.train()
    # The losses are computed on the way, as in detectron2's hook, which needs an event storage to write them to.
    with EventStorage(start):
        update_bn_stats(model, batches(), precise.NUM_ITER)


def seed_regions(seed: int, step: int) -> None:
    """Seeds torch's generators for a step, which makes the regions that RPN and heads sample a function of it."""
    # The rank is part of it: each rank has images of its own, which are not to be sampled alike.
    torch.manual_seed(stream_seed(seed, Purpose.regions, step, rank()))


class SeedRegions(HookBase):
    """Seeds each step by its number, so that a resumed training samples as an undisturbed one."""

    def __init__(self, seed: int) -> None:
        """Seed from the trial's `seed`."""
        self.seed = seed

    def before_step(self) -> None:
        """Seed torch's generators; this does not wait for the device."""
        seed_regions(self.seed, self.trainer.iter)


class Stopwatch:
    """Counts the seconds of a training over all its attempts."""

    def __init__(self, before: float) -> None:
        """Start; `before` are the seconds of earlier attempts."""
        self.before, self.started = before, time.monotonic()

    def seconds(self) -> float:
        """Returns the seconds of earlier attempts and of this one so far."""
        return self.before + time.monotonic() - self.started


class Progress(HookBase):
    """Writes losses to `metrics.jsonl` and to the log, and keeps the run's status true; rank 0 only."""

    def __init__(self, trial: Trial) -> None:
        """Report on a trial."""
        self.trial, self._last_entry = trial, 0.0

    def before_train(self) -> None:
        """Say in the status that the training runs."""
        self._logged_at, self._logged_step = time.monotonic(), self.trainer.iter
        self._set_status(self.trainer.iter)

    def after_step(self) -> None:
        """Write a line of metrics and of the log every `log_every` steps."""
        step, every = self.trainer.iter + 1, self.trial.machine.log_every  # detectron2 counts steps from 0
        if time.monotonic() - self._last_entry > HEARTBEAT_SECONDS or step == self.trainer.max_iter:
            self._set_status(step)
        if step % every or rank():
            return
        pace = (time.monotonic() - self._logged_at) / (step - self._logged_step)
        self._logged_at, self._logged_step = time.monotonic(), step
        # The storage keeps the latest value of everything; losses are gathered at this step, others may be older.
        latest = self.trainer.storage.latest()
        values = {name: value for name, (value, iteration) in latest.items() if iteration == self.trainer.iter}
        with self.trial.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seconds_per_iteration": pace, **values}) + "\n")
        time_left = timedelta(seconds=round(pace * (self.trainer.max_iter - step)))
        log.info(
            "%s trial %d  [%d/%d]  loss %.3f  lr %.2g  %.2f s/iteration  eta %s",
            *(self.trial.task, self.trial.index, step, self.trainer.max_iter, values["total_loss"]),
            *(self.trainer.optimizer.param_groups[0]["lr"], pace, time_left),
        )

    def _set_status(self, step: int) -> None:
        """Writes how many steps are made; rank 0 only."""
        if rank() == 0:
            self._last_entry = time.monotonic()
            self.trial.folder.set_status("running", task=self.trial.task, step=step, steps=self.trainer.max_iter)


class Saver(HookBase):
    """Saves checkpoints on rank 0, none with a weight that is not finite; see `repro.training.resume`.

    Where the process, or any rank, is asked to stop, all save the same step and end.
    """

    def __init__(
        self,
        trial: Trial,
        identity: dict[str, Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        clock: Stopwatch,
    ) -> None:
        """Prepare to save.

        Args:
            trial: says where to, and how often.
            identity: of the trial; it stands in every checkpoint.
            model: without DDP's wrapper.
            optimizer: of the model.
            scheduler: of the optimizer.
            clock: seconds of all attempts so far.
        """
        self.trial, self.identity, self.clock = trial, identity, clock
        self._agreement = StopAgreement()
        self.stateful = {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def after_step(self) -> None:
        """Save every `checkpoint_every` steps, after the last one, and before the process stops as it was asked to."""
        step = self.trainer.iter + 1
        # Asked on every rank, and before anything that only rank 0 does.
        stop = self._agreement.after_step() and step != self.trainer.max_iter
        if rank() == 0 and (stop or step == self.trainer.max_iter or not step % self.trial.machine.checkpoint_every):
            self._save(step)
        if stop:
            STOP.now()

    def _save(self, step: int) -> None:
        content: dict[str, Any] = {name: owner.state_dict() for name, owner in self.stateful.items()}
        # The trainer looks at losses only, and a weight may turn infinite in the step that follows a finite loss.
        if not all(bool(value.isfinite().all()) for value in content["model"].values()):
            raise divergence(self.trial, f"a weight of step {step} is not finite;")
        content |= {**self.identity, "step": step, "seconds": self.clock.seconds()}
        save_checkpoint(self.trial.path, step, content)


def restore(trial: Trial, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> tuple[int, float]:
    """Puts a training where its newest readable checkpoint left off; a torn one gives way to the one before.

    Args:
        trial: what is trained.
        model: without DDP's wrapper.
        optimizer: of the model.
        scheduler: of the optimizer.

    Returns:
        The step to go on from, 0 where there is no checkpoint, and the seconds spent so far.

    Raises:
        UserError: a checkpoint is of another training, or none can be read.
    """
    newest = newest_checkpoint(trial.path, lambda content, path: require_same(content, trial, path))
    if newest is None:
        return 0, 0.0
    path, content = newest
    for name, owner in (("model", model), ("optimizer", optimizer), ("scheduler", scheduler)):
        owner.load_state_dict(content[name])
    log.info("resumed from %s at step %d", path, content["step"])
    return int(content["step"]), float(content["seconds"])


def require_same(content: dict[str, Any], trial: Trial, path: Path) -> None:
    """Refuses a checkpoint of another training.

    Args:
        content: of the checkpoint.
        trial: whose checkpoint it should be.
        path: the checkpoint's file, for the message.

    Raises:
        UserError: says in what it differs.
    """
    if difference := trial.difference(content):
        raise UserError(
            f"{path} is of another training: {difference}",
            mend=f"delete {trial.path} to start anew, or restore the data",
        )


def load_trained(trial: Trial, model: nn.Module) -> float:
    """Loads the trained detector of a trial.

    Args:
        trial: that was trained to its end.
        model: gets the weights of `trial.final`.

    Returns:
        Seconds that the training took.

    Raises:
        UserError: the file is torn, or of another training.
    """
    content = read_checkpoint(trial.final)
    require_same(content, trial, trial.final)
    model.load_state_dict(content["model"])
    return float(content["seconds"])
