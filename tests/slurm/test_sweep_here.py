"""A sweep on this machine, called three times: a failure stops what builds on it, and a new call does the rest."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from json_rows import read_rows
from training_samples import OURS, TINY, Ended, salmask
from yaml_samples import write_yaml

from baselines import resolve
from repro.runs.folder import RunFolder
from slurm.sweep_folder.ledger import Ledger

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Three calls of a sweep: at the first a run cannot save, before the second a result is lost, then all is there."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = {**TINY, "optimization.epochs": 1, "probe.epochs": 1}
    in_the_way = RunFolder.of(resolve(OURS, settings), folder / "runs").checkpoints
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    sweep = write_yaml(folder / "mini.yaml", {"methods": ["mocov2", OURS], "seeds": [0], "settings": settings})
    command = ("sweep", sweep, "--local", "--parallel", "2", "--out", str(folder / "runs"), "--json")
    outcomes = {"without": salmask(*command)}
    in_the_way.unlink()
    (results,) = (folder / "runs").glob("mocov2/*/results.jsonl")
    results.unlink()
    outcomes["with"] = salmask(*command)
    outcomes["again"] = salmask(*command)
    return outcomes | {"place": Ended(0, str(folder / "runs"), "")}


@pytest.fixture
def runs(calls: dict[str, Ended]) -> Path:
    return Path(calls["place"].out)


def test_a_failed_pretraining_fails_what_builds_on_it_and_nothing_else(calls: dict[str, Ended]) -> None:
    ended = calls["without"]
    assert ended.code == 1
    told = json.loads(ended.out)
    assert sorted(told["done"]) == ["linear mocov2 s0", "pretrain mocov2 s0"]
    assert set(told["failed"]) == {f"pretrain {OURS} s0", f"linear {OURS} s0"}
    assert told["failed"][f"pretrain {OURS} s0"].startswith("cannot write ")
    assert told["failed"][f"linear {OURS} s0"] == "not started: its pretraining failed"
    assert "2 jobs done, 0 done before, 2 failed" in ended.err


def test_a_second_call_does_only_what_is_missing(calls: dict[str, Ended]) -> None:
    assert calls["with"].code == 0, calls["with"].err
    told = json.loads(calls["with"].out)
    assert sorted(told["done"]) == ["linear mocov2 s0", f"linear {OURS} s0", f"pretrain {OURS} s0"]
    assert told["failed"] == {}
    assert "3 jobs done, 1 done before, 0 failed" in calls["with"].err
    assert calls["again"].code == 0
    assert json.loads(calls["again"].out) == {"done": [], "failed": {}}


def test_every_job_is_in_the_ledger(calls: dict[str, Ended], runs: Path) -> None:
    # Jobs that wait for their turn are there too, without a process id.
    entries = [entry for entry in Ledger(runs).submissions() if entry.job]
    assert Counter(entry.task for entry in entries) == {"pretrain": 3, "linear": 3}  # one failed, one lost its result
    assert all(entry.job.isdigit() and entry.executor == "local" for entry in entries)
    assert all(entry.log(runs).exists() for entry in entries)
    order = next(runs.glob(f"{OURS}/*/jobs/linear.yaml"))
    assert yaml.safe_load(order.read_text())["probe"]["epochs"] == 1


def test_a_third_call_finds_nothing_to_do(calls: dict[str, Ended]) -> None:
    assert "0 jobs done, 4 done before, 0 failed" in calls["again"].err


def test_what_was_done_was_done_once(calls: dict[str, Ended], runs: Path) -> None:
    attempts = {path.parts[-3]: len(json.loads(path.read_text())) for path in runs.glob("*/*/provenance.json")}
    assert attempts == {"mocov2": 1, OURS: 2}
    rows = [row for path in runs.glob("*/*/results.jsonl") for row in read_rows(path)]
    once = Counter((row["method"], row["metric"]) for row in rows)
    assert set(once.values()) == {1}
    assert {("mocov2", "top1"), (OURS, "top1")} <= set(once)
    assert {row["sweep"] for row in rows} == {"runs"}


def test_the_table_is_written_in_every_format_and_shows_both_methods(calls: dict[str, Ended], runs: Path) -> None:
    tables = sorted(path for path in (runs / "tables").iterdir())
    assert {path.suffix for path in tables} >= {".md", ".tex", ".csv"}
    shown = next(path for path in tables if path.suffix == ".md").read_text()
    for title in ("MoCo v2", "high-pass"):
        assert title in shown
    for call in ("with", "again"):
        assert "masks.png" in calls[call].err
