"""The state of a job, told by its folder, the ledger and the queue."""

import json
import os
from dataclasses import replace
from typing import Any

import pytest
from json_rows import write_rows
from presence_samples import close
from sweep_samples import ELSEWHERE, GONE, NOW, SILENT, Sweep, queue_of
from training_samples import tiny

from slurm.monitoring.queue import QueuedJob, QueueSnapshot
from slurm.monitoring.states import State, never_starts
from slurm.monitoring.status import ids_to_ask, pace, rows
from slurm.sweep_folder.ledger import Ledger
from slurm.targets import runs_of, sweeps

PENDING = {"start": None}


# ------------------------------------------------------------------------------------------------ what a job is doing


@pytest.mark.parametrize(
    ("queue", "state", "note"),
    [
        (queue_of("PENDING", "Priority", **PENDING), "queued", "Priority: jobs of higher priority go first"),
        (queue_of("PENDING", "Dependency", **PENDING), "queued", "Dependency: waits for the job that it builds on"),
        (queue_of("PENDING", "JobHeldUser", **PENDING), "queued", "JobHeldUser: held; mend: scontrol release 812"),
        (
            queue_of("PENDING", "DependencyNeverSatisfied", **PENDING),
            "queued",
            "DependencyNeverSatisfied: what it builds on failed; mend: the cause of that first, then salmask retry",
        ),
        (queue_of("PENDING", "QOSMaxGRESPerUser", **PENDING), "queued", "QOSMaxGRESPerUser: a limit of your account"),
        # The profile's `begin`; such a job used to be told as put back in the queue.
        (queue_of("PENDING", "BeginTime", **PENDING), "queued", "BeginTime: may not start before its time"),
        (
            queue_of("PENDING", "JobHoldMaxRequeue", **PENDING),
            "queued",
            "JobHoldMaxRequeue: held, its nodes failed to start it again and again; mend: scontrol release 812",
        ),
        (
            queue_of("PENDING", "launch_failed_requeued_held", **PENDING),
            "queued",
            "launch_failed_requeued_held: no node could start it; mend: salmask doctor, then scontrol release 812",
        ),
        (
            queue_of("SPECIAL_EXIT", "job requeued in held state", **PENDING),
            "queued",
            "job requeued in held state: held by whoever put it back in the queue; mend: scontrol release 812",
        ),
        (queue_of("RUNNING", start=-30), "starting", "on n3"),
        (queue_of("RUNNING", start=-300), "silent", "on n3 for 5 min without a heartbeat; mend: salmask logs"),
        (queue_of("RUNNING", start=None), "starting", "on n3"),
        (queue_of("COMPLETED", end=-80), "starting", "on n3, it ended well, its files do not show"),
        (queue_of("COMPLETED", end=-99), "died", "never wrote a heartbeat, Slurm says COMPLETED; last line: boom"),
        (queue_of("CONFIGURING", start=-300), "starting", "on n3, its nodes are being prepared"),
        (
            queue_of("SUSPENDED", start=-9000),
            "preempted",
            "on n3, suspended until Slurm or whoever suspended it resumes it",
        ),
        (queue_of("CANCELLED", "by 0", end=-9), "cancelled", "by 0"),
        (
            queue_of("FAILED", "exit 1", end=-9),
            "died",
            "never wrote a heartbeat, Slurm says FAILED, exit 1; last line: boom",
        ),
        (GONE, "died", "never wrote a heartbeat, Slurm no longer knows it; last line: boom"),
        (SILENT, "unknown", "squeue: slurm_load_jobs error: Unable to contact slurm controller"),
    ],
)
def test_of_a_job_that_has_not_begun_the_queue_tells(sweep: Sweep, queue: QueueSnapshot, state: str, note: str) -> None:
    log = sweep.submitted().log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text("Traceback\nboom\nsubmitit ERROR (2026) - Submitted job triggered an exception\n\n")
    row = sweep.row(queue)
    assert (row.state, row.note[: len(note)]) == (state, note)


