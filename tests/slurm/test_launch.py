"""Launching on a stand-in for Slurm's commands; tests/slurm/test_slurm_sweeps.py launches on a real one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stand_in_slurm import StandInSlurm
from training_samples import TINY, StopBefore, make_training, tiny

from baselines import resolve
from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.runs.stopping import STOP, Stop
from slurm.jobs.calls import read_call
from slurm.jobs.job import Call, go_back, preempted
from slurm.jobs.orders import write_order
from slurm.planning.graph import Graph
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.launch import submit
from slurm.sweep_call import SweepCall
from slurm.sweep_folder.ledger import Ledger

CLUSTER = Cluster("test", resources=Resources(cpus=1, time=30))


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return expand(Sweep("s", (Part(("mocov2",), (0, 1), settings=TINY),)), tmp_path / "s", resolve, {})


def line(stand_in: StandInSlurm, job: str, state: str = "PENDING", reason: str = "Resources") -> str:
    """A job's line of squeue, with the name that its script gave it."""
    name = stand_in.option(int(job.partition("_")[0]), "job-name")
    return f"{job}|{name}|{state}|{reason}|N/A|N/A||low|"


def launch(graph: Graph, **options: Any) -> dict[str, str]:
    """`TASK SEED` -> id of each submitted job."""
    outcome = submit(graph, CLUSTER, lambda: None, PROGRAM, Console(quiet=True), **options)
    seeds = {folder: folder.partition("/s")[2][:1] for folder, _ in outcome.submitted}
    return {f"{task} {seeds[folder]}".strip(): job for (folder, task), job in outcome.submitted.items()}


def flags(script: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in script.read_text().splitlines() if line.startswith(f"#SBATCH --{name}=")]


def test_a_sweep_of_pretrainings_alone_that_is_done_has_no_tables(tmp_path: Path) -> None:
    part = Part(("mocov2",), (0,), tasks=(), settings=TINY)
    graph = expand(Sweep("s", (part,)), tmp_path / "s", resolve, {})
    (job,) = graph.jobs
    job.folder.path.mkdir(parents=True)
    job.folder.backbone.touch()
    shown: list[Any] = []
    call = SweepCall(
        lambda *words: shown.append(words), PROGRAM, Console(quiet=True), 1, allow_dirty=False, as_json=False
    )
    call.carry_out(graph, CLUSTER, dry_run=False)
    assert shown == []


def test_a_sweep_goes_out_as_arrays_each_after_the_last(stand_in: StandInSlurm, graph: Graph) -> None:
    submitted = launch(graph)
    assert list(submitted.values()) == ["101_0", "101_1", "102_0", "102_1", "103"]
    dependencies = [flags(stand_in.place / f"script-{number}.sh", "dependency") for number in (101, 102, 103)]
    assert dependencies == [[], ["aftercorr:101"], ["afterany:101:102"]]
    assert [flags(stand_in.place / f"script-{n}.sh", "kill-on-invalid-dep") for n in (101, 102, 103)] == [
        [],
        ["yes"],
        ["yes"],
    ]
    ledger = Ledger(graph.sweep_folder)
    entries = {entry.key: entry for entry in ledger.submissions()}
    assert set(entries) == {*map(graph.key, graph.jobs), (".", "report")}
    probe = entries[graph.key(graph.jobs[3])]
    assert (probe.job, probe.after, probe.protocols) == ("102_1", ("101_1",), graph.jobs[3].protocols)
    assert len(ledger.path.read_text().splitlines()) == 10  # an intent and an id for each job
    for job in graph.jobs:
        assert (job.folder.path / "jobs" / f"{job.task}.yaml").exists()
        submission = entries[graph.key(job)]
        call = read_call(ledger.logs / submission.submission, int(submission.job.partition("_")[2]))
        assert call == Call(job.folder.path, job.task, PROGRAM.task, CLUSTER.attempts)
        assert not list(ledger.logs.rglob("*.pkl"))


