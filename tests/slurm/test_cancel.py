"""`salmask cancel`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_samples import ELSEWHERE, HERE, FakeSlurm, Sweep
from training_samples import refused, salmask, tiny

from slurm import cancel
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import CANCELS


def test_cancelling_is_one_call_with_every_job_that_lives(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    second = Sweep(sweep.place, tiny(changes={"seed": 1}))
    sweep.submitted(job="812_0")
    sweep.submitted("linear", job="813_0")
    sweep.submitted("knn", job="", submission="killed-launcher")
    second.folder.prepare(second.run)
    second.submitted(job="812_1")
    slurm.says(
        "squeue",
        "812_0|sweep-pretrain-812_0|RUNNING|None|1|N/A|n1|gpu|",
        "812_1|sweep-pretrain-812_1|COMPLETED|None|1|2|n1|gpu|",
        "813_0|sweep-linear-813_0|PENDING|Dependency|N/A|N/A||gpu|",
        "99|killed-launcher|PENDING|Priority|N/A|N/A||gpu|",
        "77|another's|RUNNING|None|1|N/A|n1|gpu|",
    )
    rehearsal = salmask("cancel", "table1", "--dry-run")
    assert rehearsal.out == "would cancel 3 jobs: 812_0, 813_0, 99\n"
    assert [call.split()[0] for call in slurm.calls] == ["squeue"]
    assert salmask("cancel", "table1").out == "cancelled 3 jobs: 812_0, 813_0, 99\n"
    assert slurm.calls[2:] == ["scancel 812_0 813_0 99"]
    assert json.loads(salmask("cancel", str(second.folder.path), "--json").out)["cancelled"] == []
    assert len(slurm.calls) == 4
    slurm.fails("scancel", "scancel: error: Kill job error: Access/permission denied")
    assert "Access/permission denied; mend: try again, or scancel by hand" in salmask("cancel", "table1").err


def test_of_an_array_that_a_killed_launcher_left_a_run_loses_its_own_job_alone(
    slurm: FakeSlurm, sweep: Sweep, runs: Path
) -> None:
    """The ledger has only the submission's name, which is the whole array's: all of that used to be cancelled."""
    second = Sweep(sweep.place, tiny(changes={"seed": 1}))
    for each in (sweep, second):
        each.submitted(job="", submission="killed-launcher")
        each.folder.prepare(each.run)
    states = ("RUNNING", "RUNNING", "COMPLETED")
    slurm.says("squeue", *(f"812_{n}|killed-launcher|{state}|None|1|N/A|n1|gpu|" for n, state in enumerate(states)))
    assert salmask("cancel", str(second.folder.path), "--dry-run").out == "would cancel 1 job: 812_1\n"
    assert salmask("cancel", str(second.folder.path)).out == "cancelled 1 job: 812_1\n"
    assert [call for call in slurm.calls if call.startswith("scancel")] == ["scancel 812_1"]
    assert [(e.job, bool(e.cancelled)) for e in sweep.ledger.submissions()] == [("812_0", False), ("812_1", True)]
    assert salmask("cancel", "table1").out == "cancelled 2 jobs: 812_0, 812_1\n"
    assert slurm.calls[-1] == "scancel 812"  # one request for the array: Slurm would delay a thousand


def test_a_colleagues_jobs_are_not_said_to_be_none(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not in our own queue: nothing was cancelled, and the command used to report that there were no jobs."""
    sweep.submitted()
    slurm.says("squeue", "812|sweep-pretrain-812|RUNNING|None|1|N/A|n1|gpu|")
    slurm.is_a_colleagues(monkeypatch)
    slurm.fails("scancel", "scancel: error: Kill job error: Access/permission denied")
    assert "Access/permission denied" in refused("cancel", "table1")