@pytest.mark.parametrize(
    ("queue", "age", "state", "note"),
    [
        (queue_of("RUNNING"), 5, "running", ""),
        (queue_of("RUNNING"), 119, "running", ""),
        (queue_of("RUNNING"), 121, "silent", "no heartbeat for 2 min; mend: salmask cancel, then salmask retry"),
        (queue_of("SUSPENDED"), 9000, "preempted", "on n3, suspended until Slurm"),
        (queue_of("RUNNING", start=-60), 119, "running", ""),  # the heartbeat of the attempt before, and recent enough
        (queue_of("RUNNING", start=-60), 150, "starting", "on n3"),
        (queue_of("PENDING", "BeginTime", start=60), 20, "preempted", "BeginTime: was put back in the queue, starts"),
        (queue_of("PENDING", "Resources", start=None), 5000, "preempted", "Resources: waits for free resources"),
        (queue_of("TIMEOUT", end=-2), 5, "died", "Slurm says TIMEOUT"),
        (queue_of("OUT_OF_MEMORY", "signal 9", end=-2), 5, "died", "Slurm says OUT_OF_MEMORY, signal 9"),
        (queue_of("NODE_FAIL", end=-100), 110, "died", "Slurm says NODE_FAIL"),
        (queue_of("CANCELLED", "by 0", end=-2), 5, "cancelled", "by 0"),
        (queue_of("FAILED", end=-500), 5, "running", ""),  # started by hand after the job's end
        (queue_of("FAILED", end=-20), 16, "died", "Slurm says FAILED"),  # its own last heartbeat: clocks differ
        (queue_of("FAILED", end=-20), 14, "running", ""),
        (GONE, 5, "running", ""),
        (GONE, 119, "running", ""),
        (GONE, 121, "died", "no heartbeat for 2 min"),
        (GONE, 3 * 3600, "died", "never wrote a heartbeat, Slurm no longer knows it"),  # an earlier submission
        (SILENT, 5, "running", ""),
        (SILENT, 121, "died", "no heartbeat for 2 min"),
    ],
)
def test_a_running_job_is_alive_by_its_heartbeat_and_dead_by_slurms_word(
    sweep: Sweep, queue: QueueSnapshot, age: float, state: str, note: str
) -> None:
    sweep.submitted()
    sweep.says("running", age=age, step=30, steps=100, job="812")
    row = sweep.row(queue)
    assert (row.state, row.note[: len(note)]) == (state, note)
    assert (row.step, row.steps, row.silent_s, row.host) == (30, 100, age, ELSEWHERE)


@pytest.mark.parametrize(
    ("job", "process", "state"),
    [("812", "", "running"), ("812", "811", "running"), ("812_3", "", "running"), ("812_3", "815", "preempted")],
)
def test_who_runs_what_waits_in_the_queue_is_no_attempt_of_it(sweep: Sweep, job: str, process: str, state: str) -> None:
    """A run that was started by hand used to be shown as put back in the queue."""
    sweep.submitted(job=job)
    sweep.says("running", age=5, job=process)
    row = sweep.row(queue_of("PENDING", "Priority", job=job))
    assert row.state == state
    assert (row.note == f"on {ELSEWHERE}, while {job} waits in the queue") is (state == "running")


