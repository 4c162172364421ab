"""One self-contained page: claims, tables, plots, runs and a checklist, warnings first."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from repro.errors import UserError
from repro.files import write_text
from repro.html import data_uri
from results.checklist import checklist
from results.claims import VERDICTS, Verdict, count, judge, method_note
from results.doubts import doubts
from results.explain import Recipe, changed, describe
from results.html import page
from results.layout import Table
from results.material import Material, NothingToDrawError
from results.plots import PLOTS, draw
from results.published import TABLES
from results.redo import commands
from results.runs import RunRecord
from results.tables import render

LOG_LINES = 12
GALLERY_PIXELS = 1100

CAPTIONS = {
    "curves": "Training curves.",
    "scatter": "Published against ours.",
    "bars": "Table 1 as bars.",
    "branches": "Table 3 by masked branch.",
    "compute": "Accuracy against the time that pretraining took.",
}


@dataclass(frozen=True)
class Picture:
    """A plot or gallery as data URIs; `dark` is empty where one does for both themes."""

    name: str
    caption: str
    light: str
    dark: str = ""


@dataclass(frozen=True)
class Entry:
    """A run as the page lists it."""

    run: RunRecord
    anchor: str
    facts: dict[str, Any]
    changed: dict[str, str]
    results: list[dict[str, Any]]
    log: str
    commands: list[str]
    configuration: str


def build(
    runs: Sequence[RunRecord], frame: pd.DataFrame | None, *, title: str = "salmask", recipe: Recipe | None = None
) -> str:
    """Make the page.

    Args:
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
        title: Heading of the page.
        recipe: The run that a method's name stands for; see `results.explain.describe`.

    Returns:
        HTML that needs nothing beside it, neither files nor a network.

    Raises:
        UserError: Runs that exclude each other.
    """
    findings = judge(frame)
    pictures, left_out = _plots(runs, frame)
    tables = [_table(name, runs, frame) for name in TABLES]
    return page(
        "report.html.j2",
        title=title,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=metadata.version("salmask"),
        warnings=doubts(runs, frame),
        facts=_facts(runs, frame),
        verdicts=count(findings),
        verdict_names=VERDICTS,
        findings=[finding for finding in findings if finding.comparison.n],
        untested=_untested(findings),
        note=method_note(findings),
        tables=tables,
        pictures=pictures,
        left_out=left_out,
        galleries=_galleries(runs),
        entries=[_entry(run, index, frame, recipe) for index, run in enumerate(runs)],
        provenance=_provenance(runs),
        checklist=checklist(runs, frame, findings),
    )


def write(
    path: Path, runs: Sequence[RunRecord], frame: pd.DataFrame | None, *, title: str, recipe: Recipe | None = None
) -> None:
    """Write the page, whole or not at all; see `build`."""
    write_text(path, build(runs, frame, title=title, recipe=recipe))


def _table(name: str, runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> Table:
    """The whole layout where something was run for it, else the paper's numbers alone."""
    if frame is not None:
        table = render(name, frame, runs=runs, rows="all")
        if (table.records["n"] > 0).any():
            return table
    alone = render(name, only="paper")
    return replace(alone, title=f"{alone.title} Nothing was run for it yet.")


def _facts(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> dict[str, str]:
    states = Counter(run.state for run in runs)
    hours = sum(run.training_seconds or 0 for run in runs) / 3600
    seeds = {run.run.seed for run in runs if run.run}
    return {
        "runs": str(len(runs)),
        "states": ", ".join(f"{number} {state}" for state, number in states.most_common()) or "–",
        "methods": str(len({run.method for run in runs})),
        "seeds": str(len(seeds)),
        "results": str(0 if frame is None else len(frame)),
        "pretraining": f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min",
    }


def _untested(findings: Sequence[Verdict]) -> dict[str, str]:
    """Claims without a pair of runs: what they say -> `15 in table1, 54 in table2`."""
    counted = Counter((f.claim.says, f.claim.table) for f in findings if not f.comparison.n)
    found: dict[str, list[str]] = {}
    for (says, table), number in counted.items():
        found.setdefault(says, []).append(f"{number} in {table}")
    return {says: ", ".join(parts) for says, parts in found.items()}


def _plots(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> tuple[list[Picture], list[str]]:
    drawn, left_out = [], []
    light, dark = Material(runs, frame), Material(runs, frame, "dark")
    for name in PLOTS:
        if name == "gallery":
            continue  # the page shows the galleries themselves
        try:
            uris = [data_uri(draw(name, material, ".svg"), "image/svg+xml") for material in (light, dark)]
        except NothingToDrawError as reason:
            left_out.append(f"{name}: {reason}")
        else:
            drawn.append(Picture(name, CAPTIONS[name], *uris))
    return drawn, left_out


def _galleries(runs: Sequence[RunRecord]) -> list[Picture]:
    """One gallery of each method, small enough for a page."""
    found: dict[str, Picture] = {}
    for run in runs:
        for path in run.galleries:
            if run.method not in found:
                found[run.method] = Picture(run.method, f"{run.name}, {path.name}", _embedded(path))
    return list(found.values())


def _embedded(path: Path) -> str:
    buffer = io.BytesIO()
    try:
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
    except OSError as error:
        raise UserError(f"{path} is no picture: {error}; remove it") from error
    shown.thumbnail((GALLERY_PIXELS, 2 * GALLERY_PIXELS))
    shown.save(buffer, "JPEG", quality=82, optimize=True)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _entry(run: RunRecord, index: int, frame: pd.DataFrame | None, recipe: Recipe | None) -> Entry:
    facts = describe(run, recipe)
    for shown_elsewhere in ("differs from the recipe in", "configuration", "packages"):
        facts.pop(shown_elsewhere)
    mine = frame[frame["path"] == str(run.folder.results)] if frame is not None else pd.DataFrame()
    return Entry(
        run=run,
        anchor=f"run-{index}",
        facts=facts,
        changed=changed(run, recipe),
        results=[{str(key): value for key, value in row.items()} for row in mine.to_dict("records")],
        log=_tail(run.logs),
        commands=commands(run),
        configuration=run.run.to_yaml() if run.run else "",
    )


def _tail(logs: Sequence[Path]) -> str:
    """The last lines of the newest log."""
    if not logs:
        return ""
    with logs[-1].open("rb") as file:
        file.seek(max(logs[-1].stat().st_size - 8000, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line[:400] for line in lines[-LOG_LINES:])


def _provenance(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What the runs ran on, with how many runs each."""
    last = [run.attempts[-1] for run in runs if run.attempts]
    values: dict[str, list[str]] = {
        "commit": [f"{a.get('commit', '?')}{' (dirty)' if a.get('dirty') else ''}" for a in last],
        "device": [str(a.get("device", "?")) for a in last],
        "host": [str(a.get("host", "?")) for a in last],
        "python": [str(a.get("python", "?")) for a in last],
        "data": [f"{split}: {print_}" for a in last for split, print_ in a.get("data", {}).items()],
        "packages": [f"{name} {version}" for a in last for name, version in a.get("packages", {}).items()],
    }
    return [(what, Counter(found).most_common()) for what, found in values.items()]
