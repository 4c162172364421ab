"""What a step of each row costs: parameters, passes through networks, FLOPs, and time beside its baseline.

Everything is measured on the step that training makes (augmentation, localizer, masking, losses, backward passes and
optimizers included) with the images replaced by noise; nothing is written down by hand.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from repro.bench.timing import timed_in_turn
from repro.runs.run import Run
from repro.training.learner import Build
from repro.training.precision import wrap_optimizers
from repro.training.preprocess import ViewMaker

TINY: Mapping[str, Any] = {
    "data.crop": 64,
    "encoder.arch": "resnet18",
    "moco.queue": 4096,
    "localizer.network": "efficientnet-lite0",
}
"""Settings at which a CPU takes seconds for what takes minutes at the paper's."""


class Noise:
    """Images of noise, S×S: what a step costs does not depend on what it sees."""

    classes: Sequence[str] = tuple(f"class {number}" for number in range(100))

    def __init__(self, count: int, size: int) -> None:
        self.targets = [index % len(self.classes) for index in range(count)]
        self.size = size

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = np.random.default_rng(index).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self.targets[index]

    def fingerprint(self) -> str:
        """Of no data set."""
        return "noise"


@dataclass(frozen=True)
class StepCost:
    """Of one row."""

    method: str
    trained: int
    """Parameters that an optimizer moves."""
    others: int
    """Parameters of the momentum encoder and the localizer."""
    forward: Mapping[str, float]
    """Forward passes through each network in a step, per image; a pass over part of a batch counts as that part."""
    backward: Mapping[str, float]
    flops: float
    """Of a step, per image: two for each multiply-add of convolutions and matrix products."""
    seconds: float | None
    """Median of a step."""
    relative: float | None
    """Its time divided by the baseline's, both measured in turn."""

    def row(self, baseline: "StepCost") -> dict[str, Any]:
        """As a table shows it, beside the baseline's FLOPs."""
        return {
            "method": self.method,
            "parameters": f"{self.trained / 1e6:.2f} + {self.others / 1e6:.2f} M",
            "forward": _passes(self.forward),
            "backward": _passes(self.backward),
            "GFLOP/image": f"{self.flops / 1e9:.2f}",
            "FLOP ×": f"{self.flops / baseline.flops:.2f}",
            "step ms": None if self.seconds is None else f"{1000 * self.seconds:.1f}",
            "time ×": None if self.relative is None else f"{self.relative:.2f}",
        }


def _passes(passes: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {network}" for network, count in passes.items())


class Step:
    """A row's training step on one batch of noise, to be repeated."""

    def __init__(self, run: Run, build: Build, device: torch.device) -> None:
        """Build what the row trains.

        Raises:
            UserError: settings that do not fit each other.
        """
        self.batch = run.optimization.batch
        self.learner = build(untrained(run), Noise(self.batch, run.data.crop), device)
        self.items = default_collate([self.learner.dataset[0, index] for index in range(self.batch)])
        self.wrapper = wrap_optimizers(self.learner.optimizers, run.optimization.precision, device)
        self.learner.model.train()

    def __call__(self) -> None:
        """Make one step."""
        self.learner.model.train_step(self.items, self.wrapper)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What images pass through: the model, and the localizer beside it."""
        maker = self.learner.model.data_preprocessor
        localizer = maker.localizer if isinstance(maker, ViewMaker) else None
        return {"": self.learner.model} | ({} if localizer is None else {"localizer": localizer})

    def parameters(self) -> tuple[int, int]:
        """How many are trained, and how many are not."""
        groups = (group for each in self.learner.optimizers.values() for group in each.param_groups)
        trained = sum(parameter.numel() for group in groups for parameter in group["params"])
        return trained, sum(p.numel() for network in self.networks.values() for p in network.parameters()) - trained


def untrained(run: Run) -> Run:
    """The run with a localizer of random weights, which cost as much and need no download."""
    network = run.localizer.network
    if network == "efficientnet-lite0":
        return run
    network = "resnet50" if network == "checkpoint" else network
    return replace(run, localizer=replace(run.localizer, network=network, weights="random", sha256=""))


def measure(run: Run, baseline: Run, build: Build, device: torch.device, *, rounds: int) -> tuple[StepCost, StepCost]:
    """What a row costs, and what its baseline does, measured in turn.

    Args:
        run: the row; `optimization.batch` images a step.
        baseline: the row without masking.
        build: makes what they train.
        device: where.
        rounds: steps of each that are timed, after one that warms up; 0 leaves time out.

    Raises:
        UserError: settings that do not fit each other.
    """
    steps = {"baseline": Step(baseline, build, device)}
    steps["row"] = steps["baseline"] if run == baseline else Step(run, build, device)
    counted = {name: _counted(step) for name, step in steps.items()}
    seconds: Mapping[str, float] = {}
    if rounds:
        seconds = timed_in_turn(steps, rounds) if run != baseline else timed_in_turn({"row": steps["row"]}, rounds)
    first = seconds.get("baseline", seconds.get("row"))
    costs = []
    for name, of in (("row", run), ("baseline", baseline)):
        trained, others = steps[name].parameters()
        passes, flops = counted[name]
        took = seconds.get(name, first)
        relative = None if took is None or first is None else took / first
        forward, backward = dict(passes.forward), dict(passes.backward)
        costs.append(StepCost(of.method, trained, others, forward, backward, flops, took, relative))
    return costs[0], costs[1]


def _counted(step: Step) -> tuple["Passes", float]:
    """Passes and FLOPs of one step, per image."""
    with counting(step.networks, step.batch) as passes, FlopCounterMode(display=False) as counter:
        step()
    return passes, counter.get_total_flops() / step.batch


@dataclass(frozen=True)
class Passes:
    """Passes through each network, in batches."""

    forward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@contextmanager
def counting(networks: Mapping[str, nn.Module], batch: int) -> Iterator[Passes]:
    """Count the passes through networks while the block runs.

    A network is what is handed a batch of images and is not part of another one: a model hands on several views, its
    encoders are networks, their layers are parts. A backward pass is one that reaches a network's output.

    Args:
        networks: modules to look into, with the name of each; under the empty name, networks keep their own.
        batch: images that make a whole pass.
    """
    passes = Passes()
    inside: list[str] = []
    handles: list[RemovableHandle] = []

    def watch(name: str, module: nn.Module) -> None:
        def share(inputs: tuple[Any, ...]) -> float | None:
            images = inputs[0] if inputs else None
            return len(images) / batch if isinstance(images, Tensor) and images.ndim == 4 else None

        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            part = share(inputs)
            if part is not None:
                inside.append(name)
                if len(inside) == 1:
                    passes.forward[name] += part

        def leave(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            part = share(inputs)
            if part is None:
                return
            inside.pop()

            def reached(_: Tensor) -> None:
                passes.backward[name] += part

            if not inside and isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(reached)  # type: ignore[no-untyped-call]

        handles.extend((module.register_forward_pre_hook(enter), module.register_forward_hook(leave)))

    for outer, network in networks.items():
        for name, module in network.named_modules():
            if any(isinstance(part, nn.Conv2d) for part in module.modules()):
                watch(outer or name.rpartition(".")[2], module)
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