def test_jobs_are_cancelled_also_where_their_results_cannot_be_read(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted("linear", job="813")
    sweep.folder.results.mkdir()
    slurm.says("squeue", "813|sweep-linear-813|RUNNING|None|1|N/A|n1|gpu|")
    assert salmask("cancel", "table1").out == "cancelled 1 job: 813\n"


def test_no_strangers_job_is_ended_for_its_number(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    """A cluster that was set up anew uses its job ids again; while squeue is silent, nobody knows whose job this is."""
    for task, job in (("pretrain", "812_0"), ("linear", "813_0"), ("knn", "814_1")):
        sweep.submitted(task, job=job)
    slurm.says(
        "squeue",
        "812_0|another-pretrain-5f0c3a9e|RUNNING|None|1|N/A|n1|gpu|",
        "813|notebook|RUNNING|None|1|N/A|n1|gpu|",
        "814_1|sweep-knn-814_1|RUNNING|None|1|N/A|n1|gpu|",
    )
    assert salmask("cancel", "table1").out == "cancelled 1 job: 814_1\n"
    assert [call for call in slurm.calls if call.startswith("scancel")] == ["scancel 814_1"]
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    sweep.folder.prepare(sweep.run)
    sweep.folder.backbone.touch()
    assert salmask("cancel", "table1").out == "cancelled 2 jobs: 813_0, 814_1\n"
    assert [call for call in slurm.calls if call.startswith("scancel")][1:] == [
        "scancel --name=sweep-linear-813_0 813_0",
        "scancel --name=sweep-knn-814_1 814_1",
    ]


def test_of_what_may_be_in_a_silent_queue_nobody_is_told_that_nothing_is_left(
    slurm: FakeSlurm, sweep: Sweep, runs: Path
) -> None:
    """sbatch timed out, so Slurm may have the job; squeue, which would know it by its name, is silent."""
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    refused = sweep.submitted(job="")
    sweep.ledger.refused([refused], "Invalid qos specification")
    assert salmask("cancel", "table1").code == 0
    sweep.submitted("linear", job="")
    cancelled = salmask("cancel", "table1")
    assert (cancelled.code, cancelled.out) == (2, "cancelled 0 jobs\n")
    assert "it is not known whether Slurm has 1 job (squeue: slurm_load_jobs error: Unable to contact" in cancelled.err
    assert cancelled.err.rstrip().endswith("mend: try again, or scancel by hand")


@pytest.mark.parametrize("hindrance", ["a launch", "no place to write"])
def test_jobs_are_cancelled_also_where_launches_cannot_be_kept_away(
    hindrance: str, slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.status_commands.CANCELLING_SECONDS", 0.0)
    sweep.submitted(job="812_0")
    slurm.says("squeue", "812_0|sweep-pretrain-812_0|RUNNING|None|1|N/A|n1|gpu|")
    if hindrance == "a launch":
        with launch_lock(sweep.place):
            cancelled = salmask("cancel", "table1")
    else:
        (sweep.place / CANCELS).mkdir()
        cancelled = salmask("cancel", "table1")
    assert (cancelled.code, cancelled.out) == (0, "cancelled 1 job: 812_0\n")
    assert cancelled.err.endswith("; to end what it may still submit, call `salmask cancel` again\n")
    assert cancelled.err.count("\n") == 1
    assert [call for call in slurm.calls if call.startswith("scancel")] == ["scancel 812_0"]


def test_what_was_cancelled_stays_so_when_slurm_has_forgotten_it(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    """Without accounting Slurm forgets the job; our own record must keep `retry --failed` from submitting it again."""
    for task, job in (("pretrain", "812_0"), ("linear", "813_0"), ("knn", "814_1")):
        sweep.submitted(task, job=job)
    sweep.says("interrupted", age=0, step=3, steps=9)
    waiting = "|PENDING|Dependency|N/A|N/A||gpu|"
    slurm.says(
        "squeue",
        "812_0|sweep-pretrain-812_0|RUNNING|None|1|N/A|n1|gpu|",
        f"813_0|sweep-linear-813_0{waiting}",
        f"814_1|sweep-knn-814_1{waiting}",
    )
    assert salmask("cancel", "table1", "--dry-run").out.startswith("would cancel 3 jobs")
    assert not any(entry.cancelled for entry in sweep.ledger.submissions())
    assert salmask("cancel", "table1").out == "cancelled 3 jobs: 812_0, 813_0, 814_1\n"
    slurm.says("squeue")
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    jobs = json.loads(salmask("status", "table1", "--json").out)["jobs"]
    assert {(row["state"], row["note"]) for row in jobs} == {("cancelled", "by salmask cancel")}
    assert salmask("retry", "table1", "--failed", "--dry-run").out == "nothing to retry\n"
    # Submitted again it is a new job, to which the old record does not apply.
    sweep.submitted(job="900")
    slurm.says("squeue", "900|sweep-pretrain-900|PENDING|Priority|N/A|N/A||gpu|")
    assert json.loads(salmask("status", "table1", "--json").out)["counts"] == {"preempted": 1, "cancelled": 2}


@pytest.mark.parametrize("suspended", [False, True])
def test_cancelling_a_local_job_asks_its_process_to_stop(
    sweep: Sweep, runs: Path, slurm: FakeSlurm, *, suspended: bool
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "mine"])
    try:
        if suspended:
            process.send_signal(signal.SIGSTOP)
        sweep.submitted(job=str(process.pid), executor="local", submission="mine", host=HERE)
        # Of another machine: one that was submitted anew, one that is done, one that may run.
        sweep.submitted("linear", job="4710", executor="local", submission="before", host=ELSEWHERE)
        sweep.submitted("linear", job="4711", executor="local", submission="theirs", host=ELSEWHERE)
        done = Sweep(sweep.place, tiny(changes={"seed": 1}))
        done.folder.prepare(done.run)
        done.folder.backbone.touch()
        done.submitted(job="4709", executor="local", submission="done", host=ELSEWHERE)
        outcome = salmask("cancel", "table1")
        assert outcome.out.splitlines() == [
            f"cancelled 1 job: {process.pid}",
            f"started on another machine, end it there: {ELSEWHERE}: 4711",
        ]
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()


def test_a_local_job_of_another_user_is_told_in_one_line(
    sweep: Sweep, runs: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "theirs"])
    send = os.kill

    def refuse(number: int, sent: int) -> None:
        if sent == signal.SIGTERM:
            raise PermissionError
        send(number, sent)

    monkeypatch.setattr("slurm.cancel.os.kill", refuse)
    try:
        entry = sweep.submitted(job=str(process.pid), executor="local", submission="theirs", host=HERE)
        ended = salmask("cancel", "table1")
        assert ended.code == 2
        assert ended.out == "cancelled 0 jobs\n"
        what = f"cannot end jobs of another user here: process {process.pid}"
        assert ended.err == f"salmask: {what}; mend: ask whoever launched it to cancel\n"
        assert sweep.ledger.newest()[entry.key] == entry  # nobody has cancelled it
    finally:
        process.kill()
        process.wait()


def test_a_process_that_ended_meanwhile_need_not_be_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert cancel._end(process.pid)
