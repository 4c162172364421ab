"""`salmask status` and the report tell the same state of a run."""

import time
from pathlib import Path

import pytest
from run_samples import finished

from repro.runs.status import PRETRAIN
from results.collection.runs import RunRecord
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.status import rows
from slurm.sweep_folder.ledger import Ledger


def states(sweep: Path) -> dict[str, str]:
    """The state of each job, as `salmask status` has it."""
    return {row.task: row.state.value for row in rows(Ledger(sweep), QueueSnapshot(), time.time())}


def test_a_recorded_run_without_its_backbone_is_done(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    folder.set_status("done", task=PRETRAIN, step=100, steps=100)
    assert states(tmp_path / "full") == {PRETRAIN: "done", "linear": "done"}
    assert RunRecord(folder.path).state == "done"


def test_pretraining_that_is_done_without_backbone_or_result_failed(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    folder.set_status("done", task=PRETRAIN, step=100, steps=100)
    folder.results.unlink()
    assert states(tmp_path / "full")[PRETRAIN] == "failed"


@pytest.mark.parametrize(("task", "state"), [("linear", "done"), ("knn", "failed")])
def test_a_later_failure_counts_only_where_there_is_no_result(tmp_path: Path, task: str, state: str) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    folder.set_status("done", task=PRETRAIN, step=100, steps=100)
    folder.set_status("failed", task=task, error="no backbone")
    assert RunRecord(folder.path).state == state
    assert states(tmp_path / "full")[task] == state


def test_a_probe_that_failed_is_not_done_by_one_on_another_data_set(tmp_path: Path) -> None:
    """In a run that no launcher knows, each evaluation used to take the other's rows for its own."""
    folder = finished(tmp_path, "mocov2", 0, {("caltech101", "top1"): 60.0})
    folder.set_status("done", task=PRETRAIN, step=100, steps=100)
    folder.set_status("failed", task="linear", error="out of memory")
    folder.set_status("done", task="linear@caltech101")
    assert states(tmp_path / "full") == {PRETRAIN: "done", "linear": "failed", "linear@caltech101": "done"}
    assert RunRecord(folder.path).unfinished_evaluations == {"linear": "failed"}


def test_where_the_settings_cannot_be_read_rows_of_every_data_set_count(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("caltech101", "top1"): 60.0})
    folder.set_status("failed", task="linear", error="out of memory")
    folder.set_status("done", task="linear@caltech101")
    folder.run_yaml.write_text("torn: [")
    assert states(tmp_path / "full")["linear"] == "done"
