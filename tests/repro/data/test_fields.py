"""Fields of annotations as tools write them: a value with one meaning is read, any other is reported."""

from collections.abc import Callable
from typing import Any

import pytest

from repro.data.annotations.fields import Fields, flag, name, number, positive, whole


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (number, " 1.5 ", 1.5),
        (number, 2, 2.0),
        (whole, "64.0", 64),
        (whole, 1 - 2**53, 1 - 2**53),
        (positive, 1, 1),
        (flag, True, True),
        (flag, "1", True),
        (flag, 0.0, False),
        (flag, " Unspecified ", False),
        (flag, "", False),
        (name, " cat ", "cat"),
    ],
)
def test_what_has_one_meaning_is_read(read: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert read(value) == expected
    assert type(read(value)) is type(expected)


@pytest.mark.parametrize(
    ("read", "value", "reason"),
    [
        (number, True, "is True, which is not a number"),
        (number, None, "is None, which is not a number"),
        (number, "nan", "is 'nan', which is not a number"),
        (number, 10**400, f"is 1{'0' * 39}…, which is not a number"),
        (number, "x" * 38, f"is '{'x' * 38}', which is not a number"),
        (number, "x" * 39, f"is '{'x' * 39}…, which is not a number"),
        (whole, 0.5, "is 0.5, which is not a whole number"),
        (whole, 2**53, "is 9007199254740992, which is not a whole number"),
        (whole, -(2.0**53), "is -9007199254740992.0, which is not a whole number"),
        (positive, 0, "is 0, which is below 1"),
        (flag, 2, "is 2, neither 0 nor 1"),
        (flag, None, "is None, neither 0 nor 1"),
        (name, 7, "is 7, which is not text"),
    ],
)
def test_what_has_none_is_said(read: Callable[[Any], Any], value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="is ") as error:
        read(value)
    assert str(error.value) == reason


def test_every_fault_of_an_entry_is_told() -> None:
    """A class name of blanks alone used to be read as an empty name."""
    entry = Fields({"width": "9", "height": "x", "name": " \n", "difficult": 3}.get, repr)
    assert (entry.read("width", positive), entry.read("height", positive)) == (9, None)
    assert (entry.read("name", name), entry.read("id", whole)) == (None, None)
    assert (entry.read_optional("crowd", flag, default=False), entry.read_optional("difficult", flag, True)) == (
        False,
        None,
    )
    with pytest.raises(ValueError, match="'height'") as error:
        entry.refuse_faults()
    assert str(error.value) == (
        "'height' is 'x', which is not a number; 'name' is missing; 'id' is missing; 'difficult' is 3, neither 0 nor 1"
    )
