"""`salmask claims` names what speaks against the runs it compares: different code, and seeds without a number."""

from pathlib import Path

import pandas as pd
import pytest
from prediction_samples import rewritten
from run_samples import begun, finished, of_method
from training_samples import salmask

from baselines import resolve
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.settings.reading import build
from results.claims.compared_runs import notes_on_runs
from results.claims.parts import parts
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.comparison.compare import compare

HP = "mocov2+ours-hp"
CODE = "Not measured by a single clean commit: "
Folders = dict[tuple[str, int], RunFolder]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    values = {"mocov2": 60.0, HP: 64.0}
    return {
        (method, seed): finished(tmp_path, method, seed, {("imagenet100", "top1"): value + seed / 3})
        for method, value in values.items()
        for seed in range(2)
    }


def notes(root: Path) -> list[str]:
    frame, runs = both(root)
    return notes_on_runs(judge(frame), parts(frame), frame, runs)


def both(root: Path) -> tuple[pd.DataFrame, list[RunRecord]]:
    runs = find_runs([root], resolve)
    return collect_runs(runs), runs


def fail(root: Path, method: str, seed: int, state: str = "failed") -> None:
    begun(root / "full", build([of_method(method), {"seed": seed}])).set_status(state, task="pretrain")


def test_seeds_of_what_is_compared_that_gave_no_number_are_counted(folders: Folders, tmp_path: Path) -> None:
    """A mean over the seeds that survived was judged as if no others had been started; tables did tell."""
    fail(tmp_path, "simclr", 0)  # not compared: no other row of its framework has a number
    assert notes(tmp_path) == []
    fail(tmp_path, HP, 2)
    fail(tmp_path, HP, 3, "interrupted")
    fail(tmp_path, "mocov2", 4)
    of_hp = "MoCo v2 + ours (high-pass) (1 failed, 1 interrupted)"
    (note,) = notes(tmp_path)
    assert note == f"Runs without a result, left out of the comparisons: MoCo v2 (1 failed), {of_hp}."


def test_a_row_none_of_whose_runs_gave_a_number_is_named(folders: Folders, tmp_path: Path) -> None:
    """Its comparisons used to be "not run", as if nobody had started any."""
    blur = "mocov2+ours-blur"
    for seed in range(3):
        fail(tmp_path, blur, seed)
    fail(tmp_path, HP, 2)
    fail(tmp_path, "simclr", 0)  # no other row of its framework has a number, so it lacks nothing
    further = "Runs without a result, left out of the comparisons: MoCo v2 + ours (high-pass) (1 failed)."
    none = "Rows of which no run has a result, not compared: MoCo v2 + ours (strong blur) (3 failed)."
    assert notes(tmp_path) == [further, none]
    assert f"{none}\n" in salmask("claims", "--runs", str(tmp_path)).out
    # With a number by a seed that no other row has, its comparisons are undecided, not only for lack of results.
    finished(tmp_path, blur, 7, {("imagenet100", "top1"): 61.0})
    assert notes(tmp_path) == [further.replace(": ", ": MoCo v2 + ours (strong blur) (3 failed), ")]


def test_trainings_that_warned_are_named(folders: Folders, tmp_path: Path) -> None:
    """Two collapsed networks used to be a tie, and a lead over one was supported, without a warning."""
    collapsed = [Symptom("collapsed embeddings", 40, "all alike", "a lower rate")]
    tell_symptoms(folders["mocov2", 1].health, collapsed)
    tell_symptoms(finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 1.0}).health, collapsed)  # not compared
    told = "collapsed embeddings in 1 of 2 runs (first at step 40)"
    assert notes(tmp_path) == [f"Warnings in training:\n- MoCo v2: {told}"]
    assert f"Warnings in training:\n- MoCo v2: {told}\n\n|" in salmask("claims", "--runs", str(tmp_path)).out
    for sides in ((HP, "mocov2"), ("mocov2", HP)):
        (comparison,) = compare(*both(tmp_path), *sides)
        assert f"Warnings in training of mocov2: {told}." in comparison.notes


def test_the_command_says_it_beside_its_data_too(folders: Folders, tmp_path: Path) -> None:
    fail(tmp_path, HP, 2)
    (note,) = notes(tmp_path)
    command = salmask("claims", "--runs", str(tmp_path), "--json")
    assert (f"{note}\n" in command.err, note in command.out) == (True, False)
    assert f"{note}\n" in salmask("claims", "--runs", str(tmp_path)).out


def test_rows_of_a_part_are_compared_too_and_a_run_is_counted_once(folders: Folders, tmp_path: Path) -> None:
    """Also if it lacks its number in two columns."""
    for seed in range(2):
        for method in (f"{HP}-random", f"{HP}-no-masks"):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): 62.0, ("folder", "top1"): 40.0})
        finished(tmp_path, HP, 5 + seed, {("imagenet100", "top1"): 62.0, ("folder", "top1"): 40.0})
    fail(tmp_path, f"{HP}-random", 2)
    assert notes(tmp_path) == [
        "Runs without a result, left out of the comparisons: MoCo v2 + ours (high-pass), patches at random (1 failed)."
    ]


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({"commit": "f" * 40}, "0123456, fffffff"),
        ({"dirty": True}, "0123456, 0123456 (dirty)"),
        ({"commit": "unknown"}, "0123456, unknown"),
    ],
)
def test_what_is_compared_was_measured_by_one_state_of_the_code_or_that_is_said(
    folders: Folders, tmp_path: Path, changes: dict[str, object], states: str
) -> None:
    """Differences between two versions of the code used to be supported without the warning of `compare` and tables."""
    unpaired = finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 50.0})
    rewritten(unpaired.results, **changes)
    assert notes(tmp_path) == []  # no number of it is compared
    rewritten(folders["mocov2", 0].results, **changes)
    assert notes(tmp_path) == [f"{CODE}{states}."]


@pytest.mark.parametrize(
    ("changes", "state"), [({"commit": "unknown"}, "unknown"), ({"dirty": True}, "0123456 (dirty)")]
)
def test_one_state_that_nobody_can_get_again_is_said(
    folders: Folders, tmp_path: Path, changes: dict[str, object], state: str
) -> None:
    for folder in folders.values():
        rewritten(folder.results, **changes)
    assert notes(tmp_path) == [f"{CODE}{state}."]


def test_of_no_result_nothing_is_said(tmp_path: Path) -> None:
    fail(tmp_path, HP, 2)
    assert notes_on_runs(judge(None), parts(None), None, find_runs([tmp_path], resolve)) == []
