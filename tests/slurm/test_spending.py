"""`salmask status --cost`: what jobs used, by Slurm's accounting and their own records, beside what they asked for."""

import json
import statistics
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from run_samples import RESULT
from sweep_samples import GONE, FakeSlurm, Sweep
from training_samples import TINY, refused, salmask, tiny
from usage_samples import used, written

from baselines import resolve
from repro.bench.throughput import kind_of
from repro.command_line.terminal import Console
from repro.runs.folder import RunFolder
from repro.runs.records import append
from slurm.monitoring.accounting import Accounted, parse
from slurm.monitoring.cost_page import _total, cost_page
from slurm.monitoring.spending import Spending, enough_memory, spendings, too_much
from slurm.monitoring.states import State
from slurm.plan import SweepPlan, say_plan_as_json
from slurm.planning.graph import Graph
from slurm.planning.hours import Hours
from slurm.planning.job_costs import WARM_UP_ROWS, estimate, gather, rate_of, with_plan
from slurm.planning.sweep import Part, expand
from slurm.planning.sweep import Sweep as SweepFile
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.handover import ledger_entry
from slurm.targets import SweepTarget

GB = 2**30
ASKED: dict[str, Any] = {
    "nodes": 1,
    "processes": 1,
    "gpus": 1,
    "cpus": 8,
    "memory": 24.0,
    "minutes": 1440,
    "planned_s": 3000.0,
}
NAME = "sweep-pretrain-812_0"
ALLOCATION = f"812_0|{NAME}|3600|01:00:00|8|billing=8,cpu=8,gres/gpu:a100=1,gres/gpu=1,mem=24G,node=1|1|||"
STEP = "812_0.0|python|3590|01:00:00|8|cpu=8|1|3200000K|cpu=01:00:00,gres/gpuutil=80,mem=3200000K|gres/gpuutil=80"


def test_sacct_tells_of_attempts_and_of_steps() -> None:
    assert parse([ALLOCATION, "812_0.batch|batch|3600|00:01|8|cpu=8|1|1000K|mem=1000K|", STEP]) == {
        (NAME, "812_0"): Accounted(3600.0, 3600.0, 3600.0, 8, 1, 3_200_000 * 1024, 0.8)
    }
    # An attempt before a requeue, on two nodes, whose step used 2 GB on each; and one whose memory was not measured.
    first = "9|a|b|100|1-01:01:01.5|4|cpu=4,gres/gpu=4|2|||"
    twice = parse(
        [first, "9.0|python|90|||cpu=4|2|1.5G|mem=4G|", first, "10|x|5|00:02.250|2|cpu=2|1|||", "broken|line"]
    )
    assert twice["a|b", "9"] == Accounted(200.0, 100.0, 2 * (86400 + 3661.5), 4, 4, 2 * GB, None)
    assert twice["x", "10"] == Accounted(5.0, 5.0, 2.25, 2, 0, 0, None)
    odd = parse(["8|x|soon|INVALID|many|cpu=1|1|||", "8.0|python|60|?|1|cpu=1|two|much|mem=|gres/gpuutil="])
    assert odd == {("x", "8"): Accounted()}
    for size, number in (("1.50G", 1.5 * GB), ("512M", GB / 2), ("0.5T", 512 * GB), ("1024", 1024)):
        step = f"7.0|x|60|00:30|1|cpu=1|1|{size}||"
        assert parse(["7|x|60|00:30|1|cpu=1|1|||", step])["x", "7"].memory == number


def test_a_number_that_was_anothers_too_counts_for_each_by_its_name() -> None:
    strangers = "812_0|another-linear-5f0c3a9e|60|00:30|1|cpu=1|1|||"
    used_by = parse([strangers, "812_0.0|python|60|00:30|1|cpu=1|1|9G||", ALLOCATION, STEP])
    assert (used_by[NAME, "812_0"].seconds, used_by[NAME, "812_0"].memory) == (3600.0, 3_200_000 * 1024)
    assert used_by["another-linear-5f0c3a9e", "812_0"].memory == 9 * GB


