"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    message: str,
    seconds: float = 60,
    *,
    every: float = 0.2,
    why: Callable[[], str] = lambda: "",
) -> T:
    """Asks until the answer is true, and returns it; the test fails if it does not become true in time.

    Args:
        condition: What is asked.
        message: What was waited for, for the failure.
        seconds: How long to ask.
        every: Seconds between two questions.
        why: Further text for the failure.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{message}: not within {seconds:.0f} s\n{why()}".rstrip()
        time.sleep(every)
    return answer
