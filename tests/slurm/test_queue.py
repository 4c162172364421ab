"""How the output of squeue and sacct is read, and how seldom they are called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_samples import ELSEWHERE, GONE, HERE, FakeSlurm, Sweep

from slurm.ask import ask, outside_of_any_job
from slurm.monitoring.accounting import accounted
from slurm.monitoring.queue import QueuedJob, expand, parse_sacct, parse_squeue, snapshot
from slurm.submission.batches import submission_name

LONG = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd-linear-5f0c3a9e"


def test_a_line_of_squeue_is_a_job() -> None:
    (job,) = parse_squeue(f"812_3|{LONG}|RUNNING|None|1795396320|1795396420|n[1-2]|gpu|\n")
    assert job == QueuedJob("812_3", LONG, "RUNNING", "", 1795396320.0, 1795396420.0, "n[1-2]", "gpu")
    (job,) = parse_squeue("9|x|PENDING|Priority|N/A|NONE||gpu|")
    assert (job.waiting, job.live, job.start, job.end, job.reason) == (True, True, None, None, "Priority")
    for line in ("", "slurm_load_jobs error", "1|2|3"):
        assert list(parse_squeue(line)) == []


def test_a_job_that_is_held_or_in_a_state_of_a_later_slurm_has_not_ended() -> None:
    """It would be submitted a second time. Slurm has a state of its own for a job whose reservation was deleted."""
    (held,) = parse_squeue("9|x|RESV_DEL_HOLD|ReservationDeleted|N/A|N/A||gpu|")
    (later,) = parse_squeue("9|x|EXPEDITING|None|N/A|N/A||gpu|")
    (over,) = parse_squeue("9|x|NODE_FAIL|None|1|2|n1|gpu|")
    assert [(job.waiting, job.live) for job in (held, later, over)] == [(True, True), (False, True), (False, False)]


def test_a_line_of_sacct_is_how_a_job_ended() -> None:
    (job,) = parse_sacct("812|x|CANCELLED by 0|0:0|1795396320|1795396420|n1|gpu")
    assert (job.state, job.reason, job.live, job.end) == ("CANCELLED", "by 0", False, 1795396420.0)
    (job,) = parse_sacct("812|x|FAILED|0:9|1|Unknown|n1|gpu")
    assert (job.state, job.reason, job.end) == ("FAILED", "signal 9", None)
    for broken in ("", "812|x|FAILED|2:0|1|2", "sacct: error: slurmdbd is down"):
        assert list(parse_sacct(broken)) == []
    (job,) = parse_sacct("812|x|FAILED|2:0|1|2|n1|gpu")
    assert job.reason == "exit 2"


def test_a_name_may_hold_the_separator() -> None:
    """Older ledgers have such names, after a sweep's folder; if dropped, their jobs would be submitted again."""
    (job,) = parse_squeue("812_3|a|b-linear-5f0c3a9e|RUNNING|None|1|2|n1|gpu|")
    assert (job.job, job.name, job.state, job.partition) == ("812_3", "a|b-linear-5f0c3a9e", "RUNNING", "gpu")
    (job,) = parse_sacct("812|a|b-linear-5f0c3a9e|FAILED|2:0|1|2|n1|gpu")
    assert (job.name, job.state, job.reason) == ("a|b-linear-5f0c3a9e", "FAILED", "exit 2")


def test_arrays_are_written_out() -> None:
    assert expand("812") == ["812"]
    assert expand("812_[0-2,7%2]") == ["812_0", "812_1", "812_2", "812_7"]
    assert expand("812_[0-2,...]") == ["812_[0-2,...]"]
    assert expand("812_[0-²]") == ["812_[0-²]"]  # a digit for str.isdigit, and not for int
    assert [job.job for job in parse_sacct("8_[1-2]|x|PENDING|0:0|Unknown|Unknown||gpu")] == ["8_1", "8_2"]


def test_an_array_is_ended_as_one_where_all_of_it_that_lives_is_named(slurm: FakeSlurm) -> None:
    """Counted by numbers alone, a finished task used to stand for one that should have lived on."""
    states = ("COMPLETED", "RUNNING", "PENDING")
    slurm.says("squeue", *(f"812_{number}|x|{state}|None|1|2|n1|gpu|" for number, state in enumerate(states)))
    queue = snapshot()
    assert queue.arrays_as_one(["812_0", "812_1"]) == ["812_0", "812_1"]
    assert queue.arrays_as_one(["812_1", "812_2", "7", "9_1"]) == ["812", "7", "9_1"]


