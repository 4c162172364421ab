"""Jobs on a real Slurm that are killed, cancelled, requeued, preempted and run out of time, all at once.

There is one sweep for each mishap; all are submitted at the start. The mishap happens during the training; after it
only `salmask status` and, where a person would, `salmask retry` are called. The tests look at what was seen.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from slurm_cluster import Cluster
from slurm_reasons import findings_in, state_of, wrong_findings
from training_samples import OURS, TINY, Ended, assert_same_training, salmask
from waiting import wait_until
from yaml_samples import write_yaml

from repro.doctor.needs import Needs
from repro.drill import on_cluster
from repro.drill.on_cluster import ClusterDrill
from repro.drill.promises import PREEMPTED, PROMISES, UNDISTURBED, went_on
from repro.drill.stories import CHECKPOINT_EVERY, EPOCH, SETTINGS, UNDER_WAY, Story
from repro.errors import UserError
from repro.jobs import PROGRAM
from slurm.monitoring.queue import snapshot
from slurm.nodes.probe import probe
from slurm.profiles.profile import load
from slurm.sweep_folder.ledger import Ledger

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STEPS = 15 * EPOCH


@dataclass
class CommandStory(Story):
    """A story carried out by the commands `salmask sweep`, `status` and `retry`, as a person would call them."""

    retry_ended: Ended | None = None

    @classmethod
    def at(cls, place: Path, profile: dict[str, Any], mishap: Callable[[str], object], **more: Any) -> "CommandStory":
        file = write_yaml(place / "test.yaml", {"executor": "slurm", "cpus": 1, "time": 20, **profile})
        return cls(place / "runs", load(file), mishap, **more)

    @property
    def profile(self) -> str:
        return str(self.runs.parent / "test.yaml")

    def launch(self) -> None:
        settings = {**SETTINGS, "optimization.epochs": self.epochs}
        content = {"methods": ["mocov2"], "seeds": [0], "tasks": [], "settings": settings}
        sweep = write_yaml(self.runs.parent / "one.yaml", content)
        ended = salmask("sweep", sweep, "--cluster", self.profile, "--out", str(self.runs), "--allow-dirty", "--json")
        assert ended.code == 0, ended.err

    def retry(self) -> None:
        self.retry_ended = salmask("retry", str(self.runs), "--cluster", self.profile, "--allow-dirty")

    def rows(self) -> list[dict[str, Any]]:
        ended = salmask("status", str(self.runs), "--json")
        assert ended.code == 0, ended.err
        jobs: list[dict[str, Any]] = json.loads(ended.out)["jobs"]
        return jobs

    @property
    def told(self) -> str:
        """All that was seen of it, and what its jobs and logs say, for a failure message."""
        return f"{[(row['state'], row['step'], row['note']) for row in self.seen]}\n{state_of(self.runs)}"


def kill(cluster: Cluster, job: str) -> None:
    """Send SIGKILL to every process of the job's step, as an out-of-memory killer does."""
    raw = cluster.call("squeue", "-h", "-j", job, "-o", "%A")
    rows = [row.split() for row in cluster.call("scontrol", "listpids").splitlines()[1:]]
    mine = [int(pid) for pid, owner, step, *_ in rows if owner == raw and step == "0"]
    assert mine
    for pid in mine:
        os.kill(pid, signal.SIGKILL)


def cancel(cluster: Cluster, job: str) -> None:
    cluster.call("scancel", job)


def requeue(cluster: Cluster, job: str) -> None:
    cluster.call("scontrol", "requeue", job)


@pytest.fixture(scope="module")
def stories(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, CommandStory]]:
    place = tmp_path_factory.mktemp("slurm")
    one_gpu = {"gpus": 1, "processes": 1}
    told = {
        "undisturbed": CommandStory.at(place / "undisturbed", {}, lambda _: None),
        "killed": CommandStory.at(place / "killed", {}, partial(kill, cluster), retried=True),
        "cancelled": CommandStory.at(place / "cancelled", {}, partial(cancel, cluster), retried=True),
        "requeued": CommandStory.at(place / "requeued", {}, partial(requeue, cluster)),
        # Both are preempted by one job of "high" when they are under way.
        "preempted": CommandStory.at(place / "preempted", {"partition": "low", **one_gpu}, lambda _: None),
        "abrupt": CommandStory.at(place / "abrupt", {"partition": "abrupt", **one_gpu}, lambda _: None),
        # Warned between 80 and 110 seconds after its start, as Slurm checks every 30.
        "timed out": CommandStory.at(
            place / "timed-out", {"time": 2, "signal_seconds": 10}, lambda _: None, epochs=1000
        ),
    }
    for story in told.values():
        story.launch()
    yield told
    for story in told.values():
        salmask("cancel", str(story.runs))


