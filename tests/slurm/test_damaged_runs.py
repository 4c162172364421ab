"""A damaged run folder does not keep other jobs of its sweep from being submitted, and one line names it."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from json_rows import write_rows
from launch_samples import CLUSTER, all_once, graph_for, launch
from rich.console import Console
from run_samples import RESULT
from stand_in_slurm import StandInSlurm
from tiny_runs import TINY
from training_samples import salmask

from baselines import resolve
from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs import records
from repro.runs.folder import RunFolder
from repro.runs.records import Result, append
from slurm.jobs.job import Call
from slurm.planning.graph import Graph
from slurm.planning.job_costs import survey
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import user_folder
from slurm.submission.handover import NOT_STARTED, prepare_call
from slurm.submission.outdated import outdated
from slurm.sweep_call import SweepCall
from slurm.sweep_folder.ledger import Key, Ledger

WRITTEN = {
    "run.yaml": "remove it, and repeat the command, which writes it anew",
    "jobs": "check that its folder is really a folder, and can be written to",
}
"""Files that a launch needs -> the mend."""
REWRITTEN = ("jobs/pretrain.yaml", "jobs/linear.yaml", "status.json", "status-linear.json", "provenance.json")
LINES = ("results.jsonl", "metrics.jsonl", "health.json", "usage/pretrain.json")
TORN = '{"a": [1, '


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the profile of the sweeps, whose jobs use the current code."""
    user_folder().mkdir(parents=True)
    (user_folder() / "test.yaml").write_text("cpus: 1\ntime: 30\nthrottle: 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slurm.targets.RUNS", tmp_path)
    for module in ("slurm.jobs.snapshot", "slurm.retry"):
        monkeypatch.setattr(f"{module}.take", lambda *_, **__: None)
    return tmp_path


def damage(graph: Graph, name: str, content: str = TORN) -> Path:
    path = graph.jobs[0].folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.write_text(content)
    return path


def called(graph: Graph, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, list[str]]:
    """The exit status of `salmask sweep`, and what it printed."""
    options = {"allow_dirty": False, "as_json": False, **options}
    call = SweepCall(lambda *_: None, PROGRAM, Console(stderr=options["as_json"]), 1, **options)
    try:
        call.carry_out(graph, CLUSTER, dry_run=False)
        code = 0
    except typer.Exit as end:
        code = end.exit_code
    return code, capsys.readouterr().out.splitlines()


def all_but_the_first_run(graph: Graph) -> set[tuple[str, str]]:
    return {graph.report, *(graph.key(job) for job in graph.jobs if job.run.seed != 0)}


