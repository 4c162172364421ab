"""The worked example: recorded runs of `make demo`, from which all results are made again without training."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT
from training_samples import salmask

from baselines import resolve
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.formats.table_files import markdown, write
from results.paper.published import TABLES
from results.plots.figures import PLOTS, save
from results.plots.material import Material
from results.report.pack import check, pack
from results.report.page import build, whole_table
from results.tables.rendering import render
from results.tables.selection import judged_task

EXAMPLE = ROOT / "examples" / "demo"


@pytest.fixture(scope="module")
def runs() -> list[RunRecord]:
    return find_runs([EXAMPLE], resolve)


def test_the_example_is_small_and_whole(runs: list[RunRecord]) -> None:
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*")) < 500_000
    assert {run.method for run in runs} == {"mocov2", "mocov2+ours-hp"}
    for run in runs:
        assert run.state == "done"
        assert run.run is not None
        assert run.path.name == f"s{run.run.seed}-{run.run.id}"
        assert run.training_seconds
        assert run.logs
        tasks = collect_runs([run]).groupby("task")["metric"].apply(set)
        assert all({"top1", "top5"} <= tasks[task] for task in ("knn", "logistic"))
        assert len(list(run.path.glob("predictions/*.parquet"))) == 2
        assert (collect_runs([run])["recipe"] == run.run.recipe).all()


@pytest.mark.parametrize("recorded", ["demo", "reproduced", "study"])
def test_recorded_runs_name_no_machine(recorded: str) -> None:
    for path in (ROOT / "examples" / recorded).rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml", ".log"):
            text = path.read_text()
            assert not any(f"{folder}/" in text for folder in ("/home", "/root", "/tmp", "/work", "/usr", "/opt")), path
    hosts = [
        entry["host"]
        for path in (ROOT / "examples" / recorded).rglob("provenance.json")
        for entry in json.loads(path.read_text())
    ]
    assert set(hosts) == {"example"}


@pytest.mark.slow
def test_tables_plots_report_and_artifact_are_made_from_it(runs: list[RunRecord], tmp_path: Path) -> None:
    frame = collect_runs(runs)
    for name in TABLES:
        assert len(write(render(name, frame, runs=runs, every=True), tmp_path / "tables")) == 4
    material = Material(runs, frame, task=judged_task(frame))
    # The paper has no numbers by logistic regression, and all runs have the same source of foregrounds.
    for name in PLOTS.keys() - {"scatter", "saliency-dose"}:
        assert len(save(name, material, tmp_path / "plots")) == 2
    page = build(runs, frame, title="The example")
    assert page.count("<picture>") == len(PLOTS) - 3
    assert page.count('class="thumb"') == 2
    assert "TINY MODE" in page
    assert any(verdict.comparison.n for verdict in judge(frame, task=judged_task(frame)))
    assert pack(tmp_path / "artifact.zip", runs, frame, title="The example") == check(tmp_path / "artifact.zip")
    with zipfile.ZipFile(tmp_path / "artifact.zip") as archive:
        packed = {name: archive.read(f"tables/{name}.md").decode() for name in TABLES}
    assert "by logistic, top1, percent" in packed["table1"]
    # Table 3 has rows with other measurements; it used to be told that nothing was run for it.
    assert "by logistic, top1, percent" in packed["table3"]
    assert "Table 3, by logistic, top1, percent" in page
    assert "Table 3, by knn, top1, percent" in page
    assert page.count(", as published. No linear evaluation of its rows yet.") == 4  # of Tables 1 and 3, as label too
    assert "Nothing was run for it yet" in packed["table2"]
    assert "Table 1, by knn, top5, percent" in markdown(whole_table("table1", runs, frame, "knn", "top5"))


def test_without_a_linear_probe_everything_is_made_of_logistic_regression(tmp_path: Path) -> None:
    runs = ["--runs", str(EXAMPLE)]
    assert "by logistic, top1, percent" in salmask("table", "table1", *runs).out
    assert "protocol: logreg-v2" in salmask("explain", "table1:mocov2+ours-hp:scenes", *runs).out
    drawn = salmask("plot", "forest", *runs, "--out", str(tmp_path))
    assert "Judged by logistic; the paper evaluates by linear classifiers." in drawn.out
    assert (tmp_path / "forest.svg").exists()


def test_an_unknown_plot_is_refused_before_anything_is_said() -> None:
    refused = salmask("plot", "fores", "--runs", str(EXAMPLE))
    assert (refused.code, refused.out) == (2, "")
    assert "unknown plot 'fores'; mend: did you mean 'forest'" in refused.err


def record(*words: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLE.parent / "record.py", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | variables)


def test_the_recorder_keeps_what_the_results_are_made_of(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "runs" / "demo")
    run = next((tmp_path / "runs" / "demo" / "mocov2").iterdir())
    (run / "health.json").write_text("[]")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "old.txt").write_text("of the last time")
    assert record(tmp_path / "runs" / "demo", tmp_path / "again").returncode == 0
    first, again = (collect_runs(find_runs([root], resolve)) for root in (EXAMPLE, tmp_path / "again"))
    first, again = (frame.drop(columns=["path", "sweep"]).astype(str) for frame in (first, again))  # of two folders
    assert first.equals(again)
    assert (tmp_path / "again" / "mocov2" / run.name / "health.json").read_text() == "[]"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "runs"]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["mocov2", "mocov2+ours-hp"]


def test_the_recorder_reads_and_writes_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    run = shutil.copytree(next((EXAMPLE / "mocov2").iterdir()), tmp_path / "runs" / "mocov2" / "s0")
    for path in (run / "health.json", run / "probes" / "linear" / "metrics.jsonl", run / "logs" / "z.log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("3×3\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = record(tmp_path / "runs", tmp_path / "kept", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    copy = tmp_path / "kept" / "mocov2" / "s0"
    for name in ("health.json", "probes/linear/metrics.jsonl", "logs/z.log"):
        assert (copy / name).read_text(encoding="utf-8") == "3×3\n", name


def test_the_recorder_checks_before_it_removes(tmp_path: Path) -> None:
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    shutil.copytree(EXAMPLE, runs)
    kept.mkdir()
    (kept / "file").touch()
    next((runs / "mocov2").iterdir()).joinpath("results.jsonl").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(EXAMPLE, damaged)
    next((damaged / "mocov2").iterdir()).joinpath("metrics.jsonl").write_bytes(b"\xff")
    for words, line in (
        ((tmp_path / "typo", kept), "no run below"),
        ((runs, kept), "no file "),
        ((damaged, kept), "metrics.jsonl cannot be read"),
        ((EXAMPLE, kept / "file"), "is a file; mend:"),
        ((kept,), "two folders are needed, not 1; mend: python examples/record.py RUNS OUT"),
        ((EXAMPLE, EXAMPLE / "mocov2"), "overlap"),
    ):
        done = record(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
        assert [path.name for path in kept.iterdir()] == ["file"]
