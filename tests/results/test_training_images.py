"""Numbers of runs that were trained on other images than their neighbours are marked."""

import json
from pathlib import Path
from typing import Any

from run_samples import begun, finished, of_method
from training_samples import salmask

from baselines import resolve
from repro.runs.folder import RunFolder
from repro.settings.reading import build
from results.claims.parts import parts
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.comparison.compare import compare
from results.formats.layout import Table
from results.formats.table_files import markdown
from results.plots.forest import effects
from results.report.doubts import doubts
from results.tables.rendering import render

HP = "mocov2+ours-hp"


def trained(root: Path, method: str, seed: int, value: float, images: str, **settings: Any) -> RunFolder:
    """The folder of an evaluated run that was trained on images of this fingerprint."""
    folder = finished(root, method, seed, {("imagenet100", "top1"): value}, **settings)
    seen(folder, {"train": images})
    return folder


def seen(folder: RunFolder, data: dict[str, Any]) -> None:
    attempts = json.loads(folder.provenance.read_text())
    folder.provenance.write_text(json.dumps([{**attempt, "data": data} for attempt in attempts]))


def table_of(root: Path) -> Table:
    runs = find_runs([root], resolve)
    return render("table1", collect_runs(runs), runs=runs)


def doubts_of(root: Path) -> list[str]:
    runs = find_runs([root], resolve)
    return doubts(runs, collect_runs(runs))


def test_a_seed_that_was_trained_on_other_images_is_named(tmp_path: Path) -> None:
    """A folder had grown between two trainings; the mean of both used to be printed unmarked outside of the report."""
    for seed in range(3):
        trained(tmp_path, "mocov2", seed, 60.0 + seed, "grown" if seed == 1 else "first")
    said = "imagenet100: full/mocov2 s1 trained on other images than full/mocov2 s0; their numbers are not comparable"
    assert f"NOT TRAINED ON THE SAME IMAGES: {said}" in markdown(table_of(tmp_path))
    assert doubts_of(tmp_path).count(said) == 1
    for command in (("table", "table1"), ("claims",)):
        assert f"warning: {said}\n" in salmask(*command, "--runs", str(tmp_path)).out


def test_two_sides_that_were_trained_on_different_images_are_told(tmp_path: Path) -> None:
    """With `--json` there used to be no warning either."""
    trained(tmp_path, "mocov2", 0, 60.0, "first")
    trained(tmp_path, HP, 0, 64.0, "other")
    trained(tmp_path, "simclr", 0, 64.0, "first")
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    said = f"imagenet100: full/{HP} s0 trained on other images than full/mocov2 s0; their numbers are not comparable."
    for other, notes in ((HP, [said]), ("simclr", [])):
        (comparison,) = compare(frame, runs, "mocov2", other)
        assert [note for note in comparison.notes if "trained on" in note] == notes


def test_a_difference_of_runs_that_were_trained_on_other_images_is_not_the_methods_alone(tmp_path: Path) -> None:
    """The cell used to be marked as better, and neither claim nor part said that more than the method differs."""
    for seed in range(3):
        trained(tmp_path, "mocov2", seed, 50.0 + seed / 10, "first")
        trained(tmp_path, HP, seed, 60.0 + seed / 9, "other")
        trained(tmp_path, f"{HP}-random", seed, 55.0 + seed / 8, "first")
    frame = collect_runs(find_runs([tmp_path], resolve))
    (verdict,) = [verdict for verdict in judge(frame) if verdict.both_run]
    assert verdict.why.endswith("; their runs were not trained on the same images")
    assert [part.unlike for part in parts(frame)] == [("the training images",)]
    unlike = {effect.method: effect.unlike for effect in effects(frame)}
    assert unlike == {HP: ("the training images",), f"{HP}-random": ()}
    records = table_of(tmp_path).records.set_index("row")
    assert dict(records["significance"]) == {"mocov2": "", HP: "", f"{HP}-random": "better"}
    assert not records["rank"].any()  # nobody knows which of the two is best


def test_nothing_is_said_of_images_that_differ_by_the_settings_and_of_unknown_ones(tmp_path: Path) -> None:
    """A cache of another size, and weights from elsewhere, used to be told as different data."""
    trained(tmp_path, "mocov2", 0, 60.0, "first")
    trained(tmp_path, "mocov2", 1, 60.0, "first-256px", sweep="cached", data__cached_side=256)
    trained(tmp_path, "mocov2", 2, 60.0, "drawn", sweep="scenes", data__dataset="scenes")
    trained(tmp_path, "mocov2", 3, 60.0, "fewer", sweep="few", data__dataset="scenes", data__scenes__train_count=64)
    seen(trained(tmp_path, "simclr", 0, 60.0, ""), {"weights": "0123"})
    seen(trained(tmp_path, "simclr", 3, 60.0, ""), {"train": None})
    gone = trained(tmp_path, "simclr", 1, 60.0, "other")
    gone.provenance.unlink()
    unread = trained(tmp_path, "simclr+mscn", 2, 60.0, "other")
    unread.run_yaml.unlink()
    assert [doubt for doubt in doubts_of(tmp_path) if "other images" in doubt or "different data" in doubt] == []


def test_how_scenes_would_be_drawn_is_nothing_about_photographs(tmp_path: Path) -> None:
    trained(tmp_path, "mocov2", 0, 60.0, "first")
    trained(tmp_path, "mocov2", 1, 60.0, "grown", sweep="other", data__scenes__train_count=64)
    said = "imagenet100: other/mocov2 s1 trained on other images than full/mocov2 s0; their numbers are not comparable"
    assert [doubt for doubt in doubts_of(tmp_path) if "other images" in doubt] == [said]


def test_the_report_tells_of_trainings_without_a_number(tmp_path: Path) -> None:
    trained(tmp_path, "mocov2", 0, 60.0, "first")
    trained(tmp_path, "mocov2", 1, 60.0, "grown")
    seen(begun(tmp_path / "full", build([of_method("mocov2"), {"seed": 2}])), {"train": "grown"})
    said = "imagenet100: full/mocov2 s0 trained on other images than full/mocov2 s1; their numbers are not comparable"
    assert [doubt for doubt in doubts_of(tmp_path) if "other images" in doubt] == [said]
