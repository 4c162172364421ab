"""`salmask status` and its friends, with folders made up and a Slurm that says what a test has written down."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from run_samples import RESULT
from training_samples import files_below, refused, salmask, tiny

from repro.detection import VOC
from repro.folder import RunFolder
from repro.lock import STALE_SECONDS
from repro.records import append
from repro.run import Run
from slurm import clean, logs, retry
from slurm.clean import leftovers
from slurm.graph import Graph
from slurm.launch import Outcome
from slurm.ledger import Ledger, Submission
from slurm.logs import follow, last_line, log_files
from slurm.places import find_place
from slurm.queue import QueuedJob, Snapshot, expand, parse_sacct, parse_squeue, snapshot
from slurm.status import Row, State, duration, pace, row

NOW = 1_800_000_000.0
RUN = tiny()
HERE = socket.gethostname()
ELSEWHERE = "node7"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@dataclass
class Sweep:
    """A sweep's folder, to be filled."""

    place: Path
    run: Run = RUN

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.place)

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.run, self.place)

    @property
    def key(self) -> str:
        return str(self.folder.path.relative_to(self.place))

    def submitted(self, task: str = "pretrain", job: str = "812", **changes: Any) -> Submission:
        """Put a job into the ledger, an hour ago."""
        protocol = "" if task == "pretrain" else self.run.probe.protocol
        entry = Submission(
            **{
                "submission": f"sweep-{task}-{job or 'none'}",
                "executor": "slurm",
                "cluster": "mine",
                "run": self.run.id,
                "folder": self.key,
                "task": task,
                "job": job,
                "protocol": protocol,
                "time": iso(NOW - 3600),
                **changes,
            }
        )
        self.ledger.intend([entry])
        if job:
            self.ledger.submitted([entry])
        return entry

    def says(self, state: str, *, age: float = 5.0, task: str = "pretrain", **changes: Any) -> None:
        """Write a status, the last sign of life being so many seconds old."""
        self.folder.prepare(self.run)
        status = {"state": state, "task": task, "heartbeat": NOW - age, "host": ELSEWHERE, "pid": 1, **changes}
        self.folder._status(task).write_text(json.dumps(status))

    def measured(self, value: float = 61.5, **changes: Any) -> None:
        rows = [
            replace(
                RESULT,
                **{"run_id": self.run.id, "protocol": self.run.probe.protocol, "metric": m, "value": v, **changes},
            )
            for m, v in (("top5", 90.0), ("top1", value))
        ]
        append(self.folder.results, rows)

    def row(self, queue: Snapshot, task: str = "pretrain", *, entry: bool = True) -> Row:
        newest = self.ledger.newest().get((self.key, task)) if entry else None
        return row(self.place, (self.key, task, newest), queue, NOW)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep(tmp_path / "runs" / "table1")
    made.folder.prepare(RUN)
    return made


def queue_of(state: str, reason: str = "", *, job: str = "812", start: float | None = -600.0, **more: Any) -> Snapshot:
    """A queue with one job, times relative to now."""
    times = {name: None if t is None else NOW + t for name, t in {"start": start, "end": more.pop("end", None)}.items()}
    return Snapshot({job: QueuedJob(job, more.pop("name", "x"), state, reason, **times, nodes="n3", **more)})


GONE = Snapshot()
SILENT = Snapshot(trouble="squeue: slurm_load_jobs error: Unable to contact slurm controller")
PENDING = {"start": None}


# ------------------------------------------------------------------------------------------------ what a job is doing


@pytest.mark.parametrize(
    ("queue", "state", "note"),
    [
        (queue_of("PENDING", "Priority", **PENDING), "queued", "Priority: others go first"),
        (queue_of("PENDING", "Dependency", **PENDING), "queued", "Dependency: waits for the job that it builds on"),
        (queue_of("PENDING", "JobHeldUser", **PENDING), "queued", "JobHeldUser: held; mend: scontrol release 812"),
        (
            queue_of("PENDING", "DependencyNeverSatisfied", **PENDING),
            "queued",
            "DependencyNeverSatisfied: what it builds on failed; mend: that first, then salmask retry",
        ),
        (
            queue_of("PENDING", "QOSMaxGRESPerUser", **PENDING),
            "queued",
            "QOSMaxGRESPerUser: a limit of your account or",
        ),
        (queue_of("RUNNING", start=-30), "starting", "on n3"),
        (queue_of("RUNNING", start=-300), "silent", "on n3 for 5 min without a word; mend: salmask logs"),
        (queue_of("CANCELLED", "by 0", end=-9), "cancelled", "by 0"),
        (queue_of("FAILED", "exit 1", end=-9), "died", "never said a word, Slurm says FAILED, exit 1; last line: boom"),
        (GONE, "died", "never said a word, Slurm no longer knows it; last line: boom"),
        (SILENT, "unknown", "squeue: slurm_load_jobs error: Unable to contact slurm controller"),
    ],
)
def test_of_a_job_that_has_not_begun_the_queue_tells(sweep: Sweep, queue: Snapshot, state: str, note: str) -> None:
    log = sweep.submitted().log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text("Traceback\nboom\nsubmitit ERROR (2026) - Submitted job triggered an exception\n\n")
    found = sweep.row(queue)
    assert (found.state, found.note[: len(note)]) == (state, note)


