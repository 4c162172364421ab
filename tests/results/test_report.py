"""The report is one page without external files; it shows names as text, and works in a browser, also on a phone."""

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, browser
from browser import Page as Tab
from PIL import Image
from places import REPRODUCED
from prediction_samples import rewritten
from run_samples import begun, finished, of_method, renamed

from baselines import resolve
from repro.errors import UserError
from repro.runs.records import append, read
from repro.settings.reading import build as build_run
from results.claims.families import judge_families
from results.claims.verdicts import judge
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.report.checklist import checklist
from results.report.doubts import doubts
from results.report.galleries import embed
from results.report.headline import headline
from results.report.page import build
from results.statistics.paired import p_text
from results.tables.references import classes_of
from results.tables.rendering import render
from results.tables.selection import judged_task

STYLE = "getComputedStyle(document.body)"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    root = tmp_path_factory.mktemp("runs")
    for number, method in enumerate(("mocov2", "mocov2+ours-hp", "mocov2+evil")):
        for seed in range(3):
            folder = finished(root, method, seed, {("imagenet100", "top1"): 60.0 + 4 * number + seed / (number + 1)})
            if method == "mocov2+evil":
                folder = renamed(folder, f"mocov2+{EVIL}")
    (folder.logs / "first" / "first.log").write_text(f"a line\n{EVIL} & <script>alert(2)</script>\n")
    failed = begun(root / "full", build_run([of_method("mocov2+ours-blur")]))
    failed.set_status("failed", error=f"out of memory {EVIL}")
    return find_runs([root], resolve)


@pytest.fixture(scope="module")
def page(runs: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build(runs, collect_runs(runs), title=f"A report {EVIL}"), encoding="utf-8")
    return path


def test_the_page_needs_nothing_beside_it(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r'(?:src|srcset|href)="([a-z]+:|#)', text)) == {"data:", "#"}
    assert not re.search(r"url\(|@import|<link(?! rel=\"icon\" href=\"data:,\")", text)
    assert "default-src &#39;none&#39;" in text


def test_a_name_or_a_log_line_with_html_shows_as_text(page: Path) -> None:
    text = page.read_text()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 10
    assert "&lt;script&gt;alert(2)" in text


def test_runs_stand_in_the_order_of_the_rows_and_seeds_unknown_methods_last(page: Path) -> None:
    names = re.findall(r'<span class="name">full/(.*?)/s(\d+)-', page.read_text(encoding="utf-8"))
    rows = [("mocov2", 3), ("mocov2+ours-hp", 3), ("mocov2+ours-blur", 1), (f"mocov2+{html.escape(EVIL)}", 3)]
    assert names == [(method, str(seed)) for method, seeds in rows for seed in range(seeds)]


def test_a_p_value_is_sorted_by_the_number_that_its_text_may_not_show(page: Path) -> None:
    cells = re.findall(r'<td data-label="p" class="number"(?: data-value="(.*?)")?>(.*?)</td>', page.read_text("utf-8"))
    shown = {value: html.unescape(text) for value, text in cells}
    assert shown.pop("") == "–"  # of sentences without a run
    assert shown
    assert all(text == p_text(float(value)) for value, text in shown.items())


def test_warnings_come_first_and_name_what_is_wrong(runs: list[RunRecord], page: Path) -> None:
    lines = doubts(runs, collect_runs(runs))
    assert any("1 run failed: full/mocov2+ours-blur" in line for line in lines)
    text = page.read_text()
    places = [text.index(mark) for mark in ('id="verdict"', "Read this first", 'id="tables"', 'id="claims"')]
    assert places == sorted(places)
    assert doubts([], None)[0].startswith("no run has been evaluated")


def test_tiny_single_and_uncommitted_results_are_doubted(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 60.0}, data__dataset="scenes", encoder__arch="resnet18")
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs).assign(dirty=True)
    text = "\n".join(doubts(runs, frame))
    assert "TINY MODE – scenes (10 classes, 1024 images), resnet18" in text
    assert "fewer than 3 seeds behind 1 cell: mocov2" in text
    assert "measured with uncommitted changes" in text


