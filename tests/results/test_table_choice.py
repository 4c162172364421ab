"""Which numbers make a table: the task, trained networks, and the names of sweeps."""

from dataclasses import replace
from pathlib import Path

import pytest
from error_samples import message_of
from rich.console import Console
from run_samples import begun, finished
from table_samples import frame_of, markdown_rows, rows_of
from training_samples import refused, salmask

from baselines import resolve
from repro.errors import UserError
from repro.runs.records import append, read
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.formats.table_files import markdown
from results.plots.forest import effects
from results.report.page import whole_table
from results.tables.commands import show_tables
from results.tables.rendering import render
from results.tables.selection import fuller_task, judged_task, measured_task, measured_tasks, refuse_unknown


def test_a_table_is_made_of_the_task_that_was_measured() -> None:
    linear, knn = frame_of(*rows_of()), frame_of(*rows_of(task="knn"))
    assert measured_task(linear, "table1") == ""
    assert measured_task(knn, "table1") == "knn"
    assert measured_task(frame_of(*rows_of(task="knn"), *rows_of()), "table1") == ""
    assert measured_task(linear, "table2") is None
    assert measured_task(frame_of(*rows_of(task="coco", metric="bbox_AP")), "table1") is None
    # Without a request, the task's first measure counts; the paper's own evaluation has only one of the best epoch.
    best = frame_of(*rows_of(task="knn"), *rows_of(metric="top1_best"))
    assert [measured_task(best, "table1"), measured_task(best, "table1", "top1_best")] == ["knn", ""]


def test_without_any_result_a_task_is_one_of_ours() -> None:
    refuse_unknown(None, "knn", "top5")
    with pytest.raises(UserError, match="no task 'logistik'; mend: did you mean 'logistic'"):
        refuse_unknown(None, "logistik")


def test_of_two_evaluations_that_stand_in_the_fuller_one_is_told() -> None:
    frame = frame_of(*rows_of(task="logistic"), *rows_of(task="knn"), *rows_of("mocov2+mscn", task="knn"))
    assert measured_tasks(frame, "table1") == ["logistic", "knn"]
    assert fuller_task(frame, "table1") == "rows with a number: 1 by logistic (shown), 2 by knn (--task knn)"
    assert fuller_task(frame_of(*rows_of(task="logistic"), *rows_of(task="knn")), "table1") == ""


def test_a_table_that_has_no_row_for_the_methods_at_hand_says_so(tmp_path: Path) -> None:
    """It used to end in a traceback, also at the end of a sweep of SimCLR's rows."""
    frame = frame_of(*rows_of("simclr"))
    with pytest.raises(UserError, match="table3 has no row for what was measured, simclr"):
        render("table3", frame)
    assert measured_task(frame, "table3") is None
    assert render("table3", frame, every=True).records["n"].sum() == 0
    run = resolve("simclr")
    append(begun(tmp_path / "s", run).results, rows_of("simclr", run_id=run.id))
    console = Console(record=True, width=200)
    show_tables(("table3",), tmp_path / "s", console, resolve)
    assert "no table3: nothing of what was measured (linear) stands in it" in console.export_text()
    assert list((tmp_path / "s" / "tables").iterdir()) == []  # there, so that no report is missed


def test_a_table_without_results_or_of_several_evaluations_has_no_other_task() -> None:
    needs = "table1 needs results; mend: give a folder in which a run has been evaluated, or --only paper"
    assert message_of(lambda: render("table1", None)) == needs
    assert message_of(lambda: render("table2", frame_of(*rows_of()), task="knn")) == (
        "table2 has no other tasks; mend: leave --task out"
    )


def test_a_misspelt_table_is_said_before_missing_runs(tmp_path: Path) -> None:
    for words in (["table", "tabel1"], ["explain", "tabel1:mocov2:scenes"]):
        assert refused(*words, "--runs", str(tmp_path)).startswith("no table 'tabel1'; mend: did you mean 'table1'?")


