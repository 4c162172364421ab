"""Jobs on a real Slurm that are killed, cancelled, requeued, preempted and run out of time, all at once.

One sweep for each mishap, all submitted at the start; the mishap comes when the training is under way, and from then on
only `salmask status` and, where a person would, `salmask retry` are called. What was seen is what the tests look at.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from slurm_cluster import Cluster
from slurm_reasons import findings_in, state_of, wrong_findings
from training_samples import OURS, TINY, Ended, assert_same_training, salmask
from waiting import wait_until
from yaml_samples import write_yaml

from repro.errors import UserError
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from slurm.ledger import Ledger
from slurm.probe import probe
from slurm.profile import load

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STEPS = 60
SETTINGS = {
    **TINY,
    "data.scenes.train_count": 160,  # 20 steps an epoch: a checkpoint at the end of each is enough to write
    "optimization.epochs": 3,
    "machine.checkpoint_every": 10,
}
UNDER_WAY = 13
"""Steps after which a mishap comes: there is a checkpoint, and it is not of the last step."""


@dataclass
class Story:
    """One sweep of one run, its mishap, and what `salmask status` said from beginning to end."""

    place: Path
    profile: dict[str, Any]
    mishap: Callable[[Cluster, str], object]
    epochs: int = 3
    retried: bool = False
    """Whether a person has to hand it over again."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    happened_at: int = 0
    """The step at which it came."""
    retry: Ended | None = None
    furthest: dict[int, int] = field(default_factory=dict)
    """Attempt -> the last step that was seen of it."""

    def launch(self) -> None:
        settings = {**SETTINGS, "optimization.epochs": self.epochs}
        sweep = write_yaml(
            self.place / "one.yaml", {"methods": ["mocov2"], "seeds": [0], "tasks": [], "settings": settings}
        )
        profile = write_yaml(self.place / "test.yaml", {"executor": "slurm", "cpus": 1, "time": 20, **self.profile})
        self.command = ("sweep", sweep, "--cluster", profile, "--out", str(self.runs), "--allow-dirty", "--json")
        ended = salmask(*self.command)
        assert ended.code == 0, ended.err

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    @property
    def folder(self) -> RunFolder:
        (path,) = self.runs.glob("mocov2/s0-*")
        return RunFolder(path)

    def look(self) -> dict[str, Any]:
        """The row of the pretraining, which is noted where it tells something new."""
        ended = salmask("status", str(self.runs), "--json")
        assert ended.code == 0, ended.err
        (row,) = (row for row in json.loads(ended.out)["jobs"] if row["task"] == "pretrain")
        self.furthest[row["attempt"]] = row["step"]
        if not self.seen or (row["state"], row["note"]) != (self.seen[-1]["state"], self.seen[-1]["note"]):
            self.seen.append(row)
        return row

    def go_on(self, cluster: Cluster) -> bool:
        """What is to do now, if anything; true when the story is over."""
        row = self.look()
        if not self.happened_at and row["state"] == "running" and row["step"] >= UNDER_WAY:
            self.happened_at = row["step"]
            self.mishap(cluster, row["job"])
        if self.retried and self.retry is None and row["state"] in ("died", "cancelled", "interrupted", "failed"):
            self.retry = salmask("retry", str(self.runs), "--cluster", str(self.place / "test.yaml"), "--allow-dirty")
        return row["state"] == "done" or (row["state"] == "failed" and not self.retried)

    @property
    def states(self) -> list[str]:
        return list(dict.fromkeys(row["state"] for row in self.seen))

    @property
    def told(self) -> str:
        """All that was seen of it, and what its jobs and logs say, for a test that fails."""
        return f"{[(row['state'], row['step'], row['note']) for row in self.seen]}\n{state_of(self.runs)}"

    def after(self, state: str) -> list[str]:
        found = [row["state"] for row in self.seen]
        return found[found.index(state) + 1 :]


def nothing(cluster: Cluster, job: str) -> None:
    pass


