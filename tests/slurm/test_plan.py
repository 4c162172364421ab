import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from json_rows import write_rows
from rich.console import Console
from run_samples import RESULT
from training_samples import OURS, TINY, refused, salmask, tiny, words
from yaml_samples import write_yaml

from baselines import resolve
from repro.bench.throughput import StepMeasurement, kind_of, newest_measurements, record
from repro.data.sizes import train_images
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import append, read
from slurm.plan import SweepPlan, print_plan, say_plan_as_json
from slurm.planning.graph import Graph
from slurm.planning.hours import Hours
from slurm.planning.job_costs import (
    NEVER,
    Evidence,
    JobCost,
    estimate,
    evaluation_kind,
    gather,
    of_known_cost,
    survey,
    wall_seconds,
    with_plan,
    within_budget,
)
from slurm.planning.reference import Reference, reference
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources

NOTHING = Evidence({}, {}, {})
FOUR = Cluster("four", resources=Resources(gpus=4), tasks={"linear": Resources(gpus=1)})


def graph_of(
    place: Path, *seeds: int, methods: tuple[str, ...] = ("mocov2",), tasks: tuple[str, ...] = ("linear",)
) -> Graph:
    return expand(Sweep("s", (Part(methods, seeds or (0,), tasks, settings=TINY),)), place, resolve, {})


def finished(place: Path, rates: list[float], took: float) -> None:
    """A run that was trained and probed elsewhere, with these rates in images per second."""
    run = tiny(changes={"seed": 9})
    folder = RunFolder.of(run, place)
    folder.prepare(run)
    rows = [{"step": step, "images_per_second": rate} for step, rate in enumerate(rates)]
    write_rows(folder.metrics, rows)
    folder.backbone.write_bytes(b"x" * 5000)
    row = replace(RESULT, run_id=run.id, dataset="scenes", protocol=run.probe.protocol().name, duration_s=took)
    append(folder.results, [row, replace(row, metric="top5")])


def bench(rate: float, processes: int = 1, method: str = "mocov2") -> StepMeasurement:
    return StepMeasurement(kind_of(tiny(method)), method, rate, 40.0, 1000, 300, "a card", processes)


def test_a_file_that_goes_while_its_folder_is_looked_at_ends_no_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat is first written under a temporary name, which may vanish in a run of this sweep or beside it."""
    finished(tmp_path / "before", [4.0], 90.0)
    (half_written,) = (path / ".status-linear.json.x" for path in (tmp_path / "before").glob("*/s9-*"))
    half_written.touch()
    (tmp_path / "before" / "jobs.jsonl").touch()
    looks: Counter[Path] = Counter()
    stat = Path.stat

    def renamed_after_a_look(path: Path, **options: bool) -> Any:
        looks[path] += path == half_written
        if looks[path] > 1:
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", renamed_after_a_look)
    graph = graph_of(tmp_path / "now")
    assert with_plan(graph, FOUR).planned == {graph.key(graph.jobs[0]): 15.0, graph.key(graph.jobs[1]): 90.0}


def test_recorded_runs_tell_what_others_of_their_kind_cost(tmp_path: Path) -> None:
    finished(tmp_path / "before", [0.1, 0.1, 3.0, 5.0, 4.0], 90.0)
    evidence = gather([tmp_path / "before"], tmp_path / "none.jsonl")
    graph = graph_of(tmp_path / "now", 0, methods=("mocov2", OURS))
    costs = [estimate(graph, FOUR, evidence)[graph.key(job)] for job in graph.jobs]
    # 3 epochs of 20 images at a median of 4 a second; the first two log lines are warm-up
    assert costs[0].seconds == 3 * 20 / 4.0
    assert costs[0].hours == Hours(of_gpus=4 * 15 / 3600)
    assert costs[0].disk is not None
    assert costs[0].disk > 5000
    assert (costs[1].seconds, costs[1].gpus) == (90.0, 1)
    assert costs[2] == JobCost(None, 4, None, NEVER)  # another kind of run: it masks
    assert costs[3].seconds == 90.0


def test_bench_step_is_second_best_and_scaled_to_the_processes(tmp_path: Path) -> None:
    graph = graph_of(tmp_path)
    evidence = replace(NOTHING, steps={bench(2.0).kind: bench(2.0)})
    pretraining, probe = (estimate(graph, FOUR, evidence)[graph.key(job)] for job in graph.jobs)
    assert pretraining.seconds == 3 * 20 / 8.0
    assert pretraining.disk == 2 * 1000 + 300
    assert "scaled from 1 to 4 processes" in pretraining.source
    assert probe.seconds == 5 * 20 / 40.0
    assert "at least" in probe.source
    alone = estimate(graph, None, evidence)[graph.key(graph.jobs[0])]
    assert (alone.seconds, alone.gpus) == (30.0, 1)


def shown_hours(plan: SweepPlan, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The columns of hours in the table that shows a plan of one method."""
    print_plan(plan, Console())
    head, _, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[1:4])
    return {name.strip(): cell.strip() for name, cell in zip(head, row, strict=True) if "hours" in name}


