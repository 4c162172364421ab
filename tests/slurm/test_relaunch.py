"""Launching again: after a silent Slurm, with other settings, beside jobs on this machine, or with a lost report."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from launch_samples import CLUSTER, all_once, graph_for, launch
from rich.console import Console
from stand_in_slurm import StandInSlurm
from training_samples import salmask

from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from slurm import retry
from slurm.monitoring.states import SUPERSEDED
from slurm.sweep_call import SweepCall
from slurm.sweep_folder.ledger import REPORT, Ledger

TIMED_OUT = "Socket timed out on send/recv operation"


def test_where_neither_sbatch_nor_squeue_answer_nothing_is_submitted_twice(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", f"accept:{TIMED_OUT}")
    stand_in.tell("squeue_troubles", "ok", TIMED_OUT, TIMED_OUT)
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3


def test_where_squeue_stays_silent_it_is_unclear_whether_a_job_is_in(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", f"accept:{TIMED_OUT}")
    stand_in.tell("squeue_troubles", "ok", *[TIMED_OUT] * 5)
    outcome = launch(graph)
    assert outcome.submitted == {}
    assert "Socket timed out" in outcome.unsent_words
    assert len(stand_in.calls("sbatch")) == 1
    monkeypatch.setattr("slurm.submission.adoption.SETTLING_SECONDS", 0.0)
    launch(graph)  # this launch finds the accepted jobs
    assert all_once(graph, stand_in)
    assert [entry.job for entry in Ledger(graph.sweep_folder).submissions()][:4] == [f"101_{n}" for n in range(4)]


def test_single_jobs_of_a_killed_launcher_are_adopted_by_their_own_ids(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=1)
    launch(graph)
    ledger = Ledger(graph.sweep_folder)
    submissions = ledger.submissions()
    ledger.path.unlink()
    ledger.intend(submissions)
    assert launch(graph).submitted == {}
    assert [entry.job for entry in Ledger(graph.sweep_folder).submissions()] == ["101", "102", "103"]
    assert all_once(graph, stand_in)


def test_jobs_of_other_settings_that_slurm_does_not_cancel_are_not_replaced(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(graph_for(tmp_path))
    queued = len(stand_in.ids)
    longer = graph_for(tmp_path, settings={"optimization.epochs": 5})
    stand_in.tell("scancel_troubles", TIMED_OUT)
    with pytest.raises(
        UserError, match=r"cannot cancel 8 jobs with other settings \(.*timed out.*\); mend: the same command again"
    ):
        launch(longer, replace_old=True)
    assert len(stand_in.ids) == queued
    launch(longer, replace_old=True)
    # They are on record as replaced, so a retry leaves them out.
    monkeypatch.chdir(tmp_path)
    old = {entry.folder for entry in Ledger(longer.sweep_folder).submissions() if entry.superseded}
    assert len(old) == 4
    assert salmask("retry", "s", "--dry-run").out == "nothing to retry\n"
    assert salmask("status", "s").out.count(SUPERSEDED[:20]) >= 1


def test_a_launch_of_fewer_seeds_leaves_the_jobs_of_the_others_alone(stand_in: StandInSlurm, tmp_path: Path) -> None:
    whole = graph_for(tmp_path)
    launch(whole)
    newest = Ledger(whole.sweep_folder).newest()
    others = {newest[whole.key(job)].job for job in whole.jobs if job.run.seed != 0}
    longer = graph_for(tmp_path, seeds=1, settings={"optimization.epochs": 5})
    assert launch(longer).outdated == 2
    assert launch(longer, replace_old=True).outdated == 0
    assert len(others) == 6
    assert others < set(stand_in.ids)
    assert len(stand_in.ids) == len(others) + 2 + 1  # of seed 0, and a report


def test_a_job_that_runs_with_other_settings_is_replaced_too(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """The job just cancelled used to be taken for one that runs outside of Slurm, and nothing was submitted."""
    graph = graph_for(tmp_path, seeds=2)
    launch(graph)
    running = graph.jobs[0]
    stand_in.change(lambda line: line.replace("|PENDING|", "|RUNNING|") if line.startswith("101_0|") else line)
    running.folder.set_status("running", host="node1", job="101")
    outcome = launch(graph_for(tmp_path, seeds=2, settings={"machine.workers": 3}), replace_old=True)
    assert graph.key(running) in outcome.submitted
    assert len(outcome.submitted) == 5
    assert outcome.live == []


def test_what_runs_on_this_machine_is_neither_waited_for_nor_cancelled_by_slurm(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    """A process id may be the same number as another job's id."""
    graph = graph_for(tmp_path, seeds=2)
    ledger = Ledger(graph.sweep_folder)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "mine"])
    try:
        launch(graph_for(tmp_path / "other", seeds=1))
        entry = Ledger(tmp_path / "other" / "s").submissions()[0]
        folder, task = graph.key(graph.jobs[0])
        local = replace(entry, submission="mine", executor="local", folder=folder, task=task, job=str(process.pid))
        ledger.intend([local])
        ledger.submitted([local])
        outcome = launch(graph)
        assert {task for folder_, task in outcome.submitted if folder_ == folder} == set()
        assert outcome.unsent[folder, "linear"].startswith("what it builds on runs outside of Slurm")
        assert graph.report in outcome.unsent
        assert outcome.has_room_later
        assert [job.task for job in outcome.live] == ["pretrain"]
        scripts = "".join(path.read_text() for path in stand_in.place.glob("script-*.sh"))
        assert f":{process.pid}" not in scripts
        other = graph_for(tmp_path, seeds=2, settings={"probe.epochs": 9, "machine.workers": 3})
        launch(other, replace_old=True)
        assert not any(str(process.pid) in call.split() for call in stand_in.calls("scancel"))
    finally:
        process.kill()
        process.wait()


