"""The study's decisions follow from its runs by the tests that its page registered."""

import io
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, stdev

import pytest
from json_rows import read_rows, write_rows
from places import EXAMPLES
from scipy import stats

from baselines import resolve
from examples.study.collapse import Ending, chance_loss_of, endings
from examples.study.command import print_tables
from examples.study.decide import CLIP_ART, PARTS, QUESTIONS, decide, holm_levels, top1
from examples.study.decide import STUDY as STUDY_SWEEP
from examples.study.decide_dose import ENDS, SWEEPS, ends, panel_of, slopes, sources
from examples.study.tables import comparisons, means, of_questions, summary
from repro.errors import UserError
from repro.settings.comparison import difference
from results.claims.spreads import SpreadOf
from results.claims.verdicts import CONTRADICTED, NOT_RUN, SUPPORTED, UNDECIDED, judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.plots.dose import BOTH, HARD, QUERY, Panel, Point
from results.report.page import build
from slurm.planning.sweep import expand, load, narrowed

STUDY = EXAMPLES / "study"

BETTER = {1: 30.0, 2: 33.0, 3: 31.1}
PLAIN = {1: 20.0, 2: 23.1, 3: 21.0}


def cells(line: str) -> list[str]:
    """The cells of a line of Markdown."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_comparison_is_of_rows_that_the_sweep_trains() -> None:
    methods = {method for sweep in PARTS for part in load(sweep).parts for method in part.methods}
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


def test_a_corrected_interval_says_what_holms_p_value_says() -> None:
    """Bonferroni's second interval used to hold 0, beside a p value by Holm below the level."""
    ps = [0.2, 0.009, 0.001, 0.5, 0.03, 1.0]
    assert holm_levels(ps) == pytest.approx([0.05 / share for share in (4, 5, 6, 4, 4, 4)])
    values = {
        "mocov2": {1: 20.0, 2: 20.0, 3: 20.0},
        "mocov2+ours-hp": {1: 30.0, 2: 30.1, 3: 30.2},
        "mocov2+ours-blur": {1: 24.62, 2: 26.37, 3: 25.21},
        "mocov2+ours-mean": {1: 22.0, 2: 23.0, 3: 24.9},
    }
    hp, blur, mean_fill = decide(values, pooled=False)["1"][:3]
    assert [decision.outcome for decision in (hp, blur, mean_fill)] == [SUPPORTED, SUPPORTED, UNDECIDED]
    assert blur.p is not None
    assert 0.05 / 6 < blur.p / 5 < 0.05 / 5
    for decision in (hp, blur, mean_fill):
        low, high = decision.corrected_interval or (0.0, 0.0)
        assert (low > 0) == (decision.outcome == SUPPORTED)
        assert decision.half_width == pytest.approx((high - low) / 2)
    cells_of_blur = cells(comparisons(values).splitlines()[3])
    assert cells_of_blur[6] == f"{blur.half_width:.1f}"


def test_a_worse_row_contradicts_and_one_seed_decides_nothing() -> None:
    values = {"mocov2+ours-hp": PLAIN, "mocov2": BETTER, "mocov2+ours-blur": {1: 90.0}}
    hp, blur = decide(values, pooled=False)["1"][:2]
    assert (hp.outcome, blur.outcome) == (CONTRADICTED, UNDECIDED)
    assert decide(values, pooled=True)["1"][0].outcome == CONTRADICTED


def test_the_table_has_a_line_for_each_comparison() -> None:
    lines = comparisons({"mocov2+ours-hp": BETTER, "mocov2": PLAIN}).splitlines()
    assert len(lines) == 2 + 15
    assert cells(lines[2])[:4] == ["1", "`mocov2+ours-hp` − `mocov2`", "3", "+10.0"]


