"""Durations, sizes and counts as people read them, in one form each; and numbers as people write them."""

import re

from rich import filesize

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_LARGE = 1e6
"""From here on powers of ten are shown. No accuracy or healthy loss is that large, and all digits would fill a line."""


def duration_text(seconds: float) -> str:
    """Returns a duration in the largest unit of which there are at least two: `45 s`, `12 min`, `3.4 h`, `3.4 days`.

    Args:
        seconds: Zero or more.
    """
    if round(seconds) < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if round(seconds / _MINUTE) < 2 * _HOUR / _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} days"


def size_text(count: int) -> str:
    """Returns a number of bytes on a disk in decimal units, as disks are sold: `13.0 GB`."""
    return filesize.decimal(count)


def memory_text(count: float) -> str:
    """Returns a number of bytes of memory in GiB, the unit of what a cluster profile asks for: `1.2 GiB`."""
    return f"{count / 2**30:.1f} GiB"


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 seed`, `3 seeds`.

    Args:
        number: How many.
        noun: In the singular; its plural only adds an s.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number_text(value: float, decimals: int = 2, sign: str = "") -> str:
    """Returns a number with so many decimals; one too large for a column in powers of ten: `69.10`, `1.2e+300`.

    Args:
        value: A measured number, a loss or a difference of some.
        decimals: Digits after the point.
        sign: `+` to show the sign of a positive number, too.
    """
    value += 0.0  # a difference of equals may be -0.0; what is less than zero keeps its sign, as the end of an interval
    return f"{value:{sign}.{decimals}f}" if abs(value) < _LARGE else f"{value:{sign}.2g}"


_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole_number(word: str) -> int:
    """Returns the whole number that a word spells in plain digits; `1_0`, which Python reads, is none.

    Raises:
        ValueError: The word is no such number.
    """
    return int(_in_plain_digits(word, _WHOLE))


def decimal_number(word: str) -> float:
    """Returns the number that a word spells in plain digits, such as `0.5` or `1e-3`.

    Raises:
        ValueError: The word is no such number.
    """
    return float(_in_plain_digits(word, _DECIMAL))


def _in_plain_digits(word: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(word):
        raise ValueError(word)
    return word