def test_what_was_made_by_unlike_code_torch_or_devices_is_doubted(tmp_path: Path) -> None:
    folders = [finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}) for seed in range(3)]
    frame = collect_runs(find_runs([tmp_path], resolve))
    assert not [line for line in doubts(find_runs([tmp_path], resolve), frame) if "side by side" in line]
    for folder, torch in zip(folders, ("2.9.0", "2.9.0", "2.14.1"), strict=True):
        (attempt,) = json.loads(folder.provenance.read_text())
        device = {"2.9.0": "NVIDIA H100", "2.14.1": "cpu"}[torch]
        folder.provenance.write_text(json.dumps([{**attempt, "packages": {"torch": torch}, "device": device}]))
    lines = doubts(find_runs([tmp_path], resolve), frame.assign(commit=["b" * 40, "unknown", "a" * 40]))
    assert lines[-4:] == [
        "some results do not name the commit of their code",
        "results of 3 commits stand side by side: aaaaaaa, bbbbbbb, unknown",
        "runs of 2 versions of torch stand side by side: 2.14.1, 2.9.0",
        "runs on 2 kinds of device: NVIDIA H100, cpu",
    ]


def test_the_checklist_is_filled_in_from_the_runs(runs: list[RunRecord]) -> None:
    frame = collect_runs(runs)
    answers = {item.question: item for item in checklist(runs, frame, judge(frame))}
    assert answers["All settings are given"].answer == "partly"  # the settings of the stranger's method are refused
    assert answers["Error bars and significance are reported"].answer == "yes"
    completeness = answers["Complete: every run that was begun is finished"]
    assert completeness.answer == "partly"
    assert completeness.evidence.startswith("9 of 10 runs finished; not: full/mocov2+ours-blur")
    assert answers["Compute is given for each experiment"].evidence.endswith("8 min in all on NVIDIA H100")
    nothing = {item.question: item.answer for item in checklist([], None, judge(None))}
    assert nothing["All settings are given"] == "no"


def test_without_any_run_the_page_shows_the_paper() -> None:
    text = build([], None)
    assert "73.80" in text
    assert "no run has been evaluated" in text
    assert "No run folder was found." in text


def test_tables_without_a_measured_number_are_folded_behind_the_others(page: Path) -> None:
    """The paper's Table 1 used to stand above the measured one if that was by another evaluation."""
    text = page.read_text()
    measured, _, rest = text.partition('<details class="section"><summary><h3>Published numbers')
    alone, _, _ = rest.partition("</details>")
    tables = re.compile(r'<table class="sortable" id="(\w+)"')
    assert (tables.findall(measured), tables.findall(alone)) == (["table1", "table3"], ["table2"])
    nothing = build([], None)
    assert '<details class="section" open><summary><h3>Published numbers' in nothing
    assert tables.findall(nothing) == ["table1", "table2", "table3"]


def test_the_verdict_says_what_was_asked_at_what_scale_and_what_came_out(runs: list[RunRecord]) -> None:
    frame = collect_runs(runs)
    families = judge_families(judge(frame))
    told = headline(families, frame, [render("table1", frame, runs=runs)])
    assert told.asked.startswith("is it true that saliency-guided masking is better than the framework")
    assert told.scale.startswith("settings of 3 runs unknown. 9 runs of 3 methods, 3 seeds.")
    ours = [run for run in runs if run.run is not None]
    known = collect_runs([run for run in ours if run.state == "done"])
    assert headline(judge_families(judge(known)), known, []).scale.startswith("the paper's. 6 runs of 2 methods")
    assert told.outcome == "supported"
    # Seeds 0 to 2 differ by 4 + s / 2 − s, 4 − s / 2: 4, 3.5 and 3.
    assert told.result.startswith("+3.50 points (95 % +2.26 … +4.74) where the paper has +5.58, mean of 1 comparison")
    assert told.result.endswith("0 of 2 published numbers are met within ±1 point")
    nothing = headline(judge_families(judge(None)), None, [])
    assert (nothing.outcome, nothing.asked) == ("not run", "nothing yet: no result is at hand")


