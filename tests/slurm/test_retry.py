"""`salmask retry`."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from local_samples import launched, told
from rich.console import Console
from sweep_samples import NOW, FakeSlurm, Sweep, iso
from training_samples import refused, salmask, tiny

from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from slurm import retry
from slurm.jobs.orders import write_report_order
from slurm.local.launch import LocalLaunch
from slurm.planning.graph import Graph, Job, make_graph
from slurm.profiles.profile import load_named, user_folder
from slurm.submission.handover import Outcome
from slurm.sweep_folder.ledger import Ledger
from slurm.sweep_folder.local_lock import local_lock


@pytest.fixture
def relaunched(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, str]]]:
    """What would have been submitted: (method and seed, task) of each job."""
    graphs: list[set[tuple[str, str]]] = []

    def submit(graph: Graph, *_: Any, **__: Any) -> Outcome:
        graphs.append({(f"s{job.run.seed}", job.task) for job in graph.jobs})
        return Outcome()

    monkeypatch.setattr(retry, "submit", submit)
    monkeypatch.setattr(retry, "take", lambda *_, **__: None)
    return graphs


def test_retry_submits_what_ended_badly_with_what_builds_on_it(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, relaunched: list[set[tuple[str, str]]]
) -> None:
    assert salmask("retry", "table1", "--failed").out == "nothing to retry\n"
    failed, cancelled, fine = (Sweep(sweep.place, tiny(changes={"seed": seed})) for seed in (1, 2, 3))
    for index, member in enumerate((failed, cancelled, fine)):
        member.folder.prepare(member.run)
        member.submitted(job=f"812_{index}", cluster="slurm")
        member.submitted("linear", job=f"813_{index}", after=(f"812_{index}",), cluster="slurm")
    fine.folder.backbone.touch()
    failed.says("failed", error="no root")
    slurm.says("squeue", "813_2|sweep-linear-813_2|RUNNING|None|1|N/A|n1|gpu|")
    slurm.says(
        "sacct",
        "812_1|sweep-pretrain-812_1|CANCELLED by 0|0:0|1|2|n1|gpu",
        "813_0|sweep-linear-813_0|CANCELLED|0:0|Unknown|2||gpu",
        "813_1|sweep-linear-813_1|CANCELLED by 0|0:0|1|2||gpu",
    )
    lines = salmask("retry", "table1", "--failed", "--dry-run").out.splitlines()
    assert lines == ["pretrain mocov2 s1: failed, no root"]
    assert relaunched == []
    assert salmask("retry", "table1", "--failed").code == 0
    assert relaunched.pop() == {("s1", "pretrain"), ("s1", "linear")}
    assert salmask("retry", "table1").code == 0
    assert relaunched.pop() >= {("s1", "pretrain"), ("s1", "linear"), ("s2", "pretrain"), ("s2", "linear")}
    slurm.fails("squeue", "down")
    assert refused("retry", "table1").startswith(
        "what became of the jobs cannot be known: squeue: down; mend: try again when Slurm answers"
    )


def test_what_failed_alone_leaves_out_is_told(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, relaunched: list[set[tuple[str, str]]]
) -> None:
    """A retry was killed between a pretraining and its evaluations; the next one used to find nothing to retry."""
    sweep.folder.prepare(sweep.run)
    for task, job in (("pretrain", "812"), ("linear", "813"), ("pretrain", "900")):
        sweep.submitted(task, job=job, cluster="slurm", after=("812",) if task == "linear" else ())
    slurm.says("squeue", "900|sweep-pretrain-900|PENDING|Priority|N/A|N/A||gpu|")
    slurm.says("sacct", "813|sweep-linear-813|CANCELLED|0:0|Unknown|2||gpu")
    ended = salmask("retry", "table1", "--failed")
    assert (ended.code, ended.out) == (0, "nothing to retry\n")
    assert ended.err == "--failed leaves out 1 job (1 cancelled); without it, all are retried\n"
    assert (salmask("retry", "table1").err, relaunched) == ("", [{("s0", "pretrain"), ("s0", "linear")}])
    # A job that follows its failed pretraining is not left out.
    sweep.says("failed", error="no root", age=0)
    slurm.says("squeue")
    assert salmask("retry", "table1", "--failed").err == ""


def test_a_report_older_than_what_slurm_took_since_is_made_again(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, relaunched: list[set[tuple[str, str]]]
) -> None:
    """A retry was killed before it submitted its report; the same again found nothing to retry."""

    def to_retry() -> str:
        return salmask("retry", "table1", "--dry-run").out

    sweep.folder.prepare(sweep.run)
    sweep.folder.backbone.touch()
    sweep.measured()
    sweep.submitted("linear", "813")
    sweep.submitted("report", "814", folder=".", run="")
    report = RunFolder(sweep.place)
    report.set_status("done", task="report", job="814", heartbeat=NOW - 9000)  # its node's clock is slow
    sweep.submitted("pretrain", "899", time=iso(NOW - 900))
    sweep.submitted("linear", "4711", executor="local", time=iso(NOW - 900))
    sweep.submitted("linear", "", time=iso(NOW - 900))
    assert to_retry() == "nothing to retry\n"
    sweep.submitted("linear", "900", time=iso(NOW - 600))
    assert to_retry() == "report table1: planned, jobs were submitted since the last one; mend: salmask retry\n"
    for state in ("running", "done"):  # by hand, on this machine
        report.set_status(state, task="report", job="", heartbeat=NOW - 60)
        assert to_retry() == "nothing to retry\n"


def test_a_report_that_no_launch_came_to_is_made(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first launch was killed before it submitted its report, or made its tables here: nothing was to retry."""

    def to_retry() -> str:
        return salmask("retry", "table1", "--dry-run").out

    sweep.folder.prepare(sweep.run)
    sweep.folder.backbone.touch()
    entry = sweep.submitted("linear", "813")
    write_report_order(sweep.place, ["table1"])
    slurm.says("squeue", f"813|{entry.submission}|RUNNING|None|1|N/A|n1|gpu|")
    missing = "report table1: planned, no launch has submitted it; mend: salmask retry\n"
    assert to_retry() == missing
    sweep.measured()
    slurm.says("squeue")
    assert to_retry() == missing
    sweep.submitted("linear", "4711", executor="local")
    assert to_retry() == missing
    with local_lock(sweep.place):  # a launch here has it still to do
        assert to_retry() == "nothing to retry\n"
    program = replace(PROGRAM, report="builtins:print")
    job = Job(sweep.run, sweep.folder, "linear")
    monkeypatch.setattr(retry, "launch_here", lambda *_, **__: Outcome(done=[job] if job else []))
    for key in ((sweep.key, "linear"), (".", "report")):
        outcome = retry.relaunch(sweep.ledger, [key], "local", program, Console(quiet=True), allow_dirty=True)
        assert (list(outcome.submitted), capsys.readouterr().out) == ([(".", "report")], f"{sweep.place} ('table1',)\n")
        job = None
    report = RunFolder(sweep.place)
    report.set_status("failed", task="report", error="runs must not be averaged")
    assert to_retry() == "report table1: failed, runs must not be averaged\n"
    report.set_status("done", task="report")
    assert to_retry() == "nothing to retry\n"
    report.set_status("interrupted", task="report")
    write_report_order(sweep.place, [])  # a sweep of which no table is made has none to miss
    assert to_retry() == "nothing to retry\n"
    write_report_order(sweep.place, ["table1"])
    (sweep.place / "tables").mkdir()
    assert to_retry() == "nothing to retry\n"