def test_a_second_launch_submits_what_is_neither_done_nor_queued(stand_in: StandInSlurm, graph: Graph) -> None:
    launch(graph)
    assert launch(graph) == {}
    ended = line(stand_in, "101_1", "FAILED", "NonZeroExitCode")
    stand_in.tell("queue", line(stand_in, "101_0", "RUNNING", "None"), ended)
    again = launch(graph)
    assert set(again) == {"pretrain 1", "linear 0", "linear 1", "report"}
    after = {e.key: e.after for e in Ledger(graph.sweep_folder).newest().values()}
    assert after[graph.key(graph.jobs[1])] == ("101_0",)  # the one that still runs
    assert after[graph.key(graph.jobs[3])] == (again["pretrain 1"],)
    scripts = [flags(path, "dependency") for path in sorted(stand_in.place.glob("script-*.sh"))[3:]]
    assert sorted(map(str, scripts[1:3])) == sorted([str(["afterok:101_0"]), str([f"afterok:{again['pretrain 1']}"])])


def test_a_number_that_is_another_jobs_now_stands_for_none_of_ours(stand_in: StandInSlurm, graph: Graph) -> None:
    """A cluster that was set up anew counts from the beginning; its jobs used to be taken for the sweep's."""
    launch(graph)
    stand_in.tell("queue", "101_0|another-pretrain-5f0c3a9e|RUNNING|None|N/A|N/A||low|", *stand_in.queue[1:])
    again = launch(graph)
    assert set(again) == {"pretrain 0", "linear 0", "report"}
    dependencies = [flags(path, "dependency") for path in sorted(stand_in.place.glob("script-*.sh"))[3:]]
    assert dependencies[:2] == [[], [f"afterok:{again['pretrain 0']}"]]


def test_children_of_a_part_of_an_array_wait_each_for_its_own(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = expand(Sweep("s", (Part(("mocov2",), (0, 1, 2), settings=TINY),)), tmp_path / "s", resolve, {})
    launch(graph)
    folder = graph.jobs[0].folder
    folder.backbone.touch()
    stand_in.tell("queue", *(line(stand_in, job, "RUNNING", "None") for job in ("101_1", "101_2")))
    again = launch(graph)
    assert again == {"linear 0": "104", "linear 1": "105_1", "linear 2": "105_2", "report": "106"}
    dependencies = [flags(stand_in.place / f"script-{number}.sh", "dependency") for number in (104, 105, 106)]
    assert dependencies == [[], ["aftercorr:101"], ["afterany:104:101:105"]]
    assert flags(stand_in.place / "script-105.sh", "array") == [
        "1-2%2"
    ]  # the indices of their parents, under one throttle


def test_a_job_whose_parent_failed_for_good_is_replaced(stand_in: StandInSlurm, graph: Graph) -> None:
    launch(graph)
    stand_in.tell("queue", *(line(stand_in, job, reason="DependencyNeverSatisfied") for job in ("102_0", "102_1")))
    assert set(launch(graph)) == {"pretrain 0", "pretrain 1", "linear 0", "linear 1", "report"}


def test_a_launch_without_an_answer_leaves_only_its_locks(stand_in: StandInSlurm, graph: Graph) -> None:
    (stand_in.place / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match="cannot tell what is queued already"):
        launch(graph)
    assert {path.name for path in graph.sweep_folder.iterdir()} == {".launch.lock", ".sbatch.lock"}


def test_slurm_that_refuses_or_does_not_answer_is_one_line(stand_in: StandInSlurm, graph: Graph) -> None:
    stand_in.tell("faults", "fail:Batch job submission failed: Invalid qos specification")
    with pytest.raises(UserError, match=r"sbatch refused s-pretrain-\w+: .*Invalid qos .*; mend: the profile"):
        launch(graph)
    assert not list(Ledger(graph.sweep_folder).logs.iterdir())
    squeue = stand_in.place / "squeue"
    answering = squeue.read_text()
    squeue.write_text('#!/bin/sh\necho "Unable to contact slurm controller" >&2; exit 1\n')
    silence = r"cannot tell what is queued already \(squeue: Unable .*\); mend: try again when Slurm answers"
    with pytest.raises(UserError, match=silence):
        launch(graph)
    squeue.write_text(answering)
    assert len(launch(graph)) == 5
    (stand_in.place / "sbatch").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(stand_in.place))
        with pytest.raises(UserError, match="there is no sbatch on this machine; mend: launch from a login node"):
            launch(graph)


