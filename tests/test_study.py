"""The study's decisions follow from its runs by the tests that its page registered."""

from pathlib import Path

import pytest
from scipy import stats

from baselines import resolve
from examples.study.decide import CONTRADICTED, NOT_RUN, QUESTIONS, SUPPORTED, SWEEPS, UNDECIDED, decide, top1
from examples.study.decide_dose import ENDS, ends, panel_of, slopes, sources
from examples.study.tables import markdown, means, summary
from results.collect import collect_runs
from results.dose import BOTH, HARD, QUERY, Panel, Point
from results.report import build
from results.runs import find_runs
from slurm.sweep import expand, load

STUDY = Path(__file__).parents[1] / "examples" / "study"

BETTER = {1: 30.0, 2: 33.0, 3: 31.1}
PLAIN = {1: 20.0, 2: 23.1, 3: 21.0}


def test_every_comparison_is_of_rows_that_the_sweep_trains() -> None:
    methods = {method for sweep in SWEEPS for part in load(sweep).parts for method in part.methods}
    assert {method for pairs in QUESTIONS.values() for pair in pairs for method in pair} <= methods
    assert [len(pairs) for pairs in QUESTIONS.values()] == [6, 6, 3]


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
    assert len(lines) == 2 + 15
    assert "| 1 | `mocov2+ours-hp` − `mocov2` | 3 | +10.0 |" in lines[2]


def test_the_summary_has_both_frameworks_side_by_side_with_intervals() -> None:
    values = {"mocov2": PLAIN, "mocov2+ours-hp": BETTER, "simclr": {1: 20.0}, "simclr+ours-hp": {1: 45.0}}
    lines = {line.split(" | ")[0]: line for line in summary(values).splitlines()}
    assert lines["| alone"] == "| alone | 21.4 ± 1.6 |  | 20.0 |  |"
    # Of two rows alone the pooled spread is the pair's own.
    low, high = stats.t.interval(0.95, 2, 10.0, stats.sem([10.0, 9.9, 10.1]))
    assert lines["| + ours (high-pass)"] == (
        f"| + ours (high-pass) | 31.4 ± 1.5 | +10.0 ({low:+.1f} to {high:+.1f}) | 45.0 | +25.0 (–) |"
    )
    assert lines["| + ADIOS"] == "| + ADIOS | – |  | – |  |"


def test_the_page_has_the_tables_of_the_recorded_runs() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    knn, logistic = (top1([STUDY / "runs"], task, *SWEEPS) for task in ("knn", "logistic"))
    assert summary(logistic) in page
    assert means(knn, logistic) in page
    assert markdown(logistic) in page


def test_the_page_has_the_tables_of_the_recorded_dose_response() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    folders = [STUDY / "runs", STUDY / "dose"]
    dose = panel_of(folders)
    assert dose is not None
    for table in (sources(dose), slopes(dose), ends(top1(folders, "logistic", "study", "saliency-dose"))):
        assert table in page


def test_the_recorded_runs_are_those_that_the_sweep_plans() -> None:
    sweeps = (load(name) for name in (*SWEEPS, "saliency-dose"))
    planned = {job.run.id for sweep in sweeps for job in expand(sweep, STUDY / "runs", resolve, {}).jobs if job.run}
    runs = find_runs([STUDY / "runs", STUDY / "dose"], resolve)
    assert len(runs) > 50
    assert {run.run.id for run in runs if run.run is not None} <= planned
    assert {run.state for run in runs} == {"done"}


def panel(*points: tuple[str, str, float, float]) -> Panel:
    """A dose-response of one seed: role, source, IoU and accuracy of each point."""
    return Panel("scenes", tuple(Point(role, name, (iou,), (top1,)) for role, name, iou, top1 in points), {})


DOSE = panel(
    (BOTH, "inverted", 0.0, 30.0),
    (BOTH, "random", 0.1, 30.9),
    (BOTH, "centre", 0.2, 32.1),
    (BOTH, "truth", 0.9, 39.0),
    (HARD, "inverted", 0.0, 39.1),
    (HARD, "random", 0.1, 38.9),
)


def test_a_slope_is_corrected_for_the_three_roles_and_one_of_few_sources_is_not_run() -> None:
    both, query, hard = slopes(DOSE).splitlines()[2:]
    line = stats.linregress([0.0, 0.1, 0.2, 0.9], [30.0, 30.9, 32.1, 39.0])
    assert round(3 * line.pvalue, 3) == 0.001 != round(line.pvalue, 3)
    assert both.startswith(f"| {BOTH} | 4 | {line.slope / 10:+.2f} | ")
    assert both.endswith("| 0.001 | supported |")
    assert query == f"| {QUERY} | 0 | – | – | – | not run |"
    assert hard == f"| {HARD} | 3 | – | – | – | not run |"  # the true mask for both is its third


def test_a_slope_downwards_contradicts() -> None:
    points = [(BOTH, point.source, -point.iou[0], point.values[0]) for point in DOSE.points if point.role == BOTH]
    assert slopes(panel(*points)).splitlines()[2].endswith("| 0.001 | contradicted |")


def test_sources_stand_from_the_best_foreground_to_the_worst() -> None:
    lines = sources(DOSE).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["truth", "centre", "random", "inverted", "random", "inverted"]
    assert lines[0] == f"| {BOTH} | truth | 1 | 0.90 | 39.0 |"


def test_truth_and_its_inverse_are_compared_by_the_spread_of_all_rows() -> None:
    true, inverted = ENDS[BOTH]
    values = {true: {1: 40.0, 2: 43.0, 3: 41.1}, inverted: {1: 30.0, 2: 33.0, 3: 31.0}, "mocov2": {1: 20.0, 2: 23.0}}
    both, query, hard = ends(values).splitlines()[2:]
    assert both.startswith(f"| {BOTH} | `{true}` − `{inverted}` | 3 | +10.0 | ")
    assert both.endswith("| < 0.001 | supported |")
    assert {line.split(" | ")[-1] for line in (query, hard)} == {"not run |"}
    one = ends({true: {1: 40.0}, inverted: {1: 30.0}}).splitlines()[2]
    assert one.endswith("| 1 | +10.0 | – | – | undecided |")


def test_the_page_judges_by_what_was_measured_and_says_so() -> None:
    """Runs without a linear probe, of which a page that knew no other task said that nothing was run."""
    runs = find_runs([STUDY / "runs"], resolve)
    page = build(runs, collect_runs(runs), task="logistic")
    assert "Judged by logistic; the paper evaluates by linear classifiers." in page
    above = page.partition('<section id="tables">')[0]
    assert above.count("<picture>") == 1  # the forest plot
    assert "every sentence" not in above
    assert "Judged by logistic" in build(runs, collect_runs(runs))
