"""What the study says of coloured scenes follows from its runs by the tests that its page registered."""

import runpy
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from places import EXAMPLES
from scipy import stats

from examples.study.decide_colours import losses

STUDY = EXAMPLES / "study"

FILTER = "mocov2+ours-hp-no-masks"
PLAIN = {"mocov2": {1: 25.0, 2: 26.5, 3: 24.1, 4: 90.0}, FILTER: {1: 33.0, 2: 34.9, 3: 32.0}}
COLOURED = {"mocov2": {1: 40.0, 2: 41.0, 3: 42.0}, FILTER: {1: 36.0, 2: 38.2, 3: 37.7, 5: 10.0}}


def cells(line: str) -> list[str]:
    """The cells of a line of Markdown."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_colours_take_of_a_gain_is_paired_by_seed_and_corrected_for_both_frameworks() -> None:
    gains = np.array([[8.0, 8.4, 7.9], [-4.0, -2.8, -4.3]])
    low, high = stats.t.interval(0.95, 2, (gains[0] - gains[1]).mean(), stats.sem(gains[0] - gains[1]))
    p = 2 * stats.ttest_1samp(gains[0] - gains[1], 0).pvalue
    moco, simclr = (cells(line) for line in losses(COLOURED, PLAIN).splitlines()[2:])
    assert moco[:5] == ["MoCo v2", "3", "+8.1", "-3.7", "+11.8"]
    assert moco[5:] == [f"+{low:.1f} to +{high:.1f}", f"{p:.3f}", "supported"]
    assert simclr == ["SimCLR", "0", "–", "–", "–", "–", "–", "not run"]


def test_a_gain_that_grows_with_colours_contradicts_the_account_of_colour() -> None:
    (moco, _) = (cells(line) for line in losses(PLAIN, COLOURED).splitlines()[2:])
    assert (moco[4], moco[-1]) == ("-11.8", "contradicted")


@pytest.mark.parametrize("missing", [FILTER, "mocov2"])
def test_a_gain_without_one_of_its_rows_is_not_run(missing: str) -> None:
    coloured = {method: values for method, values in COLOURED.items() if method != missing}
    assert cells(losses(coloured, PLAIN).splitlines()[2])[1:] == ["0", "–", "–", "–", "–", "–", "not run"]


@pytest.mark.parametrize(
    ("folders", "said"),
    [(["colours"], "two folders are compared, and 1 given"), (["runs", "colours"], "runs on scenes without colours")],
)
def test_other_folders_than_the_two_in_their_order_are_refused(
    folders: Sequence[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["decide_colours", *(str(STUDY / folder) for folder in folders)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(STUDY / "decide_colours.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert (done.value.code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert err.endswith("; mend: give the runs on coloured scenes, then those on the study's own\n")