def ordered(tmp_path: Path, attempts: int = 3) -> Call:
    run = tiny()
    folder = RunFolder.of(run, tmp_path)
    write_order(run, folder, "pretrain")
    return Call(folder.path, "pretrain", PROGRAM.task, attempts)


def test_a_job_begins_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call = ordered(tmp_path, attempts=3)
    calls: list[int] = []
    monkeypatch.setattr("repro.jobs.carry_out", lambda *_, **__: calls.append(1))
    for restarts in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        call()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    with pytest.raises(UserError, match="gave up after 3 requeues; mend: look at the logs, then salmask retry"):
        call()
    assert len(calls) == 3
    status = RunFolder(call.folder).status("pretrain")
    assert status is not None
    assert status.state == "failed"
    assert status.error.startswith("gave up after 3 requeues; mend: ")


CANCELLED = "JobId=812 JobState=COMPLETING Reason=None PreemptEligibleTime=2026-11-27T08:00:00 PreemptTime=None"
SIGNALLED = "JobId=812 JobState=RUNNING Reason=None PreemptEligibleTime=2026-11-27T08:00:00 PreemptTime=None"
PREEMPTED = "JobId=812 JobState=RUNNING Reason=None\n  PreemptEligibleTime=Unknown PreemptTime=2026-11-27T08:00:00"


@pytest.mark.parametrize(
    ("number", "restarts", "requeued", "shown"),
    [
        (signal.SIGUSR2, 0, True, ""),
        (signal.SIGUSR2, 1, True, ""),
        (signal.SIGUSR2, 2, False, ""),
        (signal.SIGTERM, 0, False, ""),
        (signal.SIGTERM, 0, False, CANCELLED),
        (signal.SIGTERM, 0, False, SIGNALLED),
        (signal.SIGTERM, 0, True, PREEMPTED),
        (signal.SIGTERM, 2, False, PREEMPTED),
    ],
)
def test_usr2_sends_a_job_back_to_the_queue_and_term_or_the_last_attempt_does_not(
    stand_in: StandInSlurm,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    restarts: int,
    requeued: bool,
    shown: str,
) -> None:
    """TERM alone comes from a person, unless Slurm announces a preemption by it."""
    stand_in.tell("job", *shown.splitlines())

    def carry_out(*_: Any, **__: Any) -> None:
        STOP.install()
        os.kill(os.getpid(), number)

    monkeypatch.setattr("repro.jobs.carry_out", carry_out)
    for name, value in (("ARRAY_JOB_ID", "812"), ("ARRAY_TASK_ID", "3"), ("RESTART_COUNT", str(restarts))):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(STOP, "signal", 0)
    call = ordered(tmp_path, attempts=3)
    with pytest.raises(SystemExit) as end:
        call()
    assert end.value.code == (0 if requeued else 128 + number)
    status = RunFolder(call.folder).status("pretrain")
    if restarts == 2:
        assert status is not None
        assert (status.state, status.error.partition(";")[0]) == ("failed", "interrupted 3 times, gave up")
    else:
        assert status is None
    asked = ["scontrol show job 812_3"] * (number == signal.SIGTERM)
    assert stand_in.calls("scontrol") == [*asked, *["scontrol requeue 812_3"] * requeued]


