"""What a training step of a row costs: parameters, passes through networks, FLOPs, and time beside its baseline.

Everything is measured on the step that training makes (augmentation, localizer, masking, losses, backward passes and
optimizers included) with the images replaced by noise, or by scenes for rows whose masks follow true objects; no number
is written down by hand.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from repro.bench.bound import BareStep
from repro.bench.timing import seconds_in_turn
from repro.bench.trace import write_trace
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.scenes.dataset import Scenes
from repro.settings.limits import LIMITS
from repro.settings.run import Run
from repro.settings.saliency_sources import SourceKind
from repro.training.batches.feed import Feed
from repro.training.learner import Build
from repro.training.steps.compilation import compile_step, require_compiler
from repro.training.steps.precision import wrap_optimizers
from repro.training.steps.preprocess import ViewMaker
from repro.training.steps.step_graph import EAGER_STEPS, StepGraph, can_be_replayed

TINY: Mapping[str, Any] = {
    "data.crop": 64,
    "encoder.arch": "resnet18",
    "moco.queue": 4096,
    "localizer.network": "efficientnet-lite0",
}
"""Settings at which a CPU takes seconds for what takes minutes at the paper's."""

IN_A_ROW = 5
"""Steps of a row that a GPU makes before the next row's turn: all but the first are queued while it is at work."""


class Noise:
    """Images of noise, S×S, in the place of a data set: what a step costs does not depend on what it sees."""

    # As many as ImageNet-100 has: the supervised row's last layer is counted too.
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
        """Returns an empty text, so that nothing that is computed from noise is kept."""
        return ""


@dataclass(frozen=True)
class StepCost:
    """What a training step of one row costs."""

    method: str
    trained: int
    """Parameters that an optimizer moves."""
    others: int
    """Parameters of the momentum encoder and the localizer."""
    forward: Mapping[str, float]
    """Forward passes through each network in a step, per image; a pass over part of a batch counts as that part."""
    backward: Mapping[str, float]
    """Backward passes through each network, counted likewise."""
    flops: float
    """FLOPs of a step, per image: two for each multiply-add of convolutions and matrix products."""
    seconds: float | None = None
    """Median time of a step; None where it was not timed."""
    relative: float | None = None
    """The time of a step divided by the baseline's, both measured in turn."""
    cpu_seconds: float | None = None
    """Median CPU seconds of a step, over all threads of this process: other programs on the machine do not count."""
    cpu_relative: float | None = None
    """`cpu_seconds` divided by the baseline's."""
    share_of_bound: float | None = None
    """FLOP/s as a share of what a bare, compiled classifier reaches, timed in turn; None if that was not timed."""

    def row(self, baseline: "StepCost") -> dict[str, Any]:
        """Returns the cells of a table's row, FLOPs beside the baseline's."""
        return {
            "method": self.method,
            "parameters": f"{self.trained / 1e6:.2f} + {self.others / 1e6:.2f} M",
            "forward": _passes(self.forward),
            "backward": _passes(self.backward),
            "GFLOP/image": f"{self.flops / 1e9:.2f}",
            "FLOP ×": f"{self.flops / baseline.flops:.2f}",
            "step ms": None if self.seconds is None else f"{1000 * self.seconds:.1f}",
            "time ×": None if self.relative is None else f"{self.relative:.2f}",
            "cpu ms": None if self.cpu_seconds is None else f"{1000 * self.cpu_seconds:.1f}",
            "cpu ×": None if self.cpu_relative is None else f"{self.cpu_relative:.2f}",
            **({} if self.share_of_bound is None else {"FLOP/s of bound": f"{self.share_of_bound:.0%}"}),
        }