@pytest.mark.parametrize(
    ("status", "queue", "state", "note"),
    [
        ({"state": "failed", "error": "no root"}, queue_of("FAILED", "exit 2", end=-2), "failed", "no root"),
        ({"state": "failed", "error": "no root"}, GONE, "failed", "no root"),
        ({"state": "failed", "error": "no root"}, queue_of("COMPLETING"), "failed", "no root"),
        # Submitted again: the new job's state is told, not the old failure.
        ({"state": "failed", "error": "no root", "age": 4000}, queue_of("PENDING", **PENDING), "queued", ""),
        ({"state": "failed", "error": "no root", "age": 4000}, queue_of("RUNNING", start=-9), "starting", "on n3"),
        # Of this attempt, although slightly older than its submission or start: clocks may differ by 5 s.
        ({"state": "failed", "error": "no root", "age": 3604}, GONE, "failed", "no root"),
        ({"state": "failed", "error": "no root", "age": 3606}, GONE, "died", "never wrote a heartbeat"),
        ({"state": "failed", "error": "no root", "age": 13}, queue_of("RUNNING", start=-9), "failed", "no root"),
        ({"state": "failed", "error": "no root", "age": 15}, queue_of("RUNNING", start=-9), "starting", "on n3"),
        ({"state": "interrupted"}, queue_of("PENDING", "BeginTime"), "preempted", "BeginTime: was put back"),
        ({"state": "interrupted"}, queue_of("COMPLETING"), "starting", "on n3"),
        ({"state": "interrupted"}, queue_of("PREEMPTED", end=-2), "interrupted", "Slurm says PREEMPTED"),
        ({"state": "interrupted", "step": 0}, GONE, "interrupted", "begins anew when started again"),
        ({"state": "interrupted", "step": 3}, GONE, "interrupted", "begins anew when started again"),
        ({"state": "interrupted"}, queue_of("CANCELLED", "by 0", end=-2), "cancelled", "by 0"),
        ({"state": "done"}, GONE, "failed", "it says that it is done, but its result is not there"),
        ({"state": "done"}, queue_of("COMPLETED", end=-80), "starting", "on n3, it ended well, its files do not show"),
        ({"state": "running", "age": 81}, queue_of("COMPLETED", end=-80), "starting", "on n3, it ended well, its"),
        ({"state": "running", "age": 99}, queue_of("COMPLETED", end=-99), "died", "Slurm says COMPLETED"),
        ({"state": "running", "age": 9}, queue_of("COMPLETED", end=-80), "running", ""),  # somebody started it by hand
        ({"state": "done"}, queue_of("COMPLETED", end=-99), "failed", "it says that it is done, but its result is not"),
    ],
)
def test_what_a_job_said_at_its_end_is_told(
    sweep: Sweep, status: dict[str, Any], queue: QueueSnapshot, state: str, note: str
) -> None:
    sweep.submitted()
    sweep.says(**status)
    row = sweep.row(queue)
    assert (row.state, row.note[: len(note)]) == (state, note)


def test_a_run_that_no_launcher_knows_is_told_by_its_folder(sweep: Sweep) -> None:
    assert (sweep.row(GONE).state, sweep.row(GONE).note) == (State.planned, "not started")
    sweep.says("interrupted")
    assert sweep.row(GONE).state is State.interrupted
    sweep.says("failed", error="no root")
    assert (sweep.row(GONE).state, sweep.row(GONE).note) == (State.failed, "no root")


def test_runs_of_one_method_and_seed_are_told_apart_by_their_ids(sweep: Sweep) -> None:
    other = Sweep(sweep.place, tiny(changes={"optimization.lr": 0.5}))
    sweep.submitted()
    assert [row.run for row in rows(sweep.ledger, GONE, NOW)] == ["mocov2 s0"]
    other.submitted(job="813")
    sweep.submitted("linear", "814")
    names = {sweep.key: f"mocov2 s0-{sweep.run.id}", other.key: f"mocov2 s0-{other.run.id}"}
    table = rows(sweep.ledger, GONE, NOW)
    assert len(table) == 3
    assert all(row.run == names[row.folder] for row in table)


