"""Numbers that were measured on other images than their neighbours are marked."""

from pathlib import Path

import numpy as np
from prediction_samples import evaluated, predictions, two_methods
from training_samples import salmask

from baselines import resolve
from results.claims.parts import parts
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.collection.scored_images import other_images
from results.formats.layout import Table
from results.formats.table_files import markdown
from results.plots.forest import effects
from results.report.doubts import doubts
from results.tables.rendering import render

SEEDS_TELL = "the corrected test finds the difference"


def table_of(root: Path) -> Table:
    runs = find_runs([root], resolve)
    return render("table1", collect_runs(runs), runs=runs)


def test_a_run_that_was_scored_on_other_images_is_named(tmp_path: Path) -> None:
    """A folder had grown between two evaluations; the mean of both, and differences, used to be printed unmarked."""
    for method in ("mocov2", "simclr"):
        for seed in range(2):
            images = "grown" if (method, seed) == ("mocov2", 1) else "val"
            evaluated(tmp_path, method, seed, predictions(np.full(40, 0.5), seed, images), dataset="folder")
    said = "mocov2 s1 scored on other images than mocov2 s0"
    assert f"NOT THE SAME IMAGES: {said}" in markdown(table_of(tmp_path))
    runs = find_runs([tmp_path], resolve)
    warning = f"folder by linear: {said}; their numbers are not comparable"
    assert warning in doubts(runs, collect_runs(runs))
    for command in (("table", "table1"), ("claims",), ("compare", "mocov2", "simclr")):
        assert f"warning: {warning}\n" in salmask(*command, "--runs", str(tmp_path)).out


def test_nothing_is_said_of_the_same_images_of_other_splits_and_of_none(tmp_path: Path) -> None:
    folder = evaluated(tmp_path, "mocov2", 0, predictions(np.full(40, 0.5), 0))
    evaluated(tmp_path, "mocov2", 1, predictions(np.full(40, 0.5), 1))
    evaluated(tmp_path, "mocov2", 2, predictions(np.full(40, 0.5), 2, "test"), dataset="caltech101")
    assert "SAME IMAGES" not in markdown(table_of(tmp_path))
    # Missing or torn files are told elsewhere.
    other = evaluated(tmp_path, "simclr", 0, predictions(np.full(40, 0.5), 0, "others"))
    frame = collect_runs(find_runs([tmp_path], resolve))
    assert other_images(frame[frame["dataset"] == "imagenet100"]).startswith("simclr s0 scored on other images than")
    for path in (*folder.path.glob("predictions/*"), *other.path.glob("predictions/*")):
        path.write_bytes(b"torn")
    frame = collect_runs(find_runs([tmp_path], resolve)).assign(predictions_sha256="another")
    assert other_images(frame[frame["dataset"] == "imagenet100"]) == ""


def test_a_difference_of_runs_that_were_scored_on_other_images_is_not_the_methods_alone(tmp_path: Path) -> None:
    """Neither claim nor part used to say so, and the cell was marked as better beside a note against it."""
    two_methods(tmp_path, {"mocov2": 0.3, "mocov2+ours-hp-random": 0.5})
    for seed in range(3):
        evaluated(tmp_path, "mocov2+ours-hp", seed, predictions(np.full(800, 0.8), seed, "others"))
    frame = collect_runs(find_runs([tmp_path], resolve))
    (verdict,) = [verdict for verdict in judge(frame) if verdict.both_run]
    assert verdict.why == f"{SEEDS_TELL}; their runs were not scored on the same images"
    assert [part.unlike for part in parts(frame)] == [("the scored images",)]
    assert {effect.method: effect.unlike for effect in effects(frame)} == {
        "mocov2+ours-hp": ("the scored images",),
        "mocov2+ours-hp-random": (),
    }
    records = table_of(tmp_path).records.set_index("row")
    assert dict(records["significance"]) == {"mocov2": "", "mocov2+ours-hp": "", "mocov2+ours-hp-random": "better"}
    assert not records["rank"].any()  # nobody knows which of the two is best
