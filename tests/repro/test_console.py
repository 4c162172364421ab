"""Words of a command line: comma-separated lists, and numbers in plain digits."""

import pytest

from repro.console import comma_list
from repro.errors import UserError


def test_a_list_has_its_words_and_none_is_empty() -> None:
    assert comma_list("--seeds", "") == []
    assert comma_list("--seeds", "0, 1 ,2") == ["0", "1", "2"]
    for text in (",", " ", "0,,1", ",0", "0, "):
        with pytest.raises(UserError, match=f"^--seeds {text}: a word of the list is empty; mend: one comma between"):
            comma_list("--seeds", text)