def test_what_waiting_does_not_mend_is_not_to_be_tried_again_as_it_is(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted(cluster="slurm")
    refusal = Outcome(submitted={("a", "pretrain"): "1"}, unsent={(sweep.key, "pretrain"): "Invalid qos"})
    monkeypatch.setattr(retry, "relaunch", lambda *_, **__: refusal)
    last = salmask("retry", "table1").out.splitlines()[-1]
    mend = "the profile, or what it builds on, then the same command again"
    assert last == f"1 job not submitted (1: Invalid qos); mend: {mend}"


def test_retry_names_the_profile_that_it_cannot_find(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted(cluster="nowhere")
    assert refused("retry", "table1").endswith("or name the profile that the sweep was launched by: --cluster FILE")
    # For a profile that was given as a file, the ledger holds the file's name.
    sweep.submitted(cluster="mine.yaml")
    line = refused("retry", "table1")
    assert line.startswith("unknown cluster 'mine.yaml'; mend: ")
    assert "slurm; or give the path of that file; or name the profile that the sweep was launched by: " in line


def test_retry_launches_by_the_same_profile_also_where_its_name_has_a_dot(sweep: Sweep, runs: Path) -> None:
    user_folder().mkdir(parents=True)
    for name in ("gpu", "gpu.long"):
        (user_folder() / f"{name}.yaml").write_text(f"partition: {name}\n")
    sweep.submitted(cluster="gpu.long")
    assert retry._profile(sweep.ledger, "").resources.partition == "gpu.long"
    assert retry._profile(Ledger(runs / "never-launched"), "") == load_named("local")
    assert load_named("gpu.long").name == "gpu.long"
    # A name, never a path: the ledger of a foreign sweep could name a profile that comes with it.
    sweep.submitted("linear", "813", cluster=str(user_folder() / "gpu.yaml"))
    with pytest.raises(UserError, match=r"unknown cluster '.*gpu\.yaml'.*or name the profile that the sweep was"):
        retry._profile(sweep.ledger, "")


def test_what_waited_as_its_launcher_was_stopped_can_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Any) -> NoReturn:
        raise KeyboardInterrupt

    place = tmp_path / "sweep"
    ran, lost = (tiny(changes={"seed": seed}) for seed in (0, 1))
    jobs = [Job(run, RunFolder.of(run, place), task) for run in (ran, lost) for task in ("pretrain", "knn")]
    graph = make_graph(place, jobs, ())
    monkeypatch.setattr(LocalLaunch, "start_what_can", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launched(graph, "record")
    ledger = Ledger(place)
    assert {note for _, note in told(graph)} == {"its launcher ended before it was submitted; mend: salmask retry"}
    again, damaged = retry.graph_of(ledger, list(ledger.newest()))
    assert {(job.task, job.run) for job in again.jobs} == {(job.task, job.run) for job in graph.jobs}
    assert damaged == {}
    # If a person removed the run's folder, the mend is the command that makes it again.
    shutil.rmtree(RunFolder.of(lost, place).path)
    again, damaged = retry.graph_of(ledger, list(ledger.newest()))
    assert {job.run for job in again.jobs} == {ran}
    reasons = [damaged[graph.key(Job(lost, RunFolder.of(lost, place), task))] for task in ("pretrain", "knn")]
    assert "its pretrain is; mend: the same salmask sweep again" in reasons[0]
    assert reasons[1] == "not started: its pretraining failed"
