"""`salmask logs`: which log it shows, and following it."""

import time
from pathlib import Path
from typing import Any

import pytest
from sweep_samples import NOW, FakeSlurm, Sweep
from training_samples import refused, salmask, tiny

from repro.filesystem.files import tail
from slurm.monitoring import logs
from slurm.monitoring.logs import follow, last_line, log_files


def test_logs_are_those_of_the_newest_attempt_that_has_begun(sweep: Sweep, runs: Path) -> None:
    assert refused("logs", "mocov2/s0").endswith("has printed nothing yet; mend: salmask status runs/table1")
    own_log = sweep.folder.logs / "20260101" / "x.log"
    own_log.parent.mkdir(parents=True)
    own_log.write_text("by hand\n")
    assert log_files(sweep.ledger, sweep.key) == [own_log]
    sweep.says("running")
    assert log_files(sweep.ledger, sweep.key, "pretrain") == [own_log]
    nothing = refused("logs", "mocov2/s0", "--task", "linear")
    assert nothing == "mocov2/s0 has printed nothing of linear yet; mend: salmask status runs/table1"
    first, second = sweep.submitted(job="812"), sweep.submitted(job="820", submission="second")
    for entry, text in ((first, "old\n"), (second, "one\ntwo\nthree\n")):
        for stream in ("err", "out"):
            path = entry.log(sweep.place, stream)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if stream == "err" else "submitit INFO\n")
    sweep.submitted(job="830", submission="third")  # is pending, and has printed nothing
    call = salmask("logs", "mocov2/s0", "-n", "2")
    assert call.out.splitlines() == [
        f"==> {second.log(Path('runs/table1'), 'err')} <==",
        "two",
        "three",
        f"==> {second.log(Path('runs/table1'), 'out')} <==",
        "submitit INFO",
    ]


def test_logs_of_another_users_sweep_are_not_said_to_be_empty(
    sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = sweep.submitted(job="812")
    folder = sweep.ledger.logs / entry.submission
    folder.mkdir(parents=True)
    place = Path("runs/table1/logs", entry.submission)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != place)  # root could look into any folder
    line = refused("logs", "mocov2/s0")
    assert line.startswith(f"{place} is open to its owner alone; mend: ask its owner; ")


def test_logs_of_many_processes_come_in_their_order(sweep: Sweep) -> None:
    entry = sweep.submitted(job="812_3")
    folder = sweep.ledger.logs / entry.submission
    folder.mkdir(parents=True)
    names = [f"812_3_{process}_log.{stream}" for stream in ("err", "out") for process in (0, 2, 10)]
    for name in names:
        (folder / name).touch()
    for other in (Sweep(sweep.place, tiny("simclr")).submitted(job="900"), sweep.submitted("linear", "901")):
        path = other.log(sweep.place, "err")
        path.parent.mkdir(parents=True)
        path.touch()
    assert [path.name for path in log_files(sweep.ledger, sweep.key, "pretrain")] == names


def test_following_asks_slurm_seldom_and_ends_with_the_job(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = sweep.submitted().log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text("one\n")
    sweep.says("running", step=30, steps=100)
    slurm.says("squeue", f"812|sweep-pretrain-812|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|")
    clock, sleep = [0.0], time.sleep

    def wait(seconds: float) -> None:
        if seconds < logs.POLL_SECONDS:  # subprocess's own waiting
            sleep(seconds)
            return
        clock[0] += seconds
        if clock[0] == 11:
            log.write_text("one\ntwo\n")
            sweep.folder.backbone.touch()

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    call = salmask("logs", "mocov2/s0", "-f")
    assert (call.code, clock[0], len(slurm.calls)) == (0, 15.0, 3)  # at 0, 5 and 10 s; at 15 s it is done
    assert call.out.splitlines()[1:] == ["one", "two"]


def test_following_goes_on_across_requeues_and_resubmissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0)
    first, second = tmp_path / "1_0_log.err", tmp_path / "2_0_log.err"
    first.write_text("a\nb\nhalf")
    now: dict[str, Any] = {"files": [first], "over": False}
    pieces = follow(lambda: now["files"], 1, ended=lambda: now["over"])
    assert next(pieces) == (first, "b\n")  # an incomplete line is not shown yet
    with first.open("a") as file:
        file.write(" done\nrequeued\n")  # Slurm appends
    assert next(pieces) == (first, "half done\nrequeued\n")
    second.write_text("anew\n1\n2\n3\n")
    now["files"] = [second]
    assert next(pieces) == (second, "anew\n1\n2\n3\n")
    second.write_text("x")  # a new attempt
    now["over"] = True
    assert next(pieces) == (second, "x\n")
    assert next(pieces, None) is None


def test_the_last_line_is_not_submitits(tmp_path: Path) -> None:
    log = tmp_path / "x.err"
    assert last_line(log) == ""
    log.write_text("x" * 9000 + "\nValueError: no\n\nsubmitit WARNING (2026) - Bypassing signal SIGTERM\n")
    assert last_line(log) == "ValueError: no"
    log.write_text("é" * 9000 + "x", encoding="utf-8")
    assert tail(log) == "\N{REPLACEMENT CHARACTER}" + "é" * 4095 + "x"  # the tail begins within a character
