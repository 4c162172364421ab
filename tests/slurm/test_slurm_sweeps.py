"""Sweeps on a real Slurm: from `salmask sweep` to the table, and what may go wrong in between.

All sweeps are launched at the start, so that they wait together; each test looks at one of them.
"""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from json_rows import read_rows
from slurm_cluster import Cluster
from slurm_reasons import state_of
from training_samples import OURS, TINY, Ended, assert_same_training, salmask
from waiting import wait_until
from yaml_samples import write_yaml

from baselines import resolve
from repro.runs.folder import RunFolder
from repro.runs.status import Status
from slurm.monitoring.queue import snapshot
from slurm.sweep_folder.ledger import Ledger, Submission

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PATIENCE = 420
SETTINGS = {**TINY, "optimization.epochs": 1, "probe.epochs": 1}
PROFILE = {"executor": "slurm", "partition": "high", "cpus": 1, "time": 20, "signal_seconds": 30}


@dataclass
class Launch:
    """One sweep in a folder of its own."""

    place: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    tasks: tuple[str, ...] = ("linear",)
    profile: dict[str, Any] | None = None

    @property
    def command(self) -> tuple[str, ...]:
        lists = {"methods": [*self.methods], "seeds": [*self.seeds], "tasks": [*self.tasks]}
        sweep = write_yaml(self.place / "mini.yaml", {**lists, "settings": self.settings})
        profile = write_yaml(self.place / "test.yaml", PROFILE | (self.profile or {}))
        return "sweep", sweep, "--cluster", profile, "--out", str(self.runs), "--allow-dirty", "--json"

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    def go(self) -> Ended:
        ended = salmask(*self.command)
        assert ended.code == 0, ended.err
        return ended

    def entries(self, task: str) -> list[Submission]:
        return [entry for entry in Ledger(self.runs).submissions() if entry.task == task]

    def status(self, task: str) -> dict[str, Status | None]:
        folders = [RunFolder(path.parent) for path in sorted(self.runs.glob("*/s*/run.yaml"))]
        return {f"{f.path.parent.name} {f.path.name[:2]}": f.status(task) for f in folders}

    def told(self) -> str:
        """What its jobs and logs say, for a failure message."""
        return state_of(self.runs)

    def over(self) -> bool:
        """Whether nothing of it is left in the queue."""
        queue = snapshot()
        return not queue.trouble and not any(queue.live(entry) for entry in Ledger(self.runs).submissions())


def printed(ended: Ended) -> dict[str, Any]:
    content = json.loads(ended.out)
    assert isinstance(content, dict)
    return content


def in_the_way_of(launch: Launch) -> Path:
    """A file at this path keeps the run with our masking from saving anything."""
    return RunFolder.of(resolve(OURS, launch.settings), launch.runs).checkpoints


@pytest.fixture(scope="module")
def launches(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launch]:
    """All sweeps, submitted; the tests do the rest."""
    root = tmp_path_factory.mktemp("sweeps")
    long = {**TINY, "data.scenes.train_count": 64, "optimization.epochs": 6, "machine.log_every": 2}
    two = {"processes": 2}
    made = {
        "table": Launch(root / "table", ("mocov2", OURS), (0, 1), SETTINGS),
        "failing": Launch(root / "failing", ("mocov2", OURS), (0,), SETTINGS),
        "killed": Launch(root / "killed", ("mocov2",), (0, 1), SETTINGS),
        "requeued": Launch(root / "requeued", ("mocov2",), (0,), long, (), two),
        "on two nodes": Launch(
            root / "nodes", ("mocov2",), (0,), long, (), {"partition": "all", "nodes": 2, "processes": 1}
        ),
        "undisturbed": Launch(root / "undisturbed", ("mocov2",), (0,), long, (), two),
        "many": Launch(root / "many", ("mocov2",), tuple(range(12)), SETTINGS, (), {"throttle": 2}),
    }
    in_the_way = in_the_way_of(made["failing"])
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    for name in ("undisturbed", "table", "failing"):
        made[name].go()
    return made