@pytest.fixture(scope="module")
def ended(stories: dict[str, CommandStory], cluster: Cluster) -> dict[str, CommandStory]:
    """The stories with their ends; the timed-out one ends when it has resumed."""
    victims = [stories["preempted"], stories["abrupt"]]
    preempting = ""
    open_ones = dict(stories)
    end = time.monotonic() + 600
    while open_ones:
        for name, story in list(open_ones.items()):
            over = story.go_on()
            if name == "timed out":
                over = went_on(story)
                if over:
                    salmask("cancel", str(story.runs))
            if over:
                del open_ones[name]
        if not preempting and all(story.happened_at for story in victims):
            preempting = cluster.call(
                "sbatch", "--parsable", "-p", "high", "--gpus=2", "-o", "/dev/null", "--wrap", "sleep 12"
            )
        assert time.monotonic() < end, "\n".join(f"{name}: {story.told}" for name, story in open_ones.items())
        time.sleep(0.5)
    return stories


def test_an_undisturbed_run_is_told_as_it_goes(ended: dict[str, CommandStory]) -> None:
    story = ended["undisturbed"]
    assert story.states[-2:] == ["running", "done"], story.told
    assert set(story.states) <= {"queued", "starting", "running", "done"}
    running = [row for row in story.seen if row["state"] == "running"]
    assert all(0 <= row["step"] <= row["steps"] for row in running)
    assert story.folder.status("pretrain").attempt == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["killed", "cancelled", "requeued", "preempted", "abrupt"])
def test_the_final_weights_are_those_of_an_undisturbed_run(ended: dict[str, CommandStory], name: str) -> None:
    story, undisturbed = ended[name], ended["undisturbed"]
    assert story.states[-1] == "done", story.told
    assert UNDER_WAY <= story.happened_at < STEPS, story.told
    assert story.folder.status("pretrain").attempt == 2  # type: ignore[union-attr]
    assert_same_training(story.folder.checkpoints, undisturbed.folder.checkpoints)
    assert story.folder.backbone.read_bytes() == undisturbed.folder.backbone.read_bytes()


@pytest.mark.parametrize("name", ["killed", "cancelled", "requeued", "preempted", "abrupt", "timed out"])
def test_a_job_goes_on_from_a_checkpoint(ended: dict[str, CommandStory], name: str) -> None:
    story = ended[name]
    assert story.resumed_at >= CHECKPOINT_EVERY, story.told


def test_a_killed_job_is_dead_by_slurms_word_and_retried_by_a_persons(ended: dict[str, CommandStory]) -> None:
    story = ended["killed"]
    assert story.states.count("died") == 1, story.told
    (died,) = (row for row in story.seen if row["state"] == "died")
    assert died["note"].startswith("Slurm says FAILED"), died
    assert story.retry_ended is not None
    assert story.retry_ended.code == 0, story.retry_ended.err
    assert "pretrain mocov2 s0: died, Slurm says FAILED" in story.retry_ended.out


def test_a_cancelled_job_is_cancelled_until_it_is_retried(ended: dict[str, CommandStory]) -> None:
    story = ended["cancelled"]
    assert "cancelled" in story.states, story.told
    assert "died" not in story.states, story.told
    assert story.retry_ended is not None
    assert story.retry_ended.code == 0, story.retry_ended.err


@pytest.mark.parametrize("name", ["requeued", "preempted", "abrupt"])
def test_a_job_that_went_back_to_the_queue_is_preempted_and_never_dead(
    ended: dict[str, CommandStory], name: str
) -> None:
    story = ended[name]
    assert set(story.states) <= {"queued", "starting", "running", "preempted", "done"}, story.told
    assert "preempted" in story.states, story.told
    (entry,) = (entry for entry in Ledger(story.runs).submissions() if entry.task == "pretrain")
    assert len([row for row in story.seen if row["job"] != entry.job]) == 0


def test_a_job_that_runs_out_of_time_saves_itself_and_goes_on(ended: dict[str, CommandStory]) -> None:
    story = ended["timed out"]
    assert set(story.states) <= {"queued", "starting", "running", "preempted"}, story.told
    assert story.resumed_at >= story.furthest[1], story.told  # it stopped by itself, between two checkpoints


