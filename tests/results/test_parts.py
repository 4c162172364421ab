"""What each part of the paper's method adds: rows compared with the same rows without it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import EXAMPLES
from run_samples import finished
from scipy import stats
from table_samples import frame_of, rows_of
from training_samples import salmask

from baselines import METHODS, resolve
from baselines.ablations import ABLATIONS
from repro.command_line.terminal import Console
from results.claims.families import judge_families
from results.claims.parts import PARTS, PARTS_NOTE, parts, parts_as_frame, parts_in_words
from results.claims.verdict_tables import print_parts
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.report import page
from results.report.headline import headline

WITH, WITHOUT = (70.0, 73.0, 71.0), (71.5, 73.5, 73.0)


def test_a_part_adds_the_row_with_it_minus_the_row_without() -> None:
    frame = frame_of(
        *rows_of("mocov2", (60.0, 61.0, 62.0)),
        *rows_of("mocov2+ours-hp", WITH),
        *rows_of("mocov2+ours-hp-no-masks", WITHOUT),
        *rows_of("mocov2+ours-hp-random", (69.0,)),  # one seed
        *rows_of("mocov2+ours-hp-rho1", (10.0, 20.0, 30.0)),  # no part is left out
        *rows_of("mocov2+random", (40.0, 41.0)),  # without its part nothing is left
        *rows_of("mocov2+ours-blur-no-hard-negative", (50.0,)),  # there is no row with the part
        *rows_of("simclr+ours-hp@both", (50.0, 51.0)),
        *rows_of("simclr+ours-hp@both-no-hard-negative", (48.0, 50.0)),
    )
    found = {(part.method, part.part): part for part in parts(frame)}
    assert list(found) == [
        ("mocov2+ours-hp", "masks and hard negative over filter alone"),
        ("mocov2+ours-hp", "saliency over patches at random"),
        ("simclr+ours-hp@both", "hard negative"),
    ]
    masks, saliency, hard_negative = found.values()
    difference = np.subtract(WITH, WITHOUT)
    assert masks.comparison.mean == pytest.approx(difference.mean())
    assert masks.comparison.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert (saliency.comparison.mean, saliency.comparison.n, saliency.comparison.interval()) == (1.0, 1, None)
    assert parts_as_frame([masks, saliency])["low"].notna().to_list() == [True, False]
    assert hard_negative.comparison.differences == (2.0, 1.0)
    low, high = stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference))
    assert parts_in_words(list(found.values())[:2]) == (
        f"masks and hard negative over filter alone: MoCo v2 + ours (high-pass) {difference.mean():+.2f} "
        f"({low:+.2f} … {high:+.2f})",
        "saliency over patches at random: MoCo v2 + ours (high-pass) +1.00",
    )


def test_of_detection_it_is_what_a_part_adds_to_ap() -> None:
    coco = {"task": "coco", "dataset": "coco", "protocol": "coco-mrcnn-c4-2x-v1"}
    values = {("mocov2+ours-hp", "bbox_AP"): 38.0, ("mocov2+ours-hp-no-masks", "bbox_AP"): 37.0}
    values |= {("mocov2+ours-hp", "bbox_AP50"): 58.0, ("mocov2+ours-hp-no-masks", "bbox_AP50"): 54.0}
    rows = [
        row for (method, metric), value in values.items() for row in rows_of(method, (value,), metric=metric, **coco)
    ]
    (part,) = parts(frame_of(*rows))
    assert (part.where, part.comparison.mean) == ("COCO detection AP", 1.0)


def test_every_part_is_an_ablation_of_the_rows() -> None:
    lacking = [name for name, ablation in ABLATIONS.items() if name.removeprefix(f"{ablation.row}-") in PARTS]
    assert len(lacking) == 2 * len(PARTS)  # for MoCo v2 and SimCLR
    assert all(re.sub(rf"-({'|'.join(PARTS)})$", "", name) in METHODS for name in lacking)


def test_parts_are_of_one_column_and_of_runs_altered_alike(tmp_path: Path) -> None:
    for seed in range(2):
        finished(tmp_path, "mocov2+ours-hp", seed, {("imagenet100", "top1"): 70.0 + seed, ("caltech101", "top1"): 80.0})
        changes = {"optimization__lr": 0.5}
        finished(tmp_path, "mocov2+ours-hp-no-masks", seed, {("imagenet100", "top1"): 72.0 - seed}, **changes)
    (part,) = parts(collect_runs(find_runs([tmp_path], resolve)))
    assert part.where == "ImageNet-100"
    assert part.comparison.differences == (-2.0, 0.0)
    assert part.unlike == ("optimization.lr",)
    # The page's first paragraph does not attribute the settings' difference to the part.
    assert parts_in_words([part])[0].endswith(" … +11.71), where runs differ in optimization.lr too")


def test_parts_of_two_splits_are_told_apart_and_those_of_one_name_none(capsys: pytest.CaptureFixture[str]) -> None:
    one = [*rows_of("mocov2+ours-hp", WITH), *rows_of("mocov2+ours-hp-no-masks", WITHOUT)]
    other = [*rows_of("mocov2+ours-hp", WITHOUT, split="test"), *rows_of("mocov2+ours-hp-no-masks", WITH, split="test")]
    (alone,) = parts(frame_of(*one))
    assert alone.apart == ""
    both = parts(frame_of(*one, *other))
    assert [(part.apart, part.comparison.mean) for part in both] == [
        ("split test", -alone.comparison.mean),
        ("split val", alone.comparison.mean),
    ]
    lines = parts_as_frame(both)
    assert list(lines["split"]) == ["test", "val"]
    assert list(zip(lines["low"], lines["high"], strict=True)) == [part.comparison.interval() for part in both]
    released = [replace(row, fidelity="released") for row in one]
    assert {part.apart for part in parts(frame_of(*one, *released))} == {"fidelity paper", "fidelity released"}
    print_parts(both, Console())
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ImageNet-100, ")]
    assert titles == [f"{alone.where}, {alone.how}, split {name}" for name in ("test", "val")]


def test_nothing_is_said_where_there_are_no_two_rows() -> None:
    assert parts(None) == []
    assert parts(frame_of(*rows_of("mocov2+ours-hp", WITH))) == []
    assert parts_in_words([]) == ()


def test_two_rows_without_a_seed_in_common_are_told_and_not_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Two such rows used to be left out, as if they had never been run."""
    no_seed_in_common = rows_of("mocov2+ours-hp-no-masks", (71.5,), seed=7)
    of_random = rows_of("mocov2+ours-hp-random", (69.0,))
    masks, saliency = parts(frame_of(*rows_of("mocov2+ours-hp", WITH), *no_seed_in_common, *of_random))
    assert (masks.without, masks.comparison.n, masks.comparison.mean) == ("mocov2+ours-hp-no-masks", 0, None)
    line = json.loads(parts_as_frame([masks, saliency]).to_json(orient="records"))[0]
    assert (line["n"], line["difference"], line["low"], line["p"]) == (0, None, None, None)
    print_parts([masks], Console())
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[4].strip("|").split("|")]
    assert cells[1:] == ["masks and hard negative over filter alone (no seed that both have)", "–", "–", "–", "–"]
    # The page's first paragraph names only parts with a result.
    assert parts_in_words([masks, saliency]) == parts_in_words([saliency]) != ()
    assert parts_in_words([masks]) == ()


