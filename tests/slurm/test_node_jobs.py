"""Jobs that belong to no sweep are never left in the queue."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from launch_samples import CLUSTER, graph_for, launch
from stand_in_slurm import StandInSlurm

from repro.doctor.needs import Needs
from repro.drill import on_cluster
from repro.drill.on_cluster import ClusterDrill
from repro.drill.stories import Story
from repro.errors import UserError
from slurm import start
from slurm.jobs.calls import write_calls
from slurm.jobs.node_bench import NodeBench
from slurm.jobs.node_probe import NodeProbe
from slurm.monitoring.queue import QueuedJob, QueueSnapshot
from slurm.nodes.node_job import NoReportError, carried_out, wait_for_report
from slurm.submission.batches import Batch

QUEUED = "812|doctor|PENDING|Priority|N/A|N/A||low|"
SILENT = "Unable to contact slurm controller"


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("ended", "error"), [(interrupt, KeyboardInterrupt), (terminate, SystemExit)])
def test_a_job_that_nobody_waits_for_any_more_is_cancelled(
    stand_in: StandInSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: Callable[[], None],
    error: type[BaseException],
) -> None:
    stand_in.tell("queue", QUEUED)
    monkeypatch.setattr("slurm.nodes.node_job.time.sleep", lambda _: ended())
    with pytest.raises(error):
        wait_for_report("812", tmp_path / "report.json", 1e12)
    assert stand_in.calls("scancel") == ["scancel 812"]


def test_a_slurm_that_does_not_answer_is_not_one_that_is_elsewhere(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """Users who called it on a login node used to be told to go to a login node."""
    call = NodeBench((), tmp_path / "report.json", 1, 1, "m:f")
    batch = Batch("bench-1", "bench", ((".", "bench"),), CLUSTER.resources)
    for trouble, mend in (
        (SILENT, "try again when Slurm answers"),
        ("fatal: Could not establish a configuration source", "call this on a login node of the cluster"),
    ):
        stand_in.tell("squeue_troubles", trouble)
        with pytest.raises(UserError) as raised:
            carried_out(call, batch, CLUSTER, tmp_path / "files", 0.0)
        assert raised.value.mend == mend


def test_no_job_goes_out_from_a_folder_whose_name_slurm_takes_for_a_pattern(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    """What the job printed used to go to another file, and the job was said to have printed nothing."""
    folder = tmp_path / "50%a" / "files"
    call = NodeBench((), folder / "report.json", 1, 1, "m:f")
    batch = Batch("bench-1", "bench", ((".", "bench"),), CLUSTER.resources)
    with pytest.raises(UserError, match=r"holds '%', by which Slurm .* mend: another scratch in the profile"):
        carried_out(call, batch, CLUSTER, folder, 0.0)
    assert not folder.parent.exists()
    assert not stand_in.calls("sbatch")


@pytest.mark.parametrize("module", ["slurm.jobs.calls", "slurm.nodes.node_job"])
def test_where_the_disk_is_full_no_folder_of_a_job_is_left(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def full(*_: object) -> NoReturn:
        raise UserError("No space left on device", mend="free some space")

    monkeypatch.setattr(f"{module}.write_text", full)
    folder = tmp_path / ".bench" / "files"
    batch = Batch("bench-1", "bench", ((".", "bench"),), CLUSTER.resources)
    with pytest.raises(UserError, match="No space left"):
        carried_out(NodeBench((), folder / "report.json", 1, 1, "m:f"), batch, CLUSTER, folder, 0.0)
    assert (folder.exists(), stand_in.calls("sbatch")) == (False, [])


def test_who_cannot_choose_another_out_is_sent_to_the_profile(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """`salmask doctor --cluster` and `bench step --cluster` have no --out."""
    (tmp_path / "scratch").touch()
    folder = tmp_path / "scratch" / "files"
    batch = Batch("bench-1", "bench", ((".", "bench"),), CLUSTER.resources)
    with pytest.raises(UserError, match=r"scratch is not a folder; mend: choose another scratch in the profile$"):
        carried_out(NodeBench((), folder / "report.json", 1, 1, "m:f"), batch, CLUSTER, folder, 0.0)


def test_a_job_of_which_slurm_never_said_anything_is_cancelled_and_named(
    stand_in: StandInSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.tell("squeue_troubles", SILENT)
    stand_in.tell("scancel_troubles", SILENT)
    wait_for_report("812", tmp_path / "report.json", 0.0)
    assert stand_in.calls("scancel") == ["scancel 812"]
    assert "job 812 may be left in the queue: scancel: error: Unable to contact" in capsys.readouterr().err


def test_a_job_that_runs_longer_than_it_is_waited_for_is_told_as_such(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message used to say that the job printed nothing."""
    monkeypatch.setattr("slurm.nodes.node_job.wait_for_report", lambda *_: QueuedJob("101", "bench", "RUNNING"))
    batch = Batch("bench", "step", ((".", "step"),), CLUSTER.resources)
    call = NodeBench((), tmp_path / "report.json", 2, 1, "a:b")
    with pytest.raises(NoReportError, match=r"^job 101 did not end within 15 min, and was cancelled; mend: wait"):
        carried_out(call, batch, CLUSTER, tmp_path / "bench", 900)


