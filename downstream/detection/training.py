"""One training of a detector with detectron2's trainer, exact on resume: every draw is a function of seed and step."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.data import DatasetMapper
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.engine.hooks import LRScheduler, PeriodicWriter
from detectron2.modeling import GeneralizedRCNN
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage, TensorboardXWriter
from fvcore.nn.precise_bn import update_bn_stats

from downstream.detection.cost import Cost, peak_memory_gib
from downstream.detection.data import make_train_loader
from downstream.detection.resume import Saver, Stopwatch, divergence, restore
from downstream.detection.trial import Trial
from repro.backbones.checkpoint import write_checkpoint
from repro.command_line.progress import OPENING, REDRAW_SECONDS, ProgressBars
from repro.processes.distributed import barrier, in_ddp, rank, world_size
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import PROGRESS_SECONDS
from repro.runs.step_files import checkpoints
from repro.runs.stopping import STOP
from repro.training.watching.hooks import append_metrics, forget_after

log = logging.getLogger("salmask")


def train(trial: Trial, model: GeneralizedRCNN) -> Cost:
    """Trains a detector to the end of its schedule, from wherever its newest checkpoint left off.

    Args:
        trial: What to train.
        model: Built from the backbone; it holds the trained weights afterwards, as `trial.final` does.

    Returns:
        What the training took.

    Raises:
        DivergenceError: A loss or weight was not finite.
        UserError: A checkpoint is of another training.
    """
    cfg, solver = trial.cfg, trial.cfg.SOLVER
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    start, seconds = restore(trial, model, optimizer, scheduler)
    clock = Stopwatch(seconds)
    if start < solver.MAX_ITER:
        trainer = SimpleTrainer(
            # No buffers are broadcast: during training the synchronised norms keep their running statistics equal on
            # all ranks by themselves, and `estimate_norms` broadcasts the averages that replace them.
            in_ddp(model, trial.device),
            training_batches(trial, start),
            optimizer,
            gather_metric_period=trial.machine.log_every,  # gathering waits for the device
        )
        bars = ProgressBars(shown=rank() == 0)
        saver = Saver(trial, model, optimizer, scheduler, clock)
        trainer.register_hooks(
            # Called in this order after each step: a checkpoint must hold the learning rate of the next step.
            [SeedRegions(trial.seed), LRScheduler(optimizer, scheduler), Reporter(trial, bars), saver]
        )
        if rank() == 0:
            # Steps after the checkpoint are repeated, and would be in the file twice.
            forget_after(trial.metrics, start)
            writer = TensorboardXWriter(str(trial.path / "tensorboard"))
            trainer.register_hooks([PeriodicWriter([writer], trial.machine.log_every)])
        OPENING.say(f"{trial.task} trial {trial.index}: first step, with its images")
        try:
            with STOP.after_a_step():
                trainer.train(start, solver.MAX_ITER)
        except FloatingPointError as error:  # detectron2's trainer raises it if a loss is not finite
            raise divergence(trial, str(error).splitlines()[0]) from error
        finally:
            bars.stop()
    # A training that is killed here resumes from the checkpoint of its last step, and goes on with the estimate.
    estimate_norms(trial, model)
    peak = peak_memory_gib(trial.device)
    if rank() == 0:
        content = {**trial.identity(), "model": model.state_dict(), "seconds": clock.seconds(), "peak_memory_gib": peak}
        write_checkpoint(trial.final, content)
        for checkpoint in checkpoints(trial.path):  # only now that the detector is written
            checkpoint.unlink()
    barrier()
    return Cost(clock.seconds(), peak)


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

    Running statistics follow the weights with a lag; averages over batches of the final weights have none. They are the
    same on every rank afterwards, as are all other buffers.

    Args:
        trial: What was trained; nothing happens if its config does not ask for it.
        model: With its final weights.
    """
    precise, start = trial.cfg.TEST.PRECISE_BN, trial.cfg.SOLVER.MAX_ITER
    if not precise.ENABLED:
        return

    def batches() -> Iterator[Any]:
        """Yields further batches, each with the generators seeded by its own step."""
        # Numbered on after the last step: batches that no step of the training has drawn.
        for step, batch in enumerate(training_batches(trial, start), start):
            seed_regions(trial.seed, step)
            yield batch

    log.info("%s trial %d: running statistics over %d batches", trial.task, trial.index, precise.NUM_ITER)
    model.train()
    # As in detectron2's hook: each forward pass also computes losses, and needs an event storage to write them to.
    with EventStorage(start):
        update_bn_stats(model, batches(), precise.NUM_ITER)
    if world_size() > 1:
        # Each batch's statistics are those of all ranks, but each rank weighs them by the pixels of its own images. All
        # ranks must score with the averages of rank 0, which writes the detector.
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def seed_regions(seed: int, step: int) -> None:
    """Seeds torch's generators for a step, so that the regions that RPN and heads sample depend on it alone."""
    # The rank is part of it, so that ranks, which have different images, do not sample alike.
    torch.manual_seed(stream_seed(seed, Purpose.regions, step, rank()))


