"""Why a table's cell has no number: its runs have not finished, or were measured by something else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_samples import begun, finished, of_method
from table_samples import frame_of, markdown_rows, records_of, rows_of
from training_samples import refused, salmask

from baselines import resolve
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.records import append, read
from repro.settings.reading import build
from results.collection.collect import collect
from results.collection.runs import find_runs
from results.formats.table_files import markdown
from results.paper.published import published
from results.tables.absence import lacking_a_number, unfinished
from results.tables.columns import find_columns
from results.tables.explain import explain
from results.tables.rendering import render


def started(root: Path, method: str, seed: int, **status: Any) -> None:
    """A run folder that was begun, has no result, and has this status."""
    begun(root / "full", build([of_method(method), {"seed": seed}])).set_status(**status)


def test_what_was_measured_otherwise_is_not_called_not_run(tmp_path: Path) -> None:
    """After one more evaluation of one run, all others used to be "not run", though each had a number by kNN."""
    for method in ("mocov2", "mocov2+ours-hp"):
        results = finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}).results
        rows = read(results)[0]
        results.unlink()
        knn = [replace(row, task="knn", protocol="knn-v1") for row in rows]
        append(results, [*knn, *(rows if method == "mocov2" else [])])
    ended = salmask("table", "table1", "--runs", str(tmp_path))
    assert "not by linear" in ended.out
    assert "not run" not in ended.out
    assert "rows with a number: 1 by linear (shown), 2 by knn (--task knn)" in ended.err
    assert salmask("table", "table1", "--runs", str(tmp_path), "--task", "knn").err == ""
    (column,) = json.loads(
        salmask("explain", "table1:mocov2+ours-hp:imagenet100", "--runs", str(tmp_path), "--json").out
    )["measured"]
    assert column["measured"] == "not by linear"
    line = refused("plot", "forest", "--runs", str(tmp_path), "--out", str(tmp_path / "plots"))
    assert line.endswith("; mend: --task knn, by which both have one")


def test_an_empty_cell_says_what_became_of_its_runs(tmp_path: Path) -> None:
    started(tmp_path, "mocov2+ours-hp", 0, state="running", task="pretrain")
    started(tmp_path, "mocov2+ours-blur", 0, state="failed", error="out of memory")
    started(tmp_path, "mocov2+ours-mean", 0, state="done", task="pretrain")
    frame = frame_of(*rows_of(), *rows_of("mocov2+adios", protocol="linear-moco-v1[epochs=10]"))
    table = render("table1", frame, runs=find_runs([tmp_path], resolve), every=True)
    ours = records_of(table).query("protocol == 'linear-moco-v1'").set_index("row")["measured"]
    assert ours["mocov2"] == "68.00 (1)"
    assert ours["mocov2+ours-hp"] == "running"
    assert ours["mocov2+ours-blur"] == "failed"
    assert ours["mocov2+ours-mean"] == "not evaluated"
    assert ours["mocov2+adios"] == "other protocol"
    assert ours["simclr"] == "not run"


def test_a_mean_over_the_surviving_seeds_says_so(tmp_path: Path) -> None:
    started(tmp_path, "mocov2", 3, state="failed", error="diverged")
    started(tmp_path, "mocov2", 4, state="failed", error="diverged")
    table = render("table1", frame_of(*rows_of(values=(68.0, 69.0))), runs=find_runs([tmp_path], resolve))
    assert "further runs of it have no result: 2 failed" in markdown(table)


def test_a_run_that_has_its_number_is_not_missing_where_another_sweep_has_it_too(tmp_path: Path) -> None:
    """Tables 1 and 3 share rows: launching Table 3 used to make each number of Table 1 a mean over survivors."""
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    begun(tmp_path / "table3", build([of_method("mocov2"), {"seed": 0}]))
    begun(tmp_path / "table3", build([of_method("mocov2"), {"seed": 1}]))
    table = render("table1", collect([tmp_path], resolve), runs=find_runs([tmp_path], resolve))
    assert "further runs of it have no result: 1 running" in markdown(table)


def test_a_detector_that_failed_is_told_in_the_column_of_tiny_ones(tmp_path: Path) -> None:
    """The scale of pretraining and detector used to be compared with the pretraining's alone."""
    for method, seed in (("mocov2", 1), ("mocov2+ours-hp", 0)):
        folder = finished(tmp_path, method, seed, {("imagenet100", "top1"): 40.0}, data__crop=64)
        with pytest.raises(RuntimeError), folder.attempt("voc07+12"):
            raise RuntimeError("out of memory")
    folder = finished(tmp_path, "mocov2", 0, {("voc07+12", "bbox_AP"): 12.0}, data__crop=64)
    (row,) = read(folder.results)[0]
    own = "detection of 9 iterations"
    folder.results.unlink()
    append(folder.results, [replace(row, task="voc07+12", scale=f"{row.scale}, {own}", evaluation_scale=own)])
    table = render("table2", collect([tmp_path], resolve), runs=find_runs([tmp_path], resolve), every=True)
    ours = records_of(table).query(f"scale == '64 px, {own}'").set_index("row")["measured"]
    assert set(ours["mocov2+ours-hp"]) == {"failed"}
    assert "further runs of it have no result: 1 failed" in markdown(table)