def test_logs_tell_both_attempts_of_a_requeued_job_in_their_order(ended: dict[str, CommandStory]) -> None:
    told = salmask("logs", str(ended["requeued"].folder.path), "--task", "pretrain", "-n", "100000")
    assert told.code == 0, told.err
    # srun ends the first attempt, and says so; the second one says which checkpoint it resumes from.
    assert told.out.count("resumed from step_") == 1, told.out
    assert told.out.index("Terminating StepId=") < told.out.index("resumed from step_"), told.out


def doctor(place: Path, *words: str, **profile: Any) -> tuple[int, dict[str, dict[str, str]]]:
    """How `salmask doctor --cluster` ends, and what it found by check."""
    settings = {"executor": "slurm", "cpus": 1, "time": 20, "scratch": str(place / "scratch"), **profile}
    ended = salmask("doctor", "--cluster", write_yaml(place / "test.yaml", settings), *words, "--json")
    assert ended.out, ended.err
    return ended.code, findings_in(ended.out)


def test_the_doctor_sends_a_job_of_several_processes_and_reports_from_its_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = {**TINY, "localizer.network": "efficientnet-lite0"}
    sweep = write_yaml(tmp_path / "one.yaml", {"methods": [OURS], "seeds": [0], "settings": settings})
    code, found = doctor(tmp_path, "--sweep", sweep, processes=2)
    assert code == 0, wrong_findings(found.values())
    assert found["processes"]["found"].startswith("2 on cpu; all-reduce of 64 MiB at ")
    assert found["writing"]["found"].split(" MiB/s to ")[1].startswith(str(tmp_path / "scratch"))
    assert found["torch"]["verdict"] == found["requeue"]["verdict"] == found["cores"]["verdict"] == "ok"
    assert found["data scenes"]["found"] == "built in"
    assert list((tmp_path / "scratch" / ".doctor").iterdir()) == []