def test_the_page_says_by_which_part_its_verdict_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that leads its framework by its filter alone used to be "supported", and no more was said."""
    values = {"mocov2": 60.0, "mocov2+ours-hp": 64.0, "mocov2+ours-hp-no-masks": 66.0}
    for seed in range(3):
        for method, value in values.items():
            top1 = value + seed + (0.1 * seed if method == "mocov2+ours-hp" else 0.0)
            finished(tmp_path, method, seed, {("imagenet100", "top1"): top1})
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    told = headline(judge_families(judge(frame)), frame, [], parts=parts(frame))
    assert told.outcome == "supported"
    (by_part,) = told.by_part
    assert by_part.startswith("masks and hard negative over filter alone: MoCo v2 + ours (high-pass) -1.90 (")
    monkeypatch.setattr(page, "_plots", lambda *_: ([], []))
    text = page.build(runs, frame)
    assert f"<dt>Parts add</dt><dd>{by_part}</dd>" in text
    assert re.search(r'<h3>Parts</h3>\s*<p class="quiet">What each part adds', text)
    assert "Parts</" not in page.build([], None)
    # Once if all were measured in one way: the study's page repeated two lines of setting in each of six rows.
    assert _ways(text) == (1, 0)
    for method in values:
        finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}, sweep="brief", optimization__epochs=2)
    runs = find_runs([tmp_path], resolve)
    assert _ways(page.build(runs, collect_runs(runs))) == (0, 2)


def _ways(text: str) -> tuple[int, int]:
    """How often a page's parts say how all of them were measured, and how often one of them."""
    section = text.partition("<h3>Parts</h3>")[2].partition("</table>")[0]
    return section.count("All of them: linear-moco-v1"), section.count("<small>linear-moco-v1")


def test_claims_print_parts_and_have_them_as_json() -> None:
    """In the study, masks and hard negative cost 1.8 points of what the filter alone gains with MoCo v2."""
    call = ("claims", "--task", "logistic", "--runs", str(EXAMPLES / "study" / "runs"))
    row = "| MoCo v2 + ours (high-pass) | masks and hard negative over filter alone | -1.85 |   0.85 |   5 | 0.004 |"
    printed = salmask(*call).out
    assert row in printed
    # In Markdown, a line right below a table becomes one of its rows, as the note used to do.
    assert f"|\n\n{PARTS_NOTE}\n" in printed
    assert not re.search(r"\|\n[^|\n]", printed)
    first, *others = json.loads(salmask(*call, "--json").out)["parts"]
    assert (first["method"], first["without"]) == ("mocov2+ours-hp", "mocov2+ours-hp-no-masks")
    assert (first["difference"], first["n"], len(others)) == (pytest.approx(-1.85), 5, 5)
