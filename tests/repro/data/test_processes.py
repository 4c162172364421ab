"""Decoding and drawing processes that are killed, or whose parent is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.data.processes import work_all
from repro.errors import UserError

ORPHANS = """
import time
from repro.data.processes import work_all

def begin(count):
    print("begun", flush=True)
    time.sleep(60)

work_all(list, range(10), workers=2, chunk=1, name="", advance=begin)
"""


class Deadly:
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (9,)


def test_outcomes_are_in_the_order_of_the_items() -> None:
    counts: list[int] = []
    assert work_all(list, range(7), workers=1, chunk=3, name="", advance=counts.append) == list(range(7))
    assert counts == [3, 3, 1]
    assert work_all(list, [1, 2, 3], workers=2, chunk=1, name="", advance=counts.append) == [1, 2, 3]


def test_a_killed_process_is_told_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        work_all(list, [Deadly(), Deadly()], workers=2, chunk=1, name="drawing", advance=print)
    assert (
        str(caught.value) == "a drawing process was killed, perhaps for lack of memory; mend: repeat with --workers 1"
    )


def test_errors_come_over_with_their_tracebacks() -> None:
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        work_all(sum, ["a", "b"], workers=2, chunk=1, name="", advance=print)  # type: ignore[arg-type]  # it is to fail
    assert "Traceback" in caught.value.__notes__[0]


def test_no_process_outlives_the_one_that_started_it() -> None:
    root = Path(sys.modules["repro"].__path__[0]).parent
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        assert os.read(parent.stdout.fileno(), 5) == b"begun"
        os.kill(parent.pid, signal.SIGKILL)
        parent.stdout.read()  # ends when no process holds the pipe any more
    assert parent.returncode == -signal.SIGKILL
