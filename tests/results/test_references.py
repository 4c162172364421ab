"""The last rows of a table, for comparison: chance, and the same network before its training."""

from pathlib import Path
from typing import Any

import pytest
from prediction_samples import rewritten
from run_samples import finished
from table_samples import frame_of, markdown_rows, rows_of

from baselines import resolve
from results.collection.collect import collect
from results.tables.references import has_untrained_among_trained
from results.tables.rendering import render


@pytest.mark.parametrize(
    ("dataset", "metric", "chance"),
    [
        ("imagenet100", "top1", "1.00"),
        ("imagenet100", "top5", "5.00"),
        ("caltech101", "mean_per_class", "0.99"),
        ("flowers102", "top1_best", "0.98"),
    ],
)
def test_a_guess_hits_one_of_the_classes(dataset: str, metric: str, chance: str) -> None:
    frame = frame_of(*rows_of(dataset=dataset, metric=metric))
    table = render("table1", frame, metric=metric, only="measured", references=True)
    assert markdown_rows(table)["chance"] == [chance]


def test_where_the_number_of_classes_is_unknown_there_is_no_row_of_chance() -> None:
    for rows in (rows_of(dataset="dogs"), rows_of(dataset="scenes")):  # no run tells how many classes are drawn
        assert "chance" not in markdown_rows(render("table1", frame_of(*rows), references=True))
    detected = rows_of(dataset="coco", task="coco", metric="bbox_AP")
    assert "chance" not in markdown_rows(render("table2", frame_of(*detected), references=True))


@pytest.mark.parametrize(("classes", "metric", "chance"), [(20, "top1", "5.00"), (4, "top5", "100.00")])
def test_of_drawn_images_the_runs_tell_the_classes(tmp_path: Path, classes: int, metric: str, chance: str) -> None:
    drawn = {"data__dataset": "scenes", "data__scenes__classes": classes}
    finished(tmp_path, "mocov2", 0, {("scenes", metric): 60.0}, **drawn)
    table = render("table1", collect([tmp_path], resolve), metric=metric, only="measured", references=True)
    assert markdown_rows(table)["chance"] == [chance]


@pytest.mark.parametrize(
    ("seeds", "settings", "told"),
    [
        ((7, 8), {}, "6.00 ± 1.41 (2)"),
        ((7,), {"encoder__arch": "resnet18"}, None),
        ((7,), {"encoder__width": 32}, None),
        ((7,), {"data__crop": 64}, None),
    ],
)
def test_an_untrained_network_is_one_of_the_same_shape(
    tmp_path: Path, seeds: tuple[int, ...], settings: dict[str, Any], told: str | None
) -> None:
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    for number, seed in enumerate(seeds):
        finished(
            tmp_path, "mocov2", seed, {("imagenet100", "top1"): 5.0 + 2 * number}, optimization__lr=1e-9, **settings
        )
    rows = markdown_rows(render("table1", collect([tmp_path], resolve), only="measured", references=True))
    assert rows.get("untrained network (MoCo v2)") == (None if told is None else [told])


def test_untrained_networks_of_two_recipes_are_not_averaged(tmp_path: Path) -> None:
    """They used to be averaged as `17.00 ± 7.07 (2)`, as if they were two seeds of one network."""
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    for seed, epochs in ((7, 1), (8, 2)):
        changes = {"optimization__lr": 1e-9, "optimization__epochs": epochs}
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 5.0 + seed}, **changes)
    rows = markdown_rows(render("table1", collect([tmp_path], resolve), only="measured", references=True))
    assert rows["chance"] == ["1.00"]
    assert "untrained network (MoCo v2)" not in rows


def test_a_run_whose_settings_cannot_be_read_is_no_untrained_network(tmp_path: Path) -> None:
    """For the paper's data, the number of classes is known without it."""
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0}).run_yaml.unlink()
    rows = markdown_rows(render("table1", collect([tmp_path], resolve), only="measured", references=True))
    assert rows["chance"] == ["1.00"]
    finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 50.0})
    frame = collect([tmp_path], resolve)
    assert not has_untrained_among_trained(frame)
    rows = markdown_rows(render("table1", frame, only="measured", references=True))
    assert rows["MoCo v2"][0].startswith("60.00 (1)")


def test_of_detection_there_is_no_chance(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("scenes", "bbox_AP"): 38.0}, data__dataset="scenes")
    rewritten(folder.results, task="coco", protocol="coco-v1")  # for scenes the number of classes is known
    table = render("table2", collect([tmp_path], resolve), only="measured", references=True)
    assert "chance" not in markdown_rows(table)


@pytest.mark.parametrize(
    "changed", [{"split": "test"}, {"protocol": "linear-other-v1"}, {"metric": "top1_best"}, {"dataset": "dogs"}, {}]
)
def test_an_untrained_network_was_measured_as_the_columns_runs_were(tmp_path: Path, changed: dict[str, str]) -> None:
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    assert not has_untrained_among_trained(collect([tmp_path], resolve))
    untrained = finished(tmp_path, "mocov2", 7, {("imagenet100", "top1"): 5.0}, optimization__lr=1e-9)
    rewritten(untrained.results, **changed)
    frame = collect([tmp_path], resolve)
    assert has_untrained_among_trained(frame)
    rows = markdown_rows(render("table1", frame, only="measured", references=True))
    assert rows.get("untrained network (MoCo v2)") == (None if changed else ["5.00 (1)"])
