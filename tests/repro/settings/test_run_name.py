"""The name of a run's folder, and the words that mean the run."""

from pathlib import Path

import pytest

from baselines import resolve
from repro.settings.run_name import RunName, folder_name

NAME = RunName("table1", "mocov2+ours-hp-no-masks", folder_name(12, "4f0c3a9e11"))


def test_a_run_lies_where_its_name_says() -> None:
    run = resolve("mocov2+ours-hp-no-masks", {"seed": 12})
    name = RunName.of(Path("runs/table1") / run.folder)
    assert (name.sweep, name.method, name.seed, name.id) == ("table1", run.method, "s12", run.id)
    assert RunName.of(Path(run.folder)) == RunName("", run.method, folder_name(12, run.id))


@pytest.mark.parametrize("sweep", ["", "table1/"])
@pytest.mark.parametrize("end", ["s12", "s12-4f0c3a9e11"])
def test_a_run_is_named_by_its_method_and_seed(sweep: str, end: str) -> None:
    assert NAME.is_meant_by(f"{sweep}{NAME.method}/{end}")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("s12-4f0c3a9e11", True),
        ("4f0c3a9e11", True),
        ("4f0c", True),
        ("4f0", False),  # too short to be an id
        ("0c3a9e", False),
        ("s12", False),
        ("table1", False),
        ("mocov2/s12", False),
        ("table2/mocov2+ours-hp-no-masks/s12", False),
        ("", False),
    ],
)
def test_what_else_names_a_run(word: str, meant: bool) -> None:
    assert NAME.is_meant_by(word) == meant