@pytest.mark.parametrize(("executor", "here", "gpus"), [("slurm", True, 0), ("local", False, 0), ("local", True, 1)])
def test_hours_without_a_gpu_are_not_called_gpu_hours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    executor: str,
    here: bool,
    gpus: int,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi" if here else None)
    graph = graph_of(tmp_path)
    evidence = replace(NOTHING, steps={bench(0.01).kind: bench(0.01)})
    cluster = Cluster("one", executor=executor, resources=Resources(cpus=8), tasks={"linear": Resources(gpus=0)})
    plan = SweepPlan(graph, estimate(graph, cluster, evidence), frozenset(), cluster, 1)
    assert {cost.gpus for cost in plan.costs.values()} == {gpus}
    unit = "GPU-hours" if gpus else "hours without a GPU"
    assert plan.hours.text() == f"1.7 {unit}"
    assert shown_hours(plan, capsys) == {unit: "1.7"}
    # A budget counts such a job as if it held one GPU; without GPUs it would limit nothing.
    assert within_budget(graph, plan.costs, 1.6)[1] == ["mocov2 s0"]


def test_hours_of_both_kinds_stand_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = graph_of(tmp_path)
    probe = graph.key(graph.jobs[1])
    costs = {**costs_of(graph, pretrain=3600.0, linear=0.0), probe: JobCost(1800.0, 0, 0, "x")}
    plan = SweepPlan(graph, costs, frozenset(), FOUR, 1)
    assert plan.hours.text() == "2.0 GPU-hours and 0.5 hours without a GPU"
    say_plan_as_json(plan)
    said = json.loads(capsys.readouterr().out)
    assert (said["gpu_hours"], said["hours_without_gpu"]) == (2.0, 0.5)
    assert [(job["gpu_hours"], job["hours_without_gpu"]) for job in said["jobs"]] == [(2.0, 0), (0, 0.5)]
    assert shown_hours(plan, capsys) == {"GPU-hours": "2.0", "hours without a GPU": "0.5"}


def test_a_job_on_cpus_is_planned_by_figures_of_cpus(tmp_path: Path) -> None:
    """Also if other jobs of the profile have GPUs."""
    graph = graph_of(tmp_path)
    run = graph.jobs[0].run
    key = evaluation_kind(run, Evaluation("linear", "scenes"), run.probe.protocol().name)
    figures = [(key, 5.0, "NVIDIA H100", "a"), (key, 50.0, "cpu (1 threads)", "b")]
    evidence = replace(NOTHING, reference=Reference([], [], figures))
    for gpus, seconds in ((0, 50.0), (1, 5.0)):
        cluster = Cluster("one", resources=Resources(gpus=2), tasks={"linear": Resources(gpus=gpus)})
        assert estimate(graph, cluster, evidence)[graph.key(graph.jobs[1])].seconds == seconds


def test_a_forward_pass_tells_nothing_of_an_unknown_number_of_images(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, tasks=("linear", "linear@folder"))
    evidence = replace(NOTHING, steps={bench(2.0).kind: bench(2.0)})
    costs = estimate(graph, None, evidence)
    assert [costs[graph.key(job)].seconds for job in graph.jobs] == [30.0, 2.5, None]


def test_a_protocol_that_differs_is_no_evidence(tmp_path: Path) -> None:
    finished(tmp_path / "before", [4.0], 90.0)
    graph = expand(Sweep("s", (Part(("mocov2",), (0,), settings={**TINY, "probe.epochs": 9}),)), tmp_path, resolve, {})
    evidence = gather([tmp_path / "before"], tmp_path / "none.jsonl")
    assert estimate(graph, None, evidence)[graph.key(graph.jobs[1])].seconds is None