def test_of_too_many_jobs_the_accounting_is_asked_for_the_newest(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted as text, 1000 comes before 999."""
    monkeypatch.setattr("slurm.monitoring.queue.IDS_A_CALL", 1)
    snapshot(["999", "1000_3"])
    accounted([("a", "999"), ("b", "1000_3")])
    asked = [call for call in slurm.calls if call.startswith("sacct")]
    assert ["--jobs=1000" in call.split() for call in asked] == [True, True]


def test_the_queue_is_asked_once_and_accounting_only_for_what_has_left_it(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "812_0|x|RUNNING|None|1|N/A|n1|gpu|")
    slurm.says("sacct", "811|x|TIMEOUT|0:0|1|2|n1|gpu", "812_0|x|FAILED|0:0|1|2|n1|gpu")
    found = snapshot(["812_0"])
    assert (len(slurm.calls), found.jobs["812_0"].state) == (1, "RUNNING")
    found = snapshot(["812_0", "811", "812_1", "812_2"])
    assert [call.split()[0] for call in slurm.calls[1:]] == ["squeue", "sacct"]
    assert "--jobs=811,812 " in slurm.calls[-1]
    assert found.jobs["811"].state == "TIMEOUT"
    assert found.jobs["812_0"].state == "RUNNING"  # squeue is more up to date


def test_what_has_left_the_queue_is_over_although_the_accounting_says_that_it_runs(slurm: FakeSlurm) -> None:
    """A database that missed the end of a job calls it running for ever, and no retry would submit the job again."""
    lines = (
        "811|x|RUNNING|0:0|1|Unknown|n1|gpu",
        "812_[0-1]|x|PENDING|0:0|Unknown|Unknown||gpu",
        "813|x|FAILED|1:0|1|2|n1|gpu",
    )
    slurm.says("sacct", *lines)
    assert set(snapshot(["811", "812_0", "812_1", "813"]).jobs) == {"813"}
    assert slurm.calls[-1].split()[-3:-2] == ["--jobs=811,812"]


@pytest.mark.parametrize(
    ("complaint", "lives"),
    [
        ("", True),
        ("slurm_load_jobs error: Unable to contact slurm controller", True),
        ("slurm_load_jobs error: Invalid job id specified", False),
    ],
)
def test_a_colleagues_job_that_runs_is_not_over_as_it_is_in_no_queue_of_ours(
    complaint: str, slurm: FakeSlurm, *, lives: bool
) -> None:
    slurm.says("sacct", "811|x|RUNNING|0:0|1|Unknown|n1|gpu", "813|x|FAILED|1:0|1|2|n1|gpu")
    by_id = f"echo '{complaint}' >&2; exit 1" if complaint else "echo '811|x|RUNNING|None|1|N/A|n1|gpu|'"
    squeue = slurm.place / "squeue"
    squeue.write_text(f'#!/bin/sh\ncase "$*" in *--jobs=*) {by_id};; esac\n')
    jobs = snapshot(["811", "813"]).jobs
    assert jobs["813"].state == "FAILED"
    assert ("811" in jobs and jobs["811"].live) == lives


def test_jobs_of_a_hidden_partition_are_asked_for_too(slurm: FakeSlurm) -> None:
    """By default squeue hides them (tried with Slurm 22.05), and every launch used to submit them again."""
    snapshot()
    assert "--all" in slurm.calls[0].split()


def test_without_accounting_there_is_squeue_alone(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "812|x|PENDING|Priority|N/A|N/A||gpu|")
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    found = snapshot(["811", "812"])
    assert (found.trouble, set(found.jobs)) == ("", {"812"})


def test_a_queue_that_does_not_answer_is_trouble_and_not_empty(slurm: FakeSlurm, sweep: Sweep) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    found = snapshot(["811"])
    assert found.trouble == "squeue: slurm_load_jobs error: Unable to contact slurm controller"
    assert slurm.calls == [slurm.calls[0]]
    assert found.live(sweep.submitted()) is None


def test_where_there_is_no_slurm_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot(["811"]).trouble == "there is no squeue on this machine"


def test_a_squeue_of_no_cluster_is_as_absent_as_none(slurm: FakeSlurm) -> None:
    """`salmask status --watch` used to wait for its answer for ever."""
    slurm.fails("squeue", "squeue: fatal: Could not establish a configuration source")
    found = snapshot(["811"])
    assert (found.absent, found.mend) == (True, "call this on a login node of the cluster")
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    assert not snapshot(["811"]).absent


NO_SOURCE = "squeue: fatal: Could not establish a configuration source"
NO_FILE = "squeue: fatal: Unable to process configuration file"
DNS = "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error:"


@pytest.mark.parametrize(
    ("said", "named", "absent", "trouble"),
    [
        (f"{DNS} Unknown host\n{NO_SOURCE}", False, True, NO_SOURCE),
        (f"{DNS} Host name lookup failure\n{NO_SOURCE}", False, False, f"{DNS} Host name lookup failure"),
        (f'squeue: error: slurm_set_addr: Unable to resolve "c"\n{NO_SOURCE}', True, False, "Unable to resolve"),
        (f"squeue: error: cannot stat file /c/slurm.conf: No such file or directory\n{NO_FILE}", True, False, NO_FILE),
        (f"squeue: error: cannot stat file /e/slurm.conf: No such file or directory\n{NO_FILE}", False, True, NO_FILE),
        (f"squeue: error: Parsing error at unrecognized key: Foo\n{NO_FILE}", False, False, NO_FILE),
    ],
)
def test_a_cluster_that_something_names_is_away_and_not_absent(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, said: str, *, named: bool, absent: bool, trouble: str
) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if named:
        monkeypatch.setenv("SLURM_CONF", "/c/slurm.conf")
    slurm.fails("squeue", said)
    found = snapshot(["811"])
    assert found.absent is absent
    assert trouble in found.trouble


def test_how_a_person_looks_at_the_queue_is_not_how_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SQUEUE_PARTITION set, jobs of other partitions looked gone, and were submitted again."""
    for name in ("SQUEUE_PARTITION", "SACCT_FORMAT", "SCANCEL_USER", "SBATCH_PARTITION", "SLURM_CLUSTERS", "SLURM_JWT"):
        monkeypatch.setenv(name, "x")
    asked = {line.partition("=")[0] for line in ask(["env"]).output.splitlines()}
    assert {name for name in asked if name.startswith(("SQUEUE", "SACCT", "SCANCEL"))} == set()
    submitting = {name for name in outside_of_any_job() if name.startswith(("SLURM", "SBATCH"))}
    assert {"SLURM_CLUSTERS", "SLURM_JWT"} == submitting & {"SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_PARTITION"}
    assert submitting - {"SLURM_CONF", "SLURM_CONF_SERVER"} <= asked


@pytest.mark.parametrize("folder", ["a|b", "a,b", "a b", "ä+b"])
def test_a_name_is_read_back_from_the_queue_whatever_the_folder_is_called(folder: str) -> None:
    """A `|` in the folder's name used to hide its jobs in squeue's output: every launch submitted the whole sweep."""
    name = submission_name(Path(folder), "pretrain")
    (job,) = parse_squeue(f"812|{name}|RUNNING|None|1|N/A|n1|gpu|")
    assert job.name == name
    assert "," not in name
    assert name.startswith("ä+b-pretrain-" if folder == "ä+b" else "a_b-pretrain-")


def test_local_jobs_live_by_their_process(sweep: Sweep) -> None:
    name = "table1-linear-5f0c3a9e"
    program = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, name], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # its program is loaded: before, it has no command line
        local = {"executor": "local", "submission": name, "host": HERE}
        assert GONE.live(sweep.submitted(job=str(process.pid), **local)) is True
        # The same process id, which meanwhile belongs to another process.
        assert GONE.live(sweep.submitted(job=str(process.pid), **{**local, "submission": "older"})) is False
        assert GONE.live(sweep.submitted(job=str(process.pid), **{**local, "host": ELSEWHERE})) is None
    finally:
        process.kill()
        process.communicate()
    assert GONE.live(sweep.submitted(job=str(process.pid), **local)) is False