def test_a_run_of_no_row_that_failed_is_told_in_the_column_of_its_size(tmp_path: Path) -> None:
    begun(tmp_path / "full", build([of_method("mine"), {"seed": 3, "data.crop": 64}])).set_status("failed")
    finished(tmp_path, "mine", 0, {("imagenet100", "top1"): 40.0}, data__crop=64)
    table = render("table1", collect([tmp_path], resolve), runs=find_runs([tmp_path], resolve))
    assert "further runs of it have no result: 1 failed" in markdown(table)


def test_settings_are_read_once_for_all_seeds_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes a tenth of a second each, and a sweep has thousands; runs with other settings stay apart."""
    for seed in range(3):
        started(tmp_path, "mocov2", seed, state="failed")
    begun(tmp_path / "full", build([of_method("mocov2"), {"seed": 3, "data.crop": 64}])).set_status("failed")
    loaded: list[Path] = []
    load = RunFolder.load
    monkeypatch.setattr(RunFolder, "load", lambda folder: (loaded.append(folder.path), load(folder))[1])
    lacking = lacking_a_number(find_runs([tmp_path], resolve))
    assert len(loaded) == 2
    (table1,) = find_columns(frame_of(*rows_of()), published("table1"), "top1", every=False)
    assert unfinished("mocov2", table1, lacking) == {"failed": 3}


def test_an_evaluation_that_failed_is_told_of_a_run_that_was_measured_otherwise(tmp_path: Path) -> None:
    """A run with neighbours and a probe out of memory used to be "not run", and its mean over seeds had no note."""
    for method, seed in (("mocov2+ours-hp", 0), ("mocov2", 3)):
        folder = finished(tmp_path, method, seed, {("imagenet100", "top1"): 40.0})
        rows = read(folder.results)[0]
        folder.results.unlink()
        append(folder.results, [replace(row, task="knn", protocol="knn-v1") for row in rows])
        with pytest.raises(RuntimeError), folder.attempt("linear"):
            raise RuntimeError("out of memory")
    runs = find_runs([tmp_path], resolve)
    table = render("table1", frame_of(*rows_of(values=(68.0, 69.0))), runs=runs, every=True)
    ours = records_of(table).query("protocol == 'linear-moco-v1'").set_index("row")["measured"]
    assert ours["mocov2+ours-hp"] == "failed"
    assert ours["mocov2+ours-blur"] == "not run"
    assert "further runs of it have no result: 1 failed" in markdown(table)
    transferred = records_of(table).query("dataset == 'caltech101'").set_index("row")["measured"]
    assert transferred["mocov2+ours-hp"] == "not run"  # nobody requested it
    (lacking,) = explain("table1:mocov2+ours-hp:imagenet100", None, runs)["runs without a result"]
    assert lacking.startswith("full/mocov2+ours-hp/s0-")
    assert lacking.endswith(": linear failed: out of memory")


def test_a_probe_that_failed_is_told_beside_one_on_another_data_set(tmp_path: Path) -> None:
    """If one of Table 1's three probes had ended well, the cells of those that had not used to say "not run"."""
    folder = finished(tmp_path, "mocov2", 0, {("caltech101", "top1"): 60.0})
    for task in ("linear", "linear@flowers102"):
        with pytest.raises(RuntimeError), folder.attempt(task):
            raise RuntimeError("out of memory")
    runs = find_runs([tmp_path], resolve)
    table = render("table1", collect([tmp_path], resolve), runs=runs, every=True, only="measured")
    assert markdown_rows(table)["MoCo v2"] == ["failed", "60.00 (1)", "failed"]
    append(folder.results, rows_of(run_id=folder.load().id))  # an earlier attempt ended well
    assert list(find_runs([tmp_path], resolve)[0].unfinished_evaluations) == ["linear@flowers102"]


