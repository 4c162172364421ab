"""On a real Slurm: one throttle for all arrays of a sweep, the cost of its jobs, and a row that is timed on a node."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster
from training_samples import TINY, salmask
from waiting import wait_until
from yaml_samples import write_yaml

from repro.bench.throughput import newest_measurements
from slurm.monitoring.queue import snapshot
from slurm.sweep_folder.ledger import REPORT, Ledger

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PROFILE: dict[str, Any] = {
    **{"executor": "slurm", "partition": "high", "cpus": 1, "memory": 24, "time": 600, "signal_seconds": 30},
    "throttle": 2,
}
SETTINGS = {**TINY, "optimization.epochs": 1, "probe.epochs": 1}


def running(names: set[str]) -> Counter[str]:
    """How many jobs of these submissions are running, by the submissions' names."""
    queue = snapshot()
    assert not queue.trouble
    return Counter(job.name for job in queue.jobs.values() if job.name in names and job.live and not job.waiting)


def test_a_throttle_is_of_the_sweep_and_its_cost_is_accounted_for(cluster: Cluster, tmp_path: Path) -> None:
    sweep = write_yaml(
        tmp_path / "mini.yaml",
        {"methods": ["mocov2"], "seeds": [0, 1, 2], "tasks": ["linear", "logistic"], "settings": SETTINGS},
    )
    profile = write_yaml(tmp_path / "test.yaml", PROFILE)
    runs = tmp_path / "runs"
    command = ("sweep", sweep, "--cluster", profile, "--out", str(runs), "--allow-dirty", "--json")
    launched = salmask(*command)
    assert launched.code == 0, launched.err
    ledger = Ledger(runs)
    pretrainings = [entry for entry in ledger.submissions() if entry.task == "pretrain"]
    together: list[Counter[str]] = []

    def over() -> bool:
        names = {entry.submission for entry in ledger.submissions() if entry.task != REPORT}
        together.append(running(names))
        queue = snapshot()
        return not any(queue.live(entry) for entry in ledger.submissions())

    wait_until(lambda: over() or together[-1].total() >= 1, "the first job runs", 300)
    # A pending job is cancelled and submitted again with all that builds on it: on its own, under no array's limit.
    cluster.call("scancel", pretrainings[-1].job)
    again = salmask(*command)
    assert again.code == 0, again.err
    assert json.loads(again.out)["submitted"]
    wait_until(over, "the sweep ends", 840, every=0.5)
    assert max(names.total() for names in together) == 2
    # Jobs of more than one array ran: pretrainings and evaluations together, or one after the other.
    assert len({name for names in together for name in names}) >= 3

    costs = json.loads(salmask("status", str(runs), "--cost", "--json").out)
    by_task = Counter(job["task"] for job in costs["jobs"] if job["state"] == "done")
    assert by_task == {"pretrain": 3, "linear": 3, "logistic": 3, REPORT: 1}
    for job in costs["jobs"]:
        assert job["seconds"] >= 1, job
        assert job["cpus_asked"] == 1
        assert 50e6 < job["memory"] < 10e9, job  # bytes of a process with torch, by sacct or the job's own record
        assert (job["memory_asked"], job["minutes_asked"]) == (24, 600)
    asked = "24 GiB asked"
    assert any(line.startswith(f"pretrain: memory: {asked}") for line in costs["too_much"]), costs["too_much"]
    (method, report) = costs["methods"]
    assert (method["method"], method["jobs"], method["gpu_hours"]) == ("mocov2", 9, 0)
    of_jobs = sum(job["seconds"] for job in costs["jobs"] if job["task"] != REPORT)
    assert method["cpu_hours"] == pytest.approx(of_jobs / 3600)
    assert report["method"] == REPORT


def test_a_row_is_timed_on_a_node_and_plans_go_by_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    profile = write_yaml(tmp_path / "test.yaml", {**PROFILE, "scratch": str(tmp_path / "scratch")})
    settings = [f"{key}={value}" for key, value in TINY.items()]
    bench = (
        "bench",
        "step",
        "mocov2",
        "--steps",
        "2",
        "--warm-up",
        "1",
        "--cluster",
        profile,
        "--wait",
        "10",
        "--json",
    )
    call = salmask(*bench, *settings)
    assert call.code == 0, call.err
    (row,) = json.loads(call.out)
    (measured,) = newest_measurements(tmp_path / "data" / "salmask" / "steps.jsonl").values()
    assert row["images/s"] == measured.images_per_second > 0
    sweep = write_yaml(tmp_path / "mini.yaml", {"methods": ["mocov2"], "seeds": [0], "settings": TINY})
    plan = json.loads(salmask("sweep", sweep, "--plan", "--cluster", profile, "--json").out)
    assert plan["jobs"][0]["measured"].startswith("bench step on cpu")
    assert plan["jobs"][0]["seconds"] == pytest.approx(3 * 20 / measured.images_per_second, abs=0.06)  # in tenths
    broken = salmask(*bench, *settings, "data.dataset=folder", "machine.data_root=/nowhere")
    assert broken.code == 2
    assert "left no report (FAILED " in broken.err
    assert "/nowhere" in broken.err.partition("; mend: ")[0], broken.err
    assert broken.err.count("; mend: ") == 1  # that of the cause
