"""The drill itself, with a handful of its points: what it finds if nothing is wrong, and if something is."""

import contextlib
import multiprocessing
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401  its first import makes a folder, which must not happen in a test
import pytest

from repro.cli import main
from repro.drill import inputs
from repro.drill.faults import (
    Row,
    TinyRun,
    all_held,
    folder_in,
    full_disk,
    interrupted_in_a_write,
    killed,
    signalled,
    spread,
    torn,
)
from repro.drill.inputs import files, mutated, settings, try_input
from repro.drill.own_files import own_files
from repro.drill.processes import Strike, run
from repro.errors import UserError


def serve(place: Path, asked: Connection) -> None:
    import baselines  # noqa: F401  as `salmask drill` does: processes are forked from this one
    import repro.training.pretraining  # noqa: F401

    training = TinyRun(main, place)
    training.begin()
    with contextlib.suppress(EOFError):  # no more questions
        while True:
            fault, *points = asked.recv()
            asked.send(fault(training, *points))


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Asks a new process how a tiny run ends under a fault.

    Trainings are forked from that process. They could not be forked from this one: an earlier test may have made
    autograd     start threads here.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(tmp_path_factory.mktemp("drill"), theirs))
    process.start()
    theirs.close()  # so that the process's end closes the pipe that is read

    def ask(fault: Callable[..., Any], *points: int) -> Any:
        ours.send((fault, *points))
        return ours.recv()

    yield ask
    ours.close()
    process.join()


def held(row: Row) -> bool:
    assert row.held == row.tried, row.first_fault
    return row.tried > 0


@pytest.mark.slow
def test_a_killed_a_signalled_and_a_torn_training_go_on(drill: Callable[..., Any]) -> None:
    assert drill(attrgetter("events")) > 50
    assert held(drill(killed, 2))
    assert held(drill(signalled, 1))
    assert held(drill(interrupted_in_a_write, 1))


@pytest.mark.slow
@pytest.mark.parametrize("points", [12])
def test_many_points_hold(drill: Callable[..., Any], points: int) -> None:
    assert held(drill(killed, points))
    assert held(drill(torn, 2 * points))
    assert held(drill(interrupted_in_a_write, 3 * points))
    assert held(drill(full_disk)) or not drill(full_disk).tried


@pytest.mark.end_to_end
def test_the_drill_sees_weights_metrics_and_results_that_differ(drill: Callable[..., Any], tmp_path: Path) -> None:
    training = TinyRun(main, drill(attrgetter("place")))
    other = shutil.copytree(training.place / "undisturbed", tmp_path / "other")
    assert training.difference(other) == ""
    folder = folder_in(other)
    (folder.path / ".status.json.abcd1234").write_text("half")
    assert training.difference(other) == ".status.json.abcd1234 was left"
    results, metrics = folder.results.read_text(), folder.metrics.read_text()
    folder.results.write_text(results.replace('"value": ', '"value": 1'))
    assert "its results differ" in training.difference(other)
    folder.metrics.write_text(metrics.replace('"loss": ', '"loss": 1'))
    assert training.difference(other) == "its metrics differ"


def test_a_process_is_struck_at_the_event_that_is_due(tmp_path: Path) -> None:
    def write_three() -> None:
        for name in sys.argv[1:]:
            (tmp_path / name).write_text("x")

    whole = run(write_three, ["a", "b", "c"], tmp_path)
    assert (whole.code, whole.events, whole.fault) == (0, 3, "")
    for path in tmp_path.iterdir():
        path.unlink()
    ended = run(write_three, ["a", "b", "c"], tmp_path, Strike(2))
    assert (ended.code, ended.events) == (-signal.SIGKILL, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # before the event, not after it


def test_a_strike_may_come_within_the_writing_of_weights(tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "x.json").write_text("x")
        with (tmp_path / ".step.pth.abcd1234").open("w") as file:
            time.sleep(0.3)
            file.write("x")

    assert run(write, [], tmp_path).weights == (2,)
    began = time.monotonic()
    ended = run(write, [], tmp_path, Strike(2, signal.SIGKILL, 0.05))
    assert ended.code == -signal.SIGKILL
    assert time.monotonic() - began >= 0.05
    assert (tmp_path / ".step.pth.abcd1234").read_text() == ""  # it was open, and nothing had been written yet


def test_tracebacks_and_hangs_are_seen(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("weight")

    assert run(fail, [], tmp_path).fault == "a traceback: KeyError: 'weight'"
    late = run(lambda: time.sleep(60), [], tmp_path, seconds=0.3)
    assert (late.late, late.fault) == (True, "it did not end")


def test_an_input_is_refused_in_one_line_in_time_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "SECONDS", 1)

    def refuse() -> None:
        raise UserError("x is odd", mend="another x")

    def fail() -> None:
        raise KeyError("x")

    assert try_input(refuse, tmp_path) == try_input(lambda: None, tmp_path) == ""
    assert try_input(fail, tmp_path) == "a traceback: KeyError: 'x'"
    assert try_input(lambda: time.sleep(60), tmp_path) == "a hang: more than 1 s"
    assert try_input(lambda: (tmp_path / "trace").write_text(""), tmp_path) == "it wrote something"


def test_bad_inputs_of_every_kind_are_refused(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [settings(tmp_path, random.Random(1), 150), *files(tmp_path, random.Random(1), 50)]
    assert all_held(rows), [(row.kind, row.first_fault) for row in rows if row.held < row.tried]
    kinds = [row.kind for row in rows[1:]]
    assert kinds == list(own_files(tmp_path_factory.mktemp("own")))
    assert {row.tried for row in rows[1:]} == {50 // len(kinds) + 1}  # and one as a pipe
    assert not list(tmp_path.iterdir())


def test_changes_are_a_function_of_the_seed() -> None:
    content = b'{"state": "done",\n"step": 3}\n'
    changes = [mutated(content, random.Random(7)) for _ in range(2)]
    assert changes[0] == changes[1] != content
    assert len({mutated(content, random.Random(number)) for number in range(100)}) > 40


def test_points_are_spread_over_all_events() -> None:
    assert spread(3, 12) == [1, 2, 3]
    assert spread(89, 3) == [1, 45, 89]
    assert spread(0, 3) == []
