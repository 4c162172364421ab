import errno
import json
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
from training_samples import files_below, tiny
from waiting import wait_until

from baselines import resolve
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.provenance_file import record_attempt
from repro.runs.schemas import ATTEMPT
from repro.runs.status import Status
from repro.settings.reading import load, read_yaml

RUN = tiny()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(RUN, tmp_path / "sweep")


def state(folder: RunFolder) -> Status:
    status = folder.status()
    assert status is not None
    return status


def test_the_folder_is_named_by_the_run_alone(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.path == tmp_path / "sweep" / "mocov2" / f"s0-{RUN.id}"
    assert folder.sweep == "sweep"
    assert files_below(tmp_path) == set()


def test_the_run_is_written_once_and_read_back_whole(folder: RunFolder) -> None:
    folder.prepare(RUN)
    written = folder.run_yaml.stat().st_mtime_ns
    folder.prepare(replace(RUN, machine=replace(RUN.machine, workers=7)))  # how it is carried out is no part of a run
    assert folder.run_yaml.stat().st_mtime_ns == written
    assert folder.load() == RUN
    assert load(folder.run_yaml).id == RUN.id


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "by-hand")
    other_run = tiny(changes={"optimization.lr": 0.06})
    folder.prepare(other_run)
    with pytest.raises(UserError, match=f"holds run {other_run.id}, not {RUN.id}; mend: choose another --out"):
        folder.prepare(RUN)
    assert folder.load() == other_run


def test_a_folder_without_a_run_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no run.yaml; mend: "):
        RunFolder(tmp_path).load()


def test_status_tells_how_an_attempt_goes_and_ends(folder: RunFolder) -> None:
    assert folder.status() is None
    with folder.attempt("pretrain"):
        running = state(folder)
        assert (running.state, running.task, running.attempt, running.error) == ("running", "pretrain", 1, "")
        assert (running.step, running.steps, running.resumed_at) == (0, 0, 0)
        assert abs(running.heartbeat - time.time()) < 60
    assert state(folder).state == "done"
    assert not folder.pretrained  # the backbone proves it, not the status


NO_PROCESS = 2**22 + 1
"""Above any process id."""


@pytest.mark.parametrize(
    ("changes", "age", "silent"),
    [
        ({}, 0.0, False),
        ({}, STALE_SECONDS, False),
        ({}, STALE_SECONDS + 1, True),
        ({}, -STALE_SECONDS - 1, True),  # a clock jumped
        ({"pid": NO_PROCESS}, 0.0, True),
        ({"pid": NO_PROCESS, "host": "elsewhere"}, 0.0, False),  # nobody here can tell
        ({"state": "done"}, STALE_SECONDS + 1, False),
        ({"state": "failed", "pid": NO_PROCESS}, 0.0, False),
    ],
)
def test_what_runs_is_silent_once_its_process_or_its_heartbeat_is_gone(
    changes: dict[str, Any], age: float, silent: bool
) -> None:
    status = Status(
        **{"state": "running", "host": socket.gethostname(), "pid": os.getpid(), "heartbeat": 1e9, **changes}
    )
    assert status.silent(1e9 + age) is silent
    assert status.alive(1e9 + age) is (status.state == "running" and not silent)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_ctrl_c_and_sigterm_are_interruptions(folder: RunFolder, stop: BaseException) -> None:
    with pytest.raises(type(stop)), folder.attempt("pretrain"):
        raise stop
    assert (state(folder).state, state(folder).error) == ("interrupted", "")