def test_what_somebody_runs_by_hand_is_not_submitted_a_second_time(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """No ledger knows of the run, nor of one that another machine's launcher carries out."""
    graph = graph_for(tmp_path, seeds=2)
    by_hand, key = graph.jobs[0], graph.key(graph.jobs[0])
    by_hand.folder.prepare(by_hand.run)
    by_hand.folder.set_status("running", host="elsewhere")
    outcome = launch(graph)
    assert key not in outcome.submitted
    assert outcome.unsent[key[0], "linear"].startswith("what it builds on runs outside of Slurm")
    assert outcome.live == [by_hand]
    by_hand.folder.set_status("failed")
    assert key in launch(graph).submitted


def test_what_went_out_is_counted_as_many_by_the_next_launch(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 5 submitted jobs, only 4 used to be counted as queued: the report was counted by the first launch alone."""
    monkeypatch.setattr("slurm.jobs.snapshot.take", lambda *_, **__: None)
    graph = graph_for(tmp_path, seeds=2)

    def told(*, as_json: bool) -> str:
        call = SweepCall(lambda *_: None, PROGRAM, Console(stderr=as_json), 1, allow_dirty=False, as_json=as_json)
        call.carry_out(graph, CLUSTER, dry_run=False)
        return capsys.readouterr().out

    assert "5 jobs submitted, 0 done before, 0 queued or running; " in told(as_json=False)
    assert "0 jobs submitted, 0 done before, 5 queued or running; " in told(as_json=False)
    assert json.loads(told(as_json=True)) == {"submitted": {}, "done": 0, "live": 5, "unsent": 0, "failed": {}}
    # A report that replaces an older one counts as submitted by this launch.
    stand_in.change(lambda line: None if line.startswith("101_0|") else line)
    assert "3 jobs submitted, 0 done before, 2 queued or running; " in told(as_json=False)


def test_a_report_that_alone_is_lost_goes_out_again(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=2)
    launch(graph)
    report = Ledger(graph.sweep_folder).newest()[graph.report].job
    assert launch(graph).submitted == {}
    stand_in.change(lambda line: None if line.startswith(f"{report}|") else line)
    assert set(launch(graph).submitted) == {graph.report}
    assert stand_in.option(104, "dependency") == "afterany:101:102"
    # If the report was rendered after all, nothing is missing.
    stand_in.change(lambda line: None if line.startswith("104|") else line)
    RunFolder(graph.sweep_folder).set_status("done", task=REPORT)
    assert launch(graph).submitted == {}
    assert set(launch(graph, report=True).submitted) == {graph.report}


def test_a_report_of_a_node_whose_clock_is_slow_is_made_once(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=1)
    launch(graph)
    report = Ledger(graph.sweep_folder).newest()[graph.report].job
    stand_in.change(lambda line: None if line.startswith(f"{report}|") else line)
    RunFolder(graph.sweep_folder).set_status("done", task=REPORT, job=report, heartbeat=time.time() - 300)
    assert launch(graph).submitted == {}
    RunFolder(graph.sweep_folder).set_status("done", task=REPORT, job="99", heartbeat=time.time() - 300)
    assert set(launch(graph).submitted) == {graph.report}


def test_a_report_that_is_retried_goes_out_and_waits_for_all_that_is_under_way(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path, seeds=2)
    launch(graph)
    ledger = Ledger(graph.sweep_folder)
    stand_in.change(lambda line: None if line.startswith("103|") else line)
    monkeypatch.setattr(retry, "take", lambda *_, **__: None)
    monkeypatch.setattr(retry, "_profile", lambda *_: CLUSTER)
    console = Console(quiet=True)
    outcome = retry.relaunch(ledger, [graph.report], "", PROGRAM, console, allow_dirty=True)
    assert outcome.submitted == {graph.report: "104"}
    assert stand_in.option(104, "dependency") == "afterany:101:102"


def test_a_sweep_that_was_moved_to_a_name_that_no_script_can_hold_is_not_submitted(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    graph = graph_for(tmp_path, seeds=1)
    launch(graph)
    stand_in.tell("queue")
    moved = graph.sweep_folder.rename(tmp_path / "50%a")
    with pytest.raises(UserError, match=r"50%a holds '%', .* mend: give it another name"):
        retry.relaunch(Ledger(moved), [graph.report], "", PROGRAM, Console(quiet=True), allow_dirty=True)


def test_what_ended_a_moment_ago_by_another_protocol_is_missing(stand_in: StandInSlurm, tmp_path: Path) -> None:
    launch(graph_for(tmp_path, seeds=2))
    now = time.time()
    stand_in.change(lambda line: re.sub(r"^(10[12]_0\|[^|]*)\|.*", rf"\1|COMPLETED|None|1|{now - 5:.0f}|n1|low|", line))
    outcome = launch(graph_for(tmp_path, seeds=2, settings={"probe.epochs": 7}))
    assert {task for folder, task in outcome.submitted if "/s0" in folder} == {"linear"}
