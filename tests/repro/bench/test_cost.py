"""The measured cost of a step: passes and FLOPs against counts made by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from training_samples import CPU, refused, salmask

from baselines import TABLE1, build_learner, resolve
from repro.backbones.resnet import build_resnet, resnet_of_width
from repro.bench.step import forward_rate
from repro.bench.timing import Seconds, seconds_in_turn
from repro.methods.cost import Step, StepCost, count_passes, measure, with_random_localizer
from repro.settings.run import Run
from repro.training.steps.step_graph import EAGER_STEPS

SMALL: dict[str, Any] = {
    "data.crop": 64,
    "encoder.arch": "resnet18",
    "encoder.dim": 16,
    "encoder.width": 8,
    "moco.queue": 64,
    "moco.bn_splits": 2,
    "optimization.batch": 4,
    "localizer.network": "efficientnet-lite0",
}


def small(method: str, changes: Mapping[str, Any] | None = None) -> Run:
    return resolve(method, {**SMALL, **(changes or {})})


@cache
def cost(method: str) -> StepCost:
    run = small(method)
    return measure(run, run, build_learner, CPU, rounds=0)[0]


PASSES = {
    "supervised": ({"encoder": 1}, {"encoder": 1}),
    "mocov2": ({"encoder_q": 1, "encoder_k": 1}, {"encoder_q": 1}),
    "mocov2+ours-hp": ({"localizer": 2, "encoder_q": 1, "encoder_k": 2}, {"encoder_q": 1}),
    # One hard negative for each of two groups in the batch of 4.
    "mocov2+ours-hp-released": ({"localizer": 2, "encoder_q": 1, "encoder_k": 1.5}, {"encoder_q": 1}),
    # The localizer is not asked about a view that is neither masked nor the source of a hard negative.
    "mocov2+ours-hp-no-hard-negative": ({"localizer": 1, "encoder_q": 1, "encoder_k": 1}, {"encoder_q": 1}),
    "mocov2+ours-hp@key": ({"localizer": 1, "encoder_q": 1, "encoder_k": 2}, {"encoder_q": 1}),
    "mocov2+ours-hp@both-no-hard-negative": ({"localizer": 2, "encoder_q": 1, "encoder_k": 1}, {"encoder_q": 1}),
    "mocov2+mscn": ({"encoder_q": 1, "encoder_k": 1}, {"encoder_q": 1}),
    # With true masks no localizer runs; a shuffled localizer runs as usual.
    "mocov2+ours-hp-by-random": ({"encoder_q": 1, "encoder_k": 2}, {"encoder_q": 1}),
    "mocov2+ours-hp-by-network-shuffled": ({"localizer": 2, "encoder_q": 1, "encoder_k": 2}, {"encoder_q": 1}),
    "simclr": ({"encoder": 2}, {"encoder": 2}),
    "simclr+ours-hp": ({"localizer": 2, "encoder": 3}, {"encoder": 3}),
    "simclr+ours-hp-stopgrad": ({"localizer": 2, "encoder": 3}, {"encoder": 2}),
    # An encoder step and an occlusion step: two views, then the masked one again (for SimCLR the key too).
    "mocov2+adios": ({"occlusion": 2, "encoder_q": 2, "encoder_k": 1}, {"encoder_q": 2, "occlusion": 1}),
    "simclr+adios": ({"occlusion": 2, "encoder": 4}, {"encoder": 3, "occlusion": 1}),
}


@pytest.mark.parametrize("method", PASSES)
def test_passes_are_those_of_the_method(method: str) -> None:
    measured_cost = cost(method)
    forward, backward = PASSES[method]
    assert measured_cost.forward == forward
    assert measured_cost.backward == backward
    assert measured_cost.seconds is None
    assert measured_cost.relative is None


def multiply_adds(network: nn.Module, image: Tensor) -> int:
    """The multiply-adds of convolutions and linear layers, layer by layer."""
    total = 0

    def add(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        for_each = layer.weight[0].numel()  # for one output value
        total += output.numel() * for_each

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.no_grad():
        network(image)
    return total


def test_flops_are_twice_the_multiply_adds_of_each_layer() -> None:
    network, image = resnet_of_width("resnet18", 8, 100).eval(), torch.randn(1, 3, 64, 64)
    by_hand = 2 * multiply_adds(network, image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() == by_hand
    # A step of the supervised row is one forward pass and about two backward: for the weights, and for the input, which
    # the first layer does not need.
    measured_cost = cost("supervised")
    first = 2 * 8 * 32 * 32 * 3 * 7 * 7
    assert measured_cost.flops == pytest.approx(3 * by_hand - first, rel=1e-3)


def test_parameters_are_those_of_the_networks() -> None:
    measured_cost, encoder = cost("mocov2+ours-hp"), resnet_of_width("resnet18", 8, 16)
    width = encoder.fc.in_features
    encoder.fc = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 16))
    size = sum(parameter.numel() for parameter in encoder.parameters())
    assert measured_cost.trained == size
    localizer = Step(small("mocov2+ours-hp"), build_learner, CPU).networks["localizer"]
    assert measured_cost.others == size + sum(parameter.numel() for parameter in localizer.parameters())
    assert cost("simclr").others == 0


def test_a_pass_is_counted_once_whatever_is_nested_and_only_where_gradients_arrive() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    outer = nn.ModuleDict({"net": nn.Sequential(inner, nn.Conv2d(4, 1, 3)), "head": nn.Linear(4, 2)})
    images = torch.randn(8, 3, 9, 9)
    with count_passes({"": outer}, batch=8) as passes:
        outer["net"](images).sum().backward()
        with torch.no_grad():
            outer["net"](images[:2])
        outer["net"](images)  # its gradient is not needed
        outer["head"](torch.randn(8, 4))
    assert passes.forward == {"net": 2.25}
    assert passes.backward == {"net": 1}
    outer["net"](images).sum().backward()
    assert passes.forward == {"net": 2.25}  # the hooks are gone


def test_weights_of_a_localizer_cost_nothing_and_are_not_looked_for() -> None:
    settings = {"localizer.network": "resnet50"}
    assert with_random_localizer(small("mocov2+ours-hp", settings)).localizer.weights == "random"
    checkpoint = small("mocov2+ours-hp-localizer-checkpoint", {"localizer.network": "checkpoint"})
    localizer = with_random_localizer(checkpoint).localizer
    assert (localizer.network, localizer.weights) == ("resnet50", "random")
    lite = small("mocov2+ours-hp")
    assert with_random_localizer(lite) == lite


def test_steps_are_made_beforehand_only_where_something_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Step] = []

    def make(step: Step) -> None:
        made.append(step)

    monkeypatch.setattr(Step, "__call__", make)
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr("repro.methods.cost.require_compiler", lambda _: None)
    for compiled, steps in ((False, 0), (True, EAGER_STEPS + 1)):
        made.clear()
        Step(small("supervised", {"machine.compile": compiled}), build_learner, CPU).speed_up()
        assert len(made) == steps


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_device_is_the_runs() -> None:
    line = refused("methods", "cost", "supervised", "--tiny", "--batch", "4", "--rounds", "0", "machine.device=cuda")
    assert line.startswith("machine.device=cuda, but torch sees no GPU; mend: ")


def test_rows_are_timed_in_turn() -> None:
    order: list[str] = []
    seconds_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4


def test_several_calls_in_a_row_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr("repro.bench.timing.wait_for_device", lambda: order.append("wait"))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) * 12.0)
    seconds = seconds_in_turn({"a": lambda: order.append("a")}, 1, calls=3)
    assert order == ["wait", *["a"] * 3, "wait"] * 2
    assert seconds["a"].wall == 4  # for one call


def test_a_network_that_is_evaluated_is_never_a_compiled_one() -> None:
    traced: list[int] = []

    def trace(graph: Any, inputs: Any) -> Any:
        traced.append(len(inputs))
        return graph.forward

    network = build_resnet("resnet18", 4, 4)
    network.compile(backend=trace)
    assert forward_rate(network, 32, CPU) > 0
    assert not traced


@pytest.mark.end_to_end
def test_the_command_prints_a_line_a_row_and_everything_as_json() -> None:
    few = ("--tiny", "--batch", "4", "--rounds", "1", "moco.queue=64", "encoder.dim=16")
    ended = salmask("methods", "cost", "mocov2", *few, "--json")
    assert ended.code == 0, ended.err
    (row,) = json.loads(ended.out)
    assert row["method"] == "mocov2"
    assert row["relative"] == 1
    assert row["seconds"] > 0
    ended = salmask("methods", "cost", "mocov2", "mocov2+mscn", *few)
    lines = ended.out.splitlines()
    # In a pipe, a table is Markdown.
    assert [line.split()[1] for line in (lines[0], *lines[2:4])] == ["method", "mocov2", "mocov2+mscn"]
    assert "64 px, resnet18, 4 images a step" in ended.out
    assert refused("methods", "cost", "mocov2", "--batch", "6") == (
        "--batch 6 is not a multiple of 4, MoCo's batch-norm groups; mend: --batch 4"
    )


def test_a_tables_cells_are_the_numbers_in_their_units_beside_the_baselines() -> None:
    plain = StepCost("mocov2", 11_234_567, 1_004_000, {"encoder_q": 1.0, "encoder_k": 1.5}, {"encoder_q": 1.0}, 2e9)
    untimed = dict.fromkeys(("step ms", "time ×", "cpu ms", "cpu ×"))
    assert plain.row(plain) == {
        "method": "mocov2",
        "parameters": "11.23 + 1.00 M",
        "forward": "1 encoder_q, 1.5 encoder_k",
        "backward": "1 encoder_q",
        "GFLOP/image": "2.00",
        "FLOP ×": "1.00",
        **untimed,
    }
    times = {"seconds": 0.75, "relative": 1.5, "cpu_seconds": 2.5, "cpu_relative": 1.25, "share_of_bound": 0.314}
    assert replace(plain, flops=5e9, **times).row(plain) == plain.row(plain) | {
        "GFLOP/image": "5.00",
        "FLOP ×": "2.50",
        "step ms": "750.0",
        "time ×": "1.50",
        "cpu ms": "2500.0",
        "cpu ×": "1.25",
        "FLOP/s of bound": "31%",
    }


def test_maps_of_files_are_not_asked_for_and_cost_what_the_centre_does() -> None:
    """A step is measured on noise, of which nobody has maps."""
    files = {"localizer.source": "maps", "localizer.files": "/nowhere", "localizer.files_sha256": "1" * 64}
    run = small("mocov2+ours-hp", files)
    by_files = measure(run, run, build_learner, CPU, rounds=0)[0]
    assert (by_files.forward, by_files.backward) == ({"encoder_q": 1, "encoder_k": 2}, {"encoder_q": 1})
    assert by_files.flops == cost("mocov2+ours-hp-by-random").flops


def test_the_command_measures_each_row_once_beside_its_own_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def record(run: Run, plain: Run, *_: Any, rounds: int, with_bound: bool) -> tuple[StepCost, StepCost]:
        assert {(each.data.crop, each.encoder.dim) for each in (run, plain)} == {(64, 16)}
        asked.append((run.method, plain.method, run.optimization.batch, rounds, with_bound))
        return (StepCost(run.method, 1, 1, {}, {}, 3.0), StepCost(plain.method, 1, 1, {}, {}, 2.0))

    monkeypatch.setattr("repro.methods.cost.measure", record)
    few = ("--tiny", "encoder.dim=16")
    ended = salmask("methods", "cost", "simclr+mscn", "mocov2", "simclr+mscn", *few)
    assert asked == [("simclr+mscn", "simclr", 8, 5, False), ("mocov2", "mocov2", 8, 5, False)]
    head, _, first, *_ = (line.strip("| ").split(" | ") for line in ended.out.splitlines())
    assert dict(zip(map(str.strip, head), map(str.strip, first), strict=True))["FLOP ×"] == "1.50"
    scale, *_ = (line for line in ended.out.splitlines() if line.startswith("64 px"))
    assert scale == "64 px, resnet18, 8 images a step; parameters: trained + momentum encoder and localizer"
    assert "bound: " not in ended.out
    asked.clear()
    with_bound = salmask("methods", "cost", *few, "--batch", "16", "--rounds", "2", "--bound")
    assert "\nbound: a bare classifier on the same network, " in with_bound.out
    assert [row for row, *_ in asked] == list(TABLE1)
    assert {tuple(rest) for _, _, *rest in asked} == {(16, 2, True)}


def test_the_bound_is_a_bare_step_of_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compilation is tested elsewhere, on a GPU; here the steps themselves are timed by a clock of the test.
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr("repro.methods.cost.require_compiler", lambda _: None)
    clocks = Seconds(2.0, 1.0), Seconds(8.0, 1.5), Seconds(1.0, 0.5)
    monkeypatch.setattr("repro.methods.cost.seconds_in_turn", lambda rivals, *_: dict(zip(rivals, clocks, strict=True)))
    run = small("mocov2+ours-hp")
    ours, plain = measure(run, small("mocov2"), build_learner, CPU, rounds=1, with_bound=True)
    bare = small("supervised")
    supervised = measure(bare, bare, build_learner, CPU, rounds=0)[0]
    # Its FLOPs are those of the supervised row: forward and backward passes through one encoder.
    assert plain.share_of_bound == pytest.approx(plain.flops / supervised.flops / 2, rel=1e-3)
    assert ours.share_of_bound == pytest.approx(ours.flops / supervised.flops / 8, rel=1e-3)
    assert (ours.seconds, ours.relative, ours.cpu_seconds, ours.cpu_relative) == (8, 4, 1.5, 1.5)
    assert (plain.relative, plain.cpu_relative) == (1, 1)


@pytest.mark.parametrize("option", [("--bound",), ("--trace", "trace.txt")])
def test_a_bound_or_a_trace_without_a_clock_is_refused(option: tuple[str, ...]) -> None:
    line = refused("methods", "cost", "mocov2", "--tiny", *option, "--rounds", "0")
    assert line == f"{option[0]} times steps, and --rounds 0 none; mend: --rounds 5"


@pytest.mark.slow
def test_a_trace_comes_after_the_numbers_and_its_failure_costs_it_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    traced: list[str] = []

    def fail_first(step: Step, title: str, path: Path, *, on_gpu: bool) -> None:
        traced.append(title)
        if len(traced) == 1:
            raise RuntimeError("no profiler\nhere")

    monkeypatch.setattr("repro.methods.cost.write_trace", fail_first)
    few = ("--tiny", "--batch", "4", "--rounds", "1", "moco.queue=64", "encoder.dim=16")
    ended = salmask("methods", "cost", "mocov2", "simclr", *few, "--json", "--trace", str(tmp_path / "trace.txt"))
    assert ended.code == 0, ended.err
    assert [row["method"] for row in json.loads(ended.out)] == ["mocov2", "simclr"]
    assert "note: no trace of mocov2 (RuntimeError: no profiler here)" in ended.err
    assert traced == ["mocov2", "simclr"]