def test_a_signal_that_answers_the_first_status_is_an_interruption(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`salmask cancel` may see "running" before the process has returned from writing it."""
    for task in ("pretrain", "linear"):
        answers = iter([True])

        def write(path: Path, content: Any, answers: Any = answers) -> None:
            write_json(path, content)
            if next(answers, False):
                raise SystemExit(143)

        monkeypatch.setattr("repro.runs.status.write_json", write)
        with pytest.raises(SystemExit), folder.attempt(task):
            raise AssertionError("the attempt has not begun")
        status = folder.status(task)
        assert status is not None
        assert (status.state, status.task, status.attempt, status.error) == ("interrupted", task, 1, "")


def test_what_is_the_machines_matter_is_on_record_with_its_mend(folder: RunFolder) -> None:
    with pytest.raises(OSError, match="No space"), folder.attempt("pretrain"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "features")
    assert state(folder).error == "features: No space left on device; mend: free some space, and repeat"


def test_a_failure_is_on_record_until_the_next_attempt(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="lines"), folder.attempt("pretrain"):
        raise ValueError("two\n  lines")
    assert (state(folder).state, state(folder).error, state(folder).attempt) == ("failed", "two lines", 1)
    with folder.attempt("pretrain"):
        assert (state(folder).state, state(folder).error, state(folder).attempt) == ("running", "", 2)


def test_tasks_of_a_run_go_on_at_once_and_each_has_a_status(folder: RunFolder) -> None:
    with folder.attempt("pretrain"):
        pass
    same_folder = RunFolder(folder.path)  # as another process would see it
    with folder.attempt("linear"), same_folder.attempt("linear@caltech101"):
        folder.set_status("running", task="linear", step=3, steps=9)
        same_folder.set_status("running", task="linear", step=5, steps=7)  # the attempt's task counts
        first, second = folder.status("linear"), folder.status("linear@caltech101")
        assert first is not None
        assert second is not None
        assert (first.step, first.steps, first.attempt) == (3, 9, 1)
        assert (second.task, second.step, second.steps) == ("linear@caltech101", 5, 7)
        assert state(folder) == second
    assert {path.name for path in folder.path.iterdir()} == {
        *("status.json", "status-linear.json", "status-linear@caltech101.json"),
        *(".lock", ".lock-linear", ".lock-linear@caltech101"),
    }


def test_a_heart_beats_while_no_step_ends(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.runs.folder.BEAT_SECONDS", 0.05)
    with folder.attempt("pretrain"):
        folder.set_status("running", step=4)
        before = state(folder).heartbeat
        wait_until(lambda: state(folder).heartbeat > before, "a beat", every=0.02)
        after = state(folder)
    assert (after.state, after.step) == ("running", 4)


def test_a_heart_goes_on_where_the_server_was_away(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.runs.folder.BEAT_SECONDS", 0.02)
    away = threading.Event()
    stat, read, write = Path.stat, os.open, os.replace

    def or_stale(call: Callable[..., Any], place: int) -> Callable[..., Any]:
        def asked(*words: Any, **options: Any) -> Any:
            if away.is_set() and folder.path.name in str(words[place]):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return call(*words, **options)

        return asked

    with folder.attempt("pretrain"):
        folder.set_status("running", step=4)
        for owner, name, call in ((Path, "stat", stat), (os, "open", read), (os, "replace", write)):
            with monkeypatch.context() as patches:
                patches.setattr(owner, name, or_stale(call, 0))
                away.set()
                time.sleep(0.2)
                away.clear()
            before = state(folder)
            wait_until(lambda before=before: state(folder).heartbeat > before.heartbeat, "the next beat")  # type: ignore[misc]
            assert (state(folder).state, state(folder).step) == ("running", 4)


def test_who_was_taken_over_ends_and_leaves_the_others_word_alone(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.runs.folder.BEAT_SECONDS", 0.05)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    with folder.attempt("pretrain"):
        RunFolder(folder.path).set_status("running", attempt=2, step=77)
        wait_until(lambda: signals, "the end of who was taken over", every=0.02)
        folder.set_status("running", step=5)
    assert signals == [signal.SIGTERM]
    assert (state(folder).attempt, state(folder).step, state(folder).state) == (2, 77, "running")


@pytest.mark.parametrize("came_of_it", [FileNotFoundError("no events"), SystemExit(143)])
def test_of_a_folder_that_was_moved_meanwhile_that_is_told_and_nothing_is_written(
    folder: RunFolder, tmp_path: Path, came_of_it: BaseException
) -> None:
    """This used to be told as a fault of salmask's own, with its traceback."""

    def moved() -> None:
        with folder.attempt("pretrain"):
            folder.prepare(RUN)  # as a new training does
            folder.path.rename(tmp_path / "moved")
            raise came_of_it

    with pytest.raises(UserError, match=rf"^{folder.path} was moved or removed while it was in use; mend: put it back"):
        moved()
    assert not folder.path.exists()
    assert state(RunFolder(tmp_path / "moved")).state == "running"


def test_who_writes_where_a_folder_was_moved_from_is_ended(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing makes the folder anew: a training used to end well there, and left weights without settings."""
    monkeypatch.setattr("repro.runs.folder.BEAT_SECONDS", 0.05)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    folder.path.mkdir(parents=True)
    folder.run_yaml.touch()

    def go_on() -> None:
        folder.path.rename(tmp_path / "moved")
        folder.set_status("running", step=5)
        wait_until(lambda: signals, "the end of who writes there", every=0.02)

    with pytest.raises(UserError, match="was moved or removed while it was in use"), folder.attempt("pretrain"):
        go_on()
    assert signals == [signal.SIGTERM]


def test_an_error_without_words_is_named_by_its_kind(folder: RunFolder) -> None:
    with pytest.raises(AssertionError), folder.attempt("pretrain"):
        raise AssertionError
    assert state(folder).error == "AssertionError"


def test_a_folder_in_use_is_refused_and_left_alone(folder: RunFolder) -> None:
    with folder.attempt("pretrain"):
        before = state(folder)
        holder = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, last heartbeat \d+ s ago"
        with (
            pytest.raises(UserError, match=rf"is in use by another process; mend: wait for {holder}, or stop it$"),
            RunFolder(folder.path).attempt("pretrain"),
        ):
            pytest.fail("two held it")
        assert state(folder) == before
    with RunFolder(folder.path).attempt("pretrain"):
        assert state(folder).attempt == 2


def test_an_attempt_lets_go_however_it_ends(folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), folder.attempt("pretrain"):
        raise KeyboardInterrupt
    with filelock.FileLock(folder.path / ".lock", blocking=False) as lock:
        assert lock.is_locked


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = RunFolder.of(RUN, tmp_path / "file")
    for task, mend in (("pretrain", "choose another --out"), ("knn", "have it made writable")):  # `eval` has no --out
        with pytest.raises(UserError, match=f"cannot write to .*: .*; mend: {mend}$"), folder.attempt(task):
            pytest.fail("it is not a folder")
    assert files_below(tmp_path) == {"file"}


def test_provenance_keeps_every_attempt(folder: RunFolder) -> None:
    folder.prepare(RUN)
    record_attempt(folder, "cpu", {"train": "aa"})
    first = json.loads(folder.provenance.read_text())
    record_attempt(folder, "other cpu", {"train": "aa"})
    attempts = json.loads(folder.provenance.read_text())
    assert attempts[:1] == first
    assert [attempt["device"] for attempt in attempts] == ["cpu", "other cpu"]


def test_provenance_tells_how_an_attempt_computes(folder: RunFolder) -> None:
    folder.prepare(RUN)
    record_attempt(folder, "cpu", {"train": "aa"})  # as older versions recorded it
    record_attempt(folder, "cpu", {"train": "aa"}, machine={"compile": True}, arithmetic={"cudnn.allow_tf32": True})
    first, second = ATTEMPT.read_list(folder.provenance)
    assert not {"machine", "arithmetic"} & set(first)
    assert (second["machine"], second["arithmetic"]) == ({"compile": True}, {"cudnn.allow_tf32": True})


def test_provenance_names_a_command_that_makes_the_run_again(folder: RunFolder) -> None:
    folder.prepare(RUN)
    record_attempt(folder, "cpu", {"train": "aa"})
    (attempt,) = json.loads(folder.provenance.read_text())
    words = shlex.split(attempt["command"])
    assert words[:2] == ["salmask", "pretrain"]
    method, config, out = words[2], Path(words[4]), Path(words[6])
    again = resolve(method, read_yaml(config))
    assert RunFolder.of(again, out).path == folder.path


@pytest.mark.parametrize("made", ["checkpoints/step_00000002.pth", "backbone.pth", "results.jsonl"])
def test_data_that_changed_between_attempts_is_refused(folder: RunFolder, made: str) -> None:
    folder.prepare(RUN)
    record_attempt(folder, "cpu", {"train": "aa"})
    (folder.path / made).parent.mkdir(exist_ok=True)
    (folder.path / made).touch()
    with pytest.raises(UserError, match="the data changed since"):
        record_attempt(folder, "cpu", {"train": "bb"})
    assert len(json.loads(folder.provenance.read_text())) == 1


def test_data_may_be_mended_where_nothing_was_made_of_it_yet(folder: RunFolder) -> None:
    folder.prepare(RUN)
    record_attempt(folder, "cpu", {"train": "aa"})
    folder.checkpoints.mkdir()
    (folder.checkpoints / ".step_00000002.pth.abcdefgh").touch()  # its first, half written when it was killed
    record_attempt(folder, "cpu", {"train": "bb"})
    attempts = json.loads(folder.provenance.read_text())
    assert [attempt["data"]["train"] for attempt in attempts] == ["aa", "bb"]