def kill(cluster: Cluster, job: str) -> None:
    """kill -9 to every process of the job's step: what an out-of-memory killer does."""
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
def stories(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    place = tmp_path_factory.mktemp("slurm")
    one_gpu = {"gpus": 1, "processes": 1}
    told = {
        "undisturbed": Story(place / "undisturbed", {}, nothing),
        "killed": Story(place / "killed", {}, kill, retried=True),
        "cancelled": Story(place / "cancelled", {}, cancel, retried=True),
        "requeued": Story(place / "requeued", {}, requeue),
        # Preempted together by one job of "high", when both are under way.
        "preempted": Story(place / "preempted", {"partition": "low", **one_gpu}, nothing),
        "abrupt": Story(place / "abrupt", {"partition": "abrupt", **one_gpu}, nothing),
        # Warned between 80 and 110 seconds after its start, as Slurm looks every 30.
        "timed out": Story(place / "timed-out", {"time": 2, "signal_seconds": 10}, nothing, epochs=1000),
    }
    for story in told.values():
        story.launch()
    yield told
    for story in told.values():
        salmask("cancel", str(story.runs))


@pytest.fixture(scope="module")
def ended(stories: dict[str, Story], cluster: Cluster) -> dict[str, Story]:
    """The stories with their ends; that of the time-out ends when it goes on after it."""
    victims = [stories["preempted"], stories["abrupt"]]
    preempting = ""
    open_ones = dict(stories)
    end = time.monotonic() + 600
    while open_ones:
        for name, story in list(open_ones.items()):
            over = story.go_on(cluster)
            if name == "timed out":
                over = story.furthest.get(2, 0) > story.furthest.get(1, STEPS)
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


def test_an_undisturbed_run_is_told_as_it_goes(ended: dict[str, Story]) -> None:
    story = ended["undisturbed"]
    assert story.states[-2:] == ["running", "done"], story.told
    assert set(story.states) <= {"queued", "starting", "running", "done"}
    running = [row for row in story.seen if row["state"] == "running"]
    assert all(0 <= row["step"] <= row["steps"] for row in running)
    assert story.folder.status("pretrain").attempt == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["killed", "cancelled", "requeued", "preempted", "abrupt"])
def test_the_final_weights_are_those_of_an_undisturbed_run(ended: dict[str, Story], name: str) -> None:
    story, undisturbed = ended[name], ended["undisturbed"]
    assert story.states[-1] == "done", story.told
    assert UNDER_WAY <= story.happened_at < STEPS, story.told
    assert story.folder.status("pretrain").attempt == 2  # type: ignore[union-attr]
    assert_same_training(story.folder.checkpoints, undisturbed.folder.checkpoints)
    assert story.folder.backbone.read_bytes() == undisturbed.folder.backbone.read_bytes()


@pytest.mark.parametrize("name", ["killed", "cancelled", "requeued", "preempted", "abrupt", "timed out"])
def test_a_job_goes_on_from_a_checkpoint(ended: dict[str, Story], name: str) -> None:
    story = ended[name]
    logs = "".join(path.read_text() for path in sorted(Ledger(story.runs).logs.glob("*pretrain*/*_log.err")))
    (resumed,) = (line for line in logs.splitlines() if "resumed from" in line)
    assert int(resumed.split("at step ")[1]) >= 10


def test_a_killed_job_is_dead_by_slurms_word_and_retried_by_a_persons(ended: dict[str, Story]) -> None:
    story = ended["killed"]
    assert story.states.count("died") == 1, story.told
    (died,) = (row for row in story.seen if row["state"] == "died")
    assert died["note"].startswith("Slurm says FAILED"), died
    assert story.retry is not None
    assert story.retry.code == 0, story.retry.err
    assert "pretrain mocov2 s0: died, Slurm says FAILED" in story.retry.out


def test_a_cancelled_job_is_cancelled_until_it_is_retried(ended: dict[str, Story]) -> None:
    story = ended["cancelled"]
    assert "cancelled" in story.states, story.told
    assert "died" not in story.states, story.told
    assert story.retry is not None
    assert story.retry.code == 0, story.retry.err