def test_a_launch_returns_at_once_and_a_second_one_submits_nothing(launches: dict[str, Launch]) -> None:
    table = launches["table"]
    assert not list(table.runs.glob("*/*/results.jsonl"))
    words = [sys.executable, "-m", "repro.cli", *table.command]
    at_once = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for launcher in at_once:
        out, err = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, err
        assert json.loads(out)["submitted"] == {}
    assert len(Ledger(table.runs).submissions()) == 4 + 4 + 1


def test_an_array_runs_as_many_at_a_time_as_the_profile_says(cluster: Cluster, launches: dict[str, Launch]) -> None:
    many = launches["many"]
    jobs = [*printed(many.go())["submitted"].values()]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{index}" for index in range(12)]

    def states() -> Counter[str]:
        return Counter(cluster.call("squeue", "-h", "--array", "-o", "%T", "-j", array).split())

    wait_until(lambda: states()["RUNNING"] == 2, "two of twelve run", 120)
    for _ in range(15):
        assert states()["RUNNING"] <= 2
    assert "ArrayTaskThrottle=2" in cluster.call("scontrol", "show", "job", array)
    cluster.call("scancel", array)
    wait_until(many.over, "cancelled jobs leave the queue", 120, why=many.told)


DIES = """
import os, sys
import slurm.submission.sender
submit_script = slurm.submission.sender.submit_script
def dies(*words, **options):
    submit_script(*words, **options)  # sbatch has answered; nobody wrote down what
    os._exit(9)
slurm.submission.sender.submit_script = dies
sys.argv[0] = "salmask"
from repro.cli import main
main()
"""


def test_what_a_killed_launcher_submitted_is_found_again(cluster: Cluster, launches: dict[str, Launch]) -> None:
    killed = launches["killed"]
    ended = subprocess.run([sys.executable, "-c", DIES, *killed.command], capture_output=True, check=False)
    assert ended.returncode == 9, ended.stderr
    intents = killed.entries("pretrain")
    assert [entry.job for entry in intents] == ["", ""]
    submitted = printed(killed.go())["submitted"]
    assert Counter(key.split()[1] for key in submitted) == {"linear": 2, "report": 1}
    found = killed.entries("pretrain")
    assert [entry.submission for entry in found] == [entry.submission for entry in intents]
    assert [entry.job.partition("_")[2] for entry in found] == ["0", "1"]
    wait_until(killed.over, "the sweep ends", PATIENCE, why=killed.told)
    states = {status and (status.state, status.attempt) for status in killed.status("pretrain").values()}
    assert states == {("done", 1)}, killed.told()
    assert {status and status.state for status in killed.status("linear").values()} == {"done"}, killed.told()


def test_two_processes_go_on_after_a_requeue(cluster: Cluster, launches: dict[str, Launch]) -> None:
    requeued, whole = launches["requeued"], launches["undisturbed"]
    requeued.go()  # only now: it could have ended while the tests before were running
    (entry,) = requeued.entries("pretrain")
    folder = RunFolder(requeued.runs / entry.folder)

    def under_way() -> bool:
        status = folder.status("pretrain")
        return folder.pretrained or (status is not None and any(folder.checkpoints.glob("step_*.pth")))

    wait_until(under_way, "the first checkpoint", PATIENCE, why=requeued.told)
    assert not folder.pretrained, "it was done before it could be requeued"
    cluster.call("scontrol", "requeue", entry.job)
    wait_until(lambda: requeued.over() and whole.over(), "both trainings end", PATIENCE, why=requeued.told)
    status = folder.status("pretrain")
    assert status is not None
    assert (status.state, status.attempt) == ("done", 2), requeued.told()
    lines = read_rows(folder.metrics)
    assert [line["step"] for line in lines if "loss" in line] == list(range(2, 49, 2))
    (other,) = whole.entries("pretrain")
    assert_same_training(folder.checkpoints, RunFolder(whole.runs / other.folder).checkpoints)
    ranks = [entry.log(requeued.runs, "err", rank) for rank in (0, 1)]
    assert all(log.exists() for log in ranks)
    assert "resumed from step_" in ranks[0].read_text()