def test_hours_add_up_by_kind_and_are_told_as_a_share_of_a_whole() -> None:
    planned = Hours.total([Hours.held(7200, 2), Hours.held(1800, 0), Hours.held(900, 0)])
    assert (planned, planned.counted, Hours.total([])) == (Hours(4.0, 0.75), 4.75, Hours())
    assert planned.text() == "4.0 GPU-hours and 0.8 hours without a GPU"
    # What the whole has is told of the part too, even where that is 0.
    assert Hours(of_gpus=1.0).text_of(planned) == "1.00 of 4.00 GPU-hours and 0.00 of 0.75 hours without a GPU"
    assert Hours(without_gpu=0.2).text_of(Hours(without_gpu=0.8)) == "0.20 of 0.80 hours without a GPU"
    assert (Hours().text(), Hours().text_of(Hours())) == ("0.0 GPU-hours", "0.00 of 0.00 GPU-hours")


def done(sweep: Sweep, task: str = "pretrain") -> None:
    sweep.folder.backbone.write_bytes(b"x")
    if task != "pretrain":
        sweep.measured()


def test_what_slurm_accounts_for_stands_beside_what_was_asked_and_planned(
    slurm: FakeSlurm, sweep: Sweep, runs: Path
) -> None:
    sweep.submitted(job="812_0", **ASKED)
    done(sweep)
    slurm.says("sacct", ALLOCATION, STEP)
    content = json.loads(salmask("status", "table1", "--cost", "--json").out)
    (job,) = content["jobs"]
    assert (job["seconds"], job["planned_s"], job["gpus"], job["gpu_busy"]) == (3600.0, 3000.0, 1, 0.8)
    assert (job["gpu_hours"], job["cpu_share"], job["memory"]) == (1.0, 1 / 8, 3_200_000 * 1024)
    assert content["methods"] == [
        {
            "method": "mocov2",
            "jobs": 1,
            "gpu_hours": 1.0,
            "cpu_hours": 0,
            "planned_hours": 3000 / 3600,
            "spent_of_planned": 1.0,
        }
    ]
    page = salmask("status", "table1", "--cost").out
    assert "runs/table1: 1 job used 1.00 GPU-hours\n" in page
    cells = " ".join(page.split())
    assert (
        "| mocov2 s0 | pretrain | done | 60 min | 50 min | 24.0 h | 1 | 80 % | 8 | 12 % | 3.1 GiB | 24 GiB |" in cells
    )
    assert "| mocov2 | 1 | 1.00 | 120 % |" in cells  # an hour, where 50 minutes were planned
    # 1.5 times 3.05 GB plus 1 GB; 1.5 times 60 minutes plus ten; 1.25 times 1 core
    assert content["too_much"] == [
        "pretrain: memory: 24 GiB asked, 3.1 GiB used at most by 1 job: memory: 6",
        "pretrain: time: 1440 min asked, 60 min used at most by 1 job: time: 100",
        "pretrain: cpus: 8 asked, 1.0 used at most by 1 job: cpus: 2",
    ]
    assert all(f"the profile asks for too much: {line}" in page for line in content["too_much"])
    asked = [call for call in slurm.calls if "--duplicates" in call]
    assert len(asked) == 2  # one for each call of the command
    assert all("--jobs=812 " in call for call in asked)


