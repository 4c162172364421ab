"""What `salmask claims` prints: each comparison once, with sweep, protocol and metric, also on a terminal."""

import json
import re
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from places import EXAMPLES, REPRODUCED
from run_samples import finished
from table_samples import frame_of, rows_of
from training_samples import refused, salmask

from repro.command_line.terminal import Console
from repro.runs.records import append, read
from repro.settings.departures import Departure
from results.claims.families import NO_VERDICT, FamilyVerdict, judge_families
from results.claims.verdict_tables import letters, print_verdicts
from results.claims.verdicts import NOT_RUN, UNDECIDED, count, judge
from results.collection.collect import collect
from results.paper.paper_claims import families, questions
from results.statistics.paired import paired

RECORDED = REPRODUCED / "cpu-112px"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for method in ("mocov2", "mocov2+ours-hp", "mocov2+ours-blur", "simclr", "simclr+ours-hp"):
        shutil.copytree(RECORDED / method, root / "cpu-112px" / method)
    return root


def comparisons(runs: Path, *options: str) -> list[dict[str, object]]:
    content = json.loads(salmask("claims", "--runs", str(runs), "--json", *options).out)
    rows: list[dict[str, object]] = content["comparisons"]
    return rows


def test_no_comparison_stands_twice_and_each_names_its_sweep_and_protocol(runs: Path) -> None:
    # The runs were measured by kNN with two k: two columns with one title.
    rows = comparisons(runs, "--task", "knn")
    names = [tuple(row[name] for name in ("better", "worse", "where", "protocol", "fidelity", "scale")) for row in rows]
    assert len(names) == len(set(names)) == 2 * 4
    assert {row["protocol"] for row in rows} == {"knn-v1[k=20]", "knn-v1[k=200]"}
    assert {row["sweeps"] for row in rows} == {"cpu-112px"}
    assert {row["metric"] for row in rows} == {"top1"}


def test_two_protocols_are_two_settings_and_count_each_comparison_once(runs: Path) -> None:
    """Sentences used to average both numbers of neighbours, and corrected for them together."""
    content = json.loads(salmask("claims", "--runs", str(runs), "--task", "knn", "--json").out)
    (first, second) = [row for row in content["sentences"] if row["claim"] == "ours-beats-baseline"]
    assert [row["setting"].split("; TINY")[0] for row in (first, second)] == [
        "scenes-cutouts, knn-v1[k=200]",
        "scenes-cutouts, knn-v1[k=20]",
    ]
    for row in (first, second):
        assert (row["compared"], row["not_run"]) == (3, 69)
        its = [line for line in content["comparisons"] if f", {line['protocol']};" in row["setting"]]
        beaten = [line["difference"] for line in its if line["worse"] in ("mocov2", "simclr")]
        assert row["difference"] == pytest.approx(sum(beaten) / 3)
    logistic = json.loads(salmask("claims", "--runs", str(runs), "--task", "logistic", "--json").out)
    assert not any("logreg" in row["setting"] for row in logistic["sentences"])


@pytest.mark.parametrize(
    ("ways", "settings"),
    [
        ([("test", "one"), ("val", "one")], ["split test", "split val"]),
        ([("test", "one"), ("val", "two")], ["split test, one", "split val, two"]),
    ],
)
def test_two_splits_are_two_settings_and_count_each_comparison_once(
    ways: list[tuple[str, str]], settings: list[str]
) -> None:
    values = {"mocov2": [60.0, 62.0, 61.0], "mocov2+ours-hp": [64.0, 66.5, 65.0]}
    rows = [
        replace(row, value=row.value + gain * ("ours" in method), split=split, protocol=protocol)
        for gain, (split, protocol) in enumerate(ways)
        for method, of_seeds in values.items()
        for row in rows_of(method, of_seeds)
    ]
    verdicts = judge(frame_of(*rows))
    sentences = [each for each in judge_families(verdicts) if each.family.id == "ours-beats-baseline"]
    assert [each.setting for each in sentences] == [f"the paper's data, {setting}" for setting in settings]
    for gain, sentence in enumerate(sentences):
        assert (sentence.compared, sum(sentence.counts.values())) == (1, 72)
        assert sentence.comparison.mean == pytest.approx(12.5 / 3 + gain)
    # One comparison each, so neither is corrected for the other.
    compared = [verdict for verdict in verdicts if verdict.comparison.n]
    assert [verdict.tested for verdict in compared] == [1, 1]
    assert [verdict.p for verdict in compared] == [verdict.comparison.p for verdict in compared]


def test_another_metric_is_judged_where_it_is_asked_for(runs: Path) -> None:
    top1, top5 = comparisons(runs), comparisons(runs, "--metric", "top5")
    assert [(row["better"], row["worse"]) for row in top1] == [(row["better"], row["worse"]) for row in top5]
    assert {row["metric"] for row in top5} == {"top5"}
    assert [row["difference"] for row in top1] != [row["difference"] for row in top5]
    assert all("top5" in str(row["where"]) for row in top5)
    assert "Judged by top5; the paper prints top-1." in salmask("claims", "--runs", str(runs), "--metric", "top5").out
    of_knn = salmask("claims", "--runs", str(runs), "--task", "knn").out
    assert "Judged by knn; the paper evaluates by linear classifiers." in of_knn