def test_the_doctor_finds_that_a_node_has_not_what_a_job_or_a_sweep_needs(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # a closed port: a node without a network
    code, found = doctor(tmp_path, "--sweep", "table1", "--root", str(tmp_path / "none"), gpus=1)
    assert code == 1
    needed = ("weights of resnet50 (IMAGENET1K_V2)", "data imagenet100", "data caltech101", "data flowers102")
    assert [found[check]["verdict"] for check in needed] == ["wrong"] * 4, found.keys()
    assert found[needed[0]]["found"].startswith("not here, and cannot be downloaded from here")
    assert "driver" in found, wrong_findings(found.values())
    if torch.cuda.is_available():
        pytest.skip("this node has a GPU")
    assert found["driver"]["found"] == "no GPU, although the job asked for 1"
    assert found["driver"]["mend"].startswith("the profile's gpus, gres or partition")


def test_the_doctor_of_two_nodes_tells_what_holds_between_them(cluster: Cluster, tmp_path: Path) -> None:
    _, found = doctor(tmp_path, "--nodes", "2", processes=1, partition="all")
    first, second = cluster.call("sinfo", "-h", "-N", "-p", "all", "-o", "%N").split()
    assert found["nodes"]["found"] == f"2: {first}, {second}"
    assert found["processes"]["found"].startswith("2 on cpu; all-reduce of 64 MiB at ")
    assert found["clocks of nodes"]["found"].startswith("0.")
    assert found["rename seen by a node"]["found"].startswith(f"{second} sees a renamed file in {tmp_path / 'scratch'}")
    assert found["lock seen by a node"]["found"].endswith(f"holds between {first} and {second}")
    between = ("nodes", "processes", "clocks of nodes", "rename seen by a node", "lock seen by a node")
    assert {found[check]["verdict"] for check in between} == {"ok"}, wrong_findings(found.values())
    assert list((tmp_path / "scratch").iterdir()) == [tmp_path / "scratch" / ".doctor"]


def test_the_doctor_does_not_wait_for_what_never_starts(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.nodes.node_job.NEVER_SECONDS", 2.0)
    monkeypatch.setattr("slurm.nodes.node_job.ASK_SECONDS", 1.0)
    profile = load(write_yaml(tmp_path / "down.yaml", {"cpus": 1, "scratch": str(tmp_path), "partition": "all"}))
    cluster.call("scontrol", "update", "partitionname=all", "state=down")
    try:
        (finding,) = probe(profile, PROGRAM, needs=Needs(), nodes=0, wait=3600)
    finally:
        cluster.call("scontrol", "update", "partitionname=all", "state=up")
    job = finding.found.split()[1]
    assert finding.found == f"job {job} would never start, and was cancelled: PartitionDown: the partition is down"
    assert finding.mend == "another one in the profile"
    wait_until(lambda: cluster.state(job) == "CANCELLED", "the probe is cancelled")


def test_the_doctor_tells_why_its_job_cannot_start_and_takes_it_back(cluster: Cluster, tmp_path: Path) -> None:
    profile = load(write_yaml(tmp_path / "held.yaml", {"cpus": 1, "scratch": str(tmp_path), "extra": {"hold": ""}}))
    (finding,) = probe(profile, PROGRAM, needs=Needs(), nodes=0, wait=6)
    assert finding.verdict == "wrong"
    assert "did not start within 6 s: JobHeldUser" in finding.found
    job = finding.found.split()[1]
    wait_until(lambda: cluster.state(job) == "CANCELLED", "the probe is cancelled")
    profile = load(write_yaml(tmp_path / "none.yaml", {"cpus": 1, "scratch": str(tmp_path), "partition": "nowhere"}))
    with pytest.raises(UserError, match=r"sbatch refused the probe: .*nowhere|invalid partition.*; mend: the profile"):
        probe(profile, PROGRAM, needs=Needs(), nodes=0, wait=6)


def test_the_drill_tries_what_is_promised_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster, "EPOCHS", 15)
    monkeypatch.setattr(on_cluster, "ASK_SECONDS", 1.0)
    # A requeued job and one out of time are among the stories above.
    promises = {name: PROMISES[name] for name in (UNDISTURBED, "warned", "killed", PREEMPTED)}
    monkeypatch.setattr(on_cluster, "PROMISES", promises)
    base = {"cpus": 1, "time": 20, "scratch": str(tmp_path / "scratch")}
    low, high = (
        load(write_yaml(tmp_path / f"{name}.yaml", base | {"partition": name, "gpus": gpus}))
        for name, gpus in (("low", 1), ("high", 2))
    )
    preempting = ClusterDrill(low, high, {name: PROMISES[name] for name in (UNDISTURBED, PREEMPTED)})
    with ThreadPoolExecutor(1) as pool:
        preempted = pool.submit(preempting.run, wait=400)
        profile = write_yaml(tmp_path / "mine.yaml", base | {"partition": "all"})
        ended = salmask("drill", "--cluster", profile, "--wait", "6", "--json")
        assert ended.out, ended.err
        by_both = [*json.loads(ended.out), *(vars(row) for row in preempted.result())]
    told = "\n".join(f"{row['promise']}: {row['verdict']}, {row['found']}" for row in by_both)
    verdicts = [str(row["verdict"]) for row in by_both]
    assert verdicts == ["held"] * 3 + ["could not be tried"] + ["held"] * 2, told
    assert by_both[3]["mend"].startswith("--by PROFILE")
    assert ended.code == 0, ended.err
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not [job.name for job in snapshot().jobs.values() if job.live and not job.name.startswith("runs-")]


def test_without_accounting_a_job_that_died_silently_is_dead_all_the_same(
    ended: dict[str, CommandStory], cluster: Cluster, tmp_path: Path
) -> None:
    cluster.stop()
    cluster.start(accounting=False, forget_seconds=5)
    try:
        story = CommandStory.at(tmp_path / "forgotten", {}, partial(kill, cluster), epochs=1000)
        story.launch()
        wait_until(lambda: story.go_on() or story.happened_at, "the training is under way", 120)
        wait_until(lambda: story.look()["state"] == "died", "squeue tells of its end", 30)
        job = story.seen[-1]["job"]
        wait_until(
            lambda: job not in cluster.call("squeue", "-h", "-t", "all", "-r", "-o", "%i"), "it is forgotten", 90
        )
        row = story.look()
        assert row["state"] == "died"
        assert row["note"].startswith("no heartbeat for ")
        undisturbed = json.loads(salmask("status", str(ended["undisturbed"].runs), "--json").out)
        assert (undisturbed["trouble"], undisturbed["counts"]["done"]) == ("", len(undisturbed["jobs"]))
    finally:
        cluster.stop()
        cluster.start()