def _passes(passes: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {network}" for network, count in passes.items())


class Step:
    """A row's training step on one batch, to be repeated."""

    def __init__(self, run: Run, build: Build, device: torch.device) -> None:
        """Builds what the row trains, and loads its batch: decoding is no part of the step.

        Args:
            run: The row; `optimization.batch` images make the batch.
            build: Makes what the row trains.
            device: Where it is trained.

        Raises:
            UserError: Settings that do not fit each other.
        """
        self.method, self.batch = run.method, run.optimization.batch
        self.learner = build(_without_files(with_random_localizer(run)), _images_for(run), device)
        items = default_collate([self.learner.dataset[0, index] for index in range(self.batch)])
        if device.type == "cuda":  # as the loader hands batches over
            items = {name: value.pin_memory() for name, value in items.items()}
        # As in training, a batch is copied to the device during the step before.
        self._batches = Feed(device).batches(repeat(items))
        self.wrapper = wrap_optimizers(self.learner.optimizers, run.optimization.precision, device)
        self.learner.model.train()
        self._machine, self._device = run.machine, device
        self._graph: StepGraph | None = None

    def __call__(self) -> None:
        """Makes one step."""
        batch = next(self._batches)
        if self._graph is None:
            self.learner.model.train_step(batch, self.wrapper)
        else:
            self._graph(batch)

    def speed_up(self) -> None:
        """Compiles and captures the step as the run's machine settings ask for it, as a training does at its start.

        This makes the steps that compiling or capturing takes. Call it after counting: neither passes nor FLOPs are
        counted within a compiled network or a replayed step.

        Raises:
            UserError: torch.compile does not work here.
        """
        model = self.learner.model
        if self._machine.compile:
            require_compiler(self._device)
            compile_step(model)
        if self._machine.graphs and can_be_replayed(model, self._device):
            assert isinstance(model, LossModel)
            self._graph = StepGraph(model, self.wrapper)
        if self._machine.compile or self._graph is not None:
            for _ in range(EAGER_STEPS + 1):
                self()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules that images pass through, as `count_passes` takes them: the model, and its localizer."""
        maker = self.learner.model.data_preprocessor
        # The localizer is no submodule of the model, as it has no place in checkpoints.
        localizer = maker.localizer if isinstance(maker, ViewMaker) else None
        return {"": self.learner.model} | ({} if localizer is None else {"localizer": localizer})

    def parameter_counts(self) -> tuple[int, int]:
        """Returns how many parameters optimizers move, and how many other ones the networks have."""
        groups = (group for optimizer in self.learner.optimizers.values() for group in optimizer.param_groups)
        moved = sum(parameter.numel() for group in groups for parameter in group["params"])
        total = sum(parameter.numel() for network in self.networks.values() for parameter in network.parameters())
        return moved, total - moved


class _Drawn(Scenes):
    """Scenes whose maps are not kept."""

    def fingerprint(self) -> str:
        """Returns an empty text, as `Noise` does."""
        return ""


def _images_for(run: Run) -> Images:
    """Returns images for the batch of a row: noise, or scenes where true masks take the place of a network."""
    count, crop = run.optimization.batch, run.data.crop
    if not run.needs_true_masks:
        return Noise(count, crop)
    sizes = LIMITS["data.scenes.size"]
    return _Drawn("train", count=count, size=int(min(max(crop, sizes.low), sizes.high)))


def with_random_localizer(run: Run) -> Run:
    """Returns the run with a localizer of random weights, which cost as much and need no download."""
    network = run.localizer.network
    if network == "efficientnet-lite0":  # its weights come with a package
        return run
    network = "resnet50" if network == "checkpoint" else network  # our own backbones are ResNets; the paper's is this
    return replace(run, localizer=replace(run.localizer, network=network, weights="random", sha256=""))


def _without_files(run: Run) -> Run:
    """Returns the run with the `centre` map in place of maps from files, which noise lacks; a step costs the same."""
    localizer, instead = run.localizer, {str(SourceKind.maps): str(SourceKind.centre)}
    source, hard = (instead.get(name, name) for name in (localizer.source, localizer.hard_negative_source))
    by_centre = replace(localizer, source=source, hard_negative_source=hard, files="", files_sha256="")
    return replace(run, localizer=by_centre)


def measure(
    run: Run,
    baseline: Run,
    build: Build,
    device: torch.device,
    *,
    rounds: int,
    with_bound: bool = False,
) -> tuple[StepCost, StepCost]:
    """Measures what a step of a row and of its baseline costs; they are timed in turn.

    Args:
        run: The row; `optimization.batch` images a step.
        baseline: The row without masking.
        build: Makes what they train.
        device: Where they are trained.
        rounds: How often each is timed, over one step, or `IN_A_ROW` steps on a GPU; 0 skips timing.
        with_bound: Whether to time the bare step of `repro.bench.bound` in turn with them.

    Returns:
        The cost of the row and that of its baseline.

    Raises:
        UserError: Settings that do not fit each other.
    """
    baseline_step = Step(baseline, build, device)
    rivals = {"baseline": baseline_step}
    if run != baseline:  # otherwise they are one and the same, which is neither built nor timed twice
        rivals["row"] = Step(run, build, device)
    # Counted first: optimizers make their state in that step, so that no timed step has to.
    costs = {name: _count(step) for name, step in rivals.items()}
    if rounds:
        for step in rivals.values():
            step.speed_up()
        encoder, size = run.encoder, run.data.crop
        bare = BareStep(encoder.arch, encoder.width, size, run.optimization.batch, device) if with_bound else None
        timed: Mapping[str, Callable[[], object]] = rivals if bare is None else {**rivals, "bound": bare}
        seconds = seconds_in_turn(timed, rounds, IN_A_ROW if device.type == "cuda" else 1)
        costs = {
            name: replace(
                cost,
                seconds=seconds[name].wall,
                relative=seconds[name].wall / seconds["baseline"].wall,
                cpu_seconds=seconds[name].cpu,
                cpu_relative=seconds[name].cpu / seconds["baseline"].cpu,
            )
            for name, cost in costs.items()
        }
        if bare is not None:
            bare_rate = bare.flops / seconds["bound"].wall
            costs = {
                name: replace(cost, share_of_bound=cost.flops * rivals[name].batch / seconds[name].wall / bare_rate)
                for name, cost in costs.items()
            }
    return costs.get("row", costs["baseline"]), costs["baseline"]


def trace(run: Run, build: Build, device: torch.device, path: Path) -> None:
    """Appends the kernels of a row's step to a text file; see `repro.bench.trace`.

    The step is built anew, so that tracing can wait until all numbers are printed: a profiler is apt to fail.

    Args:
        run: The row; `optimization.batch` images a step.
        build: Makes what is trained.
        device: Where it is trained.
        path: Of the file; it need not exist.

    Raises:
        UserError: Settings that do not fit each other, or a file that cannot be written to.
    """
    step = Step(run, build, device)
    step()  # optimizers make their state in it
    step.speed_up()
    write_trace(step, run.method, path, on_gpu=device.type == "cuda")


def _count(step: Step) -> StepCost:
    """Makes one step and counts its parameters, passes and FLOPs; it is not timed, as counting slows it down."""
    with count_passes(step.networks, step.batch) as passes, FlopCounterMode(display=False) as counter:
        step()
    trained_count, untrained_count = step.parameter_counts()
    return StepCost(
        method=step.method,
        trained=trained_count,
        others=untrained_count,
        forward=dict(passes.forward),
        backward=dict(passes.backward),
        flops=counter.get_total_flops() / step.batch,
    )


@dataclass(frozen=True)
class Passes:
    """Passes through each network by its name, in batches: a pass over half a batch counts a half."""

    forward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@contextmanager
def count_passes(modules: Mapping[str, nn.Module], batch: int) -> Iterator[Passes]:
    """Counts the passes through networks while the block runs.

    A network is a module with convolutions that is handed a batch of images and is not part of another one: a model
    hands on several views, so it is not a network itself; its encoders are; their layers are parts. A backward pass is
    one that reaches a network's output.

    Args:
        modules: What to look for networks in, by name; under the empty name, networks are called by their own names.
        batch: Images that make a whole pass.

    Yields:
        The passes, which grow as the block runs.
    """
    passes = Passes()
    running: list[str] = []  # the modules whose forward pass is under way, the outermost first
    handles: list[RemovableHandle] = []

    def share_of_batch(inputs: tuple[Any, ...]) -> float | None:
        """Returns which share of a batch a module is handed; None if its input is not images."""
        images = inputs[0] if inputs else None
        return len(images) / batch if isinstance(images, Tensor) and images.ndim == 4 else None

    def watch(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            share = share_of_batch(inputs)
            if share is not None:
                running.append(name)
                if len(running) == 1:  # the outermost is the network; what runs within it is a part
                    passes.forward[name] += share

        def leave(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            share = share_of_batch(inputs)
            if share is None:
                return
            running.pop()

            def count_backward(_: Tensor) -> None:
                passes.backward[name] += share

            # The hook of the output fires when its gradient is computed; not where a loss does not depend on it.
            if not running and isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(count_backward)

        handles.extend((module.register_forward_pre_hook(enter), module.register_forward_hook(leave)))

    for given_name, outermost in modules.items():
        for path, module in outermost.named_modules():
            if any(isinstance(submodule, nn.Conv2d) for submodule in module.modules()):
                watch(given_name or path.rpartition(".")[2], module)
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