@pytest.mark.parametrize("task", ["logistic", "linear"])
def test_an_untrained_network_is_no_run_of_the_method_whose_name_it_has(tmp_path: Path, task: str) -> None:
    """As the only one with a linear probe, it used to stand in the table as MoCo v2, and hid what was measured."""
    finished(tmp_path, "mocov2", 7, {("imagenet100", "top1"): 5.0}, sweep="s", optimization__lr=1e-9)
    for seed, value in enumerate((60.0, 61.0)):
        folder = finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): value}, sweep="s")
        rows = [replace(row, task=task) for row in read(folder.results)[0]]
        folder.results.unlink()
        append(folder.results, rows)
    console = Console(record=True, width=200)
    show_tables(("table1",), tmp_path / "s", console, resolve)
    for text in (salmask("table", "table1", "--runs", str(tmp_path)).out, console.export_text()):
        assert "60.50 ± 0.71 (2)" in text
        lines = [line for line in text.splitlines() if "5.00 (1)" in line]
        assert [("untrained network (MoCo v2)" in line) for line in lines] == [True] * (task == "linear")
    assert "60.50 ± 0.71 (2)" in salmask("explain", "table1:mocov2:imagenet100", "--runs", str(tmp_path)).out


def test_untrained_networks_stand_in_for_no_trained_ones_by_another_evaluation(tmp_path: Path) -> None:
    """The report used to show them as runs of MoCo v2, and an empty cell said that another evaluation had a number."""
    finished(tmp_path, "mocov2", 7, {("imagenet100", "top1"): 5.0}, optimization__lr=1e-9)
    ours = finished(tmp_path, "mocov2+ours-hp", 0, {("imagenet100", "top1"): 60.0})
    runs = find_runs([tmp_path], resolve)
    cells = markdown_rows(render("table1", collect_runs(runs), runs=runs, references=True))
    assert cells["MoCo v2"][1] == "not run"
    assert cells["untrained network (MoCo v2)"][1] == "5.00 (1)"
    rows = read(ours.results)[0]
    ours.results.unlink()
    append(ours.results, [replace(row, task="knn", protocol="knn-v1") for row in rows])
    table = whole_table("table1", runs, collect_runs(runs))
    assert table.title.endswith("as published. No linear evaluation of its rows yet.")


def test_runs_are_judged_by_linear_probes_where_any_trained_network_has_one() -> None:
    """Also if it is a row of Table 3, or requested by its name, which used to count as another evaluation."""
    both = frame_of(*rows_of(task="knn"), *rows_of("mocov2+ours-hp@key-no-hard-negative"))
    assert [judged_task(both), judged_task(both, "linear"), judged_task(both, "knn")] == ["", "", "knn"]


def test_detection_is_judged_whichever_evaluation_stands_in_for_linear_probes() -> None:
    """With kNN and detection, detection used to be "not run" beside its numbers in Table 2."""
    detected = {"task": "coco", "dataset": "coco", "metric": "bbox_AP", "protocol": "coco-mrcnn-c4-2x-v1"}
    frame = frame_of(
        *(
            row
            for changes in ({"task": "knn"}, detected)
            for gain, method in enumerate(("mocov2", "mocov2+ours-hp"))
            for row in rows_of(method, (38.0 + gain, 38.5 + gain, 39.3), **changes)
        )
    )
    task = judged_task(frame)
    assert task == "knn"
    assert set(as_frame(judge(frame, task=task)).query("n == 3")["metric"]) == {"top1", "bbox_AP"}
    assert len(effects(frame, task=task)) == 2


def test_a_sweep_is_called_as_its_folder_is(tmp_path: Path) -> None:
    """Tables and claims used to name it as it was called when measured, and --sweep refused that name."""
    for seed in range(2):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}, sweep="then")
    (tmp_path / "then").rename(tmp_path / "now")
    frame = collect_runs(find_runs([tmp_path], resolve, sweep="now"))
    assert list(frame["sweep"].unique()) == ["now"]
    assert list(frame["recorded_sweep"].unique()) == ["then"]
    assert "sweeps: now" in markdown(render("table1", frame))


def test_a_sweep_of_knn_alone_ends_with_a_table(tmp_path: Path) -> None:
    run = resolve("mocov2")
    folder = begun(tmp_path / "s", run)
    (row,) = rows_of(task="knn", protocol="knn-v1", run_id=run.id)
    append(folder.results, [row])
    folder.gallery.mkdir()
    for name in ("masks.jpg", ".masks.png.part"):  # as recorded runs have it, and what a kill leaves
        (folder.gallery / name).touch()
    console = Console(record=True, width=200)
    show_tables(("table1", "table2"), tmp_path / "s", console, resolve)
    shown = console.export_text()
    assert "68.00 (1)" in shown
    assert "by knn" in shown
    assert "no table2: nothing of what was measured (knn) stands in it" in shown
    assert {path.stem for path in (tmp_path / "s" / "tables").iterdir()} == {"table1"}
    assert [line for line in shown.splitlines() if "masks" in line] == [f"  {folder.gallery / 'masks.jpg'}"]
