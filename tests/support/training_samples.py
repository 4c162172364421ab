"""Runs that take seconds, and what the tests of training share."""

import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import pytest
import torch
from mmengine.hooks import Hook
from tiny_runs import EPOCH, OURS, STEPS, TINY, tiny, words  # noqa: F401  # re-exported beside what trains them
from torch.utils.data import default_collate

from baselines import build_learner
from repro import cli
from repro.backbones.backbone import save_backbone
from repro.contrastive.encoders import build_encoder
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.settings.run import Run
from repro.training.batches.loading import TwoViews
from repro.training.learner import build_view_maker
from repro.training.pretraining import build_training, open_data, plan_batches
from repro.training.runner import Training
from repro.training.steps.preprocess import Stages

# Several threads on busy cores wait for each other, ten times slower than one; child processes must add up alike.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

CPU = torch.device("cpu")


def with_random_backbone(run: Run, out: Path, input_filter: str = "none") -> RunFolder:
    """The folder of a run whose backbone never saw an image: all that a probe needs."""
    folder = RunFolder.of(run, out)
    folder.prepare(run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(run.encoder.arch, run.encoder.dim, run.encoder.width)
    save_backbone(
        folder.backbone,
        encoder.state_dict(),
        arch=run.encoder.arch,
        width=run.encoder.width,
        input_filter=input_filter,
        run_id=run.id,
    )
    return folder


def make_training(run: Run, folder: RunFolder, *hooks: Hook, device: torch.device = CPU) -> Training:
    """The training that `pretrain` runs, with other hooks: drawing its gallery takes longer than such a training."""
    images = open_data(run, "train")
    batches = plan_batches(run, images, device)
    return replace(build_training(run, folder, build_learner(run, images, device), batches, device), hooks=hooks)


def fixed_batch(run: Run, count: int = 8) -> dict[str, Any]:
    """The first images of the first epoch, as the loader hands them to contrastive learning."""
    dataset = TwoViews(open_data(run, "train"), run.data.crop, run.augmentation, run.seed)
    return default_collate([dataset[0, index] for index in range(count)])


def stages_of(run: Run, count: int = 8) -> Stages:
    """What the run makes of `fixed_batch`, up to the network's inputs."""
    return build_view_maker(run, CPU, open_data(run, "train")).stages(fixed_batch(run, count))


def foregrounds_of(run: Run, count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """The foregrounds of query and key, each B×g×g."""
    stages = stages_of(run, count)
    assert stages.query_foreground is not None
    assert stages.key_foreground is not None
    return stages.query_foreground, stages.key_foreground


class StopBefore(Hook):
    """Ctrl-C just before a step, the first one being 1."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            raise KeyboardInterrupt


class Poison(Hook):
    """A gradient of one network that is not a number, at one step."""

    def __init__(self, step: int, network: str = "encoder_q") -> None:
        self.step, self.network = step, network

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            weight = next(runner.model.get_submodule(self.network).parameters())
            weight.register_hook(lambda gradient: gradient * float("nan"))


def interrupt(run: Run, folder: RunFolder, step: int, device: torch.device = CPU) -> None:
    """Train until just before a step."""
    with pytest.raises(KeyboardInterrupt):
        make_training(run, folder, StopBefore(step), device=device).run()


def stop_before(training: Training, step: int) -> None:
    """Train with the training's own hooks until just before a step; every step is saved."""
    hooks, machine = [*training.hooks, StopBefore(step)], replace(training.machine, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        replace(training, hooks=hooks, machine=machine).run()


def copied(folder: RunFolder, place: Path) -> RunFolder:
    """A copy of a run's folder; checkpoints, which are never written in place, are linked."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".pth") else shutil.copy2)(source, target)

    shutil.copytree(folder.path, place, copy_function=copy)
    return RunFolder(place)


def newest(folder: Path) -> dict[str, Any]:
    return torch.load(checkpoints(folder)[0], weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit by bit, tensors included."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert one == other, where


def assert_same_training(one: Path, other: Path) -> None:
    """Two folders of checkpoints end in the same weights, queue, running statistics, momenta and schedule."""
    a, b = newest(one), newest(other)
    for part in ("step", "epoch", "model", "optimizer", "schedulers"):
        assert_same(a[part], b[part], part)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def salmask(*arguments: str, stdout: TextIO | None = None) -> Ended:
    """The `salmask` command in this process; its output goes to `stdout` if there is one."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(stdout or out), redirect_stderr(err), patch.object(sys, "argv", ["salmask", *arguments]):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ended(code, out.getvalue(), err.getvalue())


def refused(*arguments: str) -> str:
    """The one line with which a command refuses bad input."""
    ended = salmask(*arguments)
    return refusal(ended)


def refusal(ended: Ended) -> str:
    assert ended.code == 2, ended
    (line,) = ended.err.splitlines()
    assert line.startswith("salmask: "), line
    return line.removeprefix("salmask: ")


def files_below(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def on_two_processes(work: Callable[[int, Path], dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    """What a function, given its rank and `place`, returns in each of two processes that gloo joins."""
    return on_processes(2, work, place)


def on_processes(count: int, work: Callable[[int, Path], dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    """What a function, given its rank and `place`, returns in each of `count` processes that gloo joins."""
    # Forked from a server that has imported torch but computed nothing: a fork of a process that has computed may hang,
    # and importing torch anew takes seconds. The server has the first call's environment, so each passes its own.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["repro.training.runner"])
    torch.multiprocessing.start_processes(
        _join, (count, work, place, dict(os.environ)), nprocs=count, start_method="forkserver"
    )
    return [torch.load(place / f"{number}.pth", weights_only=False) for number in range(count)]


def _join(
    number: int, count: int, work: Callable[[int, Path], dict[str, Any]], place: Path, surroundings: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ |= surroundings
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number)}
    store = f"file://{place / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=number, world_size=count)
    torch.save(work(number, place), place / f"{number}.pth")
    torch.distributed.destroy_process_group()