def test_what_did_not_start_in_time_is_told_and_nothing_of_the_job_stays(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch("bench", "step", ((".", "step"),), CLUSTER.resources)
    call, folder = NodeBench((), tmp_path / "report.json", 2, 1, "a:b"), tmp_path / "bench"
    waiting = QueuedJob("101", "bench", "PENDING", "Priority")
    monkeypatch.setattr("slurm.nodes.node_job.wait_for_report", lambda *_: waiting)
    with pytest.raises(NoReportError) as refusal:
        carried_out(call, batch, CLUSTER, folder, 900)
    assert str(refusal.value) == (
        "job 101 did not start within 15 min: Priority: jobs of higher priority go first; "
        "mend: wait longer (--wait), or ask for less in the profile"
    )
    assert not folder.exists()
    monkeypatch.setattr("slurm.nodes.node_job.wait_for_report", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        carried_out(call, batch, CLUSTER, folder, 900)
    assert not folder.exists()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping advances."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("slurm.nodes.node_job.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


OTHER = "another partition, account or QOS in the profile, or ask for less there"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("BadConstraints", "BadConstraints: no node has what the profile asks for; mend: the profile's constraint"),
        ("PartitionDown", "PartitionDown: the partition is down; mend: another one in the profile"),
        ("AssocGrpCPUMinutesLimit", f"AssocGrpCPUMinutesLimit: a limit of your account or QOS; mend: {OTHER}"),
        ("launch_failed_requeued_held", f"launch_failed_requeued_held: no node could start it; mend: {OTHER}"),
    ],
)
def test_what_waiting_does_not_mend_is_not_waited_for(
    stand_in: StandInSlurm, tmp_path: Path, clock: list[float], reason: str, told: str
) -> None:
    """Such a job used to be waited for until the time was up, with the advice to wait longer."""
    batch = Batch("bench", "step", ((".", "step"),), CLUSTER.resources)
    call, folder = NodeBench((), tmp_path / "report.json", 2, 1, "a:b"), tmp_path / "bench"
    stand_in.tell("reason", reason)
    with pytest.raises(NoReportError) as refusal:
        carried_out(call, batch, CLUSTER, folder, 86_400)
    assert str(refusal.value) == f"job 101 would never start, and was cancelled: {told}"
    assert stand_in.calls("scancel") == ["scancel 101"]
    assert not folder.exists()
    assert 30 <= clock[0] - 1000 < 40


