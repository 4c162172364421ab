"""A loader's processes: they work in any temporary folder, and a killed one is one line with its cause."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info
from training_samples import TINY, refused, words

from repro.errors import UserError
from repro.processes import workers
from repro.processes.loader import Loader
from repro.processes.workers import deaths_told, use_short_sockets
from repro.runs.folder import RunFolder
from repro.scenes.dataset import Scenes


class Deadly(Dataset[torch.Tensor]):
    """A data set whose third item harms its process."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            assert get_worker_info() is not None
            if self.what == "exit":
                os._exit(3)
            if self.what == "sleep":
                time.sleep(60)
            os.kill(os.getpid(), getattr(signal, self.what))
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        # The signal is known only if torch hears of it before the connection breaks.
        ("SIGKILL", r"a decoding process was killed( \(Killed\)|, or ended by itself): perhaps for lack of memory"),
        ("SIGBUS", r"a decoding process was killed(, or ended by itself| \(Bus error\)): .*shared memory \(/dev/shm\)"),
        ("exit", r"a decoding process was killed, or ended by itself: perhaps for lack of memory"),
        pytest.param(
            "sleep",
            r"no decoding process gave a batch within 2 s; mend: check the data's disk",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_dies_or_hangs_is_one_line_with_its_cause(what: str, said: str) -> None:
    loader = DataLoader(Deadly(what), num_workers=1, timeout=2 if what == "sleep" else workers.LONGEST_WAIT)
    with pytest.raises(UserError, match=said), deaths_told(), deaths_told():
        list(loader)


def test_a_death_that_is_told_while_the_broken_connection_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's handler raises at any line of the main process; between these two, it was a fault of salmask's own."""

    def signalled(error: BaseException) -> bool:
        raise RuntimeError("DataLoader worker (pid 15615) is killed by signal: Killed. ")

    monkeypatch.setattr(workers, "_is_of_a_connection", signalled)
    told = r"a decoding process was killed \(Killed\): perhaps for lack of memory"
    with pytest.raises(UserError, match=told), deaths_told():
        raise EOFError


def test_a_death_that_is_told_as_the_block_ends_is_taken_by_the_other_one() -> None:
    """Seen once: the death was reported at the first line of `__exit__`."""

    @contextmanager
    def signalled() -> Iterator[None]:
        try:
            yield
        except EOFError:
            raise RuntimeError("DataLoader worker (pid 15615) is killed by signal: Bus error. ") from None

    with pytest.raises(UserError, match=r"a decoding process was killed \(Bus error\)"), deaths_told(), signalled():
        raise EOFError


def test_an_error_of_something_else_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="a shape that does not fit"), deaths_told():
        raise RuntimeError("a shape that does not fit")


LEFT = """
import atexit, multiprocessing, sys
import torch
atexit.register(lambda: print(len(multiprocessing.active_children())))  # called after those that are registered later
from repro.processes.loader import Loader

def read(stays):
    reading = iter(Loader(torch.arange(8), workers=WORKERS, persistent_workers=stays))
    next(reading)
    return reading

left = [read(stays=False), read(stays=True)]
done = read(stays=True)
list(done)
print(len(multiprocessing.active_children()))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        pytest.param("raise SystemExit(2)", 2, marks=pytest.mark.slow),
        pytest.param("left.pop().fails", 1, marks=pytest.mark.slow),
    ],
)
def test_processes_of_readings_that_were_left_end_before_the_program(end: str, code: int) -> None:
    """They survive TERM, and were waited for: half a minute at the end of every training with workers."""
    more_than_cores = (os.cpu_count() or 1) + 1
    script = LEFT.replace("WORKERS", str(more_than_cores)) + end
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (code, [str(3 * more_than_cores), "0"]), ended.stderr
    assert "UserWarning" not in ended.stderr


def test_processes_of_a_reading_that_python_finds_in_a_circle_end_with_it() -> None:
    """An error leaves such a cycle: its queues used to be closed first, and whatever ran next waited half a minute."""
    others = {child.pid for child in multiprocessing.active_children()}
    circle: list[Any] = [iter(Loader(torch.arange(8), workers=1))]
    circle.append(circle)
    next(circle[0])
    assert len({child.pid for child in multiprocessing.active_children()} - others) == 1
    del circle
    gc.collect()
    assert {child.pid for child in multiprocessing.active_children()} <= others


class Slow(Dataset[torch.Tensor]):
    """A data set whose items take a moment."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.1)
        return torch.full((1,), float(index))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_whole_group_leaves_the_workers_to_their_main_process(number: int) -> None:
    """Slurm's scancel and `kill -TERM -GROUP` reach every process; the training still completes its step, and saves."""
    others = {child.pid for child in multiprocessing.active_children()}  # left by earlier tests' failed trainings
    loader = Loader(Slow(), workers=2)
    batches = iter(loader)
    values = [float(next(batches)), float(next(batches))]  # one of each: both have started, and ignore signals
    own = [child for child in multiprocessing.active_children() if child.pid not in others]
    assert len(own) == 2
    for child in own:
        assert child.pid is not None
        os.kill(child.pid, number)
    with deaths_told():
        values += [float(batch) for batch in batches]
    assert values == [float(index) for index in range(12)]


def test_a_worker_that_nobody_ends_goes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.processes.workers._LAST_SECONDS", 1)

    def stay() -> None:
        workers.outlive_signals(0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    process = multiprocessing.get_context("fork").Process(target=stay)
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGALRM


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="CUDA out of memory"), deaths_told():
        raise RuntimeError("CUDA out of memory")


def test_a_killed_process_ends_a_training_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Scenes.__getitem__

    def kill(self: Scenes, index: int) -> tuple[Image.Image, int]:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, index)

    monkeypatch.setattr(Scenes, "__getitem__", kill)
    settings = words({**TINY, "machine.workers": 1})
    line = refused("pretrain", "mocov2", "--out", str(tmp_path / "runs"), *settings)
    assert line.startswith("a decoding process was killed")
    assert "mend: fewer machine.workers, or more memory; then the same command continues" in line
    (path,) = (tmp_path / "runs").glob("*/*/status.json")
    status = RunFolder(path.parent).status()
    assert status is not None
    assert status.state == "failed"
    assert status.error in line


@pytest.mark.end_to_end
def test_a_long_temporary_folder_trains_as_a_short_one_does(tmp_path: Path) -> None:
    long = tmp_path / ("t" * 130)
    long.mkdir()
    settings = words({"machine.workers": 1, "optimization.epochs": 1})
    command = [sys.executable, "-m", "repro.cli", "pretrain", "mocov2", "--out", str(tmp_path / "runs"), *settings]
    environment = {**os.environ, "TMPDIR": str(long)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "AF_UNIX" not in ended.stderr
    assert len(list((tmp_path / "runs").glob("*/*/backbone.pth"))) == 1


def test_where_no_short_folder_can_be_had_it_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 130)))
    monkeypatch.setattr(workers, "_SHORT_FOLDERS", (str(tmp_path / "not-there"),))
    with pytest.raises(UserError, match=r"t{130} is too long .* mend: set TMPDIR to a shorter one"):
        use_short_sockets()


@pytest.mark.parametrize(
    "said",
    ["DataLoader worker (pid(s) 7, 8) exited unexpectedly", "DataLoader worker (pid 7) is killed by signal: Killed. "],
)
def test_both_sentences_of_torch_are_known(said: str) -> None:
    with pytest.raises(UserError, match="a decoding process was killed"), deaths_told():
        raise RuntimeError(said)
