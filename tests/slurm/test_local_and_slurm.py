"""A sweep whose jobs are started both on this machine and with Slurm: nothing runs twice, nothing is left behind."""

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from local_samples import HERE_CLUSTER, graph_of, launched
from rich.console import Console
from sweep_samples import FakeSlurm
from training_samples import refused, tiny

from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from slurm.local import processes, starter
from slurm.local.devices import Places
from slurm.local.launch import LocalLaunch
from slurm.local.others import with_slurm
from slurm.monitoring.queue import QueueSnapshot
from slurm.planning.graph import Graph, Job, make_graph
from slurm.profiles.profile import Cluster, Resources
from slurm.sweep_folder.ledger import Ledger, Submission


def with_evaluations(place: Path) -> Graph:
    """Two runs, each to be pretrained and evaluated."""
    runs = [tiny(changes={"seed": seed}) for seed in range(2)]
    return make_graph(
        place, [Job(run, RunFolder.of(run, place), task) for run in runs for task in ("pretrain", "knn")], ()
    )


def sent_to_slurm(graph: Graph, job: Job | None = None) -> Submission:
    """The ledger entry of a job (by default the first one) that another launch handed to Slurm."""
    job = job or graph.jobs[0]
    folder, task = graph.key(job)
    entry = Submission("sweep-pretrain-812", "slurm", "mine", job.run.id, folder, task)
    ledger = Ledger(graph.sweep_folder)
    ledger.intend([entry])
    ledger.submitted([replace(entry, job="812")])
    return entry