def test_rows_that_were_registered_later_do_not_change_what_was_registered_first() -> None:
    """The spread of questions 1 to 6 is that of their own sweep."""
    values = {"simclr": PLAIN, "simclr+ours-hp": BETTER, "simclr+mscn": {1: 25.0, 2: 28.3, 3: 26.0}}
    wild = {"simclr+ours-hp-no-masks": {1: 10.0, 2: 60.0, 3: 20.0}}
    before, after = decide(values, pooled=True), decide(values | wild, pooled=True)
    assert after["1"] == before["1"]
    spread = after["SimCLR's parts"][0].comparison.spread
    assert spread is not None
    assert spread.deviation > 10 > (before["1"][3].comparison.spread or spread).deviation


def test_the_summary_has_both_frameworks_side_by_side_with_intervals() -> None:
    values = {"mocov2": PLAIN, "mocov2+ours-hp": BETTER, "simclr": {1: 20.0}, "simclr+ours-hp": {1: 45.0}}
    lines = {row: numbers for row, *numbers in map(cells, summary(values).splitlines())}
    assert lines["alone"] == ["21.4 ± 1.6", "", "20.0", ""]
    # With two rows, the pooled spread is the pair's own.
    low, high = stats.t.interval(0.95, 2, 10.0, stats.sem([10.0, 9.9, 10.1]))
    assert lines["+ ours (high-pass)"] == ["31.4 ± 1.5", f"+10.0 ({low:+.1f} to {high:+.1f})", "45.0", "+25.0 (–)"]
    assert lines["+ ADIOS"] == ["–", "", "–", ""]


def test_one_difference_has_one_interval_on_the_page() -> None:
    values = {"simclr": PLAIN, "simclr+ours-hp": BETTER, "simclr+ours-blur": {1: 25.0, 2: 28.3, 3: 26.0}}
    values |= {"simclr+ours-hp-no-masks": {1: 10.0, 2: 60.0, 3: 20.0}}
    gains = {row: numbers[-1] for row, *numbers in map(cells, summary(values).splitlines())}
    pooled = cells(comparisons(values).splitlines()[5])
    assert pooled[1] == "`simclr+ours-hp` − `simclr`"
    assert gains["+ ours (high-pass)"] == f"+10.0 ({pooled[9]})"


def test_a_collapse_is_named_beside_the_number() -> None:
    assert [Ending(loss, 5.0).collapsed for loss in (4.89, 4.9, 5.2, float("nan"))] == [False, True, True, True]
    logistic = {"mocov2": PLAIN, "simclr": {1: 20.0}, "simclr+ours-hp": {1: 5.0}}
    ended = {"mocov2": {1: Ending(6.2, 6.24), 2: Ending(4.0, 6.24)}, "simclr+ours-hp": {1: Ending(1e300, 4.84)}}
    lines = means({}, logistic, ended).splitlines()
    by_row = {row: numbers for row, *numbers in map(cells, lines)}
    assert by_row["`mocov2`"][-2:] == ["4.00 to 6.20 (6.24)", "seed 1 collapsed"]
    assert by_row["`simclr`"][-2:] == ["–", "–"]
    assert by_row["`simclr+ours-hp`"][-2:] == ["1e+300 (4.84)", "seed 1 collapsed"]
    ended = endings(find_runs([STUDY / "runs"]), PARTS)
    assert not any(ending.collapsed for by_seed in ended.values() for ending in by_seed.values())
    assert [f"{chance_loss_of(resolved):.2f}" for resolved in map(resolve, ("mocov2", "simclr"))] == ["11.09", "6.24"]