def test_another_rank_of_a_job_that_is_asked_to_end_leaves_the_answer_to_the_first(
    stand_in: StandInSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit) as end:
        preempted()
    assert end.value.code == 0
    assert stand_in.calls("scontrol") == []


@pytest.mark.parametrize(("patience", "status"), [(60.0, 0), (-1.0, 1)])
def test_a_busy_controller_is_asked_again_to_take_a_job_back(
    stand_in: StandInSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    patience: float,
    status: int,
) -> None:
    busy = "Socket timed out on send/recv operation"
    stand_in.tell("scontrol_troubles", busy, busy)
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setattr("slurm.jobs.job.REQUEUE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("slurm.jobs.job.REQUEUE_PATIENCE_SECONDS", patience)
    with pytest.raises(SystemExit) as end:
        go_back()
    assert end.value.code == status
    assert len(stand_in.calls("scontrol")) == (1 if status else 3)
    said = capsys.readouterr()
    assert said.err.count("cannot go back to the queue: scontrol: error: Socket timed out") == 1
    assert ("812 went back to the queue" in said.out) is not bool(status)


def test_a_job_that_slurm_has_taken_back_by_itself_is_in_the_queue(
    stand_in: StandInSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a preemption without grace time, the log used to say that the job cannot go back, until it was killed."""
    stand_in.tell("scontrol_troubles", "Job is pending execution")
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    with pytest.raises(SystemExit) as end:
        go_back()
    assert end.value.code == 0
    assert capsys.readouterr() == ("812 went back to the queue\n", "")
    assert len(stand_in.calls("scontrol")) == 1


def test_nothing_interrupts_a_job_on_its_way_back_to_the_queue(
    stand_in: StandInSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preemption sends USR2 and TERM at once; the call of scontrol must finish all the same."""
    requeued = stand_in.place / "requeued"
    script = f"#!/bin/sh\nkill -TERM $PPID; kill -USR2 $PPID; sleep 0.2; touch {requeued}\n"
    (stand_in.place / "scontrol").write_text(script)
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setattr(STOP, "signal", 0)
    STOP.install()
    with pytest.raises(SystemExit) as end:
        go_back()
    assert end.value.code == 0
    assert requeued.exists()


class Ask(StopBefore):
    """Sends a signal in the middle of a step."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            os.kill(os.getpid(), signal.SIGUSR2)


@pytest.mark.parametrize(("step", "code"), [(3, 128 + signal.SIGUSR2), (4, 128 + signal.SIGUSR2), (6, 0)])
def test_a_training_that_is_asked_to_stop_saves_the_step_it_is_at(tmp_path: Path, step: int, code: int) -> None:
    """Two steps an epoch: step 3 is within an epoch, step 4 ends one, step 6 ends the training."""
    run = tiny(changes={"machine.checkpoint_every": 10**6})
    folder = RunFolder.of(run, tmp_path)
    before = {handled: signal.getsignal(handled) for handled in (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM)}
    ended: object = 0
    try:
        STOP.install()
        make_training(run, folder, Ask(step)).run()
    except SystemExit as end:
        ended = end.code
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
        STOP.signal = 0
    assert ended == code
    assert checkpoints(folder.checkpoints)[0].name == f"step_{step:08d}.pth"


def test_outside_of_training_and_the_second_time_a_signal_ends_at_once() -> None:
    stop = Stop()
    with pytest.raises(SystemExit):
        stop._ask(signal.SIGTERM, None)
    stop = Stop()
    before = signal.getsignal(signal.SIGALRM)
    try:
        with stop.after_a_step():
            stop._ask(signal.SIGTERM, None)
            assert stop.signal == signal.SIGTERM
            assert signal.alarm(0) > 0  # the grace period runs
            with pytest.raises(SystemExit):
                stop._ask(signal.SIGUSR2, None)
    finally:
        signal.signal(signal.SIGALRM, before)