def test_what_slurm_has_is_left_to_it_with_what_builds_on_it(
    programs: Path, slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = with_evaluations(tmp_path / "sweep")
    entry = sent_to_slurm(graph)
    slurm.says("squeue", f"812|{entry.submission}|PENDING|Priority|N/A|NONE||gpu|")
    outcome = launched(graph, "record")
    assert [job.name for job in outcome.live] == [graph.jobs[0].name]
    assert outcome.unsent == {graph.key(graph.jobs[1]): "its pretraining is with Slurm"}
    begun = {entry.key for entry in Ledger(graph.sweep_folder).submissions() if entry.executor == "local" and entry.job}
    assert begun == {graph.key(graph.jobs[2]), graph.key(graph.jobs[3])}
    # The job left the queue without a result: the same command starts it here.
    slurm.says("squeue")
    again = launched(graph, "record")
    assert again.live == []
    assert (graph.jobs[0].folder.path / "seen-pretrain-0.json").exists()


def test_a_slurm_that_is_silent_is_no_reason_to_run_a_job_twice(
    programs: Path, slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graph_of(tmp_path / "sweep", 1)
    sent_to_slurm(graph)
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(UserError, match="submitted 1 of these jobs to Slurm, which does not say whether it has them"):
        launched(graph, "record")
    assert not (graph.jobs[0].folder.path / "seen-pretrain-0.json").exists()


@pytest.mark.parametrize("installed", [False, True])
def test_without_any_slurm_a_sweep_from_a_cluster_goes_on_here(
    programs: Path,
    slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    installed: bool,
) -> None:
    """Slurm's programs without a cluster used to be waited for: a sweep from elsewhere never went on there."""
    if installed:
        slurm.fails("squeue", "squeue: fatal: Could not establish a configuration source")
    else:
        monkeypatch.setattr("slurm.monitoring.queue.shutil.which", lambda name: None)
    graph = graph_of(tmp_path / "sweep", 1)
    sent_to_slurm(graph)
    assert len(launched(graph, "record").done) == 1
    assert "but there is no Slurm here: they are started on this machine" in capsys.readouterr().err


CONFIGLESS = """squeue: error: _fetch_child: failed to fetch remote configs: Unable to contact slurm controller
squeue: error: _establish_config_source: failed to fetch config
squeue: fatal: Could not establish a configuration source"""


def test_a_cluster_that_is_away_for_a_while_is_not_taken_for_none(
    programs: Path, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the configuration comes from a controller that restarts, the jobs it had queued used to run here too."""
    monkeypatch.delenv("SLURM_CONF_SERVER", raising=False)
    slurm.fails("squeue", CONFIGLESS)
    graph = graph_of(tmp_path / "sweep", 1)
    sent_to_slurm(graph)
    with pytest.raises(UserError, match=r"failed to fetch .*; mend: the same command again when Slurm answers$"):
        launched(graph, "record")
    assert not (graph.jobs[0].folder.path / "seen-pretrain-0.json").exists()
    monkeypatch.setenv("SLURM_CONF_SERVER", "controller")
    with pytest.raises(UserError, match=r"; where there is no cluster any more, unset SLURM_CONF_SERVER$"):
        launched(graph, "record")


def test_a_full_disk_is_no_fault_of_the_run_that_met_it(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs that wait could not be recorded either: each would fail in turn, and the next launch find all failed."""

    def refuse(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError("cannot write orders: No space left on device", mend="free some space there") from error

    monkeypatch.setattr(starter, "prepare_call", refuse)
    with pytest.raises(UserError, match=r"^cannot write orders: No space left on device; mend: free some space there$"):
        launched(graph_of(tmp_path / "sweep", 2), "record")


def test_a_folder_that_is_damaged_keeps_no_other_job_from_running(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher used to end when it reached the damaged run, and stopped the jobs that ran beside it."""
    graph = with_evaluations(tmp_path / "sweep")
    damaged = graph.jobs[0].folder.path
    damaged.mkdir(parents=True)
    (damaged / "run.yaml").write_text("{torn")
    outcome = launched(graph, "record")
    failed = [outcome.failed[graph.key(job)] for job in graph.jobs[:2]]
    assert re.search(r"run.yaml is no YAML: .*; mend: ", failed[0])
    assert failed[1] == "not started: its pretraining failed"
    assert graph.jobs[2] in outcome.done
    told = capsys.readouterr().err
    assert f"failed  pretrain mocov2 s0: {failed[0]}\n" in told
    assert f"started pretrain mocov2 s1  ({graph.jobs[2].folder.path})\ndone    pretrain mocov2 s1" in told


@pytest.mark.parametrize("finds_out", ["knn", "pretrain"])
def test_results_that_cannot_be_read_keep_no_other_job_from_running(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds_out: str
) -> None:
    """The launcher used to end when it read these results, and stopped the jobs that ran beside it."""
    graph = with_evaluations(tmp_path / "sweep")
    broken = graph.jobs[0].folder.path
    is_done, is_ready = Job.done.fget, Job.ready.fget

    def looked_at(look: Callable[[Job], bool], job: Job) -> bool:
        if job.folder.path == broken and job.task == "knn" and (broken / "seen-pretrain-0.json").exists():
            raise UserError("cannot read results.jsonl: Stale file handle", mend="that file system")
        return look(job)

    name, look = ("done", is_done) if finds_out == "knn" else ("ready", is_ready)
    monkeypatch.setattr(Job, name, property(partial(looked_at, look)))
    outcome = launched(graph, "record")
    failed, *others = [outcome.failed.get(graph.key(job), "") for job in (graph.jobs[1], graph.jobs[0], graph.jobs[2])]
    assert failed == "cannot read results.jsonl: Stale file handle; mend: that file system"
    assert others == ["", ""]
    assert [job in outcome.done for job in graph.jobs] == [True, False, True, False]
    assert graph.key(graph.jobs[3]) in outcome.failed  # it was started, but could not record a result


def test_a_job_whose_id_cannot_be_written_down_does_not_go_on_alone(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up between the start of a process and the ledger's line with its id."""
    started: list[processes.LocalJob] = []

    def start(*arguments: Any) -> processes.LocalJob:
        started.append(processes.start(*arguments))
        return started[0]

    def refuse(ledger: Ledger, entries: object) -> None:
        raise UserError("cannot write jobs.jsonl: No space left on device")

    monkeypatch.setattr(starter, "start", start)
    monkeypatch.setattr(Ledger, "submitted", refuse)
    with pytest.raises(UserError, match="No space left"):
        launched(graph_of(tmp_path / "sweep", 1), "last")
    assert started[0].ranks[0].poll() is not None


def test_of_several_ranks_none_is_left_where_one_cannot_begin(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks: list[subprocess.Popen[bytes]] = []
    begin = processes._start_rank

    def start_rank(folder: Path, rank: int, environment: dict[str, str], group: int) -> "subprocess.Popen[bytes]":
        if rank == 1:
            raise UserError("cannot start a job: Cannot allocate memory")
        ranks.append(begin(folder, rank, environment, group))
        return ranks[0]

    monkeypatch.setattr(processes, "_start_rank", start_rank)
    two = Cluster("local", executor="local", resources=Resources(processes=2))
    with pytest.raises(UserError, match="Cannot allocate memory"):
        launched(graph_of(tmp_path / "sweep", 1), "last", two)
    assert ranks[0].wait(timeout=20) < 0  # killed, as nobody would wait for it


def test_the_number_of_a_launcher_that_ended_may_be_anybodys(tmp_path: Path) -> None:
    """The debug executor runs jobs in its own process, of any command line: only its age tells whose it is."""
    of_a_launcher = Submission(
        "sweep-pretrain-0c1d2e3f", "debug", "debug", "", "mocov2/s0", "pretrain", job=str(os.getpid())
    )
    assert QueueSnapshot().live(of_a_launcher)
    before_this_process = replace(of_a_launcher, time="2026-01-01T00:00:00+00:00")
    assert QueueSnapshot().live(before_this_process) is False


def test_what_goes_to_slurm_while_it_waits_here_is_not_started_here(
    programs: Path, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(tmp_path / "sweep", 2)
    graph.sweep_folder.mkdir()
    here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(2), Console(quiet=True))
    here.queue_up()
    entry = sent_to_slurm(graph)
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    monkeypatch.setattr("slurm.local.others.SILENT_SECONDS", 0.0)
    assert [job for job, _ in here.startable()] == [graph.jobs[1]]  # whether Slurm has the other one is unknown
    assert here.agenda.waiting == list(graph.jobs)
    (slurm.place / "squeue.err").unlink()
    slurm.says("squeue", f"812|{entry.submission}|RUNNING|None|1|2|n1|gpu|")
    assert [job for job, _ in here.startable()] == [graph.jobs[1]]
    assert (here.agenda.waiting, here.agenda.outcome.live) == ([graph.jobs[1]], [graph.jobs[0]])


def test_of_what_slurm_refused_or_gave_back_it_is_not_asked(slurm: FakeSlurm, tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "sweep", 3)
    ledger = Ledger(graph.sweep_folder)
    declined, cancelled, superseded = (sent_to_slurm(graph, job) for job in graph.jobs)
    ledger.refused([declined], "Invalid qos specification")
    ledger.cancelled([cancelled])
    ledger.superseded([superseded])
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    assert with_slurm(ledger, map(graph.key, graph.jobs), Console(quiet=True)) == set()
    assert slurm.calls == []


def test_a_silent_slurm_is_asked_once_in_a_while_for_all_that_went_to_it(
    programs: Path, slurm: FakeSlurm, tmp_path: Path
) -> None:
    """Each round used to ask for each job, for up to a minute each, during which nothing else here was looked after."""
    graph = graph_of(tmp_path / "sweep", 3)
    graph.sweep_folder.mkdir()
    here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(3), Console(quiet=True))
    here.queue_up()
    for job in graph.jobs[:2]:
        sent_to_slurm(graph, job=job)
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    for _ in range(2):
        assert [job for job, _ in here.startable()] == [graph.jobs[2]]
    assert len(slurm.calls) == 1


@pytest.mark.parametrize("launched_there", [False, True])
def test_what_runs_elsewhere_is_waited_for_and_not_started_here(
    programs: Path, tmp_path: Path, launched_there: bool
) -> None:
    """The run was started by hand, or by the launcher of another machine on a shared disk."""
    graph = graph_of(tmp_path / "sweep", 2)
    job, ledger = graph.jobs[0], Ledger(graph.sweep_folder)
    job.folder.prepare(job.run)
    job.folder.set_status("running", host="elsewhere")
    folder, task = graph.key(job)
    there = Submission("sweep-pretrain-1", "local", "local", "", folder, task, job="77", host="elsewhere")
    if launched_there:
        ledger.submitted([there])
    here = LocalLaunch(graph, (), HERE_CLUSTER, PROGRAM, Places(2), Console(quiet=True))
    here.queue_up()
    assert (ledger.newest()[there.key] == there) is launched_there
    assert [job for job, _ in here.startable()] == [graph.jobs[1]]
    assert here.agenda.waiting == list(graph.jobs)
    job.folder.set_status("failed")
    assert [job for job, _ in here.startable()] == list(graph.jobs)


def test_a_copy_of_a_sweep_leaves_the_originals_jobs_alone(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copied ledger names the original's jobs: `cancel` used to end them, and `retry` took them for the copy's."""
    graph = graph_of(tmp_path / "sweep", 1)
    launched(graph, "record")
    shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
    line = f"{tmp_path / 'copy'} is a copy of {tmp_path / 'sweep'}, whose jobs its jobs.jsonl names; mend: use "
    with pytest.raises(UserError) as refusal:
        launched(graph_of(tmp_path / "copy", 1), "record")
    assert str(refusal.value).startswith(line)
    assert refused("cancel", str(tmp_path / "copy")).startswith(line)
    (tmp_path / "copy" / "jobs.jsonl").unlink()
    assert len(launched(graph_of(tmp_path / "copy", 1), "record").skipped) == 1
    # A sweep that was moved is not a copy, and through a link it is the same folder.
    (tmp_path / "sweep").rename(tmp_path / "moved")
    assert len(launched(graph_of(tmp_path / "moved", 2), "record").done) == 1
    (tmp_path / "other").symlink_to(tmp_path / "moved")
    assert len(launched(graph_of(tmp_path / "other", 2), "record").skipped) == 2


def test_whether_a_sweep_was_moved_from_a_place_that_is_closed_a_person_says(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system is gone, or a colleague's folder closed: the message used to ask for rights nobody could give."""
    graph = graph_of(tmp_path / "my sweep", 1)
    launched(graph, "record")
    order = tmp_path / "my sweep" / "jobs" / "report.json"
    order.write_text(json.dumps({"tables": [], "sweep": f"/{'x' * 300}"}))
    line = f"whether {tmp_path / 'my sweep'} was moved or is a copy, with jobs of another, cannot be told: /xxx"
    refusal = refused("cancel", str(tmp_path / "my sweep"))
    assert refusal.startswith(line)
    assert refusal.endswith(f"; mend: if it was moved: rm '{order}'; a sweep writes it anew")
    order.unlink()
    assert len(launched(graph, "record").skipped) == 1
