"""What a `UserError` says."""

from collections.abc import Callable

import pytest

from repro.errors import UserError
from repro.settings.reading import build, parse_overrides


def message_of(call: Callable[[], object]) -> str:
    """The text of the `UserError` that a call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_refused_by_name(read: Callable[[str], object], path: str, part: str) -> None:
    """Reading a file fails with one line that names the file and contains `part`."""
    message = message_of(lambda: read(path))
    assert part in message
    assert path in message


def refusal(*overrides: str) -> str:
    """The message that refuses these overrides, which must be one line."""
    return message_of(lambda: build([parse_overrides(overrides)]))