def test_a_run_that_diverged_is_a_result_of_its_row(tmp_path: Path) -> None:
    """A run that diverged has no accuracy; its row used to look as if it had never been run."""
    copy = tmp_path / "runs"
    for seed in (1, 2, 3):
        (source,) = (STUDY / "runs" / "simclr+ours-blur").glob(f"s{seed}-*")
        shutil.copytree(source, copy / source.parent.name / source.name)
    for seed, losses in ((2, '{"step": 64, "epoch": 1, "loss": 4.8}\n'), (3, "")):
        (folder,) = copy.glob(f"*/s{seed}-*")
        for path in (folder / "results.jsonl", *folder.glob("status-*.json")):
            path.unlink()
        (folder / "metrics.jsonl").write_text(losses)
        (folder / "status.json").write_text('{"state": "failed", "task": "pretrain", "error": "not finite"}')
    runs = find_runs([copy])
    logistic = top1(collect_runs(runs), "logistic", PARTS)
    (row,) = map(cells, means({}, logistic, endings(runs, PARTS)).splitlines()[2:])
    assert row[:2] == ["`simclr+ours-blur`", "1"]
    assert row[-2:] == ["3.58 (4.84)", "seed 2 failed, seed 3 failed"]
    (row,) = map(cells, means({}, {}, endings(find_runs(list(copy.glob("*/s2-*"))), PARTS)).splitlines()[2:])
    assert (row[1], row[-2:]) == ("0", ["– (4.84)", "seed 2 failed"])


@pytest.mark.slow
def test_runs_of_another_length_are_refused() -> None:
    for script, folders in (("tables", ["runs"]), ("decide_dose", ["runs", "dose"])):
        paths = [*(STUDY / folder for folder in folders), STUDY.parent / "demo"]
        command = [sys.executable, "-m", f"examples.study.{script}", *map(str, paths)]
        done = subprocess.run(command, check=False, cwd=STUDY.parents[1], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "has runs of different recipes under one name" in done.stderr
        assert done.stderr.endswith("mend: give folders of one regime alone\n")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dataset", "caltech101", "several data sets: caltech101 ("),
        ("split", "test", "several splits: test ("),
        ("protocol", "logreg-v1[values=6]", "several protocols: logreg-v1[values=6] ("),
        ("scale", "", "several scales: the paper's ("),
    ],
)
def test_rows_that_were_not_measured_alike_are_refused(tmp_path: Path, field: str, value: str, said: str) -> None:
    """A seed with another protocol or data used to be averaged with the others, and compared with other rows."""
    copy = shutil.copytree(STUDY / "clipart" / "mocov2", tmp_path / "runs" / "mocov2")
    shutil.copytree(STUDY / "clipart" / "mocov2+ours-hp", tmp_path / "runs" / "mocov2+ours-hp")
    frame = collect_runs(find_runs([tmp_path]))
    assert set(top1(frame, "logistic", STUDY_SWEEP)) == {"mocov2", "mocov2+ours-hp"}
    for path in copy.glob("s1-*/results.jsonl" if field != "scale" else "*/results.jsonl"):
        write_rows(path, [row | {field: value} for row in read_rows(path)])
    frame = collect_runs(find_runs([tmp_path]))
    mend = "; mend: give folders of one regime alone"
    with pytest.raises(UserError, match=f"^logistic of {re.escape(said)}.*{re.escape(mend)}$"):
        top1(frame, "logistic", STUDY_SWEEP)


def test_a_row_says_where_knn_has_other_seeds_than_are_counted() -> None:
    by_row = {
        row: numbers for row, *numbers in map(cells, means({"mocov2": PLAIN}, {"mocov2": {1: 20.0}}, {}).splitlines())
    }
    assert by_row["`mocov2`"][:3] == ["1", "21.4 ± 1.6 (seeds 1, 2, 3)", "20.0"]


def test_a_run_that_was_trained_again_elsewhere_did_not_fail(tmp_path: Path) -> None:
    (source,) = (STUDY / "clipart" / "mocov2").glob("s1-*")
    for sweep in ("first", "last"):  # in whichever order they are read
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        for name in ("first", "last"):
            folder = shutil.copytree(source, tmp_path / "runs" / name / "mocov2" / source.name)
            if name == sweep:
                (folder / "status.json").write_text('{"state": "failed", "task": "pretrain", "error": "killed"}')
                (folder / "results.jsonl").unlink()
        assert not endings(find_runs([tmp_path]), STUDY_SWEEP)["mocov2"][1].failed


def test_the_page_has_the_tables_of_the_recorded_runs() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    runs = find_runs([STUDY / "runs"])
    frame = collect_runs(runs)
    knn, logistic = (top1(frame, task, PARTS) for task in ("knn", "logistic"))
    for table in (summary(logistic), means(knn, logistic, endings(runs, PARTS)), comparisons(logistic)):
        assert table in page