def test_a_job_that_was_submitted_twice_has_used_both(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    """The first job had a GPU, which Slurm watched; the second one asked for none, and is pending."""
    sweep.submitted(job="812_0", cpus=0, gpus=0)
    sweep.submitted(job="990", cpus=0, gpus=0)
    waiting = "990|sweep-pretrain-990|0|00:00|0||1|||"
    slurm.says("sacct", ALLOCATION, STEP, waiting)
    (job,) = json.loads(salmask("status", "table1", "--cost", "--json").out)["jobs"]
    assert (job["seconds"], job["cpu_seconds"], job["memory"]) == (3600.0, 3600.0, 3_200_000 * 1024)
    assert (job["gpu_busy"], job["gpu_used"], job["gpu_memory"]) == (0.8, True, 0)
    assert (job["cpus"], job["gpus"], job["gpu_hours"]) == (8, 1, 1.0)  # of the newest that began
    slurm.says("sacct", ALLOCATION, STEP.replace("gpuutil=80", "gpuutil=0"), waiting)
    (job,) = json.loads(salmask("status", "table1", "--cost", "--json").out)["jobs"]
    assert (job["gpu_busy"], job["gpu_used"]) == (0.0, False)
    second = waiting.replace("|0|00:00|0||", "|1800|00:10:00|4|cpu=4|")
    slurm.says("sacct", ALLOCATION, STEP, second, "990.0|python|1800|00:10:00|4|cpu=4|1|5G||")
    written(sweep.folder.path, "pretrain", [used(seconds=9.0, cpu_seconds=1.0, memory=GB, cores=2)])
    (job,) = json.loads(salmask("status", "table1", "--cost", "--json").out)["jobs"]
    assert (job["seconds"], job["longest_seconds"], job["cpu_seconds"]) == (5400.0, 3600.0, 4200.0)
    assert (job["cpus"], job["memory"]) == (4, 5 * GB)
    # The job's own record of its device counts more than how busy the GPU was.
    assert (job["gpu_busy"], job["gpu_used"]) == (0.8, False)


def test_without_accounting_the_jobs_own_word_counts(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    sweep.submitted(job="812_0", **ASKED)
    done(sweep)
    written(sweep.folder.path, "pretrain", [used(seconds=1800.0, cpu_seconds=900.0, memory=GB)])
    content = json.loads(salmask("status", "table1", "--cost", "--json").out)
    (job,) = content["jobs"]
    assert (job["gpu_hours"], job["cpu_share"], job["memory"]) == (0.5, 900 / (1800 * 8), GB)
    assert "pretrain: gpus: 1 asked, none used at most by 1 job: gpus: 0" in content["too_much"]


def spending(**changes: Any) -> Spending:
    """Of a job that asked for what it needed and used it."""
    fitting: dict[str, Any] = {
        **{"run": "mocov2 s0", "method": "mocov2", "task": "linear", "folder": "mocov2/s0-x", "state": State.done},
        **{"seconds": 3600.0, "longest_seconds": 3600.0, "planned_s": None},
        **{"gpus": 1, "gpu_busy": 0.9, "gpu_memory": GB, "gpu_used": True},
        **{"cpus": 8, "cpus_asked": 8, "processes": 2, "cpu_seconds": 8 * 3600.0},
        **{"memory": 3 * GB, "memory_asked": 5.5, "minutes_asked": 100, "nodes": 1},
    }
    return Spending(**{**fitting, **changes})


@pytest.mark.parametrize(
    ("key", "asked", "said"),
    [
        ("memory_asked", 11.9, ""),  # 1.5 times 3 GiB plus 1 GiB is 5.5 GiB, rounded up to 6
        ("memory_asked", 12.0, "linear: memory: 12 GiB asked, 3.0 GiB used at most by 2 jobs: memory: 6"),
        ("minutes_asked", 199, ""),  # 1.5 times an hour plus ten minutes
        ("minutes_asked", 200, "linear: time: 200 min asked, 60 min used at most by 2 jobs: time: 100"),
        ("cpus_asked", 19, ""),  # two processes, each with 1.25 times the 4 cores it kept busy
        ("cpus_asked", 20, "linear: cpus: 10 asked, 4.0 used at most by 2 jobs: cpus: 5"),
        ("gpu_used", None, ""),
        ("gpu_used", False, "linear: gpus: 1 asked, none used at most by 2 jobs: gpus: 0"),
    ],
)
def test_too_much_is_twice_what_the_largest_job_needs(key: str, asked: float | None, said: str) -> None:
    jobs = [spending(**{key: asked}), spending(**{key: asked, "seconds": 60.0, "cpu_seconds": 60.0, "memory": GB})]
    assert too_much(jobs) == ([said] if said else [])
    # If one job asked for less, its request was not too much for all of them.
    fitting = spending()
    assert too_much([*jobs, fitting]) == []
    # A job that was stopped, or launched by hand, proposes nothing.
    for other in ({"state": State.failed}, {"nodes": 0}):
        assert too_much([spending(**{key: asked, **other})]) == []


def test_the_page_leaves_empty_what_is_unknown_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = {"gpus": 0, "gpu_busy": None, "gpu_memory": 0, "cpus": 0, "memory": 0, "memory_asked": 0.0}
    jobs = [spending(planned_s=1800.0), spending(method="simclr", run="simclr s0", minutes_asked=0, **unknown)]
    Console().print(cost_page([SweepTarget(Path("s"))], [jobs]), soft_wrap=True)
    page = " ".join(capsys.readouterr().out.split())
    assert page.startswith(
        "s: 2 jobs used 1.00 GPU-hours and 8.00 CPU-hours without a GPU | run | task | state | time |"
    )
    assert "| done | 60 min | 30 min | 100 min | 1 | 90 % | 1.0 GiB | 8 | 100 % | 3.0 GiB | 5.5 GiB |" in page
    assert "| simclr s0 | linear | done | 60 min | | | | | | | | | |" in page
    assert "| mocov2 | 1 | 1.00 | | 200 % | | simclr | 1 | | 8.00 | |" in page


def test_a_job_that_nobody_saw_use_memory_is_asked_for_none_less() -> None:
    assert too_much([spending(memory=0, memory_asked=500.0)]) == []


def test_tasks_on_other_data_have_seconds_of_their_own(sweep: Sweep) -> None:
    done(sweep)
    seconds = {"linear": 60.0, "linear@caltech101": 600.0, "linear@flowers102": 6000.0}
    for task, took in seconds.items():
        sweep.submitted(task, executor="local", job="77")
        written(sweep.folder.path, task, [used(seconds=took)])
    rows = [sweep.row(GONE, task) for task in seconds]
    assert {job.task: job.seconds for job in spendings(sweep.ledger, rows)} == seconds


def test_a_sweep_of_this_machine_is_told_by_cpu_hours_and_method(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    for method, seconds in (("mocov2", 3600.0), ("simclr", 7200.0)):
        one = Sweep(sweep.place, tiny(method))
        one.folder.prepare(one.run)
        one.submitted(executor="local", job="77")
        done(one)
        written(one.folder.path, "pretrain", [used(seconds=seconds, cpu_seconds=seconds * 1.5, memory=GB)])
    content = json.loads(salmask("status", "--cost", "--json").out)[0]
    assert {row["method"]: (row["cpu_hours"], row["gpu_hours"]) for row in content["methods"]} == {
        "mocov2": (1.5, 0),
        "simclr": (3.0, 0),
    }
    assert content["too_much"] == []  # nothing was asked for
    assert slurm.calls == []
    assert "2 jobs used 4.50 CPU-hours without a GPU\n" in salmask("status", "table1", "--cost").out


def test_what_did_not_end_well_proposes_nothing(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted(job="812_0", **ASKED)
    slurm.says("sacct", ALLOCATION, STEP)
    content = json.loads(salmask("status", "table1", "--cost", "--json").out)
    assert content["jobs"][0]["gpu_hours"] == 1.0  # used all the same
    assert content["too_much"] == []
    assert "exclude each other" in refused("status", "table1", "--cost", "--watch")


def graph_of(place: Path) -> Graph:
    return expand(SweepFile("s", (Part(("mocov2",), (1,), ("linear",), settings=TINY),)), place, resolve, {})


def test_the_planner_learns_what_jobs_took_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny()
    folder = RunFolder.of(run, tmp_path / "s")
    folder.prepare(run)
    folder.metrics.write_text('{"step": 1, "images_per_second": 4.0}\n' * 5, encoding="utf-8")
    folder.backbone.write_bytes(b"x")
    append(folder.results, [replace(RESULT, run_id=run.id, dataset="scenes", protocol=run.probe.protocol().name)])
    graph = graph_of(tmp_path / "s")
    pretraining, probe = (graph.key(job) for job in graph.jobs)
    bare = estimate(graph, None, gather([tmp_path / "s"], tmp_path / "none"))
    assert (bare[pretraining].seconds, bare[probe].seconds) == (3 * 20 / 4, RESULT.duration_s)
    written(folder.path, "pretrain", [used(seconds=25.0, memory=3 * GB)])
    written(folder.path, "linear", [used(seconds=400.0), used(seconds=330.0, memory=2 * GB)])
    evidence = gather([tmp_path / "s"], tmp_path / "none")
    learned = estimate(graph, None, evidence)
    assert (learned[pretraining].seconds, learned[probe].seconds) == (25.0, 730.0)
    assert evidence.memories == {("pretrain", *kind_of(run)): 3 * GB, ("linear", *kind_of(run)): 2 * GB}
    large = Cluster("large", resources=Resources(memory=24), tasks={"linear": Resources(memory=1)})
    say_plan_as_json(SweepPlan(graph, learned, frozenset(), large, 1, evidence.memories))
    assert json.loads(capsys.readouterr().out)["cautions"][-2:] == [
        f"pretrain: memory: 24 GiB asked, such jobs used 3.0 GiB at most: memory: {enough_memory(3 * GB)}",
        "linear: memory: 1 GiB asked, such jobs used 2.0 GiB at most: memory: 4",
    ]


def test_the_planner_tells_measurements_of_one_task_apart(tmp_path: Path) -> None:
    """A measurement by another protocol, one that was interrupted and later repeated, and one on other data."""
    run = tiny()
    folder = RunFolder.of(run, tmp_path / "s")
    folder.prepare(run)
    folder.metrics.write_text('{"step": 1, "images_per_second": 4.0}\n' * 5, encoding="utf-8")
    folder.backbone.write_bytes(b"x")
    row = replace(RESULT, run_id=run.id, dataset="scenes", protocol=run.probe.protocol().name)
    began = datetime.fromisoformat("2026-11-22T10:00:00+00:00").timestamp()
    append(
        folder.results,
        [
            replace(row, protocol="linear-moco-v1[epochs=1]", started="2026-11-22T09:00:00+00:00", duration_s=5.0),
            replace(row, dataset="caltech101", started="2026-11-22T09:30:00+00:00", duration_s=6.0),
            replace(row, started="2026-11-22T10:00:00+00:00", duration_s=7.0),
            replace(row, started="2026-11-22T10:30:00+00:00", duration_s=7.0),
            replace(row, metric="top5", started="2026-11-22T10:30:00+00:00", duration_s=7.0),
        ],
    )
    attempts = {-3605.0: 10.0, -900.0: 100.0, 0.9: 20.0, 1795.0: 28.0, 2400.0: 1000.0}
    written(folder.path, "linear", [used(begun=began + at, seconds=took) for at, took in attempts.items()])
    written(folder.path, "linear@caltech101", [used(begun=began - 1805, seconds=11.0)])
    durations = {
        (kind[1], kind[3]): seconds for kind, seconds in gather([tmp_path / "s"], tmp_path / "none").durations.items()
    }
    assert durations == {
        ("scenes", "linear-moco-v1[epochs=1]"): 10.0,
        ("caltech101", row.protocol): 11.0,
        # The median of its rows: 120 s including the interrupted attempt, and 28 s for both rows of the repetition. The
        # last attempt left no row.
        ("scenes", row.protocol): 28.0,
    }


def test_the_ledger_keeps_what_was_asked_and_planned(tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "s")
    resources = Resources(nodes=2, gpus=4, cpus=8, memory=64, time=90)
    cluster = Cluster("big", resources=resources)
    key = graph.key(graph.jobs[0])
    entry = ledger_entry(replace(graph, planned={key: 12.34}), cluster, "x", key, ())
    assert (entry.nodes, entry.processes, entry.gpus, entry.cpus) == (2, 8, 8, 64)
    assert (entry.memory, entry.minutes, entry.planned_s) == (64, 90, 12.3)
    assert ledger_entry(with_plan(graph, cluster), cluster, "x", key, ()).planned_s is None


def test_the_rate_of_a_run_whose_metrics_are_torn_is_unknown(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("{\n{\n")
    assert rate_of(metrics) is None
    metrics.write_text("".join(f'{{"step": {step}, "images_per_second": {step}.0}}\n' for step in range(9)))
    assert rate_of(metrics) == statistics.median(range(WARM_UP_ROWS, 9))


def test_of_a_sweep_that_used_nothing_the_page_says_so() -> None:
    assert _total([]) == "nothing was used yet, or its use was not recorded"