def test_a_status_that_cannot_be_read_is_told_and_breaks_nothing(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.status_file().write_text('{"state": "runn')
    # Slurm has the job, so it is no failure: a retry leaves it alone, and its next heartbeat writes the status anew.
    states = {"PENDING": State.queued, "RUNNING": State.silent, "FAILED": State.failed}
    assert {word: sweep.row(queue_of(word)).state for word in states} == states
    assert sweep.row(SILENT).note == SILENT.trouble
    row = sweep.row(queue_of("RUNNING"))
    assert row.note.startswith(f"{sweep.status_file()} cannot be read (JSONDecodeError: ")


def test_results_that_cannot_be_read_are_told_of_their_own_jobs_alone(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.submitted("linear", "813")
    sweep.folder.results.mkdir()
    other = Sweep(sweep.place, tiny(changes={"seed": 1}))
    other.says("running")
    table = {(row.run, row.task): row for row in rows(sweep.ledger, queue_of("RUNNING"), NOW)}
    unread = table["mocov2 s0", "linear"]
    assert (unread.state, unread.job) == (State.unknown, "813")
    assert str(sweep.folder.results) in unread.note
    assert table["mocov2 s0", "pretrain"].state is State.silent
    assert table["mocov2 s1", "pretrain"].state is State.running
    sweep.submitted("knn", "4711", executor="local")
    sweep.submitted("logistic", "")
    assert ids_to_ask(sweep.ledger) == ["812", "813"]  # neither a process nor an intent has an id of Slurm's


def test_a_folder_that_is_closed_to_this_user_is_no_reason_to_tell_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Sweep(sweep.place, tiny(changes={"seed": 1}))
    other.says("running")
    close(sweep.folder.path, monkeypatch)
    states = {row.run: row.state for row in rows(sweep.ledger, GONE, NOW)}
    assert states == {"mocov2 s0": State.unknown, "mocov2 s1": State.running}
    assert [path.name for path in runs_of(sweep.place)] == [other.folder.path.name]
    assert sweeps([sweep.place.parent]) == [sweep.place]


def test_an_intent_is_planned_unless_slurm_has_a_job_of_its_name(sweep: Sweep) -> None:
    entry = sweep.submitted(job="", host=ELSEWHERE)
    assert sweep.row(GONE).state is State.planned
    assert sweep.row(SILENT).state is State.unknown
    assert sweep.row(queue_of("PENDING", "Priority", name=entry.submission, **PENDING)).state is State.queued
    assert sweep.row(queue_of("PENDING", "Priority", name="another", **PENDING)).state is State.planned


def test_the_child_of_a_failed_pretraining_says_so(sweep: Sweep) -> None:
    sweep.submitted("linear", "813", after=("812",))
    # As squeue tells it, and sacct, which does not always keep the reason.
    for reason, start in (("DependencyNeverSatisfied", -600), ("", None)):
        row = sweep.row(queue_of("CANCELLED", reason, job="813", start=start, end=-1), "linear")
        assert (row.state, row.note) == (State.cancelled, "not started: what it builds on failed")


def test_a_child_that_a_person_cancelled_blames_no_parent(sweep: Sweep) -> None:
    """squeue still says why it waited, `Dependency`; if Slurm itself cancelled it, `DependencyNeverSatisfied`."""
    entry = sweep.submitted("linear", "813", after=("812",))
    taken_out = queue_of("CANCELLED", "Dependency", job="813", start=-1, end=-1)
    assert sweep.row(taken_out, "linear").note == "left the queue before it began"
    sweep.ledger.cancelled([entry])
    never_satisfied = queue_of("CANCELLED", "DependencyNeverSatisfied", job="813", start=-1, end=-1)
    for queue in (taken_out, never_satisfied):
        assert sweep.row(queue, "linear").note == "by salmask cancel"


def test_what_a_person_took_out_of_the_queue_has_no_reason_to_wait_any_more(sweep: Sweep) -> None:
    sweep.submitted()
    taken_out = queue_of("CANCELLED", "Priority", start=-1, end=-1)  # its note used to be "Priority"
    assert sweep.row(taken_out).note == "left the queue before it began"
    sweep.says("interrupted", age=5, step=30, steps=100)
    assert sweep.row(taken_out).note == "left the queue before it began again"


def test_what_was_cancelled_while_it_ran_did_not_leave_the_queue_before_it_began(sweep: Sweep) -> None:
    sweep.submitted()
    ended = queue_of("CANCELLED", "RaisedSignal:15(Terminated)", start=-60, end=-1)
    assert sweep.row(ended).note == "RaisedSignal:15(Terminated)"


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ("Job violates: QOSMaxSubmitJobPerUserLimit", "salmask sweep, with --feed"),
        ("Invalid qos specification", "the profile of 'mine', then salmask retry"),
        (
            "Job violates accounting/QOS policy",
            "salmask sweep, with --feed, if your jobs fill the account; else the profile of 'mine', then salmask retry",
        ),
    ],
)
def test_what_slurm_refused_is_planned_and_says_why(sweep: Sweep, words: str, mend: str) -> None:
    """Room was said to be the mend of whatever Slurm refused, even of a partition that there is not."""
    entry = sweep.submitted(job="")
    sweep.ledger.refused([entry], words)
    row = sweep.row(GONE)
    assert (row.state, row.note) == (State.planned, f"Slurm did not take it: {words}; mend: {mend}")