@pytest.mark.parametrize(("key", "value"), [("data.scenes.train_count", 2000), ("data.scenes.val_count", 500)])
def test_an_evaluation_of_fewer_images_is_no_evidence(tmp_path: Path, key: str, value: int) -> None:
    """Its protocol has the same name, but it takes a fraction of the time."""
    finished(tmp_path / "before", [4.0], 90.0)
    part = Part(("mocov2",), (0,), settings={**TINY, key: value})
    graph = expand(Sweep("s", (part,)), tmp_path, resolve, {})
    evidence = gather([tmp_path / "before"], tmp_path / "none.jsonl")
    assert estimate(graph, None, evidence)[graph.key(graph.jobs[1])].seconds is None


def test_figures_from_elsewhere_are_of_as_many_images(tmp_path: Path) -> None:
    settings = {"data.dataset": "scenes", "data.crop": 64, "encoder.arch": "resnet18", "encoder.width": 16}
    own = {"knn.neighbours": [20], "data.scenes.val_count": 2000}
    seconds = {}
    for images in (4096, 40960):
        part = Part(("mocov2",), (0,), ("knn",), settings={**settings, **own, "data.scenes.train_count": images})
        graph = expand(Sweep("s", (part,)), tmp_path, resolve, {})
        evidence = replace(NOTHING, reference=reference())
        seconds[images] = estimate(graph, None, evidence)[graph.key(graph.jobs[1])].seconds
    assert seconds == {4096: 4.1, 40960: None}


def test_the_size_of_an_epoch_is_known_without_opening_the_data(tmp_path: Path) -> None:
    assert train_images(resolve("mocov2")) == 126_689
    assert train_images(tiny()) == 20
    for index in range(3):
        path = tmp_path / "train" / f"c{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train" / "c0" / ".DS_Store").touch()
    assert train_images(tiny(changes={"data.dataset": "folder", "machine.data_root": str(tmp_path)})) == 3
    assert train_images(tiny(changes={"data.dataset": "folder"})) is None


def test_a_plan_reads_every_results_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "before", [4.0], 90.0)
    (tmp_path / "before" / "jobs.jsonl").touch()
    graph = graph_of(tmp_path / "now", 0, 1, tasks=("linear", "knn", "linear@caltech101"))
    for folder in {job.folder.path: job.folder for job in graph.jobs}.values():
        folder.prepare(graph.by_key[str(folder.path.relative_to(tmp_path / "now")), "pretrain"].run)
        folder.backbone.touch()
    probe = graph.jobs[1]
    row = replace(RESULT, run_id=probe.run.id, dataset="scenes", protocol=probe.run.probe.protocol().name)
    append(probe.folder.results, [row])
    reads: Counter[Path] = Counter()

    def counting_read(path: Path) -> Any:
        reads[path] += 1
        return read(path)

    monkeypatch.setattr("repro.runs.task_results.read", counting_read)
    finished_keys, evidence = survey(graph)
    assert finished_keys == {*(graph.key(job) for job in graph.jobs if job.task == "pretrain"), graph.key(probe)}
    assert finished_keys == {graph.key(job) for job in graph.jobs if job.done}  # the same as each job's own answer
    assert len(evidence.durations) == 1
    reads.clear()
    costs = estimate(graph, FOUR, *reversed(survey(graph)))
    print_plan(SweepPlan(graph, costs, finished_keys, FOUR, 1), Console(quiet=True))
    assert set(reads.values()) == {1}
    assert len(reads) == 2


def costs_of(graph: Graph, **seconds: float) -> dict[Any, JobCost]:
    return {graph.key(job): JobCost(seconds[job.task], 2, 0, "x") for job in graph.jobs}


def test_a_plan_within_a_budget_sums_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = graph_of(tmp_path, 0, 1, methods=("mocov2", OURS))
    costs = costs_of(graph, pretrain=3000.0, linear=600.0)
    few, _ = within_budget(graph, costs, 2.0)
    say_plan_as_json(SweepPlan(few, costs, frozenset(), FOUR, 1))
    assert json.loads(capsys.readouterr().out)["gpu_hours"] == 2.0


