"""The report, one self-contained page: claims, tables, plots, runs and a checklist, warnings first."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from repro.files import write_text
from repro.html import data_uri
from results.checklist import checklist
from results.claim_families import NOTE, SINGLY, judge_families
from results.claims import CONTRADICTED, NOT_RUN, OUTCOMES, SUPPORTED, TIE, UNDECIDED, count, judge, method_note
from results.doubts import doubts
from results.explain import changed, describe
from results.html import page
from results.layout import Table
from results.material import Material, NothingToDrawError
from results.plots import PLOTS, draw, first_galleries, shrunk
from results.published import TABLES
from results.redo import commands
from results.runs import RunRecord, code_label
from results.tables import render

LOG_LINES = 12
"""How many of the last lines of a run's log the page shows."""
LOG_BYTES = 8000
"""How much of the end of a log is read to find them."""
GALLERY_PIXELS = 1100
"""The largest width of a gallery."""

STATE_CLASSES = {
    SUPPORTED: "supported",
    TIE: "tie",
    CONTRADICTED: "contradicted",
    UNDECIDED: "not",
    NOT_RUN: "not",
    SINGLY: "not",
}
"""Outcome of a verdict -> the class that gives it its colour in `style.css`."""


@dataclass(frozen=True)
class Picture:
    """A plot or gallery as the page embeds it."""

    name: str
    """The plot's name, or the gallery's method."""
    caption: str
    light: str
    """The picture for a light page, as a data URI."""
    dark: str = ""
    """The picture for a dark page; empty where one does for both."""


@dataclass(frozen=True)
class Entry:
    """A run as the page lists it."""

    run: RunRecord
    anchor: str
    """The id of its place on the page."""
    facts: dict[str, Any]
    """What its folder tells, by name; a value may be a text, a list or a mapping."""
    changed: dict[str, str]
    """What it changed of its method's recipe, as `results.explain.changed` tells it."""
    results: list[dict[str, Any]]
    """Its rows."""
    log: str
    """The last lines of its newest log."""
    commands: list[str]
    """What makes it again."""
    configuration: str
    """The whole `run.yaml`; empty where it cannot be read."""


def build(runs: Sequence[RunRecord], frame: pd.DataFrame | None, *, title: str = "salmask") -> str:
    """Make the page.

    Args:
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
        title: Heading of the page.

    Returns:
        HTML that needs nothing beside it, neither files nor a network.

    Raises:
        UserError: Runs that exclude each other.
    """
    verdicts = judge(frame)
    pictures, left_out = _plots(runs, frame)
    tables = [_table(name, runs, frame) for name in TABLES]
    return page(
        "report.html.j2",
        title=title,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=metadata.version("salmask"),
        warnings=doubts(runs, frame),
        facts=_facts(runs, frame),
        counts=count(verdicts),
        state_classes=STATE_CLASSES,
        verdicts=[verdict for verdict in verdicts if verdict.told],
        families=judge_families(verdicts),
        outcomes=OUTCOMES,
        note=f"{method_note(verdicts)} {NOTE}",
        tables=tables,
        pictures=pictures,
        left_out=left_out,
        galleries=_galleries(runs),
        entries=[_entry(run, index, frame) for index, run in enumerate(runs)],
        provenance=_provenance(runs),
        checklist=checklist(runs, frame, verdicts),
    )


def write(path: Path, runs: Sequence[RunRecord], frame: pd.DataFrame | None, *, title: str) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The file.
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
        title: Heading of the page.

    Raises:
        UserError: Runs that exclude each other, or the file cannot be written.
    """
    write_text(path, build(runs, frame, title=title))


def _table(name: str, runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> Table:
    """Returns the whole layout of a table where something was run for it, else the paper's numbers alone."""
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


def _plots(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> tuple[list[Picture], list[str]]:
    """Returns the plots, and of each that cannot be drawn what is missing for it."""
    pictures, left_out = [], []
    light, dark = Material(runs, frame), Material(runs, frame, "dark")  # the browser chooses, by its user's theme
    for name, plot in PLOTS.items():
        if name == "gallery":
            continue  # the page shows the galleries themselves
        try:
            uris = [data_uri(draw(name, material, ".svg"), "image/svg+xml") for material in (light, dark)]
        except NothingToDrawError as reason:
            left_out.append(f"{name}: {reason.note}")  # said on the page: a plot that is missing looks forgotten
        else:
            pictures.append(Picture(name, plot.caption, *uris))
    return pictures, left_out


def _galleries(runs: Sequence[RunRecord]) -> list[Picture]:
    """Returns one gallery of each method, small enough for a page."""

    def picture(run: RunRecord, path: Path) -> Picture:
        return Picture(run.method, f"{run.name}, {path.name}", _embedded(path))

    return list(first_galleries(runs, picture).values())


def _embedded(path: Path) -> str:
    buffer = io.BytesIO()
    picture = shrunk(path, GALLERY_PIXELS, 2 * GALLERY_PIXELS)
    picture.save(buffer, "JPEG", quality=82, optimize=True)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _entry(run: RunRecord, index: int, frame: pd.DataFrame | None) -> Entry:
    facts = describe(run)
    # The settings stand in sections of their own below, and the packages in the page's provenance.
    for shown_elsewhere in ("differs from the recipe in", "configuration", "packages"):
        facts.pop(shown_elsewhere)
    rows = frame[frame["path"] == str(run.folder.results)] if frame is not None else pd.DataFrame()
    return Entry(
        run=run,
        anchor=f"run-{index}",
        facts=facts,
        changed=changed(run),
        results=[{str(key): value for key, value in row.items()} for row in rows.to_dict("records")],
        log=_tail(run.logs),
        commands=commands(run),
        configuration=run.run.to_yaml() if run.run else "",
    )


def _tail(logs: Sequence[Path]) -> str:
    """Returns the last lines of the newest log, each cut where it is very long."""
    if not logs:
        return ""
    with logs[-1].open("rb") as file:
        file.seek(max(logs[-1].stat().st_size - LOG_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()  # the cut may fall within a character
    return "\n".join(line[:400] for line in lines[-LOG_LINES:])


def _provenance(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Returns what the newest attempts ran on: what it is, and its values with how many runs have each."""
    attempts = [run.last_attempt for run in runs if run.attempts]
    values: dict[str, list[str]] = {
        "commit": [code_label(entry.get("commit", "?"), dirty=entry.get("dirty", False)) for entry in attempts],
        **{what: [str(entry.get(what, "?")) for entry in attempts] for what in ("device", "host", "python")},
        "data": [f"{split}: {digest}" for entry in attempts for split, digest in entry.get("data", {}).items()],
        "packages": [f"{name} {version}" for entry in attempts for name, version in entry.get("packages", {}).items()],
    }
    return [(what, Counter(texts).most_common()) for what, texts in values.items()]
