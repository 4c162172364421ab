"""What a `UserError` says."""

from collections.abc import Callable

import pytest

from repro.errors import UserError


def message_of(call: Callable[[], object]) -> str:
    """The text of the error in which a call ends; it is one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
