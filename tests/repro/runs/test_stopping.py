"""Signals leave a block through what tidies up."""

import os
import signal
import time

import pytest

from repro.runs.stopping import exits_on_term


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

    with pytest.raises(SystemExit) as ended:
        terminated()
    assert (ended.value.code, tidied) == (128 + signal.SIGTERM, [True])
    assert signal.getsignal(signal.SIGTERM) == before
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        with pytest.raises(SystemExit), exits_on_term():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with exits_on_term():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, hung_up)
