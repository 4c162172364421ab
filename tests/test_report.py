"""The report is one page that needs nothing, shows names as text, and works in a browser, also on a phone."""

import re
from pathlib import Path

import pytest
from browser import CHROMIUM, browser
from run_samples import begun, finished, of_method, renamed

from baselines import resolve
from repro.runs.reading import build as build_run
from results.checklist import checklist
from results.claims import judge
from results.collect import collect_runs
from results.doubts import doubts
from results.report import build
from results.runs import RunRecord, find_runs

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


def test_warnings_come_first_and_name_what_is_wrong(runs: list[RunRecord], page: Path) -> None:
    lines = doubts(runs, collect_runs(runs))
    assert any("1 run(s) failed: full/mocov2+ours-blur" in line for line in lines)
    text = page.read_text()
    assert text.index("Read this first") < text.index('id="claims"') < text.index('id="tables"')
    assert doubts([], None)[0].startswith("no run has been evaluated")


def test_tiny_single_and_uncommitted_results_are_doubted(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 60.0}, data__dataset="scenes", encoder__arch="resnet18")
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs).assign(dirty=True)
    text = "\n".join(doubts(runs, frame))
    assert "TINY MODE – scenes (10 classes, 1024 images), resnet18" in text
    assert "fewer than 3 seeds behind 1 cell(s): mocov2" in text
    assert "measured with uncommitted changes" in text


def test_the_checklist_is_filled_in_from_the_runs(runs: list[RunRecord]) -> None:
    frame = collect_runs(runs)
    answers = {item.question: item for item in checklist(runs, frame, judge(frame))}
    assert answers["All settings are given"].answer == "partly"  # those of the stranger's name are refused
    assert answers["Error bars and significance are reported"].answer == "yes"
    completeness = answers["Complete: every run that was begun is finished"]
    assert completeness.answer == "partly"
    assert completeness.evidence.startswith("9 of 10 runs finished; not: full/mocov2+ours-blur")
    assert answers["Compute is given for each experiment"].evidence.endswith("0.12 h in all on NVIDIA H100")
    nothing = {item.question: item.answer for item in checklist([], None, judge(None))}
    assert nothing["All settings are given"] == "no"


def test_without_any_run_the_page_shows_the_paper() -> None:
    text = build([], None)
    assert "73.80" in text
    assert "no run has been evaluated" in text
    assert "No run folder was found." in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path) -> None:
    column = '[...document.querySelectorAll("#table1 tbody:nth-of-type(2) tr")].map((row) => row.cells[0].innerText)'
    published = 'document.querySelectorAll("#table1 .heads th")[1]'
    width = "[document.documentElement.scrollWidth, innerWidth]"
    with browser(tmp_path / "profile") as tab:
        tab.open(page)
        as_printed = tab.evaluate(column)
        assert as_printed[:2] == ["MoCov2", "MoCov2 + MSCN"]
        tab.evaluate(f'{published}.querySelector("button").click()')
        assert tab.evaluate(f"{published}.ariaSort") == "descending"
        assert tab.evaluate(column)[:2] == ["MoCov2 + OURS, high-pass", "MoCov2 + OURS, strong blur"]
        tab.evaluate(f'{published}.querySelector("button").click()')
        assert tab.evaluate(column)[0] == "MoCov2 + ADIOS"  # blocks stay together, a row of no number is last
        assert tab.evaluate(column)[-1] == f"mocov2+{EVIL}"
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
        assert tab.evaluate("window.ran") is None  # the page's policy admits its own script alone


def _lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