def test_verdicts_are_spelt_as_everywhere_and_settings_have_letters(runs: Path) -> None:
    shown = salmask("claims", "--runs", str(runs)).out
    assert "| MoCo v2 + ours (high-pass) > MoCo v2 " in shown
    assert "\n- A: scenes-cutouts\n  - TINY: " in shown
    assert "\n\nHow they are judged:\n\n- Each comparison is " in shown
    assert "\n- P values are corrected by Holm " in shown
    assert "\n- ours-beats-baseline: saliency-guided masking is better than" in shown


def test_what_departs_in_some_rows_alone_is_said_of_them(tmp_path: Path) -> None:
    """The setting states what all rows have in common: "the paper's data" used to be told of altered ones too."""
    for seed in range(3):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed}, optimization__lr=0.3)
        finished(tmp_path, "mocov2+ours-hp", seed, {("imagenet100", "top1"): 66.1 + seed**2}, optimization__lr=0.3)
        finished(tmp_path, "mocov2+ours-blur", seed, {("imagenet100", "top1"): 62.0 + seed})
    shown = salmask("claims", "--runs", str(tmp_path)).out
    assert "\n- A: the paper's data\n" in shown
    assert "\n\n- in A, only MoCo v2 + ours (high-pass), MoCo v2: ALTERED: optimization.lr=0.3\n\n" in shown
    shutil.rmtree(tmp_path / "full" / "mocov2+ours-blur")
    shown = salmask("claims", "--runs", str(tmp_path)).out
    assert "\n- A: the paper's data\n  - ALTERED: optimization.lr=0.3\n" in shown
    assert "\n- in A" not in shown
    for settings in (tmp_path / "full" / "mocov2").glob("*/run.yaml"):
        settings.unlink()
    shown = salmask("claims", "--runs", str(tmp_path)).out
    assert "\n- in A, only MoCo v2: settings unknown: no run.yaml that this version reads\n" in shown


def test_a_mean_that_is_no_number_is_not_printed(tmp_path: Path) -> None:
    """Its 309 digits used to be printed, without interval and p."""
    for seed, value in enumerate((1e308, -1e308, 1e308)):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed})
        finished(tmp_path, "mocov2+ours-hp", seed, {("imagenet100", "top1"): value})
    shown = salmask("claims", "--runs", str(tmp_path)).out
    (line,) = [line for line in shown.splitlines() if "| MoCo v2 + ours (high-pass) > MoCo v2 " in line]
    assert "| +5.58 | – | – | 3 | – | 3 seeds | values that are no numbers, or too large to" in " ".join(line.split())
    assert "000" not in shown


@pytest.mark.parametrize(
    "words", [["claims"], ["explain", "table1:mocov2:coco"], ["plot", "all"], ["report"], ["pack"]]
)
def test_a_folder_without_runs_is_refused_and_nothing_written(words: list[str], tmp_path: Path) -> None:
    """A page of no runs used to be written, with 191 claims that were not run."""
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "out")] if words[0] in ("plot", "report", "pack") else []
    line = refused(*words, "--runs", str(tmp_path / "empty"), *out)
    assert line == f"no run folder below {tmp_path / 'empty'}; mend: give a folder with runs"
    assert not list((tmp_path / "empty").iterdir())
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("words", [["table"], ["claims"], ["plot", "bars"], ["report"], ["pack"]])
def test_a_task_or_metric_that_there_is_none_of_is_refused(runs: Path, words: list[str]) -> None:
    for option, name, meant in (("task", "logistik", "logistic"), ("metric", "top-1", "top1")):
        line = refused(*words, "--runs", str(runs), f"--{option}", name)
        assert f"no {option} '{name}'; mend: did you mean '{meant}'?" in line
    assert not list(runs.glob("*.*"))


def test_what_does_not_decide_a_sentence_is_said() -> None:
    rows = [*rows_of("mocov2", (60.0, 61.0, 62.2)), *rows_of("mocov2+ours-hp", (63.0, 64.1))]
    blur = rows_of("mocov2+ours-blur", (64.1, 65.0, 66.3))[1:]
    told = [verdict for verdict in judge_families(judge(frame_of(*rows, *blur))) if verdict.setting]
    assert {verdict.family.id: (verdict.outcome, verdict.why) for verdict in told} == {
        "ours-beats-baseline": (UNDECIDED, "mean over 2 of 72 comparisons, 1 seed that all of them have"),
        "high-pass-is-best": (UNDECIDED, "no comparison has two seeds that both rows have"),
        "best-and-second-best": (NO_VERDICT, "no sentence about the whole"),
    }
    assert [verdict.scope for verdict in told] == ["on 2 of 72", "", ""]  # not "on 0 of 48"
    published = {verdict.family.id: verdict.published for verdict in told}
    assert published["ours-beats-baseline"] == pytest.approx((73.80 + 72.50) / 2 - 68.22)  # from Table 1, ImageNet-100
    assert published["high-pass-is-best"] is None


