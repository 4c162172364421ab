"""A training on mmengine's Runner, resumable at any step: contrastive pretraining and the linear probe alike."""

import logging
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from mmengine.hooks import Hook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner
from mmengine.visualization import TensorboardVisBackend, Visualizer
from torch import nn
from torch.utils.data import DataLoader

from repro.distributed import rank, world_size
from repro.runs.choices import Precision
from repro.runs.folder import RunFolder
from repro.runs.sections import MachineSettings
from repro.runs.stopping import STOP
from repro.training.hooks import FiniteGuard, Heartbeat, MetricsFile, RuntimeInfo, Throughput, forget_after
from repro.training.precision import wrap_optimizers
from repro.training.resume import SaveCheckpoint, restore

log = logging.getLogger("salmask")


class ResumableEpochs(EpochBasedTrainLoop):
    """mmengine's epochs, which can also begin in the middle of one."""

    def run_epoch(self) -> None:
        """Run what is left of the epoch; hooks see the position of each batch in the whole epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        start = self._iter - self._epoch * len(self.dataloader)
        self.dataloader.batch_sampler.seek(self._epoch, start)
        for position, batch in enumerate(self.dataloader, start):
            self.run_iter(position, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@runtime_checkable
class Alternating(Protocol):
    """A model whose parts take turns: several steps for each batch, each with an optimizer of its own.

    Its `train_step` is given an `OptimWrapperDict`. torch's DDP expects of each forward pass one backward pass that
    reaches all of its parameters, which no single turn does. So each part is wrapped by itself, and is called through
    its wrapper in its own turn alone.
    """

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wrap the parts, beside the registered submodules: names in the state dict stay as they are."""


class DeviceRunner(Runner):
    """A Runner on the device that it is told, resuming from our own checkpoints."""

    def __init__(self, device: torch.device, training: "Training", **kwargs: Any) -> None:
        self.device, self.training = device, training
        super().__init__(**kwargs)

    def _log_env(self, env_cfg: Any) -> None:
        """Say nothing: `provenance.json` holds the environment."""

    def dump_config(self) -> None:
        """Write nothing: `run.yaml` holds the settings."""

    def _init_model_weights(self) -> None:
        """Leave the weights as they were built: the seed makes them the same on every rank.

        mmengine's own broadcasts each entry of the state dict and trips over `MoCo`'s count of steps.
        """

    def load_or_resume(self) -> None:
        """Go on from the newest good checkpoint; mmengine's own resume would unpickle more than tensors."""
        if rank() == 0:
            for talker in (self.logger, *self.logger.handlers):
                talker.setLevel(logging.INFO)  # from here on it tells of the training, no longer of itself
                if type(talker) is logging.StreamHandler:
                    talker.setStream(sys.stderr)  # standard output is for results
        training = self.training
        step = restore(self, training.checkpoints, training.run_id)
        if rank() == 0:
            forget_after(training.metrics, step)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """DDP where there is a process group; running statistics stay each rank's own, as rank 0's are kept."""
        model = model.to(self.device)
        if world_size() == 1:
            return model
        if isinstance(model, Alternating):
            model.distribute(self._parallel)
            return model
        return self._parallel(model)

    def _parallel(self, module: nn.Module) -> nn.Module:
        ids = None if self.device.type == "cpu" else [self.device.index]
        return MMDistributedDataParallel(module=module, device_ids=ids, broadcast_buffers=False)


@dataclass
class Training:
    """What is trained, and where its files go."""

    task: str
    """`pretrain` or a downstream task."""
    run_id: str
    model: nn.Module
    """An mmengine BaseModel with its data preprocessor."""
    loader: DataLoader[Any]
    """Its batch sampler is an `EpochBatches`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One, whatever its name, or as many as an `Alternating` model names."""
    schedulers: Mapping[str, Sequence[_ParamScheduler]]
    """Of each optimizer, by its name."""
    epochs: int
    batch: int
    """Over all devices."""
    folder: RunFolder
    checkpoints: Path
    metrics: Path
    machine: MachineSettings
    device: torch.device
    precision: Precision = Precision.fp32
    hooks: Sequence[Hook] = field(default_factory=list)

    def run(self) -> None:
        """Train from wherever the newest checkpoint left off to the end.

        Raises:
            DivergenceError: a gradient or loss was not finite.
            UserError: a checkpoint does not fit.
        """
        machine = self.machine
        guard = FiniteGuard(machine.log_every)
        logs = self.folder.logs
        for place in (logs, self.metrics.parent):
            place.mkdir(parents=True, exist_ok=True)
        writers = [MetricsFile(self.metrics), TensorboardVisBackend(save_dir=str(logs / "tensorboard"))]
        name = f"{self.run_id}-{uuid.uuid4().hex[:6]}"  # mmengine keeps what it knows of a name for the process's life
        runner = DeviceRunner(
            self.device,
            self,
            model=self.model,
            work_dir=str(logs),
            experiment_name=name,
            train_dataloader=self.loader,
            train_cfg={"type": ResumableEpochs, "max_epochs": self.epochs},
            optim_wrapper=wrap_optimizers(self.optimizers, self.precision, self.device),
            param_scheduler=self._schedulers(),
            default_hooks={
                "runtime_info": RuntimeInfo(machine.log_every),
                "timer": IterTimerHook(),
                "sampler_seed": None,  # EpochBatches is told its epoch by the loop
                "logger": LoggerHook(interval=machine.log_every, ignore_last=False),
                "param_scheduler": ParamSchedulerHook(),
                "checkpoint": None,
            },
            custom_hooks=[
                guard,
                Throughput(self.batch, machine.log_every),
                Heartbeat(self.folder, self.task),
                SaveCheckpoint(self.checkpoints, self.run_id, machine.checkpoint_every, guard),
                *self.hooks,
            ],
            visualizer=Visualizer(name=name, vis_backends=writers if rank() == 0 else [], save_dir=str(logs)),
            # Means since the last log line, but for what is of the moment; mmengine's own pattern knows losses alone.
            log_processor=LogProcessor(machine.log_every, mean_pattern=r"^(?!.*(lr|images_per_second)$)"),
            launcher="pytorch" if world_size() > 1 else "none",
            env_cfg={"dist_cfg": {"backend": "gloo" if self.device.type == "cpu" else "nccl"}},
            log_level="WARNING",
            default_scope="mmengine",
        )
        with STOP.after_a_step():
            runner.train()

    def _schedulers(self) -> list[_ParamScheduler] | dict[str, list[_ParamScheduler]]:
        """As mmengine takes them: a list for one optimizer, a dictionary for several."""
        named = {name: list(self.schedulers[name]) for name in self.optimizers}
        return named if len(named) > 1 else next(iter(named.values()))