@pytest.mark.parametrize(
    ("queue", "age", "state", "note"),
    [
        (queue_of("RUNNING"), 5, "running", ""),
        (queue_of("RUNNING"), 119, "running", ""),
        (queue_of("RUNNING"), 121, "silent", "no sign of life for 2 min; mend: salmask cancel, then salmask retry"),
        (queue_of("RUNNING", start=-60), 119, "running", ""),  # of the attempt before, and still alive by its heartbeat
        (queue_of("RUNNING", start=-60), 150, "starting", "on n3"),
        (queue_of("PENDING", "BeginTime", start=60), 20, "preempted", "BeginTime: was put back in the queue, starts"),
        (queue_of("PENDING", "Resources", start=None), 5000, "preempted", "Resources: waits for free resources"),
        (queue_of("TIMEOUT", end=-2), 5, "died", "Slurm says TIMEOUT"),
        (queue_of("OUT_OF_MEMORY", "signal 9", end=-2), 5, "died", "Slurm says OUT_OF_MEMORY, signal 9"),
        (queue_of("NODE_FAIL", end=-100), 110, "died", "Slurm says NODE_FAIL"),
        (queue_of("CANCELLED", "by 0", end=-2), 5, "cancelled", "by 0"),
        (queue_of("FAILED", end=-500), 5, "running", ""),  # by hand, after the job
        (GONE, 5, "running", ""),
        (GONE, 119, "running", ""),
        (GONE, 121, "died", "no sign of life for 2 min"),
        (GONE, 3 * 3600, "died", "never said a word, Slurm no longer knows it"),  # of an earlier submission
        (SILENT, 5, "running", ""),
        (SILENT, 121, "died", "no sign of life for 2 min"),
    ],
)
def test_a_running_job_is_alive_by_its_heartbeat_and_dead_by_slurms_word(
    sweep: Sweep, queue: Snapshot, age: float, state: str, note: str
) -> None:
    sweep.submitted()
    sweep.says("running", age=age, step=30, steps=100)
    found = sweep.row(queue)
    assert (found.state, found.note[: len(note)]) == (state, note)
    assert (found.step, found.steps, found.silent_s, found.host) == (30, 100, age, ELSEWHERE)


@pytest.mark.parametrize(
    ("status", "queue", "state", "note"),
    [
        ({"state": "failed", "error": "no root"}, queue_of("FAILED", "exit 2", end=-2), "failed", "no root"),
        ({"state": "failed", "error": "no root"}, GONE, "failed", "no root"),
        ({"state": "failed", "error": "no root"}, queue_of("COMPLETING"), "failed", "no root"),
        # Handed over again: what is told is the new job's, not the old failure.
        ({"state": "failed", "error": "no root", "age": 4000}, queue_of("PENDING", **PENDING), "queued", ""),
        ({"state": "failed", "error": "no root", "age": 4000}, queue_of("RUNNING", start=-9), "starting", "on n3"),
        ({"state": "interrupted"}, queue_of("PENDING", "BeginTime"), "preempted", "BeginTime: was put back"),
        ({"state": "interrupted"}, queue_of("COMPLETING"), "starting", "on n3"),
        ({"state": "interrupted"}, queue_of("PREEMPTED", end=-2), "interrupted", "Slurm says PREEMPTED"),
        ({"state": "interrupted"}, GONE, "interrupted", "goes on from its last checkpoint when started again"),
        ({"state": "interrupted"}, queue_of("CANCELLED", "by 0", end=-2), "cancelled", "by 0"),
        ({"state": "done"}, GONE, "failed", "it says that it is done, but its result is not there"),
    ],
)
def test_what_a_job_said_at_its_end_is_told(
    sweep: Sweep, status: dict[str, Any], queue: Snapshot, state: str, note: str
) -> None:
    sweep.submitted()
    sweep.says(**status)
    found = sweep.row(queue)
    assert (found.state, found.note[: len(note)]) == (state, note)