def test_a_report_that_a_person_cancelled_before_it_began_blames_no_parent(sweep: Sweep) -> None:
    entry = sweep.submitted("report", "814", folder=".", run="", after=("812",))
    queue = queue_of("CANCELLED", "by 1000", job="814", name=entry.submission, start=None, end=-1)
    row = next(row for row in rows(sweep.ledger, queue, NOW) if row.task == "report")
    assert (row.state, row.note) == (State.cancelled, "by 1000")


def test_what_left_a_forgetful_queue_before_it_began_was_cancelled_and_did_not_die(sweep: Sweep) -> None:
    """Slurm makes a job's log files as it starts it: an array task without them was cancelled while pending."""
    cancelled = sweep.submitted(job="812_0", submission="array")
    sweep.submitted("linear", job="812_1", submission="array")
    cancelled.log(sweep.place).parent.mkdir(parents=True)
    sweep.place.joinpath("logs", "array", "812_1_0_log.out").touch()
    assert sweep.row(GONE).state is State.cancelled
    assert sweep.row(GONE).note == "left the queue before it began, Slurm no longer knows it"
    assert sweep.row(GONE, "linear").state is State.died
    assert sweep.row(SILENT).state is State.unknown


def test_what_slurm_says_of_an_end_counts_also_where_nothing_was_printed(sweep: Sweep) -> None:
    entry = sweep.submitted()
    (sweep.ledger.logs / entry.submission).mkdir(parents=True)
    assert sweep.row(GONE).state is State.cancelled  # no log files: Slurm never started it
    row = sweep.row(queue_of("NODE_FAIL", end=-2))
    assert (row.state, row.note) == (State.died, "never wrote a heartbeat, Slurm says NODE_FAIL")


def test_where_rank_0_only_lost_a_process_that_one_is_told(sweep: Sweep) -> None:
    log = sweep.submitted().log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text("RuntimeError: Connection closed by peer\nsrun: error: n7: task 1: Killed\n")
    sweep.says("failed", error="RuntimeError: Connection closed by peer")
    ended = queue_of("FAILED", "exit 1", end=-2)
    assert (sweep.row(ended).state, sweep.row(ended).note) == (State.failed, "rank 1 on n7 was killed")
    sweep.says("failed", error="ValueError: no root")  # no other process is to blame
    assert sweep.row(ended).note == "ValueError: no root"
    sweep.says("failed", error="RuntimeError: Connection closed by peer")
    log.write_text("")
    assert sweep.row(ended).note == "RuntimeError: Connection closed by peer"
    assert sweep.row(ended, entry=False).note == "RuntimeError: Connection closed by peer"  # started by hand: no log


def test_an_array_cancelled_as_a_whole_is_found_by_its_tasks(sweep: Sweep) -> None:
    entry = sweep.submitted(job="812_7")
    assert sweep.row(queue_of("CANCELLED", "by 0", job="812", name=entry.submission, end=-1)).state is State.cancelled