def test_a_budget_keeps_whole_runs_and_first_seeds(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, 0, 1, methods=("mocov2", OURS))
    costs = costs_of(graph, pretrain=3000.0, linear=600.0)  # 2 GPUs for an hour in all
    whole, nothing = within_budget(graph, costs, 8.0)
    assert (whole.jobs, nothing) == (graph.jobs, [])
    some, left_out = within_budget(graph, costs, 7.9)
    assert left_out == [f"{OURS} s1"]
    assert [job.name for job in some.jobs] == [job.name for job in graph.jobs[:6]]
    few, left_out = within_budget(graph, costs, 2.0)
    assert [job.name for job in few.jobs] == ["pretrain mocov2 s0", "linear mocov2 s0"]
    assert left_out == [f"{OURS} s0", "mocov2 s1", f"{OURS} s1"]


def test_a_run_of_unknown_cost_is_left_out_of_a_budget_alone(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, 0, 1, methods=("mocov2", OURS))
    never = JobCost(None, 1, None, NEVER)
    costs = {**costs_of(graph, pretrain=3000.0, linear=600.0), graph.key(graph.jobs[1]): never}
    known, unknown = of_known_cost(graph, costs)
    assert unknown == {never: [graph.jobs[0]]}
    assert [job.name for job in known.jobs] == [job.name for job in graph.jobs[2:]]
    assert within_budget(known, costs, 6.0) == (known, [])


@pytest.mark.parametrize(("slots", "expected"), [(1, 4 * 110.0), (2, 220.0), (3, 210.0), (0, 110.0), (10**15, 110.0)])
def test_wall_time_follows_the_graph(tmp_path: Path, slots: int, expected: float) -> None:
    graph = graph_of(tmp_path, 0, 1, 2, 3)
    assert wall_seconds(graph, costs_of(graph, pretrain=100.0, linear=10.0), slots) == expected


def test_measurements_are_read_back_the_newest_of_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    record(path, [bench(2.0), bench(3.0), bench(7.0, method=OURS)])
    spoilt = asdict(bench(9.0))
    with path.open("ab") as file:
        for change in ({"images_per_second": 0.0}, {"images_per_second": "x"}, {"kind": 3}, {"processes": 0}):
            file.write(json.dumps(spoilt | change).encode() + b"\n")
        file.write(b'3\n\xff\xfe\n{"kind": ["torn')
    assert {measured.images_per_second for measured in newest_measurements(path).values()} == {3.0, 7.0}
    assert newest_measurements(tmp_path / "none.jsonl") == {}
    with pytest.raises(UserError, match=f"^{tmp_path} is not a regular file; mend: "):
        newest_measurements(tmp_path)


def test_the_kind_of_a_run_leaves_out_what_costs_nothing() -> None:
    same = {"seed": 4, "optimization.epochs": 9, "optimization.lr": 0.5, "data.scenes.train_count": 64}
    assert kind_of(tiny(changes=same)) == kind_of(tiny())
    others = {"data.crop": 64, "encoder.arch": "resnet34", "augmentation.resizer": "torch", "data.cached_side": 64}
    for key, value in (others | {"optimization.batch": 16}).items():
        assert kind_of(tiny(changes={key: value})) != kind_of(tiny())
    assert kind_of(tiny(OURS)) != kind_of(tiny())


def test_no_checkpoint_is_saved_while_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr("repro.training.checkpoints.resume.save_checkpoint", lambda _, step, __: saved.append(step))
    out = ("--out", str(tmp_path / "steps.jsonl"))
    # over three epochs, each of whose ends would save a checkpoint
    call = salmask("bench", "step", "mocov2", "--steps", "4", "--warm-up", "1", *out, *words())
    assert call.code == 0, call.err
    assert saved == []