def test_what_the_older_recordings_page_quotes_of_the_study_is_in_its_runs() -> None:
    knn = top1(collect_runs(find_runs([STUDY / "runs" / "mocov2"])), "knn", PARTS)["mocov2"]
    page = (STUDY.parent / "reproduced" / "README.md").read_text(encoding="utf-8")
    assert len(knn) == 5
    assert f"({mean(knn.values()):.1f} ± {stdev(knn.values()):.1f}, five seeds, against 9.4 by kNN)" in page


def test_the_page_has_the_tables_of_the_recorded_dose_response() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    runs = find_runs([STUDY / "runs", STUDY / "dose"], resolve)
    frame = collect_runs(runs)
    dose = panel_of(frame, runs)
    for table in (sources(dose), slopes(dose), ends(top1(frame, "logistic", SWEEPS))):
        assert table in page


def test_the_page_has_the_tables_of_the_recorded_clip_art() -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    tables = list(of_questions([STUDY / "clipart"], CLIP_ART, PARTS))
    assert len(tables) == 2
    assert all(table in page for table in tables)


def test_clip_art_is_the_studys_regime_on_other_objects() -> None:
    drawn, clip_art = (find_runs([STUDY / folder]) for folder in ("runs", "clipart"))
    of_drawn = {(run.method, run.run.seed): run.run for run in drawn if run.run}
    rows = {method for pairs in CLIP_ART.values() for pair in pairs for method in pair}
    assert Counter(record.method for record in clip_art) == dict.fromkeys(rows, 3)
    for record in clip_art:
        assert record.run is not None
        assert record.state == "done"
        differing = difference(record.run, of_drawn[record.method, record.run.seed])
        assert set(differing) == {"data.dataset"}


def test_the_sweeps_of_the_study_are_of_one_regime(tmp_path: Path) -> None:
    """Their files repeat the study's settings, so that rows that two sweeps share are the same runs."""
    by_sweep = [
        {job.run.method: job.run.id for job in expand(load(name), tmp_path, resolve, {}).jobs if job.run}
        for name in (*PARTS, "saliency-dose")
    ]
    study, parts, dose = by_sweep
    assert study.keys() & parts.keys() == {"simclr", "simclr+ours-hp"}
    assert study.keys() & dose.keys() == {"mocov2", "mocov2+ours-hp", "mocov2+ours-hp-random"}
    assert all(study[method] == other[method] for other in (parts, dose) for method in study.keys() & other.keys())