def test_of_two_methods_without_a_seed_in_common_the_page_says_so(tmp_path: Path) -> None:
    """It used to say that no sentence of the paper is about them."""
    for seed, method in enumerate(("mocov2", "mocov2+ours-hp")):
        finished(tmp_path, method, seed, {("imagenet100", "top1"): 60.0})
    frame = collect_runs(find_runs([tmp_path], resolve))
    told = headline(judge_families(judge(frame)), frame, [])
    assert (told.outcome, told.result) == ("undecided", "no comparison has two seeds that both rows have")
    for folder in (tmp_path / "full").iterdir():  # measured otherwise, they would be no comparison at all
        if folder.name != "mocov2":
            rewritten(next(folder.glob("*/results.jsonl")), protocol="linear-moco-v1[epochs=3]")
    frame = collect_runs(find_runs([tmp_path], resolve))
    asked = headline(judge_families(judge(frame)), frame, []).asked
    assert asked.endswith("none compares two methods at hand that were measured alike")


@pytest.mark.parametrize(("more", "which"), [((), "the first of the 2 with"), ((2,), "the one with")])
def test_of_several_settings_the_page_says_which_is_told(tmp_path: Path, more: tuple[int, ...], which: str) -> None:
    """Among settings with as many comparisons, the alphabetically first one used to be called the one with most."""
    for epochs, seeds in ((6, (0, 1)), (3, (0, 1, *more))):
        for seed in seeds:
            for method, value in (("mocov2", 60.0), ("mocov2+ours-hp", 64.0)):
                sweep = {"sweep": f"of{epochs}", "optimization__epochs": epochs}
                finished(tmp_path, method, seed, {("imagenet100", "top1"): value + seed * epochs}, **sweep)
    frame = collect_runs(find_runs([tmp_path], resolve))
    told = headline(judge_families(judge(frame)), frame, [])
    assert told.scale.endswith(f"Of 2 settings, {which} the most comparisons is shown here.")


@pytest.mark.parametrize("methods", [("mocov2",), ("mocov2", "mocov2+ours-hp")])
def test_runs_of_another_size_do_not_belie_the_verdict(tmp_path: Path, methods: tuple[str, ...]) -> None:
    """The scale used to be that of all runs: beside a smoke run, full-size ones were called tiny."""
    for seed in range(3):
        for method, value in (("mocov2", 60.0), ("mocov2+ours-hp", 64.0)):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): value + seed})
    for method in methods:
        finished(tmp_path, method, 0, {("imagenet100", "top1"): 20.0}, sweep="smoke", optimization__epochs=6)
    frame = collect_runs(find_runs([tmp_path], resolve))
    told = headline(judge_families(judge(frame)), frame, [])
    others = "1 run of 1 other size" if len(methods) == 1 else "2 runs of 1 other size"
    assert told.scale.startswith(f"the paper's. 6 runs of 2 methods, 3 seeds; also at hand: {others}.")


def test_an_untrained_network_decides_nothing_about_the_others(tmp_path: Path) -> None:
    """It also does not decide the evaluation, nor the number of seeds in checklist and doubts."""
    untrained = {"optimization__epochs": 1, "optimization__lr": 1e-9, "sweep": "untrained"}
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 9.0}, **untrained)
    for seed in range(3):
        results = finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed}).results
        rows = read(results)[0]
        results.unlink()
        append(results, [replace(row, task="knn", protocol="knn-v1") for row in rows])
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    assert judged_task(frame) == "knn"
    answers = {item.question: item for item in checklist(runs, frame, judge(frame))}
    assert answers["Error bars and significance are reported"].evidence.startswith("3 seeds a cell")
    assert not any(doubt.startswith("fewer than 3 seeds") for doubt in doubts(runs, frame))


