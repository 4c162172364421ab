"""The study's decisions follow from its runs by the tests that its page registered."""

from pathlib import Path

import pytest
from scipy import stats

from baselines import resolve
from examples.study.decide import CONTRADICTED, NOT_RUN, QUESTIONS, SUPPORTED, UNDECIDED, decide, markdown, means, top1
from results.collect import collect_runs
from results.report import build
from results.runs import find_runs
from slurm.sweep import expand, load

STUDY = Path(__file__).parents[1] / "examples" / "study"

BETTER = {1: 30.0, 2: 33.0, 3: 31.1}
PLAIN = {1: 20.0, 2: 23.1, 3: 21.0}


def test_every_comparison_is_of_rows_that_the_sweep_trains() -> None:
    methods = {method for part in load("study").parts for method in part.methods}
    assert {method for pairs in QUESTIONS.values() for pair in pairs for method in pair} <= methods
    assert [len(pairs) for pairs in QUESTIONS.values()] == [6, 6]


def test_what_was_not_run_is_corrected_for_all_the_same() -> None:
    first, second, *rest = decide({"mocov2+ours-hp": BETTER, "mocov2": PLAIN}, pooled=False)["1"]
    raw = stats.ttest_rel(list(BETTER.values()), list(PLAIN.values())).pvalue
    assert first.p == pytest.approx(6 * raw, rel=1e-9)
    low, high = first.corrected_interval or (0.0, 0.0)
    assert (first.outcome, second.outcome) == (SUPPORTED, NOT_RUN)
    assert 0 < low < 10 < high
    assert all(decision.outcome == NOT_RUN for decision in rest)


def test_a_worse_row_contradicts_and_one_seed_decides_nothing() -> None:
    values = {"mocov2+ours-hp": PLAIN, "mocov2": BETTER, "mocov2+ours-blur": {1: 90.0}}
    hp, blur = decide(values, pooled=False)["1"][:2]
    assert (hp.outcome, blur.outcome) == (CONTRADICTED, UNDECIDED)
    assert decide(values, pooled=True)["1"][0].outcome == CONTRADICTED


def test_the_table_has_a_line_for_each_comparison() -> None:
    lines = markdown({"mocov2+ours-hp": BETTER, "mocov2": PLAIN}).splitlines()
    assert len(lines) == 2 + 12
    assert "| 1 | `mocov2+ours-hp` − `mocov2` | 3 | +10.0 |" in lines[2]


def test_the_page_has_the_tables_of_the_recorded_runs() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    knn, logistic = (top1(STUDY / "runs", task) for task in ("knn", "logistic"))
    assert means(knn, logistic) in page
    assert markdown(logistic) in page


def test_the_recorded_runs_are_those_that_the_sweep_plans() -> None:
    planned = {job.run.id for job in expand(load("study"), STUDY / "runs", resolve, {}).jobs if job.run}
    runs = find_runs([STUDY / "runs"], resolve)
    assert len(runs) > 12
    assert {run.run.id for run in runs if run.run is not None} <= planned
    assert {run.state for run in runs} == {"done"}


def test_the_page_judges_by_what_was_measured_and_says_so() -> None:
    """Runs without a linear probe, of which a page that knew no other task said that nothing was run."""
    runs = find_runs([STUDY / "runs"], resolve)
    page = build(runs, collect_runs(runs), task="logistic")
    assert "Judged by logistic; the paper evaluates by linear classifiers." in page
    above = page.partition('<section id="tables">')[0]
    assert above.count("<picture>") == 1  # the forest plot
    assert "every sentence" not in above
    assert "Judged by logistic" in build(runs, collect_runs(runs))
