"""The warnings of an attempt at a task, kept for its status: a job's log is read only by those who look for a fault."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from repro.errors import visible

MOST_WARNINGS = 8
"""Most warnings that are kept of an attempt; the first ones, which are nearest to the cause."""
LONGEST_WARNING = 500
"""Most characters of each."""


class _Keeper(logging.Handler):
    """Keeps the messages of warnings and errors, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record's message, in one line."""
        told = visible(" ".join(record.getMessage().split()))[:LONGEST_WARNING]
        if told not in self.kept and len(self.kept) < MOST_WARNINGS:
            self.kept.append(told)


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Keeps what salmask's log warns of within the block.

    Yields:
        The warnings so far; the list grows.
    """
    keeper, log = _Keeper(), logging.getLogger("salmask")
    log.addHandler(keeper)
    try:
        yield keeper.kept
    finally:
        log.removeHandler(keeper)
