"""The forest plot shows how much each masking gains over its framework alone, paired by seed."""

from dataclasses import replace
from pathlib import Path

import pytest
from run_samples import finished

from baselines import resolve
from repro.errors import UserError
from repro.runs.records import append, read
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.paper.published import published
from results.plots.figures import PLOTS
from results.plots.forest import effects, forest
from results.plots.material import Material, NothingToDrawError
from results.statistics.paired import paired

PLAIN = {0: 60.0, 1: 61.0, 2: 62.5}
MASKED = {0: 64.0, 1: 66.0, 2: 67.5}


def material(root: Path, values: dict[str, dict[int, float]], **settings: object) -> Material:
    for method, by_seed in values.items():
        for seed, value in by_seed.items():
            finished(root, method, seed, {("imagenet100", "top1"): value}, **settings)
    runs = find_runs([root], resolve)
    return Material(runs, collect_runs(runs))


def test_an_effect_is_paired_by_seed_and_stands_beside_the_published_one(tmp_path: Path) -> None:
    content = material(tmp_path, {"mocov2": PLAIN, "mocov2+ours-hp": MASKED | {7: 99.0}, "simclr+ours-hp": MASKED})
    assert content.frame is not None
    (effect,) = effects(content.frame)  # SimCLR without masking was not run
    assert effect.method == "mocov2+ours-hp"
    assert effect.comparison == paired(MASKED | {7: 99.0}, PLAIN)
    assert effect.comparison.differences == (4.0, 5.0, 5.0)
    paper = published("table1").values
    assert effect.published == pytest.approx(
        paper["mocov2+ours-hp", "ImageNet-100", ""] - paper["mocov2", "ImageNet-100", ""]
    )
    assert effect.compares
    assert effect.clear  # 4.67 ± 4.303 * 0.333
    assert effect.text == "+4.67 [+3.23, +6.10] (3)"


def test_one_seed_and_an_interval_with_zero_are_not_clear(tmp_path: Path) -> None:
    values = {"mocov2": PLAIN, "mocov2+mscn": {0: 90.0}, "mocov2+adios": {0: 59.0, 1: 63.0}}
    content = material(tmp_path, values)
    assert content.frame is not None
    by_method = {effect.method: effect for effect in effects(content.frame)}
    assert by_method["mocov2+mscn"].text == "+30.00 (1)"
    assert not any(effect.clear for effect in by_method.values())
    (axes,) = forest(content).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["MoCo v2 + MSCN", "MoCo v2 + ADIOS"]
    assert [text.get_text() for text in axes.texts] == [by_method[name].text for name in by_method]
    low, high = axes.get_xlim()
    assert low < 0
    assert 30 < high < 60  # the interval of two seeds, [-37, 38], does not set the axis
    # The legend has only what is drawn: no interval without zero, no published difference outside the paper's setting.
    legend = [text.get_text() for text in forest(content).legends[0].get_texts()]
    assert legend == ["it includes zero, or there is none (one seed)", "it goes on beyond the axis", "published"]


def test_without_a_seed_in_common_a_row_says_so(tmp_path: Path) -> None:
    """It used to be left out, as if it had not been run."""
    content = material(tmp_path, {"mocov2": PLAIN, "mocov2+ours-hp": MASKED, "mocov2+mscn": {8: 70.0}})
    figure = forest(content)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["no seed that both have", "+4.67 [+3.23, +6.10] (3)"]
    assert not [line for line in axes.lines if list(line.get_ydata()) == [0.0]]  # and no point at a difference of 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the interval excludes zero", "published"]


def test_runs_altered_unlike_are_marked(tmp_path: Path) -> None:
    material(tmp_path, {"mocov2": PLAIN})
    content = material(tmp_path, {"mocov2+ours-hp": MASKED}, optimization__lr=0.03)
    assert content.frame is not None
    (effect,) = effects(content.frame)
    assert effect.unlike == ("optimization.lr",)
    assert effect.text.endswith("(3)*")
    assert not effect.compares


def test_another_task_has_no_published_difference(tmp_path: Path) -> None:
    content = material(tmp_path, {"mocov2": PLAIN, "mocov2+ours-hp": MASKED})
    assert content.frame is not None
    frame = content.frame.assign(task="knn", protocol="knn-v1")
    (effect,) = effects(frame, task="knn")
    assert (effect.published, effect.compares) == (None, False)
    assert effects(frame) == []
    with pytest.raises(NothingToDrawError, match="no masking has a seed in common"):
        forest(Material(content.runs, frame))
    assert forest(Material(content.runs, frame, task="knn")).axes
    with pytest.raises(UserError):
        forest(Material(content.runs, None))


def test_it_is_the_first_picture() -> None:
    assert next(iter(PLOTS)) == "forest"


def test_columns_of_other_sizes_have_panels_of_their_own_and_untrained_networks_none(tmp_path: Path) -> None:
    for epochs in (6, 3):
        material(
            tmp_path, {"mocov2": PLAIN, "mocov2+ours-hp": MASKED}, sweep=f"of{epochs}", optimization__epochs=epochs
        )
    untrained = {"optimization__epochs": 1, "optimization__lr": 1e-9, "sweep": "untrained"}
    content = material(tmp_path, {"mocov2": {0: 9.0}, "mocov2+ours-hp": {0: 9.5}}, **untrained)
    assert content.frame is not None
    title = "imagenet100 (TINY, not comparable with the paper), linear-moco-v1"
    assert [effect.panel for effect in effects(content.frame)] == [f"{title}, 3 epochs", f"{title}, 6 epochs"]


def test_boxes_and_masks_of_one_data_set_have_panels_of_their_own(tmp_path: Path) -> None:
    """Both are AP in the paper's Table 2, and used to share a panel, as two lines of one row."""
    for method, box in (("mocov2", 38.0), ("mocov2+ours-hp", 39.0)):
        folder = finished(tmp_path, method, 0, {("coco", "bbox_AP"): box, ("coco", "mask_AP"): 2 * box})
        rows = read(folder.results)[0]
        folder.results.unlink()
        append(folder.results, [replace(row, task="coco", protocol="coco-mrcnn-c4-2x-v1") for row in rows])
    drawn = effects(collect_runs(find_runs([tmp_path], resolve)))
    assert [(effect.panel.rpartition(", ")[2], effect.comparison.mean) for effect in drawn] == [
        ("box AP", pytest.approx(1.0)),
        ("mask AP", pytest.approx(2.0)),
    ]


def test_a_published_difference_stands_beside_its_own_measure_alone(tmp_path: Path) -> None:
    for method, value in (("mocov2", 80.0), ("mocov2+ours-hp", 85.0)):
        finished(tmp_path, method, 0, {("imagenet100", metric): value for metric in ("top1", "top1_best", "top5")})
    frame = collect_runs(find_runs([tmp_path], resolve))
    (top1,), (best,), (top5,) = (effects(frame, metric=metric) for metric in ("", "top1_best", "top5"))
    assert top1.published == best.published == pytest.approx(5.58)
    assert top5.published is None
    assert (top1.panel, top5.panel) == ("imagenet100, linear-moco-v1", "imagenet100, linear-moco-v1, top-5")