def test_a_run_without_a_heartbeat_is_not_called_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(tmp_path, "mocov2", 0, state="running")
    (run,) = find_runs([tmp_path], resolve)
    assert run.state == "running"
    assert run.status is not None
    monkeypatch.setattr("results.collection.runs.time.time", lambda: run.status.heartbeat + STALE_SECONDS + 1)
    assert run.state == "silent"
    (run.path / "status.json").write_text("{")
    (run,) = find_runs([tmp_path], resolve)
    assert run.state == "unreadable"


def test_a_run_whose_process_died_behind_its_result_is_done(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 40.0})
    folder.set_status(task="linear", state="running")
    (folder.path / "status.json").unlink()
    path = folder.path / "status-linear.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"heartbeat": 1.0}))
    (run,) = find_runs([tmp_path], resolve)
    assert (run.state, run.unfinished_evaluations) == ("done", {})
    folder.results.write_text("")
    (run,) = find_runs([tmp_path], resolve)
    assert (run.state, run.unfinished_evaluations) == ("silent", {"linear": "silent"})


def test_a_method_measured_in_other_columns_alone_is_not_called_not_run() -> None:
    """Each of a column's keys occurs among its numbers, and only their combination does not."""
    first, second = {"protocol": "linear-a", "scale": ""}, {"protocol": "linear-b", "scale": "64 px"}
    crossed = {"protocol": "linear-a", "scale": "64 px"}, {"protocol": "linear-b", "scale": ""}
    rows = [*rows_of(**first), *rows_of(**second), *(row for keys in crossed for row in rows_of("simclr", **keys))]
    table = records_of(render("table1", frame_of(*rows), every=True))
    cells = {(line.protocol, line.scale): line.measured for line in table.query("row == 'simclr'").itertuples()}
    assert [cells[keys["protocol"], keys["scale"]] for keys in (first, second)] == ["other protocol"] * 2
    assert [cells[keys["protocol"], keys["scale"]] for keys in crossed] == ["68.00 (1)"] * 2


def test_a_run_whose_settings_cannot_be_read_is_told_in_every_column(tmp_path: Path) -> None:
    started(tmp_path, "mocov2", 0, state="failed")
    (find_runs([tmp_path], resolve)[0].path / "run.yaml").unlink()
    (lacking,) = lacking_a_number(find_runs([tmp_path], resolve))
    assert (lacking.state, lacking.belongs) == ("failed", None)
    (column,) = find_columns(frame_of(*rows_of()), published("table1"), "top1", every=False)
    assert unfinished("mocov2", column, [lacking]) == {"failed": 1}


def test_a_torn_status_of_an_evaluation_is_told_as_unreadable(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 40.0})
    (folder.path / "status-knn.json").write_text("{")
    (run,) = find_runs([tmp_path], resolve)
    assert run.unfinished_evaluations == {"knn": "unreadable"}
    (lacking,) = explain("table1:mocov2:imagenet100", None, [run])["runs without a result"]
    assert lacking == f"{run.name}: knn unreadable"


def test_a_folder_without_a_status_was_not_started(tmp_path: Path) -> None:
    folder = begun(tmp_path / "full", build([of_method("mocov2")]))
    (folder.path / "status.json").unlink()
    folder.metrics.write_text("{")
    (run,) = find_runs([tmp_path], resolve)
    assert (run.state, run.metrics) == ("not started", [])