@pytest.mark.parametrize("queue", [GONE, SILENT, queue_of("FAILED", "exit 1", end=-1), queue_of("RUNNING")])
def test_a_result_that_is_there_is_done_whatever_slurm_says(sweep: Sweep, queue: Snapshot) -> None:
    sweep.submitted()
    sweep.submitted("linear", "813")
    sweep.says("running", age=9999)
    sweep.folder.backbone.touch()
    sweep.measured(61.5)
    sweep.measured(70.1)
    assert sweep.row(queue).state is State.done
    found = sweep.row(queue, "linear")
    assert (found.state, found.metric, found.value) == (State.done, "top1", 70.1)
    assert found.note == f"{RUN.probe.protocol}, imagenet100"


def test_the_headline_of_a_detection_is_the_ap_of_its_boxes(sweep: Sweep) -> None:
    sweep.folder.backbone.touch()
    named = {"task": VOC, "dataset": VOC, "protocol": RUN.detection.protocol(VOC, 8)}
    append(
        sweep.folder.results,
        [
            replace(RESULT, **{"run_id": RUN.id, **named, "metric": metric, "value": value})
            for metric, value in (("seconds_per_iteration", 0.4), ("bbox_AP50", 80.0), ("bbox_AP", 55.0))
        ],
    )
    found = sweep.row(GONE, VOC, entry=False)
    assert (found.state, found.metric, found.value) == (State.done, "bbox_AP", 55.0)


def test_a_result_of_another_protocol_or_data_set_is_not_the_one_that_was_asked_for(sweep: Sweep) -> None:
    sweep.measured(protocol="linear-moco-v1[epochs=99]")
    sweep.submitted("linear", "813")
    assert sweep.row(GONE, "linear").state is State.died
    sweep.submitted("linear@caltech101", "814")
    assert sweep.row(GONE, "linear@caltech101").state is State.died
    sweep.measured(dataset="caltech101")
    assert sweep.row(GONE, "linear@caltech101").state is State.done


def test_a_process_that_is_gone_from_this_machine_is_dead_at_once(sweep: Sweep) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    sweep.says("running", age=1, host=HERE, pid=gone.pid)
    assert sweep.row(GONE, entry=False).state is State.died
    sweep.says("running", age=1, host=HERE, pid=os.getpid())
    assert sweep.row(GONE, entry=False).state is State.running
    sweep.says("running", age=STALE_SECONDS + 1, host=HERE, pid=os.getpid())
    assert sweep.row(GONE, entry=False).state is State.died


def test_a_run_that_no_launcher_knows_is_told_by_its_folder(sweep: Sweep) -> None:
    assert (sweep.row(GONE).state, sweep.row(GONE).note) == (State.planned, "not started")
    sweep.says("interrupted")
    assert sweep.row(GONE).state is State.interrupted
    sweep.says("failed", error="no root")
    assert (sweep.row(GONE).state, sweep.row(GONE).note) == (State.failed, "no root")


