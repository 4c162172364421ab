"""A sweep launched with Slurm and on this machine within the same seconds: no run is carried out twice."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from launch_samples import CLUSTER, graph_for, launch
from local_samples import HERE_CLUSTER, graph_of, launched
from rich.console import Console
from stand_in_slurm import StandInSlurm
from waiting import wait_until

from repro.jobs import PROGRAM
from repro.runs.lock import STALE_SECONDS
from slurm.local.devices import Places
from slurm.local.launch import LocalLaunch
from slurm.local.others import Others
from slurm.planning.graph import Graph
from slurm.submission.handover import Outcome
from slurm.submission.launch import submit
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import Ledger, Submission


def begun_here(graph: Graph) -> set[tuple[str, str]]:
    return {e.key for e in Ledger(graph.sweep_folder).submissions() if e.executor == "local" and e.job}


def test_what_sbatch_is_being_handed_is_not_started_here(
    programs: Path, stand_in: StandInSlurm, tmp_path: Path
) -> None:
    """The jobs had intents but were in no queue yet, and both launchers used to start them."""
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("faults", "sleep:1")
    with ThreadPoolExecutor(1) as executor:
        there = executor.submit(launch, graph)
        wait_until(lambda: bool(stand_in.calls("sbatch")), "sbatch", every=0.01)
        here = launched(graph, "record")
        assert len(there.result().submitted) == 5
    assert here.live == list(graph.jobs)
    assert begun_here(graph) == set()


def test_what_a_launch_with_slurm_has_looked_for_is_not_started_here(
    programs: Path, stand_in: StandInSlurm, tmp_path: Path
) -> None:
    """Between that launch's look at the queue and its intents, nothing showed that it would submit them."""
    graph = graph_for(tmp_path, seeds=2)
    has_looked, may_go_on = threading.Event(), threading.Event()

    def take_code() -> None:
        has_looked.set()
        may_go_on.wait(20)

    def launch_there() -> Outcome:
        return submit(graph, CLUSTER, take_code, PROGRAM, Console(quiet=True))

    with ThreadPoolExecutor(1) as executor:
        there = executor.submit(launch_there)
        assert has_looked.wait(20)
        threading.Timer(1.0, may_go_on.set).start()
        here = launched(graph, "record")
        assert len(there.result().submitted) == 5
    assert here.live == list(graph.jobs)
    assert begun_here(graph) == set()


def test_a_launch_with_slurm_holds_up_what_waits_here_and_not_what_runs(
    programs: Path,
    stand_in: StandInSlurm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slurm.local.launch.POLL_SECONDS", 0.05)
    graph = graph_of(tmp_path / "s", 2)
    graph.sweep_folder.mkdir()
    with ThreadPoolExecutor(1) as executor:
        with launch_lock(graph.sweep_folder):
            executor.submit(launched, graph, "record")
            time.sleep(0.3)
            assert begun_here(graph) == set()
        wait_until(lambda: len(begun_here(graph)) == 1, "the first job", every=0.01)
        with launch_lock(graph.sweep_folder):
            wait_until(lambda: graph.jobs[0].done, "its end", every=0.01)
            time.sleep(0.3)
            assert begun_here(graph) == {graph.key(graph.jobs[0])}
    assert begun_here(graph) == set(graph.by_key)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("waiting")]
    assert told == [f"waiting another launch of {graph.sweep_folder} is still submitting"]


def test_what_another_machine_has_just_begun_is_not_begun_again(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """Until its process has imported everything it is seen by nobody; it may also have died of that."""
    graph = graph_for(tmp_path, seeds=2)
    job, ledger = graph.jobs[0], Ledger(graph.sweep_folder)
    folder, task = graph.key(job)
    there = Submission("s-pretrain-1", "local", "local", "", folder, task, job="77", host="elsewhere")
    ledger.submitted([there])
    outcome = launch(graph)
    assert (outcome.live, len(outcome.submitted)) == ([job], 2)
    ago = (datetime.now(UTC) - timedelta(seconds=STALE_SECONDS)).isoformat()
    ledger.submitted([replace(there, time=ago)])
    assert set(launch(graph).submitted) == {graph.key(job), (folder, "linear"), graph.report}


def test_a_launch_whose_places_are_taken_says_by_what_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed launch had left a job: the next launch, also of other methods, was silent until that job's end."""
    graph = graph_of(tmp_path / "sweep", 1)
    folder = tmp_path / "sweep" / "simclr" / "s3-0123456789"
    entry = Submission("s-linear-1", "local", "local", "", "simclr/s3-0123456789", "linear", "4711", devices=("0",))
    monkeypatch.setattr(Others, "running_here", lambda *_: [entry])
    two = replace(HERE_CLUSTER, resources=replace(HERE_CLUSTER.resources, gpus=2))
    for cluster, places in ((HERE_CLUSTER, Places(1)), (two, Places(2, ("0", "1")))):
        here = LocalLaunch(graph, (), cluster, PROGRAM, places, Console(width=300))
        assert here.startable() == here.startable() == []
        assert capsys.readouterr().out == f"waiting linear simclr s3 runs already  ({folder})\n"