def test_two_nodes_meet_save_when_they_are_warned_and_go_on_together(
    cluster: Cluster, launches: dict[str, Launch]
) -> None:
    over_nodes, whole = launches["on two nodes"], launches["undisturbed"]
    over_nodes.go()
    (entry,) = over_nodes.entries("pretrain")
    folder = RunFolder(over_nodes.runs / entry.folder)
    wait_until(
        lambda: any(folder.checkpoints.glob("step_*.pth")), "the first checkpoint", PATIENCE, why=over_nodes.told
    )
    raw = cluster.call("squeue", "-h", "-j", entry.job, "-o", "%A %D %N")
    job, nodes, names = raw.split()
    assert nodes == "2", raw
    processes = [cluster.call("scontrol", "listpids", f"{job}.0", node) for node in names.split(",")]
    assert [len(rows.splitlines()) for rows in processes] == [2, 2], processes  # a heading, and a process of each node
    cluster.call("scancel", "--signal=USR2", entry.job)  # to the steps on both nodes, as Slurm warns of a time limit
    wait_until(lambda: over_nodes.over() and whole.over(), "both trainings end", PATIENCE, why=over_nodes.told)
    status = folder.status("pretrain")
    assert status is not None
    assert (status.state, status.attempt) == ("done", 2), over_nodes.told()
    (other,) = whole.entries("pretrain")
    assert_same_training(folder.checkpoints, RunFolder(whole.runs / other.folder).checkpoints)
    logs = [entry.log(over_nodes.runs, "err", number).read_text() for number in (0, 1)]
    assert "resumed from step_" in logs[0]
    assert "Traceback" not in logs[0] + logs[1]
    assert "went back to the queue" in entry.log(over_nodes.runs).read_text()


def test_a_failed_pretraining_takes_its_own_children_along_and_no_others(launches: dict[str, Launch]) -> None:
    failing = launches["failing"]
    wait_until(failing.over, "nothing hangs", PATIENCE, why=failing.told)
    by_method = {name.split()[0]: status for name, status in failing.status("pretrain").items()}
    assert "mocov2" in by_method
    assert by_method["mocov2"] is not None
    assert by_method["mocov2"].state == "done", failing.told()
    failed = by_method[OURS]
    assert failed is not None
    assert failed.state == "failed"
    assert failed.error.startswith("cannot write ")
    linear = {name.split()[0]: status for name, status in failing.status("linear").items()}
    assert linear["mocov2"] is not None
    assert linear["mocov2"].state == "done", failing.told()
    assert linear[OURS] is None  # never started
    report = RunFolder(failing.runs).status("report")
    assert report is not None
    assert report.state == "done", failing.told()
    assert "MoCo v2" in (failing.runs / "tables" / "table1.md").read_text()

    in_the_way_of(failing).unlink()
    submitted = printed(failing.go())["submitted"]
    assert [name.rpartition(" ")[2] for name in submitted] == ["pretrain", "linear", "report"]
    assert all(OURS in name for name in [*submitted][:2])
    wait_until(failing.over, "the mended half ends", PATIENCE, why=failing.told)
    assert "high-pass" in (failing.runs / "tables" / "table1.md").read_text()


def test_the_tiny_table_is_rendered_by_the_last_job(launches: dict[str, Launch]) -> None:
    table = launches["table"]
    wait_until(table.over, "the sweep ends", PATIENCE, why=table.told)
    assert {status and status.state for status in table.status("linear").values()} == {"done"}, table.told()
    shown = (table.runs / "tables" / "table1.md").read_text()
    assert "high-pass" in shown
    assert shown.count("(2)") == 2
    ours = [json.loads(path.read_text()) for path in table.runs.glob("*/*/provenance.json")]
    assert [len(attempts) for attempts in ours] == [1] * 4
    # the commit of the snapshot, which is not a checkout itself
    assert all(len(attempts[0]["commit"]) == 40 for attempts in ours)
    assert len([*(table.runs / "code").glob("*/repro")]) == 1
    assert "8 jobs, all done" in table.go().err
