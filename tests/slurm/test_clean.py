"""`salmask clean` removes what nobody needs, and no result."""

import json
import os
from pathlib import Path

import pytest
from sweep_samples import GONE, NOW, SILENT, FakeSlurm, Sweep, queue_of
from training_samples import files_below, refused, salmask

from repro.errors import UserError
from repro.runs.folder import RunFolder
from slurm import clean
from slurm.clean import leftovers, remove
from slurm.jobs.orders import ordered_tables, write_report_order
from slurm.monitoring.queue import QueueSnapshot
from slurm.retry import graph_of
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import REPORT


def make_leftovers(sweep: Sweep) -> None:
    """A finished run with every kind of file that cleaning knows."""
    for task, job in (("pretrain", "812"), ("linear", "813")):
        entry = sweep.submitted(task, job)
        (sweep.ledger.logs / entry.submission).mkdir(parents=True)
        entry.log(sweep.place).write_text("x" * 10)
        (sweep.ledger.logs / entry.submission / f"{job}_submission.sh").write_text("PYTHONPATH=/x/code/abc123")
    sweep.says("done")
    sweep.says("done", task="linear")
    sweep.folder.backbone.write_bytes(b"weights")
    sweep.measured()
    sweep.folder.metrics.write_text("{}\n")
    for name in ("checkpoints/step_1.pth", "probes/x-linear/checkpoints/step_2.pth", "features/y.npy", ".lock"):
        (sweep.folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (sweep.folder.path / name).write_bytes(b"x" * 1000)
    (sweep.folder.path / "probes/x-linear/metrics.jsonl").write_text("{}\n")
    (sweep.folder.path / ".run.yaml.abcd_123").write_text("torn")
    os.utime(sweep.folder.path / ".run.yaml.abcd_123", (NOW - 9999, NOW - 9999))
    (sweep.place / "code" / "abc123").mkdir(parents=True)
    (sweep.place / "code" / "abc123" / "x.py").write_text("1")
    (sweep.place / "code" / "abc123.diff").write_text("difference")


KEPT = {"run.yaml", "status.json", "status-linear.json", "backbone.pth", "results.jsonl", "metrics.jsonl"} | {
    "probes/x-linear/metrics.jsonl",
    ".lock",
}


def test_cleaning_takes_what_nobody_needs_and_no_result(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    make_leftovers(sweep)
    before = files_below(sweep.place)
    rehearsal = salmask("clean", "table1", "--dry-run")
    assert rehearsal.out.splitlines()[-1].startswith("would remove 7 things, ")
    assert files_below(sweep.place) == before
    report = json.loads(salmask("clean", "table1", "--json").out)
    assert (report["removed"], sum(item["bytes"] for item in report["found"])) == (
        True,
        3 * 1000 + 4 + 1 + 2 * 35,
    )
    assert files_below(sweep.folder.path) == KEPT
    assert files_below(sweep.place / "code") == {"abc123.diff"}
    assert json.loads(salmask("clean", "table1", "--json").out)["found"] == []
    assert {job["state"] for job in json.loads(salmask("status", "table1", "--json").out)["jobs"]} == {"done"}


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (queue_of("RUNNING", job="813"), {"checkpoints", "probes", "features", "code", "logs-813"}),
        (SILENT, {"checkpoints", "probes", "features", "code", "logs-812", "logs-813"}),
        (GONE, {"probes", "features", "logs-813"}),  # it can go on from its checkpoints
    ],
)
def test_cleaning_leaves_alone_what_a_job_may_still_use(
    sweep: Sweep, runs: Path, queue: QueueSnapshot, expected: set[str]
) -> None:
    make_leftovers(sweep)
    sweep.folder.results.unlink()  # the probe is not done
    sweep.says("running", task="linear", age=9999)
    unneeded = {str(item.path.relative_to(sweep.place)) for item in leftovers(sweep.ledger, queue)}
    names = {
        "checkpoints": f"{sweep.key}/checkpoints",
        "probes": f"{sweep.key}/probes/x-linear/checkpoints",
        "features": f"{sweep.key}/features",
        "code": "code/abc123",
        "logs-812": "logs/sweep-pretrain-812",
        "logs-813": "logs/sweep-linear-813",
    }
    assert {name for name, path in names.items() if path not in unneeded} == expected


def test_a_run_that_begins_while_it_is_cleaned_keeps_its_lock(sweep: Sweep) -> None:
    """If cleaning removed the lock's file, a second process could take a new lock beside the first."""
    make_leftovers(sweep)
    (sweep.folder.path / ".lock-linear").touch()
    unneeded = leftovers(sweep.ledger, GONE)
    with sweep.folder.attempt("linear"):
        remove(unneeded)
        with (
            pytest.raises(UserError, match="in use by another process"),
            RunFolder(sweep.folder.path).attempt("linear"),
        ):
            pass