@pytest.mark.parametrize(("words", "line"), [(["nowhere"], "no folder"), ([], "required: FOLDER")])
def test_what_the_scripts_cannot_use_is_told_in_a_line(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for script in ("tables", "decide_dose", "decide_clipart", "decide_photographs"):
        monkeypatch.setattr(sys, "argv", [script, *(str(tmp_path / word) for word in words)])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(STUDY / f"{script}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        assert (done.value.code, out) == (2, "")
        assert line in err.splitlines()[-1]


def test_damaged_results_are_told_beside_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run was left out without a word, and a huge number widened its column to hundreds of letters."""
    for seed, value in ((1, float("nan")), (2, 1e300)):
        (run,) = (STUDY / "clipart" / "simclr").glob(f"s{seed}-*")
        path = shutil.copytree(run, tmp_path / "simclr" / run.name) / "results.jsonl"
        rows = read_rows(path)
        write_rows(path, [row | ({"value": value} if row["task"] == "logistic" else {}) for row in rows])
    rows_shown, _ = of_questions([tmp_path], CLIP_ART, PARTS)
    assert cells(rows_shown.splitlines()[-1])[3] == "1e+300"
    skipped, odd = capsys.readouterr().err.splitlines()
    assert "value is nan, not a finite number; skipped" in skipped
    assert "above 100 %" in odd


def test_a_table_is_printed_where_letters_are_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["tables", "folder"])
    assert print_tables("Prints.", lambda _: ["20.4 ± 0.3"]) == 0
    sys.stdout.flush()
    assert printed.getvalue() == b"20.4 ? 0.3\n"


def test_the_recorded_runs_are_those_that_the_sweep_plans() -> None:
    # Including the two seeds that the page adds for rows that three left undecided.
    sweeps = (narrowed(load(name), (), range(1, 6)) for name in (*PARTS, "saliency-dose"))
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


def test_the_claims_by_pairs_are_question_1_as_registered() -> None:
    """With predictions, images used to be judged beside seeds; the page's own command gave other numbers."""
    frame = collect_runs(find_runs([STUDY / "runs"]))
    registered = [one.comparison for one in decide(top1(frame, "logistic", PARTS), pooled=False)["1"]]
    verdicts = judge(frame, spread=SpreadOf.pair, task="logistic")
    p_of = {verdict.comparison.mean: verdict.comparison.p for verdict in verdicts}
    assert [p_of[comparison.mean] for comparison in registered] == [comparison.p for comparison in registered]


def test_a_slope_is_corrected_for_the_three_roles_and_few_sources_have_none() -> None:
    both, query, hard = map(cells, slopes(DOSE).splitlines()[2:])
    line = stats.linregress([0.0, 0.1, 0.2, 0.9], [30.0, 30.9, 32.1, 39.0])
    assert round(3 * line.pvalue, 3) == 0.001 != round(line.pvalue, 3)
    assert both[:3] == [BOTH, "4", f"{line.slope / 10:+.2f}"]
    assert both[-2:] == ["0.001", "supported"]
    assert query == [QUERY, "0", "–", "–", "–", "not run"]
    assert hard == [HARD, "3", "–", "–", "–", "too few sources"]  # its third source is the true mask for both


def test_a_slope_downwards_contradicts() -> None:
    points = [(BOTH, point.source, -point.iou[0], point.values[0]) for point in DOSE.points if point.role == BOTH]
    assert cells(slopes(panel(*points)).splitlines()[2])[-2:] == ["0.001", "contradicted"]


def test_sources_stand_from_the_best_foreground_to_the_worst() -> None:
    lines = [cells(line) for line in sources(DOSE).splitlines()[2:]]
    assert [line[1] for line in lines] == ["truth", "centre", "random", "inverted", "random", "inverted"]
    assert lines[0] == [BOTH, "truth", "1", "0.90", "39.0"]


def test_truth_and_its_inverse_are_compared_by_the_spread_of_all_rows() -> None:
    true, inverted = ENDS[BOTH]
    values = {true: {1: 40.0, 2: 43.0, 3: 41.1}, inverted: {1: 30.0, 2: 33.0, 3: 31.0}, "mocov2": {1: 20.0, 2: 23.0}}
    both, query, hard = map(cells, ends(values).splitlines()[2:])
    assert both[:4] == [BOTH, f"`{true}` − `{inverted}`", "3", "+10.0"]
    assert both[-2:] == ["\\< 0.001", "supported"]
    assert query[-4:] == hard[-4:] == ["–", "–", "–", "not run"]
    assert cells(ends({true: {1: 40.0}, inverted: {1: 30.0}}).splitlines()[2])[2:] == [
        "1",
        "+10.0",
        "–",
        "–",
        "undecided",
    ]


@pytest.mark.slow
def test_the_page_judges_by_what_was_measured_and_says_so() -> None:
    """The runs have no linear probe: a page that knew no other task used to say that nothing was run."""
    runs = find_runs([STUDY / "runs" / method for method in ("simclr", "simclr+ours-hp")], resolve)
    frame = collect_runs(runs)
    page = build(runs, frame, task="logistic")
    assert "Judged by logistic; the paper evaluates by linear classifiers." in page
    above = page.partition('<section id="tables">')[0]
    assert above.count("<picture>") == 1  # the forest plot
    assert "every sentence" not in above
    assert "Judged by logistic" in build(runs, frame)
