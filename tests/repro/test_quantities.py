"""Durations, sizes and counts for people."""

import math

import pytest

from repro.quantities import counted, decimal_number, duration_text, memory_text, number_text, size_text, whole_number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (119.4, "119 s"),
        (119.9, "2 min"),
        (720, "12 min"),
        (7169, "119 min"),
        (7199, "2.0 h"),
        (12_240, "3.4 h"),
        (172_799, "48.0 h"),
        (172_800, "2.0 days"),
        (360_000, "4.2 days"),
    ],
)
def test_a_duration_is_told_in_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_disks_are_counted_in_thousands_and_memory_in_powers_of_two() -> None:
    assert size_text(999) == "999 bytes"
    assert size_text(13_040_000_000) == "13.0 GB"
    assert memory_text(3 * 2**29) == "1.5 GiB"


def test_a_number_has_its_decimals_unless_it_is_too_large_for_a_column() -> None:
    assert [number_text(value) for value in (0.0, 69.1, -1.005, 999_999.0)] == ["0.00", "69.10", "-1.00", "999999.00"]
    assert [number_text(value) for value in (1e6, -1.24e300, math.inf)] == ["1e+06", "-1.2e+300", "inf"]
    assert [number_text(value, sign="+") for value in (-0.0, -0.004)] == ["+0.00", "-0.00"]
    assert (number_text(1.25, 1), number_text(1.2, sign="+"), number_text(2e9, sign="+")) == ("1.2", "+1.20", "+2e+09")


def test_one_is_singular() -> None:
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_numbers_are_what_a_person_writes_and_not_what_python_reads() -> None:
    assert [whole_number(word) for word in ("0", "-1", "+2", "007")] == [0, -1, 2, 7]
    assert [decimal_number(word) for word in ("0", "-1.5", "2.", ".5", "1e-3")] == [0, -1.5, 2, 0.5, 0.001]
    for word in ("", "1_0", "٣", "x", "0x1", "--1", "nan", "inf", "1 0", "1\n"):
        for read in (whole_number, decimal_number):
            with pytest.raises(ValueError, match=r".*"):
                read(word)
    with pytest.raises(ValueError, match=r"^1\.0$"):
        whole_number("1.0")
