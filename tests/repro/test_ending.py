"""How the process of a command ends under Ctrl-C, closed pipes and odd terminals."""

import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_samples import salmask, tiny, words
from waiting import wait_until

from repro.data.catalogue import DATASETS
from repro.runs.folder import RunFolder
from repro.runs.stopping import STOP
from repro.training.watching.hooks import Heartbeat


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.mark.parametrize("words", [["-h"], ["eval", "-h"], ["methods"]])
def test_a_terminal_without_a_size_is_shown_all_the_same(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """rich used to take `COLUMNS=0` literally, and printed nothing."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = salmask(*words).out
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setenv("LINES", "0")
    assert shown.strip() == salmask(*words).out.strip() != ""


@pytest.mark.parametrize("closed", [False, True])
def test_a_refusal_that_cannot_be_told_is_one_all_the_same(closed: bool) -> None:
    """The status used to be 1, as for a fault, and the traceback was lost too."""
    if closed:
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = subprocess.run([sys.executable, "-m", "repro.cli", "nothing"], stderr=write, check=False)
    finally:
        os.close(write)
    assert ended.returncode == 2


@pytest.mark.parametrize("words", [["-h"], ["methods"]])
def test_a_closed_pipe_ends_a_command_quietly(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "repro.cli", *words]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_nothing_is_lost_in_a_pipe_that_does_not_wait_for_its_reader() -> None:
    """Of 190 kB of claims only the first 64 arrived, with status 0: Python's print drops the rest on such a pipe."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    room = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "repro.cli", "methods", "--json"]
    with subprocess.Popen(command, stdout=write) as process:
        os.close(write)
        wait_until(lambda: process.poll() is not None or _waiting_in(read) == room, "a full pipe", every=0.02)
        with os.fdopen(read, "rb") as pipe:
            assert len(json.loads(pipe.read())) >= 13
    assert process.returncode == 0


def _waiting_in(pipe: int) -> int:
    """Returns the number of unread bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_is_one_that_keeps_nothing(closed: str) -> None:
    """A training, an evaluation and a sweep ask where their output goes: it used to be a fault of salmask's own."""
    code = (
        "import sys; sys.argv = ['salmask', '-h']\nfrom repro.cli import main\n"
        "try: main()\nfinally:\n    asked = [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)]\n"
        "    assert open('/dev/null').fileno() > 2"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("every", "told"),
    [(1, "the same command resumes from its last checkpoint"), (1000, "the same command begins anew")],
)
def test_ctrl_c_is_one_line_and_the_run_says_so(
    out: Path, monkeypatch: pytest.MonkeyPatch, every: int, told: str
) -> None:
    """A checkpoint used to be promised even before there was one."""

    def press(hook: Heartbeat, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Heartbeat, "after_train_iter", press)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    ended = salmask("pretrain", "mocov2", "--out", str(out), *words({"machine.checkpoint_every": every}))
    assert ended.code == 130
    assert ended.err.splitlines() == [f"salmask: interrupted; {told}"]
    status = RunFolder.of(tiny(), out).status()
    assert status is not None
    assert status.state == "interrupted"


@pytest.mark.parametrize(
    ("name", "place", "what"),
    [("logs", "logs/tensorboard", "No such file or directory"), ("metrics.jsonl", "metrics.jsonl", "Is a directory")],
)
def test_a_record_that_goes_away_during_a_training_is_named_and_no_fault(
    out: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, what: str
) -> None:
    """A missing TensorBoard folder used to be a fault of salmask's own; for the other file the mend was more space."""
    longer = {"optimization.epochs": 20}  # a thread writes the events, and its error shows a step later
    folder = RunFolder.of(tiny(changes=longer), out)

    def remove(_: Heartbeat, runner: Any, *__: Any, **___: Any) -> None:
        if runner.iter == 1:
            (folder.path / name).rename(out / "away")
            if name == "metrics.jsonl":
                (folder.path / name).mkdir()

    monkeypatch.setattr(Heartbeat, "after_train_iter", remove)
    ended = salmask("pretrain", "mocov2", "--out", str(out), *words(longer))
    mend = "make sure that its folder exists and can be written to; then the same command continues"
    assert (ended.code, ended.err.splitlines()[-1]) == (
        2,
        f"salmask: cannot write {folder.path / place}: {what}; mend: {mend}",
    )


@pytest.mark.parametrize(
    ("asked", "code", "what"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(143), 143, "ended by SIGTERM"),
        (SystemExit(129), 129, "ended by SIGHUP"),
    ],
)
def test_an_interruption_that_a_library_takes_for_a_fault_is_none(
    out: Path, monkeypatch: pytest.MonkeyPatch, asked: BaseException, code: int, what: str
) -> None:
    """mmengine's bare `except` made a SyntaxError of it: the run had failed, by a fault of salmask's own."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise asked

    monkeypatch.setattr("mmengine.config.config.FormatCode", interrupted)
    ended = salmask("pretrain", "mocov2", "--out", str(out), *words({}))
    assert (ended.code, ended.err) == (code, f"salmask: {what}; the same command begins anew\n")
    status = RunFolder.of(tiny(), out).status()
    assert status is not None
    assert (status.state, status.error) == ("interrupted", "")


def test_outside_of_a_run_too_an_interruption_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise SyntaxError("of a library") from error

    monkeypatch.setattr("repro.data.annotations.scenes_export.write_voc", press)
    ended = salmask("data", "export-scenes", "--as", "voc", "--out", str(tmp_path / "out"))
    assert (ended.code, ended.err.splitlines()) == (130, ["salmask: interrupted"])


def test_an_end_of_input_that_a_reader_meets_is_a_fault_and_no_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """typer takes EOFError for Ctrl-D: an empty pickle in a user's data set ended in "interrupted" and status 130."""

    (tmp_path / "own_data.py").write_text("import pickle\ndef open_empty(*_):\n    return pickle.loads(b'')\n")
    monkeypatch.syspath_prepend(tmp_path)
    own_data = importlib.import_module("own_data")
    monkeypatch.setitem(DATASETS, "own", replace(DATASETS["scenes"], name="own", open=own_data.open_empty))
    ended = salmask("data", "cache", "own", "--to", str(tmp_path))
    place = f"{tmp_path}/own_data.py, line 3"
    assert (ended.code, ended.err.splitlines()[-1]) == (
        1,
        f"salmask: a fault of code that was added to salmask, at {place}: EOFError: Ran out of input; its traceback is "
        "above",
    )


def test_no_backend_of_a_notebooks_is_asked_to_draw() -> None:
    """matplotlib's import fails if the variable names an unknown backend: that used to be a fault of salmask's own."""
    code = (
        "import sys; sys.argv = ['salmask', '-h']\nfrom repro.cli import main\ntry: main()\nfinally: import matplotlib"
    )
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_ctrl_c_promises_no_checkpoint_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("repro.data.annotations.scenes_export.write_voc", press)
    ended = salmask("data", "export-scenes", "--as", "voc", "--out", str(tmp_path / "out"))
    assert (ended.code, ended.err.splitlines()) == (130, ["salmask: interrupted"])


def test_ctrl_c_promises_that_what_is_decoded_is_not_decoded_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages say that a command begins anew if this line promises nothing."""

    def press(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("repro.data.commands.cache_images", press)
    monkeypatch.setattr(STOP, "afterwards", "")  # an earlier training of this process may have set it
    ended = salmask("data", "cache", "scenes", "--to", str(out))
    assert (ended.code, ended.err.splitlines()) == (130, ["salmask: interrupted; the same command continues"])