def test_progress_pace_and_time_left_are_those_of_the_last_log_lines(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.says("running", step=60, steps=100, attempt=3)
    lines = [{"step": s, "time": 9.0, "images_per_second": 1.0} for s in range(10)]
    lines += [{"step": s, "time": t, "images_per_second": 64 / t} for s, t in enumerate([0.5, 0.4, 0.6, 0.8, 0.5])]
    write_rows(sweep.folder.metrics, lines)
    with sweep.folder.metrics.open("a") as file:
        file.write('{"step": 60, "ti')
    row = sweep.row(queue_of("RUNNING"))
    assert (row.eta_s, row.images_per_second, row.attempt) == (40 * 0.5, 128.0, 3)
    write_rows(sweep.folder.metrics, [{"step": 1, "time": float("nan")}])
    assert pace(sweep.folder.metrics) == (None, None)
    assert sweep.row(queue_of("RUNNING")).eta_s is None


def test_the_pace_of_a_task_is_its_own(sweep: Sweep) -> None:
    entry = sweep.submitted("linear@caltech101", "812")
    sweep.says("running", task="linear@caltech101", step=5, steps=10)
    sweep.folder.metrics.write_text(json.dumps({"step": 1, "time": 99.0}) + "\n")
    earlier = ("caltech101-linear-v1[epochs=9]", 5.0)  # by another protocol, and finished
    for changed, (name, seconds) in enumerate((earlier, ("caltech101-linear-v1", 2.0), ("imagenet100-linear-v1", 7.0))):
        path = sweep.folder.path / "probes" / name / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"step": 1, "time": seconds}) + "\n")
        os.utime(path, (changed, changed))
    assert sweep.row(queue_of("RUNNING", name=entry.submission), "linear@caltech101").eta_s == 10.0


def test_lines_of_no_submission_are_passed_over(sweep: Sweep) -> None:
    entry = sweep.submitted("linear", "813", devices=("0", "GPU-5f/1"))
    text = sweep.ledger.path.read_text()
    sweep.ledger.path.write_text('["no", "object"]\n{"devices": [3]}\n' + text)
    assert Ledger(sweep.place).submissions() == [entry]


def test_an_interrupted_job_with_a_checkpoint_goes_on_from_it(sweep: Sweep) -> None:
    """Its steps used to count as a checkpoint, even if it was killed before it had saved one."""
    sweep.submitted()
    sweep.says("interrupted", step=3)
    place = sweep.folder.checkpoints / "step_00000002.pth"
    place.parent.mkdir()
    place.touch()
    row = sweep.row(GONE)
    assert (row.state, row.note) == (State.interrupted, "resumes from its last checkpoint when started again")


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        *((name, False) for name in ("Resources", "Priority", "JobHeldUser", "QOSMaxJobsPerUserLimit", "AssocGrpGRES")),
        *((name, False) for name in ("AssocGrpCPURunMinutesLimit", "QOSGrpGRESRunMinutes", "QOSMaxGRESPerUser")),
        *((name, False) for name in ("ReqNodeNotAvail", "ReqNodeNotAvail, Reserved for maintenance", "Reservation")),
        *((name, True) for name in ("QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerNode")),
        *((name, True) for name in ("QOSMinGRES", "QOSGrpWallLimit", "QOSGrpGRESMinutes", "ReservationDeleted")),
        ("ReqNodeNotAvail,_UnavailableNodes:n1,n2", True),
    ],
)
def test_what_never_starts_by_itself_is_told_from_what_waits(reason: str, *, never: bool) -> None:
    job = QueuedJob("812", "probe", "PENDING", reason, partition="gpu")
    assert never_starts(job) is never
    # With several partitions the reason may be that of one alone; and a running job has started.
    assert not never_starts(replace(job, partition="gpu,long"))
    assert not never_starts(replace(job, state="RUNNING"))
