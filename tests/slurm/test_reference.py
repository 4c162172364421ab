"""Plans of a user who has measured nothing, and rows that are timed on a node."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from places import DOCS, ROOT
from stand_in_slurm import StandInSlurm
from training_samples import refused, salmask, tiny
from yaml_samples import write_yaml

from baselines import resolve
from repro.bench.throughput import StepMeasurement, kind_of
from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.evaluation import Evaluation
from slurm.jobs.calls import read_call, write_calls
from slurm.jobs.node_bench import NodeBench
from slurm.nodes.remote_bench import bench_on_node
from slurm.planning.job_costs import Evidence, estimate, evaluation_kind
from slurm.planning.reference import FILE, Reference, ReferenceRate, reference
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources

ON_GPU = Cluster("g", resources=Resources(gpus=1))


def test_the_reference_figures_are_those_of_the_pages_and_the_recorded_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.delitem(sys.modules, "reference_costs", raising=False)
    import reference_costs

    assert FILE.read_text(encoding="utf-8") == json.dumps(reference_costs.content(), indent=1) + "\n"
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    for row, milliseconds in (("supervised", 41), ("MoCo v2", 167), ("SimCLR", 127)):
        assert f"| {row} |" in page
        assert f"| {milliseconds} ms |" in next(line for line in page.splitlines() if line.startswith(f"| {row} |"))
    assert [
        1000 * seconds for seconds in (reference_costs.SUPERVISED, reference_costs.MOCO, reference_costs.SIMCLR)
    ] == [
        41,
        167,
        127,
    ]


def costs(tmp_path: Path, cluster: Cluster, *methods: str, **settings: Any) -> dict[str, Any]:
    graph = expand(Sweep("s", (Part(methods, (0,), ("linear",), settings=settings),)), tmp_path, resolve, {})
    evidence = Evidence({}, {}, {}, reference=reference())
    return {job.name: estimate(graph, cluster, evidence)[graph.key(job)] for job in graph.jobs}


def test_a_fresh_users_plan_is_arithmetic_on_recorded_steps(tmp_path: Path) -> None:
    known = costs(tmp_path, ON_GPU, "mocov2", "mocov2+ours-hp")
    pretraining = known["pretrain mocov2 s0"]
    # 200 epochs of 126,689 images, 128 in 167 ms: what README and docs/reproduce.md say, 9.2 GPU-hours
    assert pretraining.seconds == pytest.approx(200 * 126_689 * 0.167 / 128, rel=1e-3)
    assert pretraining.hours.of_gpus == pytest.approx(9.2, abs=0.05)
    assert known["pretrain mocov2+ours-hp s0"].hours.of_gpus == pytest.approx(12.8, abs=0.05)
    assert pretraining.reference
    assert pretraining.disk is None
    assert "reference: NVIDIA H100, 766 images/s, timed with bf16 for fp32; docs/performance.md" in pretraining.source
    probe = known["linear mocov2 s0"]
    assert probe.seconds == pytest.approx(100 * 126_689 * 0.041 / 3 / 128, rel=1e-3)
    assert "at least" in probe.source
    four = costs(tmp_path, Cluster("f", resources=Resources(gpus=4)), "mocov2")["pretrain mocov2 s0"]
    assert four.hours.of_gpus == pytest.approx(pretraining.hours.of_gpus)


def test_of_several_protocols_each_must_have_been_timed(tmp_path: Path) -> None:
    """Several protocols are measured together: the seconds of one alone do not tell the cost of both."""
    graph = expand(Sweep("s", (Part(("mocov2",), (0,), ("knn",)),)), tmp_path, resolve, {})
    job = graph.jobs[1]
    both = [evaluation_kind(job.run, Evaluation("knn", "imagenet100"), name) for name in job.protocols]
    assert len(both) == 2
    for kinds, seconds in ((both[:1], None), (both, 9.0)):
        elsewhere = Reference([], [], [(kind, 9.0, "NVIDIA H100", "a") for kind in kinds])
        for evidence in (Evidence({}, dict.fromkeys(kinds, 9.0), {}), Evidence({}, {}, {}, reference=elsewhere)):
            assert estimate(graph, ON_GPU, evidence)[graph.key(job)].seconds == seconds


def test_another_network_or_view_is_not_scaled_to(tmp_path: Path) -> None:
    for settings in ({"encoder.arch": "resnet34"}, {"data.crop": 192}):
        cost = costs(tmp_path, ON_GPU, "mocov2", **settings)["pretrain mocov2 s0"]
        assert (cost.seconds, cost.reference) == (None, False)


def test_what_the_machine_is_decides_between_recorded_runs(tmp_path: Path) -> None:
    kind = kind_of(
        resolve(
            "mocov2",
            {
                "data.dataset": "scenes-cutouts",
                "data.crop": 112,
                "encoder.arch": "resnet18",
                "optimization.batch": 64,
                "optimization.precision": "bf16",
                "machine.channels_last": True,
            },
        )
    )
    on_cpu, on_gpu = (reference().step(kind, on_gpu=gpu) for gpu in (False, True))
    assert on_cpu is not None
    assert on_gpu is not None
    assert (on_cpu[0].device, on_cpu[1]) == ("cpu (1 threads)", "")
    assert on_gpu[0].device.startswith("NVIDIA H100")
    assert on_gpu[1] == ", timed with 256 images a step"
    assert on_gpu[0].images_per_second > 10 * on_cpu[0].images_per_second


def test_of_several_figures_those_of_the_machine_asked_for_come_first_then_those_of_the_very_settings() -> None:
    larger, kind = (kind_of(resolve("mocov2", {"optimization.batch": batch})) for batch in (256, 128))
    on_gpu, on_cpu = (ReferenceRate(rate, device, "a") for rate, device in ((700.0, "NVIDIA H100"), (9.0, "cpu")))
    faster = ReferenceRate(900.0, "NVIDIA H100", "b")
    key = ("linear", "imagenet100")
    known = Reference(
        [(larger, faster), (kind, on_cpu), (kind, on_gpu)], [], [(key, 9.0, "cpu", "a"), (key, 1.0, "NVIDIA H100", "b")]
    )
    assert [known.step(kind, on_gpu=gpu) for gpu in (True, False)] == [(on_gpu, ""), (on_cpu, "")]
    assert known.step(larger, on_gpu=False) == (on_cpu, ", timed with 128 images a step")
    assert [known.evaluation(key, on_gpu=gpu) for gpu in (True, False)] == [
        (1.0, "NVIDIA H100", "b"),
        (9.0, "cpu", "a"),
    ]


def test_what_was_measured_here_goes_before_it(tmp_path: Path) -> None:
    graph = expand(Sweep("s", (Part(("mocov2",), (0,), ()),)), tmp_path, resolve, {})
    (job,) = graph.jobs
    own = StepMeasurement(kind_of(job.run), "mocov2", 100.0, 900.0, 10, 5, "mine")
    evidence = Evidence({}, {}, {own.kind: own}, reference=reference())
    cost = estimate(graph, ON_GPU, evidence)[graph.key(job)]
    assert (cost.seconds, cost.reference) == (200 * 126_689 / 100.0, False)


def test_the_plan_says_whose_figures_they_are(tmp_path: Path) -> None:
    text = salmask("sweep", "table1", "--plan", "--cluster", "slurm", "--out", str(tmp_path / "t")).out
    assert "its cost is unknown" not in text
    assert re.search(r"^to do: at least [\d.]+ GPU-hours, unknown space on disk, at least ", text, re.MULTILINE)
    # No figures exist for SimCLR with MSCN's masks. Probes on the transfer sets are planned by the images they draw.
    plan = json.loads(salmask("sweep", "table1", "--plan", "--cluster", "slurm", "--out", str(tmp_path), "--json").out)
    assert plan["unknown"] == [f"pretrain simclr+mscn s{seed}" for seed in range(3)]
    seconds = {job["job"]: job["seconds"] for job in plan["jobs"]}
    images = {"linear": 126_689, "linear@caltech101": 30 * 101, "linear@flowers102": 6552}
    for task, number in images.items():
        assert seconds[f"{task} mocov2 s0"] == pytest.approx(100 * number * 0.041 / 3 / 128, abs=0.06)
    assert "reference figures are of other machines; salmask bench step, here or with --cluster NAME on a node" in text
    assert not (tmp_path / "t").exists()


def test_a_row_is_timed_by_a_call_that_is_text(tmp_path: Path) -> None:
    run = tiny()
    call = NodeBench((run.to_yaml(),), tmp_path / "report.json", 2, 1, PROGRAM.measure)
    write_calls(tmp_path / "calls", {0: call})
    read = read_call(tmp_path / "calls", 0)
    assert read == call
    read()
    (row,) = json.loads(call.report.read_text(encoding="utf-8"))
    assert tuple(row["kind"]) == kind_of(run)
    assert row["images_per_second"] > 0


def test_a_node_that_does_not_come_is_told_of(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = write_yaml(tmp_path / "mine.yaml", {"gpus": 2, "time": 600, "scratch": str(tmp_path)})
    with pytest.raises(UserError, match="job 101 did not start within 1 s: Dependency"):
        bench_on_node(profile, [tiny()], program=PROGRAM.measure, steps=2, warm_up=1, wait=1.0)
    assert stand_in.option(101, "time") == "20"
    assert stand_in.option(101, "gpus-per-node") == "2"
    assert stand_in.queue == []  # the job is cancelled
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="there is no squeue on this machine"):
        bench_on_node(profile, [tiny()], program=PROGRAM.measure, steps=2, warm_up=1, wait=1.0)
    assert not any((tmp_path / ".bench").iterdir())  # the files of the job are removed, too
    assert "'local' runs jobs on this machine" in refused("bench", "step", "--cluster", "local")
    assert "on this machine" in refused("bench", "step", "--rivals", "--cluster", "slurm")
