"""From rows to Table 1: different things are never averaged, and tiny ones are always marked."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_samples import finished
from table_samples import BASE, TINY, frame_of, markdown_rows, records_of, rows_of

from baselines import resolve
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.runs.records import append
from repro.settings.reading import build
from results.collection.collect import collect, collect_runs
from results.collection.runs import RunRecord, find_runs
from results.formats.table_files import csv, latex, markdown
from results.report.doubts import doubts
from results.tables.rendering import Only, render

FLOWERS = "linear-flowers-80-10-10-v1"
"""The protocol of the linear probe on Flowers-102."""

# --- the numbers of the table


def test_mean_and_sample_std_and_difference_match_a_hand_computation() -> None:
    values = (68.1, 68.9, 70.3)
    (record,) = records_of(render("table1", frame_of(*rows_of(values=values)))).to_dict("records")
    assert record["mean"] == pytest.approx(69.1, abs=1e-4)
    assert record["std"] == pytest.approx(1.11355, abs=1e-4)  # sqrt((1.0 + 0.04 + 1.44) / 2)
    assert record["std"] == pytest.approx(statistics.stdev(values), abs=1e-4)
    assert record["n"] == 3
    assert record["difference"] == pytest.approx(69.1 - 68.22, abs=1e-4)
    assert record["runs"].split() == ["mocov2-s0-", "mocov2-s1-", "mocov2-s2-"]
    assert markdown_rows(render("table1", frame_of(*rows_of(values=values))))["MoCo v2"] == [
        "68.22",
        "69.10 ± 1.11 (3)",
        "+0.88",
    ]


def test_a_single_run_has_no_std() -> None:
    table = render("table1", frame_of(*rows_of(values=(67.5,))))
    assert markdown_rows(table)["MoCo v2"] == ["68.22", "67.50 (1)", "-0.72"]
    assert records_of(table).loc[0, "std"] == ""


def test_all_rows_show_the_papers_layout_and_what_was_not_run() -> None:
    table = render("table1", frame_of(*rows_of()), every=True)
    assert [group.heading.text for group in table.groups] == ["ImageNet-100", "Caltech-101", "Flowers-102"]
    assert len(markdown_rows(table)) == 13 + 2
    missing = ("not run", "–")
    assert markdown_rows(table)["SimCLR + MSCN"] == ["77.18", *missing, "*86.99*", *missing, "*91.08*", *missing]
    assert markdown_rows(table)["MoCo v2"][:3] == ["68.22", "68.00 (1)", "-0.22"]
    records = records_of(table).set_index(["row", "dataset"])
    assert records.loc[("simclr+mscn", "imagenet100"), "measured"] == "not run"
    assert records.loc[("simclr+mscn", "imagenet100"), ["mean", "departures"]].to_list() == ["", ""]
    assert records.loc[("simclr+mscn", "imagenet100"), "n"] == 0
    assert list(markdown_rows(render("table1", frame_of(*rows_of()))))[2:] == ["MoCo v2"]


def test_one_of_the_three_can_be_shown_alone() -> None:
    frame = frame_of(*rows_of(values=(68.0, 69.0)))
    assert markdown_rows(render("table1", frame, only="measured"))["MoCo v2"] == ["68.50 ± 0.71 (2)"]
    assert markdown_rows(render("table1", frame, only="diff"))["MoCo v2"] == ["+0.28"]
    paper = render("table1", frame, only="paper")
    assert markdown_rows(paper)["MoCo v2"] == ["68.22", "81.87", "88.39"]
    assert [cell.text for group in paper.groups for cell in group.columns] == ["published"] * 3
    detection = render("table2", only="paper")
    assert [cell.text for cell in detection.groups[0].columns] == ["AP", "AP50", "AP75"]


def test_table_2_sets_ap_beside_ap_and_masks_beside_masks() -> None:
    coco: dict[str, Any] = {"task": "coco", "dataset": "coco", "protocol": "coco-mrcnn-c4-2x-v1"}
    box = rows_of(**coco, metric="bbox_AP", values=(38.0, 39.0))
    mask = rows_of(**coco, metric="mask_AP75", values=(36.0, 37.0))
    table = render("table2", frame_of(*box, *mask))
    assert [group.heading.text for group in table.groups] == ["COCO detection", "COCO instance segmentation"]
    cells = markdown_rows(table)["MoCo v2"]
    assert cells[:6] == ["38.52", "38.50 ± 0.71 (2)", "-0.02", "57.62", "not run", "–"]
    assert cells[-3:] == ["35.86", "36.50 ± 0.71 (2)", "+0.64"]
    assert "does not state the COCO schedule" in markdown(table)
    with pytest.raises(UserError, match="table2 prints its own metrics"):
        render("table2", frame_of(*box), metric="top1")


def test_table_3_ranks_the_branches_of_each_strategy() -> None:
    frame = frame_of(
        *rows_of("mocov2+ours-hp-no-hard-negative", (50.0, 50.1)),
        *rows_of("mocov2+ours-hp@key-no-hard-negative", (40.0, 40.3)),
        *rows_of("mocov2+ours-hp@both-no-hard-negative", (45.0, 45.2)),
        *rows_of("mocov2+ours-hp", (60.0, 60.1)),
        *rows_of("mocov2+ours-hp@key", (61.0, 61.2)),
    )
    cells = markdown_rows(render("table3", frame))
    assert cells["MoCo v2 + ours (high-pass), query masked, no hard negative"] == [
        "**58.19**",
        "**50.05 ± 0.07 (2)**",
        "–",
    ]
    assert cells["MoCo v2 + ours (high-pass), both masked, no hard negative"][:2] == ["*56.29*", "*45.10 ± 0.14 (2)*"]
    assert "read the order of its rows, not the differences" in markdown(render("table3", frame))
    # The other reading has its own blocks, so that it takes no rank from the one with the published numbers.
    assert cells["MoCo v2 + ours (high-pass), key masked"] == ["–", "**61.10 ± 0.14 (2)**", "–"]
    assert cells["MoCo v2 + ours (high-pass), query masked"] == ["–", "60.05 ± 0.07 (2)", "–"]
    assert "does not say whether its Table 3 has hard negatives" in markdown(render("table3", frame))
    of_table_1 = markdown(render("table1", frame))
    assert "@" not in of_table_1
    assert "MoCo v2 + ours (high-pass), no hard negative" in of_table_1  # an ablation of its row


@pytest.mark.parametrize(("method", "word"), [("simclr+adios", "ResNet-18, 400 epochs"), ("mocov2+adios", "no script")])
def test_adios_says_in_what_it_departs_from_its_authors_script(method: str, word: str) -> None:
    text = markdown(render("table1", frame_of(*rows_of(method, (70.0,)))))
    assert word in text
    assert word not in markdown(render("table1", frame_of(*rows_of("mocov2", (70.0,))), every=True))


# --- what stands where


def test_scenes_that_stand_in_for_coco_say_whether_for_its_boxes_or_its_masks() -> None:
    coco: dict[str, Any] = {"task": "coco", "dataset": "scenes", "protocol": "coco-mrcnn-c4-2x-v1", "scale": TINY}
    frame = frame_of(*rows_of(**coco, metric="bbox_AP"), *rows_of(**coco, metric="mask_AP"))
    assert [group.heading.text for group in render("table2", frame).groups] == [
        "scenes as COCO detection (TINY)",
        "scenes as COCO instance segmentation (TINY)",
    ]


def test_the_best_of_a_block_is_bold_and_a_lone_run_is_not() -> None:
    frame = frame_of(
        *rows_of(values=(68.0, 69.0)),
        *rows_of("mocov2+ours-hp", (70.0, 71.1)),
        *rows_of("simclr", (60.0, 61.0)),
    )
    cells = markdown_rows(render("table1", frame))
    assert cells["MoCo v2"][1] == "68.50 ± 0.71 (2)"
    assert cells["MoCo v2 + ours (high-pass)"] == ["**73.80**", "**70.55 ± 0.78 (2)** †", "-3.25"]
    assert cells["SimCLR"][1] == "60.50 ± 0.71 (2)"
    assert r"\textbf{70.55 $\pm$ 0.78 (2)}$^{\dagger}$ & $-3.25$" in latex(render("table1", frame))


def test_a_method_the_paper_does_not_have_stands_last_in_its_block() -> None:
    frame = frame_of(*rows_of("mocov2+mine", (71.0,)), *rows_of("mocov2"), *rows_of("simclr"), *rows_of("byol"))
    cells = markdown_rows(render("table1", frame))
    assert list(cells)[2:] == ["MoCo v2", "MoCo v2 + mine", "SimCLR", "byol"]
    assert cells["MoCo v2 + mine"] == ["–", "71.00 (1) [3]", "–"]
    strangers = frame_of(*(row for name in "cgaebfd" for row in rows_of(name)))
    assert list(markdown_rows(render("table1", strangers)))[2:] == [*"abcdefg"]


def test_a_dataset_of_the_papers_is_compared_with_its_own_column() -> None:
    cells = markdown_rows(render("table1", frame_of(*rows_of(values=(88.0,), dataset="flowers102", protocol=FLOWERS))))
    assert cells["MoCo v2"] == ["88.39", "88.00 (1)", "-0.39"]


def test_another_dataset_stands_beside_imagenet_100_without_a_difference() -> None:
    table = render("table1", frame_of(*rows_of(values=(40.0,), dataset="scenes")))
    assert markdown_rows(table)["MoCo v2"] == ["68.22", "40.00 (1)", "–"]
    assert "scenes is not a data set of the paper: its ImageNet-100 numbers stand beside for orientation" in markdown(
        table
    )
    (record,) = records_of(table).to_dict("records")
    assert (record["published_column"], record["difference"]) == ("ImageNet-100", "")
    differences = markdown(render("table1", frame_of(*rows_of(values=(40.0,), dataset="scenes")), only="diff"))
    assert "scenes is not a data set of the paper: no difference is taken" in differences  # nothing published beside it


def test_of_the_best_epoch_the_title_says_that_its_numbers_are_too_high() -> None:
    frame = frame_of(*rows_of(metric="top1"), *rows_of(metric="top1_best"))
    chosen = "chosen by the images that it is scored on"
    assert chosen in render("table1", frame, metric="top1_best").title
    assert chosen not in render("table1", frame).title


def test_a_metric_that_the_paper_does_not_print_gets_no_published_number() -> None:
    frame = frame_of(*rows_of(metric="top5", values=(90.0,)), *rows_of(values=(60.0,)))
    table = render("table1", frame, metric="top5")
    assert markdown_rows(table)["MoCo v2"] == ["90.00 (1)"]  # and no columns without a number
    assert "the paper prints no top5" in markdown(table)
    assert records_of(table).loc[0, ["published", "difference"]].to_list() == ["", ""]  # not those of top-1


def test_an_evaluation_that_the_paper_has_not_shows_what_was_measured_alone() -> None:
    frame = frame_of(*rows_of(task="logistic", protocol="logreg-v1[values=12]", values=(60.0, 62.0)))
    table = render("table1", frame, task="logistic")
    (group,) = table.groups
    assert [cell.text for cell in group.columns] == ["measured"]
    (mark,) = group.columns[0].marks
    assert (
        table.notes[mark - 1]
        == "the paper evaluates by linear classifiers, and this is logistic: no published number compares"
    )
    assert "Δ" not in table.title


# --- nothing is averaged that differs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocol", "linear-moco-v1[epochs=10]"),
        ("fidelity", "paper, released: hard_negative"),
        ("scale", TINY),
        ("split", "test"),
    ],
)
def test_runs_that_differ_become_column_groups_of_their_own(key: str, value: str) -> None:
    table = render(
        "table1", frame_of(*rows_of(values=(60.0,)), *rows_of(values=(70.0,), run_id="second", **{key: value}))
    )
    cells = markdown_rows(table)["MoCo v2"]
    assert sorted([cells[1], cells[4]]) == ["60.00 (1)", "70.00 (1)"]
    assert f"differs from [1] in {key}" in markdown(table)
    assert f"differs from [2] in {key}" in markdown(table)
    assert set(records_of(table)[key]) == {getattr(BASE, key), value}


def test_fidelity_protocol_and_commits_are_named_under_the_table() -> None:
    table = render("table1", frame_of(*rows_of(protocol="linear-moco-v1[epochs=10]", dirty=True)))
    facts = ["fidelity of the equations: paper", "protocol: linear-moco-v1[epochs=10]", "commits: abc1234 (dirty)"]
    assert "\n  - ".join(facts) in markdown(table)
    assert "; ".join(facts) in latex(table)


def test_a_dirty_run_among_clean_ones_is_marked_in_its_cell() -> None:
    first, second = rows_of(values=(60.0, 62.0))
    frame = frame_of(first, replace(second, dirty=True), *rows_of("mocov2+ours-hp", (70.0,)))
    table = render("table1", frame)
    assert "commits: abc1234, abc1234 (dirty) – mixed" in markdown(table)
    notes = dict(line[3:].split("] ", 1) for line in markdown(table).splitlines() if line.startswith("- ["))
    marks = markdown_rows(table)["MoCo v2"][1].removeprefix("61.00 ± 1.41 (2) [").removesuffix("]").split(", ")
    assert [notes[mark] for mark in marks] == [
        "its runs come from different states of the code",
        "measured with uncommitted changes in the work tree",
    ]
    assert markdown_rows(table)["MoCo v2 + ours (high-pass)"][1] == "70.00 (1)"


def test_two_runs_for_one_seed_are_refused_by_name() -> None:
    (row,) = rows_of()
    with pytest.raises(UserError) as refusal:
        render("table1", frame_of(row, replace(row, run_id="second", sweep="again")))
    message = str(refusal.value)
    assert "mocov2 with seed 0 on imagenet100 has several runs" in message
    assert "mocov2-s0- (runs/mocov2-s0-/results.jsonl) and second (runs/second/results.jsonl)" in message
    assert refusal.value.mend.startswith("name one sweep with --sweep")
    assert "\n" not in message
    with pytest.raises(UserError) as refusal:
        render("table1", frame_of(row, replace(row, run_id="second")))
    assert refusal.value.mend.startswith("both are in one sweep, so --sweep cannot leave one out: name")


def test_runs_of_two_recipes_under_one_name_are_refused_with_the_difference(tmp_path: Path) -> None:
    for seed, rho in ((0, 2.0), (1, 1.0)):
        run = build([{"method": "mocov2", "seed": seed, "moco.hard_negative_weight": rho}])
        folder = RunFolder.of(run, tmp_path / "full")
        folder.prepare(run)
        append(folder.results, [replace(BASE, run_id=run.id, recipe=run.recipe, seed=seed)])
    with pytest.raises(UserError, match=r"mocov2 on imagenet100 has runs of different recipes") as refusal:
        render("table1", collect([tmp_path]))
    assert "which differ in moco.hard_negative_weight (2.0 and 1.0)" in str(refusal.value)
    assert "--sweep" in refusal.value.mend
    for settings in (tmp_path / "full" / "mocov2").glob("*/run.yaml"):
        hidden = settings.rename(settings.with_name("hidden"))
        with pytest.raises(UserError, match=r"whose run\.yaml is not there to tell the difference; mend"):
            render("table1", collect([tmp_path]))
        hidden.rename(settings)


def test_an_unknown_table_number_or_metric_is_refused_with_the_choice() -> None:
    frame = frame_of(*rows_of())
    with pytest.raises(UserError, match=r"no table 'table9'; mend: did you mean .* known: table1, table2, table3"):
        render("table9", frame)
    with pytest.raises(UserError, match="no choice of --only 'some'; mend: one of measured, paper, diff"):
        render("table1", frame, only="some")
    with pytest.raises(UserError, match=r"no linear top2 among the results \(found: top1\)"):
        render("table1", frame, metric="top2")
    with pytest.raises(UserError, match="found: no linear evaluation"):
        render("table1", frame.assign(task="knn"))
    with pytest.raises(UserError, match=r"no detection AP among the results \(found: top1\)"):
        render("table2", frame)


# --- the watermark


def test_tiny_numbers_are_watermarked_in_every_format() -> None:
    table = render("table1", frame_of(*rows_of(values=(40.0,), dataset="scenes", scale=TINY)))
    lead, sizes = "Not comparable with the published numbers", f"TINY MODE – {TINY}"
    watermark = f"{lead}\n{sizes}"
    assert markdown(table).startswith(f"**{lead}**\n\n**{sizes}**\n")
    assert rf"{{\bfseries {lead}; " + sizes.replace("–", "--") in latex(table)
    (record,) = records_of(table).to_dict("records")
    assert (record["scale"], record["watermark"]) == (TINY, f"{lead}; {sizes}")
    every = render("table1", frame_of(*rows_of(values=(40.0,), scale=TINY)), every=True)
    assert every.watermark == watermark  # the paper's other columns have no number of ours


def test_numbers_at_the_papers_scale_carry_no_watermark() -> None:
    table = render("table1", frame_of(*rows_of()))
    assert "TINY" not in markdown(table) + latex(table) + csv(table)


def test_one_tiny_column_watermarks_the_page_and_only_its_own_lines_of_data() -> None:
    tinier = "resnet18, 32 px"
    table = render(
        "table1",
        frame_of(
            *rows_of(),
            *rows_of(values=(50.0,), scale=TINY, run_id="t"),
            *rows_of(values=(40.0,), dataset="scenes", scale=tinier),
        ),
    )
    lead = "Not comparable with the published numbers"
    assert table.watermark == f"{lead} where so marked\nTINY MODE – {TINY} / {tinier}"
    watermarks = {record["scale"]: record["watermark"] for record in records_of(table).to_dict("records")}
    assert watermarks[""] == ""
    assert watermarks[TINY] == f"{lead}; TINY MODE – {TINY}"
    assert watermarks[tinier] == f"{lead}; TINY MODE – {tinier}"
    assert "ImageNet-100 (TINY) [2]: Δ" in markdown(table)
    assert "not run at the paper's scale: no difference is taken" in markdown(table)


@pytest.mark.parametrize("only", ["", "measured", "diff"])
def test_every_note_is_referred_to_by_a_cell_that_is_shown(only: Only) -> None:
    """Tables of differences used to have notes on "its runs" without saying whose, others notes on hidden numbers."""
    mixed = [replace(row, commit=f"{row.seed}" * 40) for row in rows_of(values=(68.0, 69.0))]
    probed = rows_of("supervised", (80.0,), dataset="caltech101")
    table = render("table1", frame_of(*mixed, *rows_of("simclr"), *probed), only=only)
    heads = [cell for group in table.groups for cell in (group.heading, *group.columns)]
    cells = [cell for block in table.blocks for line in block for cell in line.cells]
    marked = {mark for cell in (*heads, *cells) for mark in cell.marks}
    assert marked == set(range(1, len(table.notes) + 1))
    number = table.notes.index("its runs come from different states of the code") + 1
    assert [cell.text[:3] for cell in cells if number in cell.marks] == ["+0." if only == "diff" else "68."]


def test_a_cell_notes_trainings_that_went_wrong(tmp_path: Path) -> None:
    for seed in range(2):
        folder = finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed})
    tell_symptoms(folder.health, [Symptom("exploded weights", 7, "norm 9e17, 90 at the beginning", "a lower rate")])
    finished(tmp_path, "mocov2+mscn", 0, {("imagenet100", "top1"): 60.0})
    runs = find_runs([tmp_path], resolve)
    table = render("table1", collect_runs(runs), runs=runs)
    (note,) = [note for note in table.notes if "warnings in training" in note]
    # Of 100 steps. Both are told: that the training began badly, and that it went on and ended well.
    (end,) = (row["loss"] for row in RunRecord(folder.path).metrics if row["step"] == 100)
    warned = "warnings in training: exploded weights in 1 of 2 runs (first at step 7)"
    assert note == f"{warned}; its loss at step 100: {end:.2f}"
    marks = {label: cells[1] for label, cells in markdown_rows(table).items() if len(cells) > 1}
    assert marks["MoCo v2"].endswith(f"[{table.notes.index(note) + 1}]")
    assert "[" not in marks["MoCo v2 + MSCN"]
    assert any(
        "warnings while training" in line and "exploded weights" in line for line in doubts(runs, collect_runs(runs))
    )
