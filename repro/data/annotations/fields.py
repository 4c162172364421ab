"""The fields of an annotation, read strictly: a value with only one meaning is normalised, any other is a fault.

VOC's XML has texts and COCO's JSON has numbers, but tools write both as texts or floats, or leave them out. No torch.
"""

import math
from collections.abc import Callable
from typing import Any

_LARGEST = 2**53
"""Smaller whole numbers are exact as a float too, which is how JSON readers of other languages hold them."""

_UNSAID = ("", "unspecified")
"""What annotation tools write where nobody said whether an object is difficult."""


def number(value: Any) -> float:
    """Reads a finite number, or a text of one.

    Raises:
        ValueError: The value is no finite number.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            read = float(value)
        except (ValueError, OverflowError):
            pass
        else:
            if math.isfinite(read):
                return read
    raise ValueError(f"is {_shown(value)}, which is not a number")


def whole(value: Any) -> int:
    """Reads a whole number; 64.0 and "64" are 64.

    Raises:
        ValueError: The value is not a whole number, or so large that it is not exact.
    """
    read = number(value)
    if not read.is_integer() or abs(read) >= _LARGEST:
        raise ValueError(f"is {_shown(value)}, which is not a whole number")
    return int(read)


def positive(value: Any) -> int:
    """Reads a whole number of at least 1, such as an image's width.

    Raises:
        ValueError: The value is no such number.
    """
    read = whole(value)
    if read < 1:
        raise ValueError(f"is {read}, which is below 1")
    return read


def flag(value: Any) -> bool:
    """Reads 0 or 1; an empty text and "Unspecified" are 0.

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _UNSAID:
        return False
    try:
        return {0.0: False, 1.0: True}[number(value)]
    except (KeyError, ValueError):
        raise ValueError(f"is {_shown(value)}, neither 0 nor 1") from None


def name(value: Any) -> str:
    """Reads a name, without the blanks around it.

    Raises:
        ValueError: The value is not text.
    """
    if not isinstance(value, str):
        raise ValueError(f"is {_shown(value)}, which is not text")
    return value.strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


class Fields:
    """The fields of one entry; all faults among them are collected, so that a person can mend them at once."""

    def __init__(self, get: Callable[[str], Any], quote: Callable[[str], str]) -> None:
        """Reads an entry.

        Args:
            get: Returns the value of a field; None where the entry has none.
            quote: Writes a field's name for messages.
        """
        self._get, self._quote = get, quote
        self.faults: list[str] = []

    def read(self, field: str, convert: Callable[[Any], Any]) -> Any:
        """Returns a field that must be there; if it is missing or cannot be read, adds a fault and returns None."""
        value = self._get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            self.faults.append(f"{self._quote(field)} is missing")
            return None
        return self._converted(field, value, convert)

    def read_optional(self, field: str, convert: Callable[[Any], Any], default: Any) -> Any:
        """Returns a field, or a default if the entry lacks it; if it cannot be read, adds a fault and returns None."""
        value = self._get(field)
        return default if value is None else self._converted(field, value, convert)

    def refuse_faults(self) -> None:
        """Raises all faults so far as one error.

        Raises:
            ValueError: A field is missing or cannot be read.
        """
        if self.faults:
            raise ValueError("; ".join(self.faults))

    def _converted(self, field: str, value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(value)
        except ValueError as error:
            self.faults.append(f"{self._quote(field)} {error}")
            return None
