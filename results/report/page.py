"""The report, one self-contained page: the verdict, the forest plot, tables, claims, runs, data and a checklist."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pandas as pd

from repro.errors import UserError
from repro.html import data_uri
from repro.quantities import duration_text
from repro.runs.evaluation import measured_text
from repro.settings.labels import label
from results.claims.families import NO_VERDICT, NOTE, judge_families, setting_of
from results.claims.parts import PARTS_NOTE, parts
from results.claims.verdict_tables import letters
from results.claims.verdicts import (
    CONTRADICTED,
    NOT_RUN,
    OUTCOMES,
    SUPPORTED,
    TIE,
    UNDECIDED,
    count,
    judge,
    method_notes,
)
from results.collection.collect import export_bytes
from results.collection.runs import RunRecord, code_label
from results.formats.html import page
from results.formats.layout import Table
from results.paper.published import TABLES, published
from results.plots.figures import PLOTS, draw
from results.plots.material import Material, NothingToDrawError
from results.plots.style import for_dark_page
from results.report.checklist import checklist
from results.report.doubts import doubts
from results.report.galleries import embed
from results.report.headline import headline
from results.report.run_entries import entries
from results.statistics.paired import difference_text, interval_text, p_text
from results.tables.rendering import render
from results.tables.selection import asked_of, judged_by, judged_task, measured_tasks
from results.tables.sweep_pairs import sweep_pairs

STATE_CLASSES = {
    SUPPORTED: "supported",
    TIE: "tie",
    CONTRADICTED: "contradicted",
    UNDECIDED: "not",
    NOT_RUN: "not",
    NO_VERDICT: "not",
}
"""Outcome of a verdict -> the class that gives it its colour in `style.css`."""
FIRST_PLOT = "forest"
"""The plot that stands above the tables; the others follow the claims."""
FEW_DOUBTS = 3
"""How many doubts the page lists openly; the others are folded away."""


@dataclass(frozen=True)
class Picture:
    """A plot as the page embeds it."""

    name: str
    caption: str
    light: str
    """The picture for a light page, as a data URI."""
    dark: str
    """The picture for a dark page, likewise."""


def build(
    runs: Sequence[RunRecord],
    frame: pd.DataFrame | None,
    *,
    title: str = "salmask",
    task: str = "",
    metric: str = "",
    progress: Any = None,
) -> str:
    """Makes the page.

    The same runs give the same page, byte by byte, wherever their folders lie.

    Args:
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        title: Heading of the page.
        task: The evaluation that claims and plots are of; empty: as `judged_task` chooses.
        metric: The measure of Tables 1 and 3 that claims and plots are of; empty: top-1 of the last epoch.
        progress: The state of a sweep in progress, as `progress.html.j2` shows it; None: nothing is shown.

    Returns:
        HTML that needs nothing beside it, neither files nor a network.

    Raises:
        UserError: Runs that exclude each other, two folders of one name, or an unknown task or measure.
    """
    refuse_namesakes(runs)
    runs = _in_order_of_rows(runs)
    task = judged_task(frame, task, metric)
    verdicts = judge(frame, task=task, metric=metric)
    families = judge_families(verdicts)
    of_method = parts(frame, task=task, metric=metric)
    pictures, left_out = _plots(runs, frame, task, metric)
    tables, published_alone = _tables(runs, frame)
    galleries = embed(runs)
    entries_of_runs = entries(runs, frame, galleries)
    return page(
        "report.html.j2",
        extras=("report",),
        p_text=p_text,
        difference_text=difference_text,
        interval_text=interval_text,
        measured_text=measured_text,
        label=label,
        title=title,
        date=_newest(runs, frame),
        version=metadata.version("salmask"),
        headline=headline(families, frame, tables, judged_by(task, metric), of_method),
        parts=of_method,
        parts_note=PARTS_NOTE,
        warnings=[_without_places(doubt, runs) for doubt in doubts(runs, frame)],
        few=FEW_DOUBTS,
        facts=_facts(runs, frame),
        counts=count(verdicts),
        state_classes=STATE_CLASSES,
        verdicts=[verdict for verdict in verdicts if verdict.both_run],
        families=families,
        letters=letters(families),
        setting_of=setting_of,
        outcomes=OUTCOMES,
        rules=[*method_notes(verdicts), NOTE],
        tables=tables,
        published_alone=published_alone,
        anchors={entry.run.path_of_rows: entry.anchor for entry in entries_of_runs},
        first_picture=next((picture for picture in pictures if picture.name == FIRST_PLOT), None),
        pictures=[picture for picture in pictures if picture.name != FIRST_PLOT],
        left_out=left_out,
        galleries=[gallery for of_run in galleries.values() for gallery in of_run],
        entries=entries_of_runs,
        pairs=sweep_pairs(frame),
        data=_data(frame),
        provenance=_provenance(runs),
        checklist=checklist(runs, frame, verdicts),
        progress=progress,
    )


def refuse_namesakes(runs: Sequence[RunRecord]) -> None:
    """Refuses two folders of one name, which the page and the archive could not tell apart."""
    for name, number in Counter(run.name for run in runs).items():
        if number > 1:
            first, *others, last = (str(run.path) for run in runs if run.name == name)
            all_of_them = f"{', '.join([first, *others[:1]])} and {f'{number - 2} more' if number > 3 else last}"
            raise UserError(f"{all_of_them} have the same name", mend="give one of them, or rename a sweep's folder")


def _in_order_of_rows(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns the runs by sweep, then as the rows of the paper's tables, then by seed; further methods come last."""
    methods = dict.fromkeys(method for name in TABLES for method in published(name).every_row)
    rows = {method: row for row, method in enumerate(methods)}

    def place(run: RunRecord) -> tuple[str, int, str, int, str]:
        seed = -1 if run.run is None else run.run.seed
        return run.sweep, rows.get(run.method, len(rows)), run.method, seed, run.name

    return sorted(runs, key=place)