def test_a_status_that_cannot_be_read_is_told_and_breaks_nothing(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.folder._status("pretrain").write_text('{"state": "runn')
    found = sweep.row(queue_of("RUNNING"))
    assert found.state is State.failed
    assert found.note.startswith("its status cannot be read: ")


def test_an_intent_is_planned_unless_slurm_has_a_job_of_its_name(sweep: Sweep) -> None:
    entry = sweep.submitted(job="")
    assert sweep.row(GONE).state is State.planned
    assert sweep.row(SILENT).state is State.unknown
    assert sweep.row(queue_of("PENDING", "Priority", name=entry.submission, **PENDING)).state is State.queued
    assert sweep.row(queue_of("PENDING", "Priority", name="another", **PENDING)).state is State.planned


def test_the_child_of_a_failed_pretraining_says_so(sweep: Sweep) -> None:
    sweep.submitted("linear", "813", after=("812",))
    found = sweep.row(queue_of("CANCELLED", "DependencyNeverSatisfied", job="813", end=-1), "linear")
    assert (found.state, found.note) == (State.cancelled, "not started: what it builds on failed")


def test_an_array_cancelled_as_a_whole_is_found_by_its_tasks(sweep: Sweep) -> None:
    sweep.submitted(job="812_7")
    assert sweep.row(queue_of("CANCELLED", "by 0", job="812", end=-1)).state is State.cancelled


def test_progress_pace_and_time_left_are_those_of_the_last_log_lines(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.says("running", step=60, steps=100, attempt=3)
    lines = [{"step": s, "time": 9.0, "images_per_second": 1.0} for s in range(10)]
    lines += [{"step": s, "time": t, "images_per_second": 64 / t} for s, t in enumerate([0.5, 0.4, 0.5, 0.8, 0.5])]
    sweep.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 60, "ti')
    found = sweep.row(queue_of("RUNNING"))
    assert (found.eta_s, found.images_per_second, found.attempt) == (40 * 0.5, 128.0, 3)
    sweep.folder.metrics.write_text(json.dumps({"step": 1, "time": float("nan")}) + "\n")
    assert pace(sweep.folder.metrics) == (None, None)
    assert sweep.row(queue_of("RUNNING")).eta_s is None


def test_the_pace_of_a_task_is_its_own(sweep: Sweep) -> None:
    sweep.submitted("linear@caltech101", "812")
    sweep.says("running", task="linear@caltech101", step=5, steps=10)
    sweep.folder.metrics.write_text(json.dumps({"step": 1, "time": 99.0}) + "\n")
    for dataset, seconds in (("imagenet100", 7.0), ("caltech101", 2.0)):
        path = sweep.folder.path / "probes" / f"{dataset}-linear-v1" / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"step": 1, "time": seconds}) + "\n")
    assert sweep.row(queue_of("RUNNING"), "linear@caltech101").eta_s == 10.0


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (600, "10 min"), (7199, "120 min"), (12240, "3.4 h")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ------------------------------------------------------------------------------------------------ the queue