@pytest.mark.parametrize("name", ["requeued", "preempted", "abrupt"])
def test_a_job_that_went_back_to_the_queue_is_preempted_and_never_dead(ended: dict[str, Story], name: str) -> None:
    story = ended[name]
    assert set(story.states) <= {"queued", "starting", "running", "preempted", "done"}, story.told
    assert "preempted" in story.states, story.told
    (entry,) = (entry for entry in Ledger(story.runs).submissions() if entry.task == "pretrain")
    assert len([row for row in story.seen if row["job"] != entry.job]) == 0


def test_a_job_that_runs_out_of_time_saves_itself_and_goes_on(ended: dict[str, Story]) -> None:
    story = ended["timed out"]
    assert set(story.states) <= {"queued", "starting", "running", "preempted"}, story.told
    logs = "".join(path.read_text() for path in Ledger(story.runs).logs.glob("*pretrain*/*_log.err"))
    (resumed,) = (line for line in logs.splitlines() if "resumed from" in line)
    assert int(resumed.split("at step ")[1]) >= story.furthest[1]  # it stopped of itself, between two checkpoints


def test_logs_tell_both_attempts_of_a_requeued_job_in_their_order(ended: dict[str, Story]) -> None:
    told = salmask("logs", str(ended["requeued"].folder.path), "--task", "pretrain", "-n", "100000")
    assert told.code == 0, told.err
    assert told.out.count("Epoch(train) [1][10/20]") == 1
    assert told.out.index("Epoch(train) [1][10/20]") < told.out.index("resumed from") < told.out.index("[3][20/20]")


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
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # where nobody listens: a node without a network
    code, found = doctor(tmp_path, "--sweep", "table1", "--root", str(tmp_path / "none"), gpus=1)
    assert code == 1
    needed = ("weights of resnet50 (IMAGENET1K_V2)", "data imagenet100", "data caltech101", "data flowers102")
    assert [found[check]["verdict"] for check in needed] == ["wrong"] * 4, found.keys()
    assert found[needed[0]]["found"].startswith("not here, and cannot be downloaded from here")
    assert "driver" in found, wrong_findings(found.values())
    if torch.cuda.is_available():
        pytest.skip("this node has a GPU")
    assert found["driver"]["found"] == "no GPU, although 1 were asked for"
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


def test_the_doctor_tells_why_its_job_cannot_start_and_takes_it_back(cluster: Cluster, tmp_path: Path) -> None:
    profile = load(write_yaml(tmp_path / "held.yaml", {"cpus": 1, "scratch": str(tmp_path), "extra": {"hold": ""}}))
    (finding,) = probe(profile, PROGRAM, wait=6)
    assert finding.verdict == "wrong"
    assert "did not start within 6 s: JobHeldUser" in finding.found
    job = finding.found.split()[1]
    wait_until(lambda: cluster.state(job) == "CANCELLED", "the probe is cancelled")
    profile = load(write_yaml(tmp_path / "none.yaml", {"cpus": 1, "scratch": str(tmp_path), "partition": "nowhere"}))
    with pytest.raises(UserError, match=r"sbatch refused the probe: .*nowhere|invalid partition.*; mend: the profile"):
        probe(profile, PROGRAM, wait=6)


def test_without_accounting_a_job_that_died_silently_is_dead_all_the_same(
    ended: dict[str, Story], cluster: Cluster, tmp_path: Path
) -> None:
    cluster.stop()
    cluster.start(accounting=False, forget_seconds=5)
    try:
        story = Story(tmp_path / "forgotten", {}, kill, epochs=1000)
        story.launch()
        wait_until(lambda: story.go_on(cluster) or story.happened_at, "the training is under way", 120)
        wait_until(lambda: story.look()["state"] == "died", "squeue tells of its end", 30)
        job = story.seen[-1]["job"]
        wait_until(
            lambda: job not in cluster.call("squeue", "-h", "-t", "all", "-r", "-o", "%i"), "it is forgotten", 90
        )
        row = story.look()
        assert row["state"] == "died"
        assert row["note"].startswith("no sign of life for ")
        undisturbed = json.loads(salmask("status", str(ended["undisturbed"].runs), "--json").out)
        assert (undisturbed["trouble"], undisturbed["counts"]["done"]) == ("", len(undisturbed["jobs"]))
    finally:
        cluster.stop()
        cluster.start()