def _newest(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> str:
    """Returns when the newest result was begun, else the newest run; the page has no date of its own."""
    if frame is not None:
        return f"The newest result is from {frame['started'].max():%Y-%m-%d %H:%M} UTC."
    begun = max((str(run.last_attempt.get("started", "")) for run in runs), default="")
    return f"The newest run was started {begun[:16].replace('T', ' ')} UTC." if begun else ""


def _without_places(text: str, runs: Sequence[RunRecord]) -> str:
    """Returns a text with the names of runs in place of their paths on this machine."""
    for run in runs:
        text = text.replace(str(run.path), run.name)
    return text


def _tables(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> tuple[list[Table], list[Table]]:
    """Returns the tables that hold a measured number, and those that hold the paper's numbers only.

    Each of the paper's tables is followed by the same table by every other task that was measured.
    """
    measured: list[Table] = []
    published_alone: list[Table] = []
    for name in TABLES:
        table = whole_table(name, runs, frame)
        (measured if _is_measured(table) else published_alone).append(table)
        for task in filter(None, [] if frame is None else measured_tasks(frame, name)):
            by_task = render(name, frame, runs=runs, only="measured", task=task, references=True)
            measured.append(replace(by_task, name=f"{name}-{task}"))
    return measured, published_alone


def _is_measured(table: Table) -> bool:
    return "n" in table.records and bool((table.records["n"] > 0).any())


def whole_table(
    name: str, runs: Sequence[RunRecord], frame: pd.DataFrame | None, task: str = "", metric: str = ""
) -> Table:
    """Returns a table with all its rows if something was measured for it, else with the paper's numbers only.

    Args:
        name: `table1`, `table2` or `table3`.
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        task: The evaluation that Tables 1 and 3 are made of; empty: the paper's.
        metric: Their measure; empty: the paper's.
    """
    lack = "Nothing was run for it yet."
    if frame is not None:
        paper = published(name)
        task, metric = asked_of(paper, task, metric)
        table = render(name, frame, runs=runs, every=True, references=True, task=task, metric=metric)
        if _is_measured(table):
            return table
        if measured_tasks(frame, name):
            lack = f"No {task or paper.task} evaluation of its rows yet."
    alone = render(name, only="paper")
    return replace(alone, title=f"{alone.title} {lack}")


def _facts(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> dict[str, str]:
    states = Counter(run.state for run in runs)
    seeds = {run.run.seed for run in runs if run.run}
    return {
        "runs": str(len(runs)),
        "states": ", ".join(f"{number} {state}" for state, number in states.most_common()) or "–",
        "methods": str(len({run.method for run in runs})),
        "seeds": str(len(seeds)),
        "results": str(0 if frame is None else len(frame)),
        "pretraining": duration_text(sum(run.training_seconds or 0 for run in runs)),
    }


def _plots(
    runs: Sequence[RunRecord], frame: pd.DataFrame | None, task: str, metric: str
) -> tuple[list[Picture], list[str]]:
    """Returns the plots, and for each that cannot be drawn, what is missing for it."""
    pictures, left_out = [], []
    material = Material(runs, frame, "light", task, metric)
    for name, plot in PLOTS.items():
        if name == "gallery":
            continue  # the page shows the galleries themselves
        try:
            svg = draw(name, material, ".svg")
        except NothingToDrawError as reason:
            left_out.append(f"{name}: {reason.note}")  # said on the page, so that no plot seems forgotten
        else:
            # The browser chooses one by its theme.
            light, dark = (data_uri(content, "image/svg+xml") for content in (svg, for_dark_page(svg)))
            pictures.append(Picture(name, plot.caption, light, dark))
    return pictures, left_out


def _data(frame: pd.DataFrame | None) -> str:
    """Returns all results as a CSV file in a data URI, without their paths, which mean nothing on other machines."""
    if frame is None:
        return ""
    return data_uri(export_bytes(frame.drop(columns="path"), ".csv"), "text/csv")


def _provenance(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Returns what the newest attempts ran on: each property with its values, and how many runs have each value."""
    attempts = [run.last_attempt for run in runs if run.attempts]
    values: dict[str, list[str]] = {
        "commit": [code_label(entry.get("commit", "?"), dirty=entry.get("dirty", False)) for entry in attempts],
        **{what: [str(entry.get(what, "?")) for entry in attempts] for what in ("device", "host", "python")},
        "data": [f"{split}: {digest}" for entry in attempts for split, digest in entry.get("data", {}).items()],
        "packages": [f"{name} {version}" for entry in attempts for name, version in entry.get("packages", {}).items()],
    }
    return [(what, Counter(texts).most_common()) for what, texts in values.items()]
