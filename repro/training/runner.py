"""A training on mmengine's Runner, resumable at any step: contrastive pretraining and the linear probe alike."""

import logging
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import torch
from mmengine.hooks import Hook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner
from mmengine.visualization import Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend
from torch import Tensor, nn
from torch.utils.data import DataLoader

from repro.command_line.progress import OPENING, ProgressBars
from repro.data.jpeg import libjpeg_turbo
from repro.processes.background import kept_errors_unprinted
from repro.processes.cores import usable_cores
from repro.processes.distributed import in_ddp, rank, world_size
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.stopping import STOP
from repro.settings.choices import Precision
from repro.settings.sections import MachineSettings
from repro.training.batches.feed import Feed
from repro.training.checkpoints.resume import SaveCheckpoint, restore
from repro.training.steps.precision import wrap_optimizers
from repro.training.steps.step_graph import StepGraph
from repro.training.watching.hooks import (
    WHEN_DIVERGED,
    EventsFile,
    FiniteGuard,
    Heartbeat,
    MetricsFile,
    RuntimeInfo,
    Throughput,
    forget_after,
)
from repro.training.watching.oversubscription import OversubscribedCores
from repro.training.watching.step_bar import StepBar

log = logging.getLogger("salmask")


class ResumableEpochs(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which can also begin in the middle of one."""

    def run_epoch(self) -> None:
        """Runs what is left of the epoch; hooks see the position of each batch in the whole epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        # Above 0 only if a checkpoint from within an epoch was restored. Batches before it are not even read.
        start = self._iter - self._epoch * len(self.dataloader)
        self.dataloader.batch_sampler.seek(self._epoch, start)
        for position, batch in enumerate(self.runner.feed.batches(self.dataloader), start):
            self.run_iter(position, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1  # after the hooks, as in mmengine: `SaveCheckpoint` relies on it

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Makes one step between its hooks, as mmengine does, but possibly replayed from a CUDA graph."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.make_step(data_batch)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@runtime_checkable
class Alternating(Protocol):
    """A model whose parts take turns: several steps for each batch, each with an optimizer of its own.

    Its `train_step` is given an `OptimWrapperDict`. torch's DDP expects that each forward pass is followed by one
    backward pass which reaches all parameters, and no single turn does that. So each part is wrapped by itself, and is
    called through its wrapper in its own turn alone.
    """

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wraps each part with `wrap`, which returns the part inside DDP.

        The wrappers stand beside the registered submodules, so that names in the state dict stay as they are.
        """


class DeviceRunner(Runner):
    """mmengine's Runner, on a given device, resuming from our own checkpoints."""

    def __init__(self, feed: Feed, training: "Training", **kwargs: Any) -> None:
        # First, as mmengine's constructor calls `wrap_model`, which needs them.
        self.feed, self.device, self.training = feed, feed.device, training
        self._step_graph: StepGraph | None = None
        super().__init__(**kwargs)

    def make_step(self, batch: Any) -> dict[str, Tensor]:
        """Makes one step of the training, and returns the scalars to log."""
        if self._step_graph is None and self.training.graphs:
            # Here, as mmengine wraps the optimizer only when the training begins.
            self._step_graph = StepGraph(self.model, self.optim_wrapper)
        if self._step_graph is not None:
            return self._step_graph(batch)
        outputs: dict[str, Tensor] = self.model.train_step(batch, optim_wrapper=self.optim_wrapper)
        return outputs

    def _log_env(self, env_cfg: Any) -> None:
        """Logs nothing: `provenance.json` holds the environment."""

    def build_logger(self, *options: Any, **named_options: Any) -> MMLogger:
        """Builds mmengine's logger, whichever GPUs this process sees.

        mmengine looks up this process's GPU by its local rank, for names of files that are not written here. That fails
        where each process sees only its own GPU, or several processes on a CPU see a single GPU.
        """
        local_rank = os.environ.pop("LOCAL_RANK", None)
        try:
            return super().build_logger(*options, **named_options)
        finally:
            if local_rank is not None:
                os.environ["LOCAL_RANK"] = local_rank

    def dump_config(self) -> None:
        """Writes nothing: `run.yaml` holds the settings."""

    def _init_model_weights(self) -> None:
        """Leaves the weights as they were built: the seed makes them the same on every rank.

        mmengine's own broadcasts each entry of the state dict, and fails at `MoCo`'s count of steps.
        """

    def load_or_resume(self) -> None:
        """Goes on from the newest good checkpoint; mmengine's own resume would unpickle more than tensors."""
        # mmengine calls this once everything is built and before the first step, so it is also where the log begins.
        if rank() == 0:
            self.logger.setLevel(logging.INFO)
            for handler in self.logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setStream(sys.stderr)  # standard output is for results, and `StepBar` shows the steps
                else:
                    # Before, mmengine logs messages about itself; from here on, about the training.
                    handler.setLevel(logging.INFO)
        training = self.training
        step = restore(self, training.checkpoints, training.run_id, training.data)
        if rank() == 0:
            # Only now, as the metrics of another run must stay if its checkpoint was refused.
            kept = forget_after(training.metrics, step)
            if step >= training.machine.log_every and not kept:
                log.warning("%s has no metrics of earlier steps: its curves begin at step %d", training.metrics, step)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Moves the model to the device, and wraps it in DDP where there are several processes."""
        model = model.to(self.device)
        if isinstance(model, Alternating):
            model.distribute(self._parallel)
            return model
        return self._parallel(model)

    def _parallel(self, module: nn.Module) -> nn.Module:
        """Returns a module, which is on the device, inside DDP."""
        # Buffers are not broadcast: running statistics stay each rank's own until they are read, see
        # `joint_statistics`; MoCo's queue is the same on every rank anyway, and would be sent at each step.
        return in_ddp(module, self.device, MMDistributedDataParallel)


class _Scalars(Visualizer):
    """mmengine's writer of scalars, without its figure for pictures: importing Matplotlib takes long."""

    def _initialize_fig(self, fig_cfg: Any) -> tuple[Any, Any, Any]:
        return None, SimpleNamespace(get_dpi=lambda: 0), None


class _Lines(LogProcessor):
    """mmengine's writer of the log's lines, which asks a GPU for its memory only where this process computes on one."""

    def _get_max_memory(self, runner: Any) -> int:
        return int(super()._get_max_memory(runner)) if torch.cuda.is_initialized() else 0


@dataclass
class Training:
    """A training: what is trained, how, and where its files go."""

    task: str
    """`pretrain` or a downstream task."""
    run_id: str
    model: nn.Module
    """An mmengine BaseModel with its data preprocessor."""
    loader: DataLoader[Any]
    """Its batch sampler is an `EpochBatches`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One optimizer, whatever its name, or as many as an `Alternating` model names."""
    schedulers: Mapping[str, Sequence[_ParamScheduler]]
    """The schedulers of each optimizer, by its name."""
    epochs: int
    batch: int
    """Images of a step, over all devices."""
    folder: RunFolder
    """The run's folder, which takes its logs and the status of the task."""
    checkpoints: Path
    """Folder of the checkpoints."""
    metrics: Path
    """File of the logged scalars."""
    machine: MachineSettings
    device: torch.device
    data: str = ""
    """Fingerprint of the images; a checkpoint must have the same one. Empty where the run's provenance holds it."""
    precision: Precision = Precision.fp32
    graphs: bool = False
    """Whether steps are replayed from a CUDA graph; only of a model of which `can_be_replayed` says so."""
    hooks: Sequence[Hook] = field(default_factory=list)
    """Hooks of this training alone."""
    more_writers: Sequence[BaseVisBackend] = ()
    """Writers of its scalars besides those of `metrics.jsonl` and TensorBoard; on rank 0."""
    when_diverged: str = WHEN_DIVERGED
    """The mend where its numbers are not finite: which of its settings to change."""
    saves: bool = True
    """Whether checkpoints are saved; a training that is only timed saves none."""

    def run(self) -> None:
        """Trains to the end, from the newest checkpoint if there is one.

        Raises:
            DivergenceError: A gradient, loss or weight was not finite, or the monitor ends the run.
            UserError: A checkpoint does not fit, none can be read, or a file of the training cannot be written.
            SystemExit: The process was asked to stop; the checkpoint to resume from is saved.
        """
        guard, info = FiniteGuard(self.machine.log_every, self.when_diverged), RuntimeInfo(self.machine.log_every)
        health = self.folder.health if self.task == PRETRAIN else None
        every = self.machine.checkpoint_every
        saver = SaveCheckpoint(
            self.checkpoints, self.run_id, every, guard, info, health, saves=self.saves, data=self.data
        )
        bars = ProgressBars(shown=rank() == 0)
        runner = self._runner(guard, info, saver, bars)
        OPENING.say(f"{self.task}: first step, with its images")
        with STOP.after_a_step(), kept_errors_unprinted():
            try:
                runner.train()
            finally:
                bars.stop()
                try:
                    # Also where the training fails or is interrupted, so that its last checkpoint is on the disk.
                    saver.wait()
                finally:
                    for writer in self.more_writers:
                        writer.close()

    def _runner(self, guard: FiniteGuard, info: RuntimeInfo, saver: SaveCheckpoint, bars: ProgressBars) -> DeviceRunner:
        """Returns mmengine's runner of the training, with these of its hooks, and makes the folders of its logs."""
        feed, log_every = Feed(self.device), self.machine.log_every
        logs = self.folder.logs
        for folder in (logs, self.metrics.parent):
            folder.mkdir(parents=True, exist_ok=True)
        tensorboard = EventsFile(save_dir=str(logs / "tensorboard"))
        writers = [MetricsFile(self.metrics), tensorboard, *self.more_writers]
        # mmengine keeps loggers and message hubs by name as long as the process lives; without a new name, a second
        # training of a run in one process would go on with the numbers of the first.
        name = f"{self.run_id}-{uuid.uuid4().hex[:6]}"
        return DeviceRunner(
            feed,
            self,
            model=self.model,
            work_dir=str(logs),
            experiment_name=name,
            train_dataloader=self.loader,
            train_cfg={"type": ResumableEpochs, "max_epochs": self.epochs},
            optim_wrapper=wrap_optimizers(self.optimizers, self.precision, self.device),
            param_scheduler=self._schedulers(),
            default_hooks={
                "runtime_info": info,
                "timer": IterTimerHook(),
                "sampler_seed": None,  # EpochBatches is told its epoch by the loop
                "logger": LoggerHook(interval=log_every, ignore_last=False),
                "param_scheduler": ParamSchedulerHook(),
                "checkpoint": None,
            },
            custom_hooks=[
                guard,
                Throughput(feed, self.batch, log_every, self._data_mend()),
                Heartbeat(self.folder, self.task),
                *([OversubscribedCores()] if self.device.type == "cpu" else []),
                saver,
                StepBar(self.task, log_every, bars),
                *self.hooks,
            ],
            visualizer=_Scalars(name=name, vis_backends=writers if rank() == 0 else [], save_dir=str(logs)),
            # All numbers are means since the last log line, except learning rates, throughput and waits; mmengine's own
            # pattern covers losses alone.
            log_processor=_Lines(log_every, mean_pattern=r"^(?!.*(lr|images_per_second|data_wait)$)"),
            launcher="pytorch" if world_size() > 1 else "none",
            env_cfg={"dist_cfg": {"backend": "gloo" if self.device.type == "cpu" else "nccl"}},
            log_level="WARNING",
            default_scope="mmengine",
        )

    def _data_mend(self) -> str:
        """Returns what a person can do where steps wait for data."""
        mends, cores = [], usable_cores()
        if self.machine.workers < cores:
            mends.append(f"more machine.workers ({self.machine.workers} now, {cores} cores)")
        if libjpeg_turbo() is None:
            mends.append("install simplejpeg")
        if self.task == PRETRAIN:
            mends.append("augmentation.resizer=torch, `salmask data cache` with data.cached_side")
            if self.device.type == "cuda" and not self.machine.resident:
                mends.append("machine.resident=true where the data fits into the GPU's memory")
        return ", ".join(mends) or "more processor cores"

    def _schedulers(self) -> list[_ParamScheduler] | dict[str, list[_ParamScheduler]]:
        """Returns the schedulers as mmengine takes them: a list for one optimizer, a dictionary for several."""
        schedulers = {name: list(self.schedulers[name]) for name in self.optimizers}
        return schedulers if len(schedulers) > 1 else next(iter(schedulers.values()))