class FakeSlurm:
    """squeue, sacct and scancel that print what a test has written, and keep what they were asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        for name in ("squeue", "sacct", "scancel"):
            script = place / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {place}/calls\n'
                f"[ -e {place}/{name}.err ] && {{ cat {place}/{name}.err >&2; exit 1; }}\n"
                f'[ "$SLURM_TIME_FORMAT" = %s ] || exit 3\ncat {place}/{name}.out 2>/dev/null; exit 0\n'
            )
            script.chmod(0o755)

    def says(self, command: str, *lines: str) -> None:
        (self.place / f"{command}.out").write_text("".join(line + "\n" for line in lines))

    def fails(self, command: str, message: str) -> None:
        (self.place / f"{command}.err").write_text(message + "\n")

    @property
    def calls(self) -> list[str]:
        log = self.place / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.place}{os.pathsep}{os.environ['PATH']}")
    return fake


LONG = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd-linear-5f0c3a9e"


def test_a_line_of_squeue_is_a_job() -> None:
    (job,) = parse_squeue(f"812_3|{LONG}|RUNNING|None|1795396320|1795396420|n[1-2]|gpu|2|\n")
    assert job == QueuedJob("812_3", LONG, "RUNNING", "", 1795396320.0, 1795396420.0, "n[1-2]", "gpu", 2)
    (job,) = parse_squeue("9|x|PENDING|Priority|N/A|NONE||gpu|0|")
    assert (job.waiting, job.live, job.start, job.end, job.reason) == (True, True, None, None, "Priority")
    for line in ("", "slurm_load_jobs error", "1|2|3"):
        assert list(parse_squeue(line)) == []


def test_a_line_of_sacct_is_how_a_job_ended() -> None:
    (job,) = parse_sacct("812|x|CANCELLED by 0|0:0|1795396320|1795396420|n1|gpu")
    assert (job.state, job.reason, job.live, job.end) == ("CANCELLED", "by 0", False, 1795396420.0)
    (job,) = parse_sacct("812|x|FAILED|0:9|1|Unknown|n1|gpu")
    assert (job.state, job.reason, job.end) == ("FAILED", "signal 9", None)
    (job,) = parse_sacct("812|x|FAILED|2:0|1|2|n1|gpu")
    assert job.reason == "exit 2"


def test_arrays_are_written_out() -> None:
    assert expand("812") == ["812"]
    assert expand("812_[0-2,7%2]") == ["812_0", "812_1", "812_2", "812_7"]
    assert expand("812_[0-2,...]") == ["812_[0-2,...]"]
    assert [job.job for job in parse_sacct("8_[1-2]|x|PENDING|0:0|Unknown|Unknown||gpu")] == ["8_1", "8_2"]


def test_the_queue_is_asked_once_and_accounting_only_for_what_has_left_it(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "812_0|x|RUNNING|None|1|N/A|n1|gpu|0|")
    slurm.says("sacct", "811|x|TIMEOUT|0:0|1|2|n1|gpu", "812_0|x|FAILED|0:0|1|2|n1|gpu")
    found = snapshot(["812_0"])
    assert (len(slurm.calls), found.jobs["812_0"].state) == (1, "RUNNING")
    found = snapshot(["812_0", "811", "812_1", "812_2"])
    assert [call.split()[0] for call in slurm.calls[1:]] == ["squeue", "sacct"]
    assert "--jobs=811,812 " in slurm.calls[-1]
    assert (found.jobs["811"].state, found.accounting) == ("TIMEOUT", True)
    assert found.jobs["812_0"].state == "RUNNING"  # squeue is nearer to the truth


def test_without_accounting_there_is_squeue_alone(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "812|x|PENDING|Priority|N/A|N/A||gpu|0|")
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    found = snapshot(["811", "812"])
    assert (found.accounting, found.trouble, set(found.jobs)) == (False, "", {"812"})


def test_a_queue_that_does_not_answer_is_trouble_and_not_empty(slurm: FakeSlurm, sweep: Sweep) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    found = snapshot(["811"])
    assert found.trouble == "squeue: slurm_load_jobs error: Unable to contact slurm controller"
    assert slurm.calls == [slurm.calls[0]]
    assert found.live(sweep.submitted()) is None


def test_where_there_is_no_slurm_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot(["811"]).trouble == "there is no squeue on this machine"


def test_local_jobs_live_by_their_process(sweep: Sweep) -> None:
    name = "table1-linear-5f0c3a9e"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name])
    try:
        local = {"executor": "local", "submission": name, "host": HERE}
        assert GONE.live(sweep.submitted(job=str(process.pid), **local)) is True
        # The same id, given to another process since.
        assert GONE.live(sweep.submitted(job=str(process.pid), **{**local, "submission": "older"})) is False
        assert GONE.live(sweep.submitted(job=str(process.pid), **{**local, "host": ELSEWHERE})) is None
    finally:
        process.kill()
        process.wait()
    assert GONE.live(sweep.submitted(job=str(process.pid), **local)) is False


# ------------------------------------------------------------------------------------------------ the commands


@pytest.fixture
def runs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder above the sweep, and the place where the command is called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: NOW)
    return tmp_path / "runs"


def test_status_of_several_sweeps_takes_one_look_at_the_queue(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted(job="812_0")
    sweep.says("running", step=30, steps=100)
    other = Sweep(runs / "table2", tiny(changes={"seed": 1}))
    other.submitted(job="700")
    slurm.says("squeue", f"812_0|x|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|0|")
    slurm.says("sacct", f"700|x|TIMEOUT|0:0|1|{NOW - 9:.0f}|n1|gpu")
    told = json.loads(salmask("status", "--json").out)
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]
    assert [one["sweep"] for one in told] == ["table1", "table2"]
    assert [one["counts"] for one in told] == [{"running": 1}, {"died": 1}]
    assert told[0]["jobs"][0]["run"] == "mocov2 s0"
    one = json.loads(salmask("status", "table1", "--json").out)
    assert (one["folder"], one["trouble"]) == ("runs/table1", "")
    assert [call.split()[0] for call in slurm.calls[2:]] == ["squeue"]
    shown = salmask("status", "table2").out
    assert "runs/table2: 1 died" in shown
    assert "never said a word, Slurm says TIMEOUT" in shown


def test_status_without_a_launcher_asks_no_scheduler(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.says("running", step=25, steps=100)
    shown = salmask("status").out
    assert "runs/table1: 1 running" in shown
    assert "25 % (25/100)" in shown
    assert slurm.calls == []


def test_a_colleagues_sweep_is_looked_up_among_the_colleagues_jobs(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted()
    monkeypatch.setattr(Path, "owner", lambda path: "ada")
    salmask("status", "table1")
    assert "--user=ada" in slurm.calls[0].split()


def test_the_doctor_of_a_cluster_needs_one(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused("doctor", "--cluster", "slurm") == (
        "there is no squeue on this machine; mend: call this on a login node of the cluster"
    )
    assert refused("doctor", "--cluster", "local").endswith("mend: salmask doctor, without --cluster")


def test_watching_ends_when_nothing_is_under_way(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted()
    sweep.says("running", step=30, steps=100)
    slurm.says("squeue", f"812|x|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|0|")
    waited = []
    sleep = time.sleep

    def finish(seconds: float) -> None:
        if seconds < 1:  # subprocess waits for the end of its process
            sleep(seconds)
            return
        waited.append(seconds)
        if len(waited) == 2:
            sweep.folder.backbone.touch()

    monkeypatch.setattr(time, "sleep", finish)
    ended = salmask("status", "table1", "--watch", "--every", "7")
    assert (ended.code, waited) == (0, [7.0, 7.0])
    assert "1 done" in ended.out
    assert refused("status", "table1", "--watch", "--json").startswith("--watch and --json exclude each other")


@pytest.mark.parametrize("word", ["table1", "runs/table1", "mocov2/s0", "RUN", "table1/mocov2/s0", "ID", "runs/RUN"])
def test_sweeps_and_runs_have_several_names(sweep: Sweep, runs: Path, word: str) -> None:
    word = word.replace("runs/RUN", f"runs/table1/{sweep.key}").replace("RUN", sweep.key).replace("ID", RUN.id[:5])
    found = find_place(word)
    assert found.sweep.resolve() == sweep.place
    assert found.folder == ("" if word.endswith("table1") else sweep.key)


def test_names_that_mean_nothing_or_too_much_are_refused(sweep: Sweep, runs: Path) -> None:
    assert refused("status", "tabel1") == "no sweep or run 'tabel1'; did you mean 'table1'? known: table1"
    second = Sweep(runs / "table2")
    second.folder.prepare(RUN)
    assert refused("logs", RUN.id[:6]).startswith(f"'{RUN.id[:6]}' names 2 runs; mend: one of runs/table1/mocov2/s0-")
    (runs.parent / "elsewhere").mkdir()
    os.chdir(runs.parent / "elsewhere")
    assert refused("status") == "there are no sweeps in runs; mend: salmask sweep first, or name a folder"


def test_logs_are_those_of_the_newest_attempt_that_has_begun(sweep: Sweep, runs: Path) -> None:
    assert refused("logs", "mocov2/s0").endswith("has printed nothing yet; mend: salmask status runs/table1")
    own = sweep.folder.logs / "20260101" / "x.log"
    own.parent.mkdir(parents=True)
    own.write_text("by hand\n")
    assert log_files(sweep.ledger, sweep.key) == [own]
    first, second = sweep.submitted(job="812"), sweep.submitted(job="820", submission="second")
    for entry, text in ((first, "old\n"), (second, "one\ntwo\nthree\n")):
        for stream in ("err", "out"):
            path = entry.log(sweep.place, stream)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if stream == "err" else "submitit INFO\n")
    sweep.submitted(job="830", submission="third")  # waits, and has printed nothing
    ended = salmask("logs", "mocov2/s0", "-n", "2")
    assert ended.out.splitlines() == [
        f"==> {second.log(Path('runs/table1'), 'err')} <==",
        "two",
        "three",
        f"==> {second.log(Path('runs/table1'), 'out')} <==",
        "submitit INFO",
    ]


def test_following_asks_slurm_seldom_and_ends_with_the_job(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = sweep.submitted().log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text("one\n")
    sweep.says("running", step=30, steps=100)
    slurm.says("squeue", f"812|x|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|0|")
    clock, sleep = [0.0], time.sleep

    def wait(seconds: float) -> None:
        if seconds < logs.POLL_SECONDS:  # subprocess waits for the end of its process
            sleep(seconds)
            return
        clock[0] += seconds
        if clock[0] == 11:
            log.write_text("one\ntwo\n")
            sweep.folder.backbone.touch()

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ended = salmask("logs", "mocov2/s0", "-f")
    assert (ended.code, clock[0], len(slurm.calls)) == (0, 15.0, 3)  # at 0, 5 and 10 s; at 15 s it is done
    assert ended.out.splitlines()[1:] == ["one", "two"]


def test_following_goes_on_across_requeues_and_resubmissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0)
    first, second = tmp_path / "1_0_log.err", tmp_path / "2_0_log.err"
    first.write_text("a\nb\nhalf")
    now: dict[str, Any] = {"files": [first], "over": False}
    told = follow(lambda: now["files"], 1, ended=lambda: now["over"])
    assert next(told) == (first, "b\n")  # half a line is not told yet
    with first.open("a") as file:
        file.write(" done\nrequeued\n")  # Slurm appends
    assert next(told) == (first, "half done\nrequeued\n")
    second.write_text("anew\n1\n2\n3\n")
    now["files"] = [second]
    assert next(told) == (second, "anew\n1\n2\n3\n")
    second.write_text("x")  # begun anew
    now["over"] = True
    assert next(told) == (second, "x\n")
    assert next(told, None) is None


def test_the_last_line_is_not_submitits(tmp_path: Path) -> None:
    log = tmp_path / "x.err"
    assert last_line(log) == ""
    log.write_text("x" * 9000 + "\nValueError: no\n\nsubmitit WARNING (2026) - Bypassing signal SIGTERM\n")
    assert last_line(log) == "ValueError: no"


def test_cancelling_is_one_call_with_every_job_that_lives(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    other = Sweep(sweep.place, tiny(changes={"seed": 1}))
    sweep.submitted(job="812_0")
    sweep.submitted("linear", job="813_0")
    sweep.submitted("knn", job="", submission="killed-launcher")
    other.folder.prepare(other.run)
    other.submitted(job="812_1")
    slurm.says(
        "squeue",
        "812_0|x|RUNNING|None|1|N/A|n1|gpu|0|",
        "812_1|x|COMPLETED|None|1|2|n1|gpu|0|",
        "813_0|x|PENDING|Dependency|N/A|N/A||gpu|0|",
        "99|killed-launcher|PENDING|Priority|N/A|N/A||gpu|0|",
        "77|another's|RUNNING|None|1|N/A|n1|gpu|0|",
    )
    told = salmask("cancel", "table1", "--dry-run")
    assert told.out == "would cancel 3 jobs: 812_0, 813_0, 99\n"
    assert [call.split()[0] for call in slurm.calls] == ["squeue"]
    assert salmask("cancel", "table1").out == "cancelled 3 jobs: 812_0, 813_0, 99\n"
    assert slurm.calls[2:] == ["scancel 812_0 813_0 99"]
    assert json.loads(salmask("cancel", str(other.folder.path), "--json").out)["cancelled"] == []
    assert len(slurm.calls) == 4
    slurm.fails("scancel", "scancel: error: Kill job error: Access/permission denied")
    assert "Access/permission denied; mend: try again, or scancel by hand" in salmask("cancel", "table1").err


def test_cancelling_a_local_job_asks_its_process_to_stop(sweep: Sweep, runs: Path, slurm: FakeSlurm) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "mine"])
    try:
        sweep.submitted(job=str(process.pid), executor="local", submission="mine", host=HERE)
        sweep.submitted("linear", job="4711", executor="local", submission="theirs", host=ELSEWHERE)
        told = salmask("cancel", "table1")
        assert told.out.splitlines() == [
            f"cancelled 1 jobs: {process.pid}",
            f"started on another machine, end it there: {ELSEWHERE}: 4711",
        ]
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()


@pytest.fixture
def relaunched(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, str]]]:
    """What would have been handed over: (method and seed, task)."""
    graphs: list[set[tuple[str, str]]] = []

    def submit(graph: Graph, *_: Any) -> Outcome:
        graphs.append({(f"s{job.run.seed}", job.task) for job in graph.jobs})
        return Outcome()

    monkeypatch.setattr(retry, "submit", submit)
    monkeypatch.setattr(retry, "take", lambda *_, **__: None)
    return graphs


def test_retry_hands_over_what_ended_badly_with_what_builds_on_it(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, relaunched: list[set[tuple[str, str]]]
) -> None:
    assert salmask("retry", "table1", "--failed").out == "nothing to retry\n"
    failed, cancelled, fine = (Sweep(sweep.place, tiny(changes={"seed": seed})) for seed in (1, 2, 3))
    for index, one in enumerate((failed, cancelled, fine)):
        one.folder.prepare(one.run)
        one.submitted(job=f"812_{index}", cluster="slurm")
        one.submitted("linear", job=f"813_{index}", after=(f"812_{index}",), cluster="slurm")
    fine.folder.backbone.touch()
    failed.says("failed", error="no root")
    slurm.says("squeue", "813_2|x|RUNNING|None|1|N/A|n1|gpu|0|")
    slurm.says(
        "sacct",
        "812_1|x|CANCELLED by 0|0:0|1|2|n1|gpu",
        "813_0|x|CANCELLED|0:0|Unknown|2||gpu",
        "813_1|x|CANCELLED by 0|0:0|1|2||gpu",
    )
    shown = salmask("retry", "table1", "--failed", "--dry-run").out.splitlines()
    assert shown == ["pretrain mocov2 s1: failed, no root"]
    assert relaunched == []
    assert salmask("retry", "table1", "--failed").code == 0
    assert relaunched.pop() == {("s1", "pretrain"), ("s1", "linear")}
    assert salmask("retry", "table1").code == 0
    assert relaunched.pop() >= {("s1", "pretrain"), ("s1", "linear"), ("s2", "pretrain"), ("s2", "linear")}
    slurm.fails("squeue", "down")
    assert refused("retry", "table1").startswith("what became of the jobs cannot be known: squeue: down; mend: later")


def test_retry_names_the_profile_that_it_cannot_find(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted(cluster="nowhere")
    assert refused("retry", "table1").endswith("or name the profile that the sweep was launched by: --cluster FILE")


def make_leftovers(sweep: Sweep) -> None:
    """A finished run with everything that there is."""
    for task, job in (("pretrain", "812"), ("linear", "813")):
        entry = sweep.submitted(task, job)
        (sweep.ledger.logs / entry.submission).mkdir(parents=True)
        entry.log(sweep.place).write_text("x" * 10)
        (sweep.ledger.logs / entry.submission / f"{job}_submission.sh").write_text("PYTHONPATH=/x/code/abc123")
    sweep.says("done")
    sweep.says("done", task="linear")
    sweep.folder.backbone.write_bytes(b"weights")
    sweep.measured()
    sweep.folder.metrics.write_text("{}\n")
    for name in ("checkpoints/step_1.pth", "probes/x-linear/checkpoints/step_2.pth", "features/y.npy", ".lock"):
        (sweep.folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (sweep.folder.path / name).write_bytes(b"x" * 1000)
    (sweep.folder.path / "probes/x-linear/metrics.jsonl").write_text("{}\n")
    (sweep.folder.path / ".run.yaml.abcd_123").write_text("torn")
    os.utime(sweep.folder.path / ".run.yaml.abcd_123", (NOW - 9999, NOW - 9999))
    (sweep.place / "code" / "abc123").mkdir(parents=True)
    (sweep.place / "code" / "abc123" / "x.py").write_text("1")
    (sweep.place / "code" / "abc123.diff").write_text("difference")


KEPT = {"run.yaml", "status.json", "status-linear.json", "backbone.pth", "results.jsonl", "metrics.jsonl"} | {
    "probes/x-linear/metrics.jsonl"
}


def test_cleaning_takes_what_nobody_needs_and_no_result(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    make_leftovers(sweep)
    before = files_below(sweep.place)
    told = salmask("clean", "table1", "--dry-run")
    assert told.out.splitlines()[-1].startswith("would remove 8 things, ")
    assert files_below(sweep.place) == before
    ended = json.loads(salmask("clean", "table1", "--json").out)
    assert (ended["removed"], sum(item["bytes"] for item in ended["found"])) == (True, 3 * 1000 + 1000 + 4 + 1 + 2 * 35)
    assert files_below(sweep.folder.path) == KEPT
    assert files_below(sweep.place / "code") == {"abc123.diff"}
    assert json.loads(salmask("clean", "table1", "--json").out)["found"] == []
    assert {job["state"] for job in json.loads(salmask("status", "table1", "--json").out)["jobs"]} == {"done"}


@pytest.mark.parametrize(
    ("queue", "kept"),
    [
        (queue_of("RUNNING", job="813"), {"checkpoints", "probes", "features", ".lock", "code", "logs-813"}),
        (SILENT, {"checkpoints", "probes", "features", ".lock", "code", "logs-812", "logs-813"}),
        (GONE, {"probes", "features", ".lock", "logs-813"}),  # it can go on from its checkpoints
    ],
)
def test_cleaning_leaves_alone_what_a_job_may_still_use(
    sweep: Sweep, runs: Path, queue: Snapshot, kept: set[str]
) -> None:
    make_leftovers(sweep)
    sweep.folder.results.unlink()  # the probe is not done
    sweep.says("running", task="linear", age=9999)
    found = {str(item.path.relative_to(sweep.place)) for item in leftovers(sweep.ledger, queue)}
    names = {
        "checkpoints": f"{sweep.key}/checkpoints",
        "probes": f"{sweep.key}/probes/x-linear/checkpoints",
        "features": f"{sweep.key}/features",
        ".lock": f"{sweep.key}/.lock",
        "code": "code/abc123",
        "logs-812": "logs/sweep-pretrain-812",
        "logs-813": "logs/sweep-linear-813",
    }
    assert {name for name, path in names.items() if path not in found} == kept


def test_what_cannot_be_removed_is_one_line(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_leftovers(sweep)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    assert refused("clean", "table1").endswith("Permission denied; mend: its permissions")