class SeedRegions(HookBase):
    """Seeds each step by its number, so that a resumed training samples like an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        """Seeds from the trial's `seed`."""
        self.seed = seed

    def before_step(self) -> None:
        """Seeds torch's generators; this does not wait for the device."""
        seed_regions(self.seed, self.trainer.iter)


class Reporter(HookBase):
    """Writes losses to `metrics.jsonl`, moves the bar, and keeps the run's status up to date; rank 0 only."""

    def __init__(self, trial: Trial, bars: ProgressBars) -> None:
        """Reports on a trial; `bars` begin with its first step."""
        self.trial, self.bars, self._last_entry, self._moved_at = trial, bars, 0.0, 0.0

    def before_train(self) -> None:
        """Adds the bar, and writes to the status that the training runs, and from which step."""
        self._logged_at, self._logged_step = time.monotonic(), self.trainer.iter
        name, steps = f"{self.trial.task} trial {self.trial.index}", self.trainer.max_iter
        self._bar = self.bars.add_task(name, total=steps, completed=self.trainer.iter, unit="steps", summary=True)
        self._set_status(self.trainer.iter, resumed_at=self.trainer.iter)

    def after_step(self) -> None:
        """Writes a line of metrics every `log_every` steps; detectron2 counts steps from 0."""
        step, now = self.trainer.iter + 1, time.monotonic()
        is_last, is_logged = step == self.trainer.max_iter, step % self.trial.machine.log_every == 0
        if now - self._last_entry > PROGRESS_SECONDS or is_last:
            self._set_status(step)
        if rank():
            return
        loss = self._write_metrics(step) if is_logged else None
        if is_logged or is_last or now - self._moved_at >= REDRAW_SECONDS:
            self._moved_at = now
            self.bars.start()
            self.bars.update(self._bar, completed=step, **({} if loss is None else {"note": f"loss {loss:.4g}"}))

    def _write_metrics(self, step: int) -> float:
        """Appends the losses of a step at which they were gathered, and returns their sum."""
        pace = (time.monotonic() - self._logged_at) / (step - self._logged_step)
        self._logged_at, self._logged_step = time.monotonic(), step
        # The storage keeps the latest value of everything; losses are gathered at this step, others may be older.
        latest = self.trainer.storage.latest()
        values = {name: value for name, (value, iteration) in latest.items() if iteration == self.trainer.iter}
        append_metrics(self.trial.metrics, {"step": step, "seconds_per_iteration": pace, **values})
        return float(values["total_loss"])

    def _set_status(self, step: int, **more: Any) -> None:
        """Writes how many steps are made; rank 0 only."""
        if rank() == 0:
            self._last_entry = time.monotonic()
            self.trial.folder.tell_progress(self.trial.task, step, self.trainer.max_iter, "steps", **more)
