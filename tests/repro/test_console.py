"""Words of a command line: lists with commas between, and numbers in plain digits."""

import pytest

from repro.console import comma_list, decimal_number, whole_number
from repro.errors import UserError


def test_a_list_has_its_words_and_none_is_empty() -> None:
    assert comma_list("--seeds", "") == []
    assert comma_list("--seeds", "0, 1 ,2") == ["0", "1", "2"]
    for text in (",", " ", "0,,1", ",0", "0, "):
        with pytest.raises(UserError, match=f"^--seeds {text}: a word of the list is empty; mend: one comma between"):
            comma_list("--seeds", text)


def test_numbers_are_what_a_person_writes_and_not_what_python_reads() -> None:
    assert [whole_number(word) for word in ("0", "-1", "+2", "007")] == [0, -1, 2, 7]
    assert [decimal_number(word) for word in ("0", "-1.5", "2.", ".5", "1e-3")] == [0, -1.5, 2, 0.5, 0.001]
    for word in ("", "1_0", "٣", "x", "0x1", "--1", "nan", "inf", "1 0", "1\n"):
        for read in (whole_number, decimal_number):
            with pytest.raises(ValueError, match=r".*"):
                read(word)
    with pytest.raises(ValueError, match=r"^1\.0$"):
        whole_number("1.0")
