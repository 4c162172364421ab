"""The sides of `salmask compare`: which runs a word names, what both have, and whose results are missing."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from prediction_samples import OURS, compared, evaluated, predictions, rewritten, two_methods
from run_samples import finished
from training_samples import refused, salmask

from baselines import resolve
from repro.errors import UserError
from results.collection.runs import find_runs
from results.comparison.sides import select


@pytest.fixture
def root(tmp_path: Path) -> Path:
    two_methods(tmp_path, {"mocov2": 0.68, OURS: 0.74})
    return tmp_path


def test_runs_without_a_number_are_named_unless_they_were_measured_on_other_data(root: Path) -> None:
    """The seeds that did not fail were compared without a word on the others."""
    lost = next((root / "full" / "mocov2").glob("s1-*/results.jsonl"))
    rewritten(next((root / "full" / OURS).glob("s2-*/results.jsonl")), dataset="caltech101")
    lost.unlink()
    (comparison,) = compared(root)
    assert [note for note in comparison.notes if note.startswith("Left out")] == [
        f"Left out, as they have no top1 here: full/mocov2/{lost.parent.name}."
    ]


def test_a_run_that_lacks_one_of_two_data_sets_is_named_there(tmp_path: Path) -> None:
    """Its number on the other data used to make it one that was never meant to have a number here."""
    for method, seed in product((OURS, "mocov2"), range(3)):
        on_first = {("imagenet100", "top1"): 70.0 + seed} if seed < 2 else {}
        folder = finished(tmp_path, method, seed, {**on_first, ("caltech101", "top1"): 80.0 + seed})
    first, second = compared(tmp_path)
    assert (first.column[1], second.column[1]) == ("imagenet100", "caltech101")
    assert f"full/mocov2/{folder.path.name}." in " ".join(first.notes)
    assert "Left out" not in " ".join(second.notes)


def test_single_runs_and_sweeps_go_by_their_names(root: Path) -> None:
    evaluated(root, "mocov2", 0, predictions(np.full(800, 0.4), 5), sweep="other", moco__queue=32768)
    records = find_runs([root], resolve)
    run = next(record for record in records if record.method == OURS)
    for word in (run.name, run.path.name.partition("-")[2], str(run.path)):
        assert select(records, word) == [run]
    assert {record.sweep for record in select(records, "other")} == {"other"}
    assert len(select(records, "full/mocov2")) == 3
    (sweeps,) = compared(root, "full", "other")
    assert sweeps.first.name == "mocov2 of full"
    assert sweeps.verdict().startswith("mocov2 of full is better")
    assert "They differ in moco.queue (65536 and 32768)." in sweeps.notes
    (single,) = compared(root, f"full/{OURS}/s0", "full/mocov2/s0")
    assert single.verdict() == f"{OURS} is better (these two runs, not the methods)"
    (at_work,) = [note for note in single.notes if note.startswith(f"Has an effect in {single.first.name} only: ")]
    assert "masking (guidance=saliency, branch=query, hard_negative=true, " in at_work
    with pytest.raises(UserError, match=r"no method, sweep or run 'mocov3'; mend: did you mean 'mocov2'"):
        select(records, "mocov3")
    with pytest.raises(UserError, match=r"no measurement by knn in common"):
        compared(root, task="knn")


def test_a_folder_of_runs_outside_those_at_hand_is_told_from_a_misspelt_name(tmp_path: Path) -> None:
    here = finished(tmp_path / "here", "mocov2", 0, {("imagenet100", "top1"): 70.0})
    there = finished(tmp_path / "of a colleague", "mocov2", 1, {("imagenet100", "top1"): 71.0})
    (empty := tmp_path / "empty").mkdir()
    records = find_runs([tmp_path / "here"])
    for word in (str(there.path), str(tmp_path / "of a colleague")):
        with pytest.raises(
            UserError, match=rf"'{word}' are none of those below --runs; mend: add --runs '{word}'; rep"
        ):
            select(records, word)
        assert select([*records, *find_runs([Path(word)])], word) == find_runs([there.path])
    for word in (str(empty), str(here.path / "empty")):
        with pytest.raises(UserError, match="no method, sweep or run"):
            select(records, word)


def test_sweeps_of_one_name_are_told_apart_by_the_words_that_were_asked_for(tmp_path: Path) -> None:
    here, there = str(tmp_path / "a"), str(tmp_path / "b")
    two_methods(tmp_path / "a", {"mocov2": 0.7}, count=200, seeds=(0, 1))
    for seed in (2, 3):
        evaluated(tmp_path / "b", "mocov2", seed, predictions(np.full(200, 0.7), 50 + seed))
    roots = ("--runs", here, "--runs", there)
    command = salmask("compare", here, there, *roots)
    assert command.code == 0, command.err
    assert f"mocov2 of {here} against mocov2 of {there}: " in command.out
    (data,) = json.loads(salmask("compare", here, there, *roots, "--json").out)
    counts = [sum(flip["right"] == side for flip in data["flips"]) for side in ("first", "second")]
    assert f"{counts[0]} images only mocov2 of {here} gets right; {counts[1]} images only " in command.out
    assert min(counts) > 0
    page = tmp_path / "flips.html"
    assert salmask("compare", here, there, *roots, "--out", str(page)).code == 0
    assert page.read_text().count("<figure") == min(48, sum(counts))  # each figure belongs to one side
    assert f"<h3>Only MoCo v2 of {here} is right: {counts[0]} images" in page.read_text()


def test_what_is_compared_with_itself_is_refused(root: Path) -> None:
    """A sweep and a method of it are the same runs; the command used to find no difference between them."""
    same = [("mocov2", "mocov2"), ("full/mocov2", "mocov2"), ("full", "mocov2"), ("mocov2/s0", "mocov2/s0")]
    for words in same:
        line = refused("compare", *words, "--runs", str(root))
        assert line == f"{' and '.join(words)}: both sides are the same runs; mend: name two"
    assert "mocov2 and mocov2/s1: both sides have full/mocov2/s1-" in refused(
        "compare", "mocov2", "mocov2/s1", "--runs", str(root)
    )


def test_what_both_lack_is_named_with_what_they_have(root: Path) -> None:
    """For a measure that the evaluation lacks, the message used to say that there was nothing by that evaluation."""
    with pytest.raises(UserError, match=r"no top5 by linear in common; .* another of mean_per_class, top1$"):
        compared(root, task="linear", metric="top5")
    with pytest.raises(UserError, match=r"no top1 by knn in common; .* another of linear$"):
        compared(root, task="knn", metric="top1")
    for results in (root / "full" / OURS).glob("*/results.jsonl"):
        results.unlink()
    with pytest.raises(UserError, match=r"no measurement in common; mend: evaluate both alike$"):
        compared(root)
