"""How `salmask eval` prints numbers: in one column, with more digits for values that are no accuracies."""

from dataclasses import replace
from pathlib import Path

import pytest
from run_samples import RESULT

from downstream.commands import _show, _tell_replaced
from repro.runs.folder import RunFolder


def test_values_stand_in_one_column_however_long_a_name_or_a_number_is(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"top1": 60.0, "top1@split=0": 1.0, "mean_per_class": 100.0, "l2": 1.2e-4, "training_seconds": 14417.0}
    _show([replace(RESULT, metric=metric, value=value) for metric, value in values.items()], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    shown = [" ".join(line.partition(RESULT.protocol)[0].split()) for line in lines]
    numbers = ["top1 60.00 %", "mean_per_class 100.00 %", "l2 0.00012", "training_seconds 1.44e+04"]
    assert shown == numbers
    assert len({line.index(RESULT.protocol) for line in lines}) == 1


def test_a_small_number_that_is_measured_again_is_told_with_its_digits(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [replace(RESULT, metric="l2", value=value) for value in (1.2e-4, 2e4)]
    _tell_replaced(rows[:1], rows[1:], RunFolder(Path("s0")))
    told = capsys.readouterr().err
    assert told.startswith("l2 0.00012 of ")
    assert " is replaced by 2e+04; " in told
