"""Runs that are not the paper's, in tables, claims and pages: every setting is named, no difference is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from json_rows import read_rows, write_rows
from run_samples import begun, finished, of_method
from table_samples import comparison_of, frame_of, markdown_rows, records_of, rows_of

from baselines import resolve
from repro.runs.records import read
from repro.settings.departures import Departure
from repro.settings.reading import build
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import judge
from results.collection.collect import collect, export
from results.collection.row_comparison import RowComparison
from results.collection.runs import find_runs
from results.formats.html import table_page
from results.formats.layout import Table
from results.formats.table_files import csv, latex, markdown
from results.paper.published import published
from results.plots.forest import effects
from results.plots.material import Material
from results.report.checklist import checklist
from results.report.doubts import doubts
from results.tables.columns import Column
from results.tables.explain import explain
from results.tables.rendering import render

OURS = "mocov2+ours-hp"
LABEL = "MoCo v2 + ours (high-pass)"
ALTERED: dict[str, Any] = {
    "data__dataset": "folder",
    "optimization__lr": 1.0,
    "moco__temperature": 0.9,
    "localizer__weights": "random",
    "masking__guidance": "random",
    "masking__hard_negative": False,
}
TOP1 = ("imagenet100", "top1")


def table_of(root: Path) -> Table:
    return render("table1", collect([root], resolve), runs=find_runs([root], resolve))


def test_a_row_named_after_the_released_code_stands_beside_the_others(tmp_path: Path) -> None:
    named, noise = f"{OURS}-released", "paper, released: noise"
    for seed in range(3):
        finished(tmp_path, "mocov2", seed, {TOP1: 60.0 + seed}, fidelity__noise="released")  # masks nothing
        finished(tmp_path, named, seed, {TOP1: 70.0 + seed + seed**2 / 10})
        finished(tmp_path, f"{OURS}-random", seed, {TOP1: 65.0}, fidelity__noise="released")
    begun(tmp_path / "full", build([of_method(named), {"seed": 3}]))
    table = table_of(tmp_path)
    cells = records_of(table).set_index(["fidelity", "row"])
    other = "other fidelity"
    plain, released, at_random = "61.00 ± 1.00 (3)", "71.17 ± 1.20 (3)", "65.00 ± 0.00 (3)"
    assert cells.loc["paper"]["measured"].to_dict() == {"mocov2": plain, named: released, f"{OURS}-random": other}
    assert cells.loc[noise]["measured"].to_dict() == {"mocov2": other, named: other, f"{OURS}-random": at_random}
    assert cells.loc[("paper", named), "significance"] == "better"
    assert cells.loc[("paper", named), "missing"] == "further runs of it have no result: 1 running"
    assert "fidelity of the equations: paper, or as a row's name says\n" in markdown(table)
    assert f"fidelity of the equations: {noise}\n" in markdown(table)
    frame = collect([tmp_path], resolve)
    (effect,) = effects(frame)
    assert effect.method == named
    explained = explain(f"table1:{named}:imagenet100", frame, find_runs([tmp_path], resolve))["measured"]
    assert [(column["fidelity"], column["measured"]) for column in explained] == [
        ("released", released),
        (noise, other),
    ]


def test_every_altered_setting_is_named_and_no_difference_is_taken(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {TOP1: 68.0})
    finished(tmp_path, OURS, 0, {TOP1: 75.0}, **ALTERED)
    table = table_of(tmp_path)
    cells = markdown_rows(table)
    assert cells["MoCo v2"] == ["68.22", "68.00 (1)", "-0.22"]
    assert cells[LABEL] == ["**73.80**", "75.00 (1) [3]", "–"]
    note = (
        "ALTERED: folder, localizer.weights=random, masking.guidance=random, masking.hard_negative=false, "
        "moco.temperature=0.9, optimization.lr=1.0"
    )
    assert f"- [3] {note}\n" in markdown(table)
    assert note.replace("_", r"\_") in latex(table)
    assert note in table_page(table)
    watermark = (
        "Not comparable with the published numbers where so marked\n"
        "ALTERED – 6 settings not as in the paper, see the notes"
    )
    assert table.watermark == watermark
    assert "\ndepartures from the paper are noted at the rows\n" in table.notes[0]
    records = records_of(table).set_index("row")
    assert records.loc["mocov2", "departures"] == ""
    assert records.loc[OURS, "departures"] == (
        "folder (paper: imagenet100); localizer.weights=random (paper: IMAGENET1K_V2); masking.guidance=random "
        "(paper: saliency); masking.hard_negative=false (paper: true); moco.temperature=0.9 (paper: 0.2); "
        "optimization.lr=1.0 (paper: 0.015)"
    )
    export(collect([tmp_path], resolve), tmp_path / "out.csv")
    exported = pd.read_csv(tmp_path / "out.csv", keep_default_na=False).set_index("method")["departures"]
    assert dict(exported) == dict(records["departures"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimization__epochs": 400}, "ALTERED: 400 epochs"),
        ({"optimization__precision": "bf16"}, "ALTERED: optimization.precision=bf16"),
        ({"moco__bn_splits": 1}, "ALTERED: moco.bn_splits=1"),
        ({"data__dataset": "caltech101"}, "ALTERED: caltech101"),
        ({"optimization__batch": 64}, "TINY: batch 64"),
        ({"augmentation__hue": 0.2}, "ALTERED: augmentation.hue=0.2"),
    ],
)
def test_one_altered_setting_is_enough(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    finished(tmp_path, OURS, 0, {TOP1: 75.0}, **settings)
    table = table_of(tmp_path)
    assert table.notes[0].split("\n")[3] == said
    assert table.groups[0].heading.text == f"ImageNet-100 ({said.partition(':')[0]})"
    assert markdown_rows(table)[LABEL][2] == "–"
    assert table.watermark.startswith("Not comparable with the published numbers\n")
    assert "no difference is taken" in markdown(table)


def test_what_departs_alike_in_all_rows_is_said_once_and_the_rest_at_the_rows(tmp_path: Path) -> None:
    small: dict[str, Any] = {"data__crop": 64, "optimization__batch": 64, "optimization__precision": "bf16"}
    finished(tmp_path, "mocov2", 0, {TOP1: 60.0}, **small, optimization__lr=0.03, moco__queue=2048)
    finished(tmp_path, OURS, 0, {TOP1: 61.0}, **small, optimization__lr=0.03, moco__queue=2048, localizer__relax=0.5)
    finished(tmp_path, "simclr", 0, {TOP1: 62.0}, **small, optimization__lr=0.02)
    table = table_of(tmp_path)
    altered = "ALTERED: localizer.relax=0.5, optimization.precision=bf16"
    assert f"\nTINY: 64 px, batch 64, queue 2048\n{altered}\nfurther departures" in table.notes[0]
    notes = {label: cells[1].partition("[")[2].rstrip("]") for label, cells in markdown_rows(table).items()}
    texts = {label: table.notes[int(notes[label]) - 1] for label in ("MoCo v2", LABEL, "SimCLR")}
    assert texts == {
        "MoCo v2": "ALTERED: optimization.lr=0.03",
        LABEL: "ALTERED: optimization.lr=0.03",
        "SimCLR": "ALTERED: optimization.lr=0.02",
    }


def test_another_protocol_than_the_rows_takes_no_difference() -> None:
    for protocol, difference in (("linear-moco-v1", "-0.22"), ("linear-moco-v1[epochs=10]", "–")):
        table = render("table1", frame_of(*rows_of(protocol=protocol)))
        assert markdown_rows(table)["MoCo v2"][2] == difference
    assert "not measured by the protocol of the published numbers: no difference is taken" in markdown(table)
    # A row may have its own settings of a protocol.
    grid = rows_of("supervised", (82.0,), protocol="linear-moco-v1[lr_grid=30+10+1+0.1]")
    assert markdown_rows(render("table1", frame_of(*grid)))["Supervised"][2] == "-0.72"


def test_imported_weights_never_stand_in_a_row_of_the_papers(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {TOP1: 75.0}, framework="external", imported__weights="0a1b")
    table = table_of(tmp_path)
    cells = markdown_rows(table)
    assert "MoCo v2" not in cells
    assert cells["mocov2 (imported)"] == ["–", "75.00 (1) [4]", "–"]
    assert "[4] imported weights: how they were trained is unknown" in markdown(table)
    # They were measured by the paper's protocol, so that is not the reason.
    assert "[3] no run here can be compared with a row of the paper's: no difference is taken" in markdown(table)
    whole = markdown_rows(render("table1", collect([tmp_path], resolve), every=True))
    assert whole["MoCo v2"][:3] == ["68.22", "not run", "–"]
    # Beside a run of the row itself: they neither join nor exclude it.
    finished(tmp_path, "mocov2", 0, {TOP1: 68.0})
    cells = markdown_rows(table_of(tmp_path))
    assert (cells["MoCo v2"][1:], cells["mocov2 (imported)"][0]) == (["68.00 (1)", "-0.22"], "–")
    finished(tmp_path, OURS, 0, {TOP1: 74.0})
    frame, runs = collect([tmp_path], resolve), find_runs([tmp_path], resolve)
    assert set(frame["method"]) == {"mocov2", "mocov2 (imported)", OURS}
    claim = as_frame(judge(frame)).query("better == @OURS and worse == 'mocov2'").iloc[0]
    assert claim["difference"] == pytest.approx(6.0)
    (column,) = explain("table1:mocov2 (imported):imagenet100", frame, runs)["measured"]
    assert column["departs from the paper in"].startswith("imported weights")
    assert "imported weights: how they were trained is unknown: mocov2 (imported)" in doubts(runs, frame)


def test_of_imported_weights_the_crop_that_they_were_evaluated_by_is_told(tmp_path: Path) -> None:
    finished(tmp_path, "small", 0, {TOP1: 75.0}, framework="external", imported__weights="0a1b", data__crop=64)
    finished(tmp_path, "whole", 0, {TOP1: 76.0}, framework="external", imported__weights="0a1b")
    notes = markdown(table_of(tmp_path))
    unknown = "imported weights: how they were trained is unknown"
    assert f"] {unknown}; evaluated by crops of 64 px (paper: 224)\n" in notes
    assert f"] {unknown}\n" in notes


def test_runs_without_settings_or_row_are_not_said_to_be_the_papers(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {TOP1: 68.0}).run_yaml.unlink()
    finished(tmp_path, "mine", 0, {TOP1: 68.0})
    table = table_of(tmp_path)
    assert markdown_rows(table)["MoCo v2"][2] == "–"
    assert "settings unknown: no run.yaml that this version reads" in table.notes
    assert "settings not compared: this version has no row of that name" in table.notes
    assert "as in the paper" not in table.notes[0]
    assert "as in the paper" not in csv(table)


def test_the_settings_of_one_seed_tell_those_of_its_recipe(tmp_path: Path) -> None:
    folders = [finished(tmp_path, "mocov2", seed, {TOP1: 68.0}) for seed in range(2)]
    for lost, kept in ((0, 1), (1, 0)):
        aside = folders[lost].run_yaml.rename(tmp_path / "aside.yaml")
        assert all(comparison.is_the_row for comparison in collect([tmp_path], resolve)["departures"]), kept
        aside.rename(folders[lost].run_yaml)


def test_a_figure_warns_of_a_tiny_run_whose_settings_are_lost(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {TOP1: 68.0}, data__crop=64).run_yaml.unlink()
    material = Material(find_runs([tmp_path], resolve), collect([tmp_path], resolve))
    assert material.warning == "; TINY MODE, not comparable with the paper"


def test_an_old_record_says_what_its_settings_say_today(tmp_path: Path) -> None:
    folder = finished(tmp_path, OURS, 0, {TOP1: 75.0}, data__crop=64)
    (record,) = read_rows(folder.results)
    assert record["scale"] == "64 px"
    write_rows(folder.results, [{**record, "scale": "resnet18, detection of 9 iterations, 64 px"}])
    assert list(collect([tmp_path], resolve)["scale"]) == ["64 px, detection of 9 iterations, 64 px"]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("crop", [64, 224])
def test_a_detector_of_fewer_images_alone_is_tiny(tmp_path: Path, crop: int, older: bool) -> None:
    folder = finished(tmp_path, OURS, 0, {("scenes", "bbox_AP"): 12.0}, data__crop=crop)
    (result,) = read(folder.results)[0]
    own, pretraining = "voc07+12 on scenes (10 classes, 1024 images)", "64 px, " if crop == 64 else ""
    row = replace(result, task="voc07+12", scale=pretraining + own, evaluation_scale="" if older else own)
    fields = {name: value for name, value in vars(row).items() if not older or name != "evaluation_scale"}
    write_rows(folder.results, [fields])
    frame = collect([tmp_path], resolve)
    assert (list(frame["scale"]), list(frame["evaluation_scale"])) == ([pretraining + own], [own])
    table = render("table2", frame)
    assert table.groups[0].heading.text.endswith(" (TINY)")
    assert f"\nTINY: {pretraining}{own}\n" in table.notes[0]


def test_a_claim_is_not_judged_by_runs_that_were_altered_unlike_each_other() -> None:
    lr = Departure("optimization.lr", 1.0, 0.015, smaller=False)
    frame = frame_of(*rows_of("mocov2", (60.0, 61.0, 62.5)), *rows_of(OURS, (70.0, 71.0, 72.4)))
    verdicts = as_frame(judge(frame)).query("better == @OURS and worse == 'mocov2' and n > 0")
    assert set(verdicts["verdict"]) == {"supported"}
    run = resolve(OURS, {"optimization.lr": 1.0})
    altered = comparison_of(OURS, [lr], run)
    frame["departures"] = [altered if method == OURS else comparison_of(method) for method in frame["method"]]
    verdicts = as_frame(judge(frame)).query("better == @OURS and worse == 'mocov2' and table == 'table1'")
    assert set(verdicts["verdict"]) == {"undecided", "not run"}
    told = verdicts[verdicts["departures"] != ""].iloc[0]
    assert (told["verdict"], told["n"]) == ("undecided", 0)
    assert told["why"] == "not compared: the runs differ in more than the method: optimization.lr"
    assert told["departures"] == f"{OURS}: optimization.lr=1.0 (paper: 0.015)"
    # Altered alike, they are judged: the rows differ in nothing but the masking.
    both = [comparison_of(m, [lr], resolve(m, {"optimization.lr": 1.0})) for m in frame["method"]]
    verdicts = as_frame(judge(frame.assign(departures=both))).query("better == @OURS and worse == 'mocov2' and n > 0")
    assert set(verdicts["verdict"]) == {"supported"}


def test_settings_count_that_play_a_part_in_a_run_or_in_its_row() -> None:
    at_random = RowComparison.of(resolve(OURS, {"masking.guidance": "random"}), resolve)  # uses no localizer any more
    relaxed = RowComparison.of(resolve("mocov2+ours-blur", {"localizer.relax": 0.3}), resolve)
    assert at_random.altered_unlike(relaxed) == ["masking.guidance", "localizer.relax"]
    # A setting in which the rows differ belongs to the method, whatever its value was changed to.
    by_mean, blur = (
        RowComparison.of(resolve(method, changed), resolve)
        for method, changed in ((OURS, {"masking.strategy": "mean_fill"}), ("mocov2+ours-blur", {}))
    )
    assert "masking.strategy" in by_mean.by_name
    assert "masking.strategy" not in by_mean.altered_unlike(blur)
    # Without a row, only the run's own settings count.
    alone = RowComparison.of(resolve("mocov2", {"optimization.lr": 1.0}), None)
    assert alone.values["optimization.lr"] == 1.0
    assert not any(name.startswith("localizer.") for name in alone.values)


def test_pages_count_only_runs_of_the_rows_as_reproduced(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {TOP1: 68.0}, optimization__lr=1.0)
    runs, frame = find_runs([tmp_path], resolve), collect([tmp_path], resolve)
    assert "ALTERED – optimization.lr=1.0: mocov2" in doubts(runs, frame)
    (item,) = [item for item in checklist(runs, frame, []) if item.source == "ACM Reproduced"]
    assert item.answer == "no"
    finished(tmp_path / "whole", "mocov2", 0, {TOP1: 68.0})
    runs, frame = find_runs([tmp_path / "whole"], resolve), collect([tmp_path / "whole"], resolve)
    (item,) = [item for item in checklist(runs, frame, []) if item.source == "ACM Reproduced"]
    assert item.answer == "partly"


def test_the_parts_of_a_columns_scale_come_from_the_runs_and_not_from_its_text() -> None:
    (group, *_) = published("table1").groups
    sizes = [Departure("data.crop", 64), Departure("data.dataset", "scenes (2 classes, 8 images)")]
    texts = ("scenes (2 classes, 8 images)", "64 px")
    detection = "detection of 9 iterations, 32 px"
    stranger = comparison_of("mine")

    def parts(scale: str, *comparisons: RowComparison, own: str = "") -> tuple[str, ...]:
        key, of_methods = ("scenes", "val", "knn-v1", "paper", scale), dict(zip("abc", comparisons, strict=False))
        return Column(group, (("top1", ""),), key, comparisons=of_methods, evaluation_scale=own).sizes

    assert parts(", ".join(texts), stranger, comparison_of("mocov2", sizes)) == texts
    scale = f"{', '.join(texts)}, {detection}"
    assert parts(scale, comparison_of("mocov2", sizes), own=detection) == (*texts, detection)
    assert parts(detection, comparison_of("mocov2"), own=detection) == (detection,)
    # A scale that no row explains is known only as a text, which has no parts.
    assert parts(", ".join(texts), stranger) == (", ".join(texts),)
    assert parts("", comparison_of("mocov2")) == ()