def test_a_word_of_a_moment_ends_no_wait(
    stand_in: StandInSlurm, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Slurm starts, nodes that have not registered yet look down; and Slurm may be silent in between."""
    in_vain = QueueSnapshot({"812": QueuedJob("812", "doctor", "PENDING", "PartitionDown")})
    passing = QueueSnapshot({"812": QueuedJob("812", "doctor", "PENDING", "Resources")})
    said = iter([*[in_vain] * 6, passing, *[in_vain] * 4, QueueSnapshot(trouble=SILENT), *[in_vain] * 2])
    asked: list[float] = []

    def snapshot(_: object) -> QueueSnapshot:
        asked.append(clock[0])
        return next(said)

    monkeypatch.setattr("slurm.nodes.node_job.snapshot", snapshot)
    assert wait_for_report("812", tmp_path / "report.json", 1e12) == in_vain.jobs["812"]
    assert len(asked) == 14


def test_a_look_at_a_node_does_not_come_again_for_ever(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(NodeProbe, "__call__", lambda _: looked.append(1))
    write_calls(tmp_path / "probe", {0: NodeProbe(tmp_path, tmp_path / "report.json", 0, 1, "a:b", Needs())})
    for restarts, status in ((0, 0), (2, 0), (3, 2)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        assert start.main(tmp_path / "probe") == status
    assert len(looked) == 2
    assert "gave up after 3 requeues; mend: " in capsys.readouterr().err


def test_a_node_that_lacks_packages_reports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of the node needs these packages too: all that was told of its traceback was that no report came."""
    for module in ("repro.doctor.packages", "slurm.jobs.node_probe"):
        monkeypatch.setattr(f"{module}.PACKAGES", {"missing_a": "a", "missing_b": "b"})
    probe = NodeProbe(tmp_path, tmp_path / "report.json", 0, 1, "missing_a:examine", Needs())
    monkeypatch.setenv("SLURM_PROCID", "1")  # as if on another node: the first process would wait for it
    with pytest.raises(UserError, match=r"^missing_a, missing_b: cannot be imported: No module named 'missing_a'"):
        probe()
    monkeypatch.setenv("SLURM_PROCID", "0")
    probe()
    *packages, _, rest = json.loads((tmp_path / "report.json").read_text())
    assert [(row["check"], row["verdict"]) for row in packages] == [("missing_a", "wrong"), ("missing_b", "wrong")]
    assert packages[0]["mend"] == f"the profile's setup or python: {sys.executable} does not find it on the node"
    assert rest["found"] == "not checked: it needs these packages"


def test_a_drill_that_cannot_begin_is_told_why(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """Users who called it on a login node of a silent Slurm used to be told to go to a login node."""
    stand_in.tell("squeue_troubles", SILENT)
    with pytest.raises(UserError) as silent:
        ClusterDrill(replace(CLUSTER, scratch=str(tmp_path))).run(wait=1.0)
    assert silent.value.mend == "try again when Slurm answers"
    with pytest.raises(UserError, match=r"holds '%', by which Slurm .* mend: another scratch in the profile"):
        ClusterDrill(replace(CLUSTER, scratch=str(tmp_path / "50%a"))).run(wait=1.0)
    assert not stand_in.calls("sbatch")


def test_where_slurm_is_silent_a_drill_keeps_its_folder_and_names_its_jobs(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_cluster, "GONE_SECONDS", 0.0)
    drill = ClusterDrill(replace(CLUSTER, scratch=str(tmp_path)))
    graph = graph_for(drill.place, seeds=1)
    launch(graph)
    drill.stories["requeued"] = Story(graph.sweep_folder, CLUSTER)
    stand_in.tell("squeue_troubles", SILENT, SILENT)
    stand_in.tell("scancel_troubles", SILENT)
    drill._clear()
    assert drill.place.exists()
    said = capsys.readouterr().err
    assert "jobs have not left the queue, as far as Slurm tells: 101 102 103 (scancel: error: Unable" in said
    assert f"mend: scancel each of 101 102 103, and remove {drill.place}" in said
    drill._clear()
    assert not drill.place.exists()
    assert stand_in.ids == []