def test_a_job_lives_while_its_program_is_loaded_and_no_longer_as_a_zombie(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has a command line; a job was taken for gone if one looked in the moment in which it begins."""
    local = {"executor": "local", "submission": "table1-linear-5f0c3a9e", "host": HERE}
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert GONE.live(sweep.submitted(job=str(zombie.pid), **local)) is False
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"")
    assert GONE.live(sweep.submitted(job=str(zombie.pid), **local)) is False
    zombie.wait()
    assert GONE.live(sweep.submitted(job=str(os.getpid()), **local)) is True


def test_an_id_that_another_users_process_has_now_is_no_job(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot the id may be a service's: the job would count as running, and never be submitted again."""

    send = os.kill

    def refuse(process: int, number: int) -> None:
        if not number:
            raise PermissionError
        send(process, number)

    monkeypatch.setattr("slurm.monitoring.queue.os.kill", refuse)
    name = "table1-linear-5f0c3a9e"
    local = {"executor": "local", "submission": name, "host": HERE}
    assert GONE.live(sweep.submitted(job="1", **local)) is False
    colleagues = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name])
    try:
        assert GONE.live(sweep.submitted(job=str(colleagues.pid), **local)) is True
    finally:
        colleagues.kill()
        colleagues.wait()
    assert GONE.live(sweep.submitted(job=str(colleagues.pid), **local)) is True  # exists; its command line is hidden