def test_a_setting_names_what_all_of_its_runs_altered() -> None:
    rows = [*rows_of("mocov2", (60.0,), scale="64 px"), *rows_of("mocov2+ours-hp", (63.0,), scale="64 px")]
    departures = [Departure("data.crop", 64, 224), Departure("optimization.lr", 0.3, 0.015, smaller=False)]
    (setting,) = letters(judge_families(judge(frame_of(*rows, departures=departures))))
    assert setting == "the paper's data\nTINY: 64 px\nALTERED: optimization.lr=0.3"


def test_on_a_terminal_comparisons_stand_below_their_place_and_setting() -> None:
    """The setting's letter tells two places in one column apart; comparisons that were not run have none."""
    verdicts = judge(frame_of(*rows_of("mocov2", (60.0, 61.0)), *rows_of("mocov2+ours-hp", (63.0, 64.5))))
    console = Console(file=StringIO(), force_terminal=True, width=120, no_color=True)
    print_verdicts(verdicts, letters(judge_families(verdicts)), console)
    assert isinstance(console.file, StringIO)
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()]
    assert "ImageNet-100; in A; linear-moco-v1; sweep full" in lines
    assert "Caltech-101: not run" in lines
    piped = Console(file=StringIO(), width=120)
    print_verdicts([verdict for verdict in verdicts if verdict.both_run], letters(judge_families(verdicts)), piped)
    assert isinstance(piped.file, StringIO)
    assert re.search(r"\| ImageNet-100 \| A +\| linear-moco-v1 \| full +\|", piped.file.getvalue())


def test_settings_have_letters_beyond_z() -> None:
    settings = [FamilyVerdict(families()[0], f"{place:02}", {}, "", paired({}, {}), 0, None) for place in range(28)]
    assert [*letters(settings).values()][-3:] == ["Z", "AA", "AB"]


def test_a_metric_in_the_address_and_another_as_an_option_are_refused(runs: Path) -> None:
    cell = "table1:mocov2:scenes-cutouts"
    told = json.loads(salmask("explain", cell, "--runs", str(runs), "--metric", "top5", "--json").out)
    assert told == json.loads(salmask("explain", f"{cell}:top5", "--runs", str(runs), "--json").out) | {"cell": cell}
    line = refused("explain", f"{cell}:top1", "--runs", str(runs), "--metric", "top5")
    assert "names another metric than --metric top5" in line
    assert "exclude each other" in refused("claims", "--runs", str(runs), "--pooled", "--paired")


@pytest.mark.parametrize("command", ["claims", "report", "pack", "plot"])
def test_a_measure_that_no_evaluation_gave_is_refused(runs: Path, command: str) -> None:
    """Every sentence used to be "not run", as an evaluation was chosen that does not give the measure."""
    words = [command, *(["forest"] if command == "plot" else []), "--runs", str(runs / "cpu-112px" / "mocov2")]
    line = refused(*words, "--task", "knn", "--metric", "top1_best")
    assert "no result is top1_best by knn; mend: give one that was measured: knn (top1, top5, mean_per_class); " in line


@pytest.mark.parametrize(
    "words",
    [("table", "table1"), ("claims",), ("compare", "mocov2", "simclr"), ("plot", "forest"), ("report",), ("pack",)],
)
def test_what_an_evaluation_chose_is_no_measure_to_judge_by(runs: Path, words: tuple[str, ...]) -> None:
    """The paper's sentences used to be judged by penalties of logistic regression, taken for percentages."""
    line = refused(*words, "--runs", str(runs / "cpu-112px"), "--task", "logistic", "--metric", "l2")
    assert (
        "'l2' is not an accuracy: it says what an evaluation chose or took; mend: name an accuracy, such as top1"
        in line
    )


def test_the_evaluation_is_one_that_gives_the_measure(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    for results in (tmp_path / "runs").rglob("results.jsonl"):
        rows = read(results)[0]
        results.unlink()
        append(results, [row for row in rows if row.task != "linear" or row.metric == "top1"])
    top5 = comparisons(tmp_path / "runs", "--metric", "top5")
    assert {(row["metric"], row["protocol"]) for row in top5} == {("top5", "logreg-v1")}


def test_a_question_that_one_column_answers_was_run() -> None:
    """Runs of another fidelity have their own column, where the same questions used to be "not run" a second time."""
    verdicts = judge(collect([EXAMPLES / "study" / "runs"]), task="logistic")
    counts = count(verdicts)
    assert sum(counts.values()) == len(questions()) < len(verdicts)
    assert counts[NOT_RUN] == len(questions()) - 16
