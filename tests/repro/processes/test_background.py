"""Background threads: no traceback is printed for one that keeps its error for its caller."""

import threading
from pathlib import Path

import pytest
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from waiting import wait_until

from repro.processes.background import kept_errors_unprinted


def test_the_error_of_tensorboards_writer_is_told_where_it_is_met_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a run's folder was moved while in use, the thread's traceback used to be printed as well."""
    printed: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: printed.append(arguments.exc_value))
    before = threading.excepthook
    writer = EventFileWriter(str(tmp_path / "events"), flush_secs=0)
    (tmp_path / "events").rename(tmp_path / "moved")
    with kept_errors_unprinted():
        writer._async_writer.write(b"event")  # does not wait for the write, as in a training
        wait_until(lambda: not writer._async_writer._worker.is_alive(), "the end of its thread", every=0.02)
        with pytest.raises(FileNotFoundError):
            writer._async_writer.write(b"event")
    assert printed == []
    assert threading.excepthook is before


def test_any_other_error_of_a_thread_is_printed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_value))

    def fail() -> None:
        raise ValueError("x")

    with kept_errors_unprinted():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert [str(error) for error in told] == ["x"]
