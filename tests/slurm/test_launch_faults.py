"""Launching under faults: sbatch fails, is wrong or slow, launchers are killed, limits are reached, settings change."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from launch_samples import CLUSTER, REFUSED, all_once, graph_for, launch
from places import SUPPORT
from rich.console import Console
from stand_in_slurm import StandInSlurm
from training_samples import TINY
from waiting import wait_until
from yaml_samples import write_yaml

from repro.doctor.needs import Needs
from repro.errors import UserError
from repro.jobs import PROGRAM
from slurm.monitoring.queue import snapshot
from slurm.nodes.probe import probe
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.adoption import POLL_SECONDS, SETTLING_SECONDS, found_again, settled_queue
from slurm.submission.handover import NO_PARENT
from slurm.submission.launch import submit
from slurm.sweep_folder.ledger import REPORT, Ledger, Submission

SLOW = "fail:Batch job submission failed: Socket timed out on send/recv operation"
LIMIT = "QOSMaxSubmitJobPerUserLimit"


def test_an_sbatch_that_fails_now_and_then_is_tried_again(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", SLOW, SLOW, "ok", "fail:Unable to contact slurm controller (connect failure)")
    outcome = launch(graph)
    assert not outcome.unsent
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3 + 3


def test_a_job_that_was_accepted_although_sbatch_timed_out_is_not_submitted_again(
    stand_in: StandInSlurm,
    tmp_path: Path,
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", "accept:Socket timed out on send/recv operation")
    launch(graph)
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3


def test_a_slurm_that_stays_silent_loses_and_doubles_nothing(
    stand_in: StandInSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", "ok", *[SLOW] * 5)
    outcome = launch(graph)
    assert len(outcome.submitted) == 4
    assert set(outcome.unsent) == {*map(graph.key, graph.jobs), graph.report} - set(outcome.submitted)
    assert "Socket timed out" in outcome.unsent_words
    monkeypatch.setattr("slurm.submission.adoption.SETTLING_SECONDS", 0.0)
    launch(graph)
    assert all_once(graph, stand_in)


@pytest.mark.parametrize("answer", ["Submitted batch job {}", "{};far", "welcome to job 3\n{}", "job 3 is down", "101"])
def test_whatever_sbatch_prints_the_id_of_an_accepted_job_is_found(
    stand_in: StandInSlurm,
    tmp_path: Path,
    answer: str,
) -> None:
    """The last two answers hold no id, or that of another job: the queue then finds the job by its name."""
    graph = graph_for(tmp_path)
    stand_in.tell("faults", *(f"print:{answer.format(number)}".splitlines()[-1] for number in (101, 102, 103)))
    launch(graph)
    assert sorted(stand_in.ids) == sorted([f"10{a}_{n}" for a in (1, 2) for n in range(4)] + ["103"])
    assert all_once(graph, stand_in)


def test_at_a_limit_what_has_room_goes_out_and_the_rest_later(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=5)
    stand_in.tell("room", "3")
    outcome = launch(graph)
    assert len(outcome.submitted) == 3
    assert {task for _, task in outcome.submitted} == {"pretrain"}
    assert len(outcome.unsent) == 5 + 2 + 1
    assert LIMIT in outcome.unsent_words
    states = {entry.refused for entry in Ledger(graph.sweep_folder).submissions() if not entry.job}
    assert all(LIMIT in words for words in states)
    stand_in.tell("room", "8")  # room for children of the queued jobs, and for the others' parents
    assert graph.report in launch(graph).unsent
    assert len(stand_in.ids) == 8
    stand_in.tell("room", "100")
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)
    entries = Ledger(graph.sweep_folder).newest()
    for job in graph.jobs:  # in whichever array it is, each job waits for its own parent
        parent = graph.parent(job)
        if parent is not None:
            entry = entries[graph.key(job)]
            assert entry.after == (entries[graph.key(parent)].job,)
            dependency = stand_in.option(int(entry.job.partition("_")[0]), "dependency")
            kind, _, target = dependency.partition(",")[0].partition(":")  # the rest is its lane's
            number = entry.job.partition("_")[2]
            assert entry.after[0] == (f"{target}_{number}" if kind == "aftercorr" else target)
    report = int(entries[graph.report].job)
    assert set(stand_in.option(report, "dependency").split(":")[1:]) == {
        entry.job.partition("_")[0] for key, entry in entries.items() if key != graph.report
    }


def test_a_folder_that_cannot_be_removed_ends_no_launch(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a refused submission: NFS keeps a file there while another process has it open."""
    rmdir = os.rmdir

    def busy(path: str, **place: int) -> None:
        if "-pretrain-" in str(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        rmdir(path, **place)

    monkeypatch.setattr(os, "rmdir", busy)
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("room", "1")
    assert len(launch(graph).submitted) == 1


def test_a_limit_of_one_qos_keeps_no_jobs_of_another(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """Evaluations on a CPU partition used to wait until all pretrainings were submitted, which can take days."""
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("faults", f"fail:{LIMIT}", "ok", f"fail:{LIMIT}")
    cluster = replace(CLUSTER, tasks={"linear": replace(CLUSTER.resources, qos="cpu")})
    outcome = submit(graph, cluster, lambda: None, PROGRAM, Console(quiet=True))
    assert sorted(task for _, task in outcome.submitted) == ["linear", "pretrain"]
    assert outcome.has_room_later


def test_arrays_that_are_too_long_for_slurm_are_split(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=5)
    stand_in.tell("max_array", "2")
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)


def test_a_slurm_that_does_not_say_how_long_arrays_may_be_gets_them_all_the_same(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    (stand_in.place / "scontrol").unlink()
    (stand_in.place / "scontrol").symlink_to("/nowhere")
    graph = graph_for(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(stand_in.place))
        assert not launch(graph).unsent
    assert all_once(graph, stand_in)


def test_a_refusal_stops_only_what_builds_on_it_and_is_told_once(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path)
    told = io.StringIO()
    console = Console(file=told)
    stand_in.tell("faults", REFUSED)
    with pytest.raises(
        UserError, match=r"sbatch refused s-pretrain-\w+: .*Invalid qos specification; mend: the profile"
    ):
        submit(graph, CLUSTER, lambda: None, PROGRAM, console)
    assert "sbatch refused" not in told.getvalue()
    stand_in.tell("faults", "ok", REFUSED)
    outcome = submit(graph, CLUSTER, lambda: None, PROGRAM, console)
    assert Counter(task for _, task in outcome.submitted) == {"pretrain": 4}
    assert told.getvalue().count("sbatch refused") == 1
    assert Counter(task for _, task in outcome.unsent) == {"linear": 4, REPORT: 1}
    assert NO_PARENT not in outcome.unsent.values()


def test_a_probe_that_is_refused_or_unanswered_is_one_line(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """A refused probe used to leave its files behind; those of an unanswered one stay, as it may still start."""
    cluster = replace(CLUSTER, scratch=str(tmp_path))
    for faults, words, left in (
        ([REFUSED], "sbatch refused the probe: .*qos", 0),
        ([SLOW] * 5, "Slurm does not answer: .*out", 1),
    ):
        stand_in.tell("faults", *faults)
        with pytest.raises(UserError, match=words):
            probe(cluster, PROGRAM, needs=Needs(), nodes=0, wait=0.0)
        assert len([*(tmp_path / ".doctor").iterdir()]) == left


def test_sbatch_gets_nothing_of_the_job_that_it_is_called_in(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "7")
    cluster = replace(CLUSTER, scratch=str(tmp_path))
    for call in (
        lambda: launch(graph_for(tmp_path)),
        lambda: probe(cluster, PROGRAM, needs=Needs(), nodes=0, wait=0.0),
    ):
        call()
        assert [name for name in stand_in.environment if name.startswith("SLURM_")] == ["SLURM_CONF"]
        (stand_in.place / "environment").unlink()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {support!r})
from launch_samples import graph_for, launch
launch(graph_for(Path({place!r})))
"""


def start_launch(place: Path) -> "subprocess.Popen[bytes]":
    code = KILLED.format(support=str(SUPPORT), place=str(place))
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


@pytest.mark.end_to_end
def test_killed_while_sbatch_works_nothing_is_submitted_twice(stand_in: StandInSlurm, tmp_path: Path) -> None:
    stand_in.tell("faults", "sleep:3")
    killed = start_launch(tmp_path)
    wait_until(lambda: bool(stand_in.calls("sbatch")), "sbatch is called", 60)
    killed.kill()  # its sbatch goes on running
    killed.wait()
    graph = graph_for(tmp_path)
    assert stand_in.ids == []
    launch(graph)
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3


@pytest.mark.parametrize("where", ["queue", "accounting"])
def test_killed_with_its_sbatch_what_slurm_took_is_looked_for(
    stand_in: StandInSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """The controller finishes a request whose sender was killed; the job appears seconds later, or is already over."""
    stand_in.tell("faults", "sleep:600")
    killed = start_launch(tmp_path)
    wait_until(lambda: bool(stand_in.calls("sbatch")), "sbatch is called", 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    graph = graph_for(tmp_path)
    name = Ledger(graph.sweep_folder).submissions()[0].submission
    lines = {
        "queue": [f"77_{n}|{name}|PENDING|Resources|N/A|N/A||low|" for n in range(4)],
        "accounting": [f"77_{n}|{name}|COMPLETED|0:0|1|2|n1|low" for n in range(4)],
    }
    waits, real = [], time.sleep

    def sleep(seconds: float) -> None:
        if seconds < 1:  # subprocess's own waiting
            real(seconds)
            return
        waits.append(seconds)
        stand_in.tell(where, *lines[where])

    monkeypatch.setattr("slurm.submission.adoption.time.sleep", sleep)
    outcome = launch(graph)
    assert waits == [POLL_SECONDS]
    first = [entry for entry in Ledger(graph.sweep_folder).submissions() if entry.submission == name]
    assert [entry.job for entry in first] == [f"77_{n}" for n in range(4)]
    submitted = Counter(task for _, task in outcome.submitted)
    # A job that is over without a backbone is submitted again; one that waits is not.
    assert submitted == {"linear": 4, REPORT: 1, **({"pretrain": 4} if where == "accounting" else {})}


def test_jobs_of_an_array_that_cannot_be_told_apart_are_nobodys_to_guess(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher was killed before it recorded the id, and a line of its intents has been damaged since."""
    monkeypatch.setattr("slurm.submission.adoption.SETTLING_SECONDS", 0.0)  # the wait for jobs not yet in the queue
    graph = graph_for(tmp_path)
    launch(graph)
    ledger = Ledger(graph.sweep_folder)
    name = ledger.submissions()[0].submission
    intents = [line for line in ledger.path.read_text().splitlines(keepends=True) if json.loads(line)["job"] == ""]
    ledger.path.write_text("".join(["{torn\n", *intents[1:]]))
    stand_in.change(lambda line: line.replace("|PENDING|", "|COMPLETED|") if line.startswith("101_2|") else line)
    for call in (lambda: launch(graph), lambda: found_again(Ledger(graph.sweep_folder), snapshot())):
        with pytest.raises(UserError, match=f"has lost lines of {name}, .* cannot be told apart; mend: scancel 101,"):
            call()
    # Slurm shows cancelled jobs for minutes more or, with accounting, for days.
    stand_in.change(lambda line: line.replace("PENDING", "CANCELLED") if line.startswith("101_") else None)
    assert set(launch(graph).submitted) == {*map(graph.key, graph.jobs), graph.report}


def test_an_intent_of_the_future_keeps_nobody_for_ever(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the login node that wrote the intent was fast; every launch used to wait until that time."""
    graph, now, real = graph_for(tmp_path), [0.0], time.sleep
    ledger = Ledger(graph.sweep_folder)
    of_the_past, of_the_future = (
        Submission(f"s-{seed}", "slurm", "c", "", f"m/s{seed}", "pretrain", time=f"{year}-01-01T00:00:00+00:00")
        for seed, year in enumerate((2020, 2199))
    )
    told: list[str] = []

    def sleep(seconds: float) -> None:
        if seconds < 1:  # subprocess's own waiting
            real(seconds)
            return
        now[0] += seconds
        assert now[0] < 100

    monkeypatch.setattr("slurm.submission.adoption.time.monotonic", lambda: now[0])
    monkeypatch.setattr("slurm.submission.adoption.time.sleep", sleep)
    ledger.intend([of_the_past])
    assert settled_queue(ledger, told.append).jobs == {}
    assert (now, told) == ([0.0], [])  # what Slurm has not shown for years it never took
    ledger.intend([of_the_future])
    assert settled_queue(ledger, told.append).jobs == {}
    assert now[0] > SETTLING_SECONDS
    assert told == ["an earlier launch was killed while it submitted: waiting to see which of its jobs Slurm took"]


def test_two_launchers_at_once_of_a_new_sweep(stand_in: StandInSlurm, tmp_path: Path) -> None:
    settings = {"methods": ["mocov2"], "seeds": [0, 1], "tasks": ["linear"], "settings": TINY}
    sweep = write_yaml(tmp_path / "small.yaml", settings)
    profile = write_yaml(tmp_path / "test.yaml", {"executor": "slurm", "cpus": 1, "time": 20})
    words = ["sweep", str(sweep), "--cluster", str(profile), "--out", str(tmp_path / "runs"), "--allow-dirty", "--json"]
    launchers = [
        subprocess.Popen([sys.executable, "-m", "repro.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [(*launcher.communicate(timeout=200), launcher.returncode) for launcher in launchers]
    assert [code for *_, code in ended] == [0, 0], ended
    submitted = sorted(len(json.loads(out)["submitted"]) for out, *_ in ended)
    assert submitted == [0, 5]
    assert len(stand_in.ids) == 5


def test_children_of_a_cancelled_pretraining_wait_for_the_new_one(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path)
    launch(graph)
    stand_in.change(
        lambda line: None if line.startswith("101_2|") else line
    )  # cancelled, which Slurm has not applied to the child yet
    outcome = launch(graph)
    assert {(folder.partition("/s")[2][:1], task) for folder, task in outcome.submitted} == {
        ("2", "pretrain"),
        ("2", "linear"),
        ("", REPORT),
    }
    assert any("102_2" in call.split() for call in stand_in.calls("scancel"))
    newest = Ledger(graph.sweep_folder).newest()
    pretraining = newest[graph.key(graph.jobs[4])]
    probe = newest[graph.key(graph.jobs[5])]
    assert (pretraining.job, probe.job, probe.after) == ("104", "105", ("104",))
    assert stand_in.option(105, "dependency") == "afterok:104,afterany:102"  # 102 holds the places of its lane
    assert all_once(graph, stand_in)  # one report only: the new one


def test_jobs_of_other_settings_are_told_and_replaced(stand_in: StandInSlurm, tmp_path: Path) -> None:
    launch(graph_for(tmp_path))
    probe = graph_for(tmp_path, settings={"probe.epochs": 7})
    outcome = launch(probe)
    assert (outcome.outdated, outcome.submitted) == (4, {})
    longer = graph_for(tmp_path, settings={"optimization.epochs": 5})  # other settings are other runs, in other folders
    assert launch(longer).outdated == 8
    assert launch(longer, replace_old=True).outdated == 0
    assert Counter(line.split("|")[1].split("-")[1] for line in stand_in.queue) == {
        "pretrain": 4,
        "linear": 4,
        REPORT: 1,
    }
    assert all(Ledger(longer.sweep_folder).newest()[longer.key(job)].job in stand_in.ids for job in longer.jobs)
    assert launch(longer).outdated == 0


def test_a_setup_line_that_fails_ends_the_job(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=1)
    marker = tmp_path / "ran"
    (stand_in.place / "srun").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (stand_in.place / "srun").chmod(0o755)
    for number, (line, ends) in enumerate(
        [("module load no-such-module", True), ("false || true", False), ("if ! false; then A=1; fi", False)], 101
    ):
        cluster = Cluster("test", resources=Resources(cpus=1, time=30, setup=(line, "export B=2")))
        stand_in.tell("number", str(number - 1))
        stand_in.tell("queue")
        submit(graph, cluster, lambda: None, PROGRAM, Console(quiet=True))
        ended = subprocess.run(
            ["bash", stand_in.place / f"script-{number}.sh"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (ended.returncode == 1, marker.exists()) == (ends, not ends), ended.stderr
        assert (f"the setup of the profile failed with status 127: {line}" in ended.stderr) == ends
        marker.unlink(missing_ok=True)
