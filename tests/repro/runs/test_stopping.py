"""Signals end a block by an exception, so that its cleanup runs."""

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from repro.runs.stopping import SIGNALS, Stop, exits_on_term, heard_everywhere


@pytest.fixture
def stop() -> Iterator[Stop]:
    """A signal state of the test's own; the previous handlers are restored."""
    numbers = (*SIGNALS, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
    yield Stop()
    for number, handler in before.items():
        signal.signal(number, handler)


class Struck:
    """Sends itself a signal in `__del__`, where Python cannot raise an exception."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def be_struck(number: signal.Signals) -> None:
    with exits_on_term(), heard_everywhere():
        Struck(number)
        time.sleep(10)  # the signal comes soon


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_not_lost_where_nothing_can_be_raised(
    number: signal.Signals, kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    before = sys.unraisablehook
    try:
        with pytest.raises(kind):
            be_struck(number)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert sys.unraisablehook is before
    assert capfd.readouterr().err == ""


def test_any_other_error_that_cannot_be_raised_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []

    class Faulty:
        def __del__(self) -> None:
            raise ValueError("x")

    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_value))
    with heard_everywhere():
        Faulty()
    assert [str(error) for error in told] == ["x"]


def test_term_leaves_a_block_through_what_tidies_up_and_is_as_it_was_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    tidied = []

    def terminated() -> None:
        with exits_on_term():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)  # the signal comes at once
            finally:
                tidied.append(True)

    def hung_up_twice() -> None:
        with exits_on_term():
            try:
                signal.raise_signal(signal.SIGHUP)
            finally:
                signal.raise_signal(signal.SIGHUP)  # as when the shell ends; it interrupts nothing
                tidied.append(True)

    with pytest.raises(SystemExit) as ended:
        terminated()
    assert (ended.value.code, tidied) == (128 + signal.SIGTERM, [True])
    assert signal.getsignal(signal.SIGTERM) == before
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        with pytest.raises(SystemExit):
            hung_up_twice()
        assert tidied == [True, True]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with exits_on_term():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, hung_up)


def test_a_closed_terminal_is_waited_for_by_a_training_and_ends_all_else(stop: Stop) -> None:
    stop.install()
    with stop.after_a_step():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # again, as its shell ends: that is no impatient user
        assert stop.signal == signal.SIGHUP
        with pytest.raises(SystemExit) as ended:
            stop.now()
    assert ended.value.code == 128 + signal.SIGHUP
    stop.install()
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)  # while the status is written
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_a_hang_up_that_is_ignored_stays_so(stop: Stop) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    stop.install()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
