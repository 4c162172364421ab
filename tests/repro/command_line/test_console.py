"""Words of a command line, and how commands print rows and mappings."""

import json
from typing import Any

import pytest

from repro.command_line.console import comma_list, completion, names_and_settings, report
from repro.errors import UserError


def test_a_list_has_its_words_and_none_is_empty() -> None:
    assert comma_list("--seeds", "") == []
    assert comma_list("--seeds", "0, 1 ,2") == ["0", "1", "2"]
    for text in (",", " ", "0,,1", ",0", "0, "):
        with pytest.raises(UserError, match=f"^--seeds {text}: a word of the list is empty; mend: one comma between"):
            comma_list("--seeds", text)


def test_words_with_an_equals_sign_are_settings() -> None:
    assert names_and_settings(["mocov2", "seed=1", "simclr"]) == (["mocov2", "simclr"], ["seed=1"])
    assert names_and_settings(None) == ([], [])


def test_a_shell_completes_a_word_or_the_last_one_of_a_list() -> None:
    names = ["linear", "logistic", "knn"]
    assert completion(lambda: names)("l") == ["linear", "logistic"]
    assert completion(lambda: names)("knn,l") == []
    assert completion(lambda: names, several=True)("knn,l") == ["knn,linear", "knn,logistic"]
    assert completion(lambda: names, several=True)("lo") == ["logistic"]


def test_rows_are_a_table_a_mapping_is_lines_and_both_are_json_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(content: Any, *, as_json: bool = False) -> str:
        report(as_json, content)
        return capsys.readouterr().out

    rows = [{"run": "a", "top1": 71.5, "n": None}, {"run": "b", "top1": None, "n": 3}]
    # Columns of numbers are flush right, also where one is missing.
    assert printed(rows).splitlines() == [
        "| run | top1 |   n |",
        "| --- | ---: | --: |",
        "| a   | 71.5 |   – |",
        "| b   |    – |   3 |",
    ]
    assert len(printed(rows[:1]).splitlines()) == 3
    assert printed([]) == ""
    assert printed({"id": "7", "step": 3}) == "id: 7\nstep: 3\n"
    assert json.loads(printed(rows, as_json=True)) == rows