def test_chance_and_the_untrained_network_are_the_last_rows(tmp_path: Path) -> None:
    small: dict[str, Any] = {"data__dataset": "scenes", "encoder__arch": "resnet18", "sweep": "small"}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 60.0}, **small)
    untrained = {"optimization__epochs": 1, "optimization__lr": 1e-9, "sweep": "untrained"}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 31.0}, **{**small, **untrained})
    finished(tmp_path, "mocov2", 1, {("scenes", "top1"): 35.0}, **{**small, **untrained, "data__crop": 64})
    runs = find_runs([tmp_path], resolve)
    table = render("table1", collect_runs(runs), runs=runs, only="measured", references=True)
    assert [(line.label, [cell.text for cell in line.cells]) for line in table.blocks[-1]] == [
        ("chance", ["10.00"]),  # one of the ten classes of drawn scenes
        ("untrained network (MoCo v2)", ["31.00 (1)"]),  # of the same views; the other network saw smaller ones
    ]
    assert [(each.seed, each.value) for each in table.blocks[-1][1].cells[0].behind] == [(0, 31.0)]
    assert [classes_of(name, None) for name in ("imagenet100", "caltech101", "flowers102", "folder")] == [
        *(100, 101, 102),
        None,
    ]
    assert (
        len(render("table1", collect_runs(runs), runs=runs, only="measured").groups) == 3
    )  # each in a column of its own


def test_a_gallery_lets_the_page_show_through_its_margins_and_nothing_else(tmp_path: Path) -> None:
    pixels = np.full((60, 50, 3), 255, np.uint8)
    pixels[4:8, 6:12] = 0  # a title
    pixels[14:34, 5:22] = pixels[14:34, 28:45] = (200, 30, 60)
    pixels[38:58, 5:22] = pixels[38:58, 28:45] = (20, 90, 160)
    pixels[40:50, 6:20] = 255  # white within an image
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    Image.fromarray(pixels).save(folder.gallery / "masks.png")
    ((gallery,),) = embed(find_runs([tmp_path], resolve)).values()
    kind, _, content = gallery.uri.partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as file:
        shown = np.asarray(file.convert("RGBA"))
    opaque = shown[..., 3] == 255
    assert opaque[14:34, 5:22].all()
    assert opaque[38:58, 5:22].all()
    assert opaque[4:8, 6:12].all()
    assert opaque.sum() == 4 * 20 * 17 + 4 * 6  # the four images and the title, and no pixel of the margins
    assert np.abs(shown[20, 10, :3].astype(int) - (200, 30, 60)).max() < 12
    assert np.abs(shown[5, 8, :3].astype(int) - 128).max() < 12