@pytest.mark.parametrize("content", [TORN, "", "\udcff".encode("utf-8", "surrogateescape").decode("latin1")])
@pytest.mark.parametrize("name", [*WRITTEN])
def test_a_launch_leaves_out_the_damaged_run_alone(
    stand_in: StandInSlurm, here: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    """One damaged run used to keep the whole sweep, or the runs after it, from being submitted."""
    graph = graph_for(here, seeds=3)
    path = damage(graph, name, content)
    code, lines = called(graph, capsys)
    assert code == 1
    assert set(Ledger(graph.sweep_folder).newest()) == all_but_the_first_run(graph)
    assert stand_in.ids == ["101_0", "101_1", "102_0", "102_1", "103"]
    assert stand_in.option(102, "dependency").startswith("aftercorr:101")
    (told,) = [line for line in lines if "failed" in line and "mocov2" in line]
    assert told.startswith("failed pretrain mocov2 s0: ")
    assert str(path) in told
    assert told.endswith(f"; mend: {WRITTEN[name]}")
    assert "5 jobs submitted, 0 done before, 0 queued or running, 2 failed; watch them with" in lines[-1]
    path.unlink()  # the mend for either file
    code, lines = called(graph, capsys)
    assert code == 0
    assert "3 jobs submitted, 0 done before, 4 queued or running; watch them with" in lines[-1]
    assert all_once(graph, stand_in)


@pytest.mark.parametrize("name", [*REWRITTEN, *LINES])
def test_a_launch_writes_anew_what_it_can_and_needs_no_other_file(
    stand_in: StandInSlurm, here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    graph = graph_for(here, seeds=3)
    damage(graph, name)
    assert called(graph, capsys)[0] == 0
    assert all_once(graph, stand_in)


def test_an_evaluation_whose_results_cannot_be_read_is_left_out_alone(
    stand_in: StandInSlurm, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planning and launching used to fail. Only the evaluation that cannot record its results is left out."""
    graph = graph_for(here, seeds=3)
    results = graph.jobs[0].folder.results
    results.parent.mkdir(parents=True)
    os.mkfifo(results)
    finished, _ = survey(graph)
    assert finished == frozenset()
    code, lines = called(graph, capsys, as_json=True)
    assert code == 1
    mend = "put a file in its place, or remove it"
    report = json.loads("\n".join(lines))
    assert report["failed"] == {"linear mocov2 s0": f"{results} is not a regular file; mend: {mend}"}
    assert (len(report["submitted"]), report["unsent"]) == (6, 0)
    assert set(Ledger(graph.sweep_folder).newest()) == {*graph.by_key, graph.report} - {graph.key(graph.jobs[1])}


def test_what_a_run_beside_it_measured_is_planned_by_although_its_own_results_are_damaged(here: Path) -> None:
    graph = graph_for(here, seeds=2)
    damaged, fine = (job for job in graph.jobs if job.task == "pretrain")
    for job in (damaged, fine):
        job.folder.prepare(job.run)
    os.mkfifo(damaged.folder.results)
    append(fine.folder.results, [RESULT])
    Ledger(graph.sweep_folder).request_cancel("")
    _, evidence = survey(graph)
    assert [*evidence.durations.values()] == [RESULT.duration_s]


def test_nothing_is_planned_by_a_run_that_is_not_finished(here: Path) -> None:
    """Its folder still grows."""
    graph = graph_for(here, seeds=1)
    (folder,) = (job.folder for job in graph.jobs if job.task == "pretrain")
    folder.prepare(graph.jobs[0].run)
    write_rows(folder.metrics, [{"step": step, "images_per_second": 4.0} for step in range(3)])
    assert survey(graph)[1].runs == {}
    folder.backbone.write_bytes(b"weights")
    assert [rate for rate, _, _ in survey(graph)[1].runs.values()] == [4.0]


def test_of_one_damaged_run_nothing_goes_out_and_no_report(stand_in: StandInSlurm, here: Path) -> None:
    graph = graph_for(here, seeds=1)
    damage(graph, "run.yaml")
    outcome = launch(graph)
    assert stand_in.calls("sbatch") == []
    assert outcome.unsent == {}
    assert [outcome.failed[graph.key(job)] for job in graph.jobs][1] == NOT_STARTED


def test_feeding_ends_with_what_is_damaged_told_once(
    stand_in: StandInSlurm, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(here, seeds=3)
    damage(graph, "run.yaml")
    stand_in.tell("room", "2")

    def make_room(seconds: float) -> None:
        if seconds >= 60:
            stand_in.tell("room")

    monkeypatch.setattr("slurm.sweep_call.time.sleep", make_room)
    code, lines = called(graph, capsys, feed=True)
    assert code == 1
    assert [line.partition(":")[0] for line in lines if line.startswith("failed")] == ["failed pretrain mocov2 s0"]
    assert "5 jobs submitted, 0 done before, 0 queued or running, 2 failed; watch them with" in lines[-1]
    assert set(Ledger(graph.sweep_folder).newest_sent()) == all_but_the_first_run(graph)


def lost(graph: Graph, stand_in: StandInSlurm) -> None:
    """Launches a sweep whose pretrainings all fail, so that their evaluations leave the queue too."""
    launch(graph)
    stand_in.tell("queue")
    for job in graph.jobs:
        if job.task == "pretrain":
            job.folder.set_status("failed", task="pretrain", error="no root")


@pytest.mark.parametrize(
    ("name", "failed", "mend"),
    [
        ("run.yaml", 2, WRITTEN["run.yaml"]),
        ("jobs/pretrain.yaml", 2, "the same salmask sweep again, which writes it anew"),
        ("jobs/linear.yaml", 1, "the same salmask sweep again, which writes it anew"),
        ("jobs", 2, WRITTEN["jobs"]),
    ],
)
def test_a_retry_leaves_out_the_damaged_run_alone(
    stand_in: StandInSlurm, here: Path, name: str, failed: int, mend: str
) -> None:
    graph = graph_for(here, seeds=3)
    lost(graph, stand_in)
    path = damage(graph, name)
    ended = salmask("retry", "s")
    assert ended.code == 1
    assert len(stand_in.ids) == 7 - failed
    assert ended.out.splitlines()[-1] == f"{7 - failed} jobs submitted, {failed} failed"
    (told,) = [line for line in ended.err.splitlines() if line.startswith("failed")]
    assert told.startswith(f"failed {'linear' if failed == 1 else 'pretrain'} mocov2 s0: ")
    assert str(path.relative_to(here)) in told
    assert told.endswith(f"; mend: {mend}")
    if name == "jobs":
        path.unlink()
    if name == "run.yaml":
        path.unlink()
        assert salmask("retry", "s").code == 0
    else:
        launch(graph)
    assert {entry.key for entry in Ledger(graph.sweep_folder).submissions() if entry.job in stand_in.ids} == {
        *graph.by_key,
        graph.report,
    }


def test_a_retry_of_damaged_runs_alone_asks_nothing_of_slurm(stand_in: StandInSlurm, here: Path) -> None:
    graph = graph_for(here, seeds=1)
    lost(graph, stand_in)
    sent = len(stand_in.calls("sbatch"))
    damage(graph, "jobs/pretrain.yaml")
    ended = salmask("retry", "s", "--failed")
    assert (ended.code, ended.out.splitlines()[-1]) == (1, "0 jobs submitted, 2 failed")
    assert len(stand_in.calls("sbatch")) == sent


def test_the_order_of_a_pretraining_that_is_over_is_not_needed_for_what_builds_on_it(
    stand_in: StandInSlurm, here: Path
) -> None:
    graph = graph_for(here, seeds=2)
    lost(graph, stand_in)
    for job in graph.jobs:
        job.folder.backbone.touch()
    damage(graph, "jobs/pretrain.yaml")
    ended = salmask("retry", "s")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "3 jobs submitted, 0 failed")


@pytest.mark.parametrize("name", [*WRITTEN, *REWRITTEN, *LINES])
def test_status_tells_of_all_jobs_and_cancel_ends_them(stand_in: StandInSlurm, here: Path, name: str) -> None:
    graph = graph_for(here, seeds=2)
    launch(graph)
    path = damage(graph, name)
    shown = salmask("status", "s", "--json")
    assert shown.code == 0
    told = json.loads(shown.out)
    of_status = name.startswith("status")
    assert told["counts"] == {"queued": 5}  # the next attempt writes the status anew, and a retry would submit nothing
    assert len([job for job in told["jobs"] if str(path.relative_to(here)) in job["note"]]) == of_status
    assert salmask("retry", "s").out == "nothing to retry\n"
    cancelled = salmask("cancel", "s")
    assert cancelled.code == 0
    assert cancelled.out.startswith("cancelled 5 jobs: ")
    assert stand_in.queue == []


def test_a_folder_that_cannot_be_looked_at_stops_no_launch(
    stand_in: StandInSlurm, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may refuse access. That is no reason to cancel a queued job, or to end the launch."""
    graph = graph_for(here, seeds=2)
    launch(graph)
    stand_in.change(lambda line: None if line.startswith("101_") else line)
    queued = stand_in.ids[:2]

    def refuse(_: RunFolder) -> bool:
        raise UserError("it cannot be looked at (Stale file handle)", mend="see to it")

    monkeypatch.setattr(RunFolder, "pretrained", property(refuse))
    outcome = launch(graph)
    assert stand_in.ids[:2] == queued
    assert queued == ["102_0", "102_1"]
    assert outcome.failed == {}
    live = {entry.key: entry for entry in Ledger(graph.sweep_folder).submissions()}
    (graph.jobs[0].folder.path / "jobs" / "pretrain.yaml").write_text(TORN)
    assert [entry.key for entry in outdated(graph, live)] == [graph.key(graph.jobs[0])]


def test_beside_a_damaged_run_each_job_is_prepared_once_and_each_run_read_once(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of an array that was retried wrote all orders again, and each evaluation read its run's rows again."""
    part = Part(("mocov2",), (0, 1, 2, 3), tasks=("linear", "finetune"), settings=TINY)
    graph = expand(Sweep("s", (part,)), tmp_path / "s", resolve, {})
    for job in graph.jobs:
        job.folder.path.mkdir(parents=True, exist_ok=True)
        append(job.folder.results, [RESULT])
    damage(graph, "run.yaml")
    stand_in.tell("max_array", "2")  # the three jobs that remain are submitted in two parts
    prepared: Counter[Key] = Counter()
    read: Counter[Path] = Counter()

    def prepare(graph: Graph, key: Key, *others: Any) -> Call:
        prepared[key] += 1
        return prepare_call(graph, key, *others)

    def counted(path: Path) -> tuple[list[Result], list[str]]:
        read[path] += 1
        return records.read(path)

    monkeypatch.setattr("slurm.submission.sender.prepare_call", prepare)
    monkeypatch.setattr("repro.runs.task_results.read", counted)
    outcome = launch(graph)
    assert (len(outcome.submitted), len(outcome.failed)) == (10, 3)
    assert prepared == dict.fromkeys([*outcome.submitted, graph.key(graph.jobs[0])], 1)
    assert read == dict.fromkeys([job.folder.results for job in graph.jobs], 1)