def test_what_a_colleagues_job_will_use_is_no_leftover(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is not in our own queue, and not every cluster has accounting: the code it needs used to be removed."""
    make_leftovers(sweep)
    sweep.folder.results.unlink()  # the probe is not done
    slurm.says("squeue", "813|sweep-linear-813|PENDING|Priority|N/A|N/A||gpu|")
    slurm.is_a_colleagues(monkeypatch)
    assert salmask("clean", "table1").code == 0
    assert (sweep.place / "code" / "abc123").exists()
    assert (sweep.ledger.logs / "sweep-linear-813").exists()


def test_what_a_report_renders_outlives_cleaning(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    make_leftovers(sweep)
    write_report_order(sweep.place, ["table1"])
    RunFolder(sweep.place).set_status("done", task=REPORT)
    salmask("clean", "table1")
    assert ordered_tables(sweep.place) == ("table1",)
    assert graph_of(sweep.ledger, [(".", REPORT)])[0].tables == ("table1",)


def test_cleaning_waits_for_a_launch(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_leftovers(sweep)
    monkeypatch.setattr("slurm.status_commands.CLEANING_SECONDS", 0.0)
    before = files_below(sweep.place)
    with launch_lock(sweep.place):
        assert refused("clean", "table1").startswith("another launch of runs/table1 is still submitting; mend: wait")
        assert salmask("clean", "table1", "--dry-run").code == 0
    assert before <= files_below(sweep.place)


@pytest.mark.parametrize(("age", "goes"), [(3500, False), (3700, True)])
def test_what_may_still_be_written_is_no_leftover(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, age: float, goes: bool
) -> None:
    make_leftovers(sweep)
    torn = sweep.folder.path / ".run.yaml.abcd_123"
    os.utime(torn, (NOW - age, NOW - age))
    monkeypatch.setattr("time.time", lambda: NOW)
    assert (torn in [item.path for item in leftovers(sweep.ledger, GONE)]) is goes


@pytest.mark.parametrize(("age", "goes"), [(3500, False), (3700, True)])
def test_what_was_half_written_of_a_sweep_goes_as_of_a_run(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, age: float, goes: bool
) -> None:
    """Temporary files of the tables of a killed report used to stay for ever."""
    make_leftovers(sweep)
    (sweep.place / "tables").mkdir()
    torn = [sweep.place / "tables" / ".table1.md.abcd_123", sweep.place / ".jobs.jsonl.abcd_123"]
    notes = sweep.place / "tables" / ".notes.markdown"  # a user's own file
    for path in (*torn, notes):
        path.write_text("half")
        os.utime(path, (NOW - age, NOW - age))
    monkeypatch.setattr("time.time", lambda: NOW)
    found = [item.path for item in leftovers(sweep.ledger, GONE)]
    assert [path in found for path in (*torn, notes)] == [goes, goes, False]


def test_what_is_renamed_while_it_is_looked_at_is_no_leftover(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    make_leftovers(sweep)
    torn = sweep.folder.path / ".run.yaml.abcd_123"

    def renamed(path: Path) -> bool:
        if path == torn:
            path.rename(sweep.folder.path / "notes.txt")
        return path.name == torn.name

    monkeypatch.setattr("repro.filesystem.files.is_temporary", renamed)
    assert torn not in [item.path for item in leftovers(sweep.ledger, GONE)]


def test_what_cannot_be_removed_is_one_line(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_leftovers(sweep)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    assert refused("clean", "table1").endswith("Permission denied; mend: its permissions")


def test_what_cannot_be_removed_keeps_nothing_else(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_leftovers(sweep)
    remove = clean.shutil.rmtree

    def refuse(path: Path) -> None:
        if path.resolve() == sweep.folder.checkpoints:
            raise OSError("said so")
        remove(path)

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    told = refused("clean", "table1")
    assert told == f"cannot remove {Path('runs/table1') / sweep.key / 'checkpoints'}: said so; mend: its permissions"
    assert sweep.folder.checkpoints.exists()
    assert not (sweep.folder.path / "features").exists()
    assert not (sweep.place / "code" / "abc123").exists()


def test_of_a_folder_that_is_a_link_what_the_run_wrote_goes(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, tmp_path: Path
) -> None:
    """Checkpoints on a faster disk: only the run's own files are removed there."""
    make_leftovers(sweep)
    scratch = tmp_path / "scratch"
    sweep.folder.checkpoints.rename(scratch)
    sweep.folder.checkpoints.symlink_to(scratch)
    (scratch / "step_00000002.pth").write_bytes(b"x" * 500)
    (scratch / "step_1.pth").rename(scratch / "notes.txt")
    (scratch / "step_00000002-backup.pth").touch()  # a copy by hand
    assert leftovers(sweep.ledger, GONE)[0].size == 500
    assert salmask("clean", "table1").code == 0
    assert not sweep.folder.checkpoints.is_symlink()
    assert {path.name for path in scratch.iterdir()} == {"notes.txt", "step_00000002-backup.pth"}