def test_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    for root in ("a", "b"):
        finished(tmp_path / root, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    runs = find_runs([tmp_path], resolve)
    with pytest.raises(UserError, match="have the same name; mend: give one of them"):
        build(runs, None)
    for root in ("c", "d"):
        finished(tmp_path / root, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    with pytest.raises(UserError, match=r"/a/full/\S*, \S*/b/full/\S* and 2 more have the same name; mend: give one"):
        build(find_runs([tmp_path], resolve), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_cells_open_runs_words_filter_and_galleries_open(page: Path, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('{}')].filter((item) => item.checkVisibility()).length"
    with browser(tmp_path / "profile") as tab:
        tab.open(page, width=390, height=844)
        box = "document.querySelector('#verdict').getBoundingClientRect()"
        left, right, bottom = (tab.evaluate(f"{box}.{side}") for side in ("left", "right", "bottom"))
        assert 0 <= left < right <= 390
        assert bottom < 844

        tab.open(page)
        tab.evaluate("document.querySelector('#table1 a.cell').click()")
        assert tab.evaluate("document.querySelector('#opened').open") is True
        rows = "[...document.querySelectorAll('#opened-content > .scroll tbody tr')].map((row) => row.innerText)"
        values = [re.split(r"\s+", row)[:2] for row in tab.evaluate(rows)]
        assert values == [["0", "60.00"], ["1", "61.00"], ["2", "62.00"]]
        inside = tab.evaluate("document.querySelector('#opened-content details.run').innerText")
        for part in ("full/mocov2/s0-", "Differs from the method", "Make it again", "step 20 loss 7.6", "masks.png"):
            assert part in inside
        tab.evaluate("document.querySelector('#opened-content a.picture').click()")
        assert tab.evaluate("document.querySelector('#opened-picture').open") is True
        assert tab.evaluate("document.querySelector('#opened-picture img').naturalWidth") == 40  # its own size
        caption = tab.evaluate("document.querySelector('#opened-caption').textContent")
        assert caption.startswith("mocov2 full/mocov2/s0-")
        tab.evaluate("document.querySelectorAll('dialog').forEach((dialog) => dialog.close())")

        assert tab.evaluate(shown.format("details.run")) == 10
        _enter(tab, "#filter", "OURS-HP s1", "input")
        assert tab.evaluate(shown.format("details.run")) == 1
        assert tab.evaluate("document.querySelector('#hits').value").startswith("2 of ")  # the run and its gallery
        tables = "[...document.querySelectorAll('figure.wide')].map((figure) => figure.hidden)"
        assert all(tab.evaluate(tables))  # no row of them is a hit
        _enter(tab, "#filter", "ours high-pass", "input")
        assert tab.evaluate(tables)[0] is False
        _enter(tab, "#filter", "", "input")
        assert not any(tab.evaluate(tables))
        _enter(tab, "[data-by=state]", "failed", "change")
        assert tab.evaluate(shown.format("details.run")) == 1
        saved = tab.evaluate("document.querySelector('#data a').href")
        table = pd.read_csv(io.BytesIO(base64.b64decode(saved.partition(",")[2])))
        assert sorted(table["seed"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert tab.problems == []


@pytest.mark.slow  # draws every plot of 39 runs twice
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_39_recorded_runs_print_on_at_most_20_pages(tmp_path: Path) -> None:
    runs = find_runs([REPRODUCED / "cpu-112px"], resolve)
    assert len(runs) == 39
    (tmp_path / "report.html").write_text(build(runs, collect_runs(runs)), encoding="utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.open(tmp_path / "report.html")
        assert 5 < len(re.findall(rb"/Type\s*/Page\b", tab.pdf())) <= 20


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path) -> None:
    column = '[...document.querySelectorAll("#table1 tbody:nth-of-type(2) tr")].map((row) => row.cells[0].innerText)'
    published = 'document.querySelectorAll("#table1 .heads th")[1]'
    width = "[document.documentElement.scrollWidth, innerWidth]"
    with browser(tmp_path / "profile") as tab:
        tab.open(page)
        as_printed = tab.evaluate(column)
        assert as_printed[:2] == ["MoCo v2", "MoCo v2 + MSCN"]
        tab.evaluate(f'{published}.querySelector("button").click()')
        assert tab.evaluate(f"{published}.ariaSort") == "descending"
        assert tab.evaluate(column)[:2] == ["MoCo v2 + ours (high-pass)", "MoCo v2 + ours (strong blur)"]
        tab.evaluate(f'{published}.querySelector("button").click()')
        assert tab.evaluate(column)[0] == "MoCo v2 + ADIOS"  # blocks stay together; a row without a number is last
        assert tab.evaluate(column)[-1] == f"MoCo v2 + {EVIL}"
        tab.evaluate(f'{published}.querySelector("button").click()')
        assert tab.evaluate(column) == as_printed

        log = 'document.querySelector("#run-0 pre")'
        assert tab.evaluate(f"{log}.checkVisibility()") is False
        tab.evaluate('document.querySelector("#run-0 summary").click()')
        assert tab.evaluate(f"{log}.checkVisibility()") is True

        missing = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
        for dark in (False, True):
            tab.open(page, width=390, height=844, dark=dark)
            tab.evaluate('for (const entry of document.querySelectorAll("details")) entry.open = true')
            overflow, inner = tab.evaluate(width)
            assert (overflow, inner) == (390, 390)
            assert tab.evaluate(missing) == 0
        background, ink = tab.evaluate(f"[{STYLE}.backgroundColor, {STYLE}.color]")
        assert _lightness(background) < 60
        assert _lightness(ink) > 200
        assert tab.pdf().startswith(b"%PDF")
        assert tab.problems == []
        inject = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
        tab.evaluate(f"{{ {inject} }}")
        assert tab.evaluate("window.ran") is None  # the page's policy allows only its own script


def _enter(tab: Tab, selector: str, value: str, event: str) -> None:
    field = f"document.querySelector('{selector}')"
    tab.evaluate(f"{field}.value = '{value}', {field}.dispatchEvent(new Event('{event}'))")


def _lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