def test_the_command_measures_and_plans_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    call = salmask("bench", "step", "mocov2", "--steps", "2", "--warm-up", "1", "--json", *words())
    assert call.code == 0, call.err
    (row,) = json.loads(call.out)
    assert min(row["images/s"], row["without loading"]) > 0
    (step,) = newest_measurements(tmp_path / "salmask" / "steps.jsonl").values()
    assert step.method == "mocov2"
    # A ResNet-18 of width 8 has 176 thousand weights; twice with momenta, in bytes
    assert 0.17e6 * 4 < step.backbone_bytes < 0.19e6 * 4
    assert 2.8 < step.checkpoint_bytes / step.backbone_bytes < 3.2

    sweep = tmp_path / "mini.yaml"
    sweep.write_text(json.dumps({"methods": ["mocov2"], "seeds": [0, 1], "settings": TINY}))
    out = tmp_path / "runs"
    plan = json.loads(salmask("sweep", str(sweep), "--plan", "--out", str(out), "--json").out)
    assert [job["done"] for job in plan["jobs"]] == [False] * 4
    assert plan["jobs"][1]["after"] == ["pretrain mocov2 s0"]
    assert plan["unknown"] == []
    assert not [job for job in plan["jobs"] if "mend: " in job["measured"]]  # nothing is left to measure
    expected = 2 * (3 * 20 / step.images_per_second + 5 * 20 / step.forward_images_per_second) / 3600
    assert plan["gpu_hours"] == pytest.approx(expected, abs=0.001)
    assert not out.exists()

    text = salmask("sweep", str(sweep), "--plan", "--out", str(out)).out
    assert "2 runs, 4 jobs, 0 done: 2 pretrain -> 2 linear -> report (table1)" in text
    sweep.write_text(json.dumps({"methods": ["mocov2"], "seeds": [0, 1], "settings": TINY, "table": []}))
    assert "2 pretrain -> 2 linear -> report\n" in salmask("sweep", str(sweep), "--plan", "--out", str(out)).out
    assert "bench step on cpu" in text
    caution = "moco.queue=32 is 160% of the 20 training images: keys of an image from up to 1.6 epochs ago are"
    assert plan["cautions"] == [f"{caution} negatives of its own query: mocov2"]
    assert plan["cautions"][0] in text
    tight = ("sweep", str(sweep), "--plan", "--out", str(out), "--budget-gpu-hours", str(expected * 0.6), "--json")
    assert len(json.loads(salmask(*tight).out)["jobs"]) == 2


def test_the_budget_of_table_1_leaves_out_what_nobody_timed(tmp_path: Path) -> None:
    ended = salmask("sweep", "table1", "--plan", "--out", str(tmp_path), "--budget-gpu-hours", "100")
    assert ended.code == 0, ended.err
    assert "simclr+mscn s0, simclr+mscn s1, simclr+mscn s2 (no such" in ended.out
    assert "; mend: salmask bench step simclr+mscn" in ended.out
    chosen = ("--methods", "simclr+mscn", "--budget-gpu-hours", "100")
    line = refused("sweep", "table1", "--plan", "--out", str(tmp_path), *chosen)
    assert line.startswith("no run fits a budget of 100 GPU-hours: what they cost is unknown (no such ")
    assert line.endswith("; mend: salmask bench step simclr+mscn")


@pytest.mark.parametrize("dataset", ["scenes", "folder"])
def test_neighbours_that_there_are_not_are_told_before_anything_is_trained(tmp_path: Path, dataset: str) -> None:
    for index in range(20):
        path = tmp_path / "data" / "train" / f"c{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out = tmp_path / "s"
    sweep = {"methods": ["mocov2"], "seeds": [0], "tasks": ["knn"], "settings": {**TINY, "data.dataset": dataset}}
    root = [f"machine.data_root={tmp_path / 'data'}"] if dataset == "folder" else []
    path = write_yaml(tmp_path / "s.yaml", sweep)
    words = (path, "--out", str(out), *root)
    for how in ("--plan", "--local"):
        assert refused("sweep", *words, how) == (
            f"knn mocov2 s0: knn.neighbours=200, but {dataset} has only 20 training images; mend: knn.neighbours=[20]"
        )
    assert not out.exists()
    # As many as there are images will do; for a folder that only nodes see, the number is unknown.
    fitting = ["knn.neighbours=[20]"] if dataset == "scenes" else [f"machine.data_root={tmp_path / 'elsewhere'}"]
    assert salmask("sweep", path, "--out", str(out), "--plan", *fitting).code == 0


def test_a_sweep_without_a_job_is_one_line(tmp_path: Path) -> None:
    out = str(tmp_path)
    line = refused("sweep", "all", "--plan", "--methods", "mocov2+queue16k", "--tasks", "voc07+12", "--out", out)
    assert line.partition("; mend: ")[::2] == (
        "sweep all has no job of --methods mocov2+queue16k --tasks voc07+12",
        "salmask sweep all --plan shows what it has",
    )
    measured = tmp_path / "mine"
    finished(measured, [100.0], 60.0)
    sweep = write_yaml(tmp_path / "s.yaml", {"methods": ["mocov2"], "seeds": [0], "tasks": [], "settings": TINY})
    line = refused("sweep", sweep, "--plan", "--budget-gpu-hours", "0.00001", "--out", str(measured))
    assert line.startswith("no run fits a budget of 1e-05 GPU-hours; mend: a larger --budget-gpu-hours")
