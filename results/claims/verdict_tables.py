"""Verdicts on the paper's sentences and comparisons, as `salmask claims` prints them."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from repro.command_line.terminal import Console
from repro.command_line.text_tables import TextTable, print_table
from repro.quantities import number_text
from repro.settings.labels import label
from results.claims.families import FamilyVerdict, setting_of
from results.claims.parts import PARTS_NOTE, MethodPart
from results.claims.verdicts import NOT_RUN, OUTCOMES, Verdict
from results.paper.published import published
from results.statistics.paired import Comparison, difference_text, p_text

NUMBERS = ("paper", "measured", "± 95 %", "n", "p")
"""The columns of a verdict that are numbers.

`± 95 %` is half the width of the interval, which is symmetric, or nearly so if images judge. `_with_the_papers_measure`
may extend the heading of the first column.
"""
_Numbers = tuple[str, ...]


def print_families(verdicts: Sequence[FamilyVerdict], console: Console) -> None:
    """Prints each sentence in each setting: its verdict, its mean, and how its comparisons came out."""
    settings = letters(verdicts)
    heads, numbers = _with_the_papers_measure(
        [
            (_numbers(verdict.comparison, verdict.published, verdict.comparison.p), verdict.paper_of)
            for verdict in verdicts
        ]
    )
    rows = [
        [
            verdict.family.id,
            settings.get(verdict.setting, "–"),
            verdict.outcome,
            *of_verdict,
            *(str(verdict.counts[outcome]) for outcome in OUTCOMES),
        ]
        for verdict, of_verdict in zip(verdicts, numbers, strict=True)
    ]
    print_table(TextTable(("sentence", "in", "verdict", *heads, *OUTCOMES), rows, right=(*heads, *OUTCOMES)), console)
    sentences = dict.fromkeys(verdict.family for verdict in verdicts)
    lines = [f"- {family.id}: {family.says} ({family.source})" for family in sentences]
    lines += [f"- {letter}: {setting}".replace("\n", "\n  - ") for setting, letter in settings.items()]
    for line in ["", *lines, ""]:
        console.print(line, soft_wrap=not console.is_terminal)


def print_verdicts(verdicts: Sequence[Verdict], settings: Mapping[str, str], console: Console) -> None:
    """Prints each comparison: where it was made, by which protocol, with runs of which sweeps, and its verdict.

    Below them stands how the runs of single methods depart from the paper, beyond what the setting says of all.

    Args:
        verdicts: What `judge` returns.
        settings: What `letters` returns.
        console: Where to print.
    """
    # In Markdown, a line directly below a table is one of its rows, so an empty line follows each table.
    if console.is_terminal:
        # A title says what the comparisons of a column share, as one line of the table has no room for it.
        for place, of_place in groupby(verdicts, lambda verdict: _place(verdict, settings)):
            heads, grouped = _grouped(list(of_place))
            print_table(TextTable(("better", "verdict", *heads), grouped, heads, place), console)
            console.print()
        _print_own_departures(verdicts, settings, console)
        return
    heads, numbers = _numbers_of(verdicts)
    rows = [
        [
            verdict.outcome,
            verdict.claim.label,
            verdict.where,
            settings.get(setting_of(verdict), "–"),
            verdict.protocol or "–",
            ", ".join(verdict.sweeps) or "–",
            *of_verdict,
            verdict.comparison.basis or "–",
            verdict.why,
        ]
        for verdict, of_verdict in zip(verdicts, numbers, strict=True)
    ]
    words = ("verdict", "claim", "where", "in", "protocol", "sweep", *heads, "judged by", "why")
    print_table(TextTable(words, rows, right=heads), console)
    console.print()
    _print_own_departures(verdicts, settings, console)


def _print_own_departures(verdicts: Sequence[Verdict], settings: Mapping[str, str], console: Console) -> None:
    """Prints departures of single methods; methods with the same departures share a line.

    A setting names only departures that all rows of its columns share. If some rows are as in the paper, or cannot be
    compared with it, nothing would tell that the others are not.
    """
    methods: dict[tuple[str, str], dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.column is None or not verdict.both_run:
            continue
        for method in (verdict.claim.better, verdict.claim.worse):
            if words := verdict.column.own_words(method):
                methods.setdefault((settings[setting_of(verdict)], words), {})[label(method)] = None
    for (place, words), labels in methods.items():
        console.print(f"- in {place}, only {', '.join(labels)}: {words}", soft_wrap=not console.is_terminal)
    if methods:
        console.print()


def print_parts(parts: Sequence[MethodPart], console: Console) -> None:
    """Prints what each part of a method adds; nothing if there are no parts."""
    if not parts:
        return
    numbers = ("adds", *NUMBERS[2:])
    for place, of_place in groupby(parts, _place_of_part):
        rows = [
            [
                label(part.method),
                f"{part.part} ({part.remark})" if part.remark else part.part,
                *_numbers(part.comparison, None, part.comparison.p)[1:],
            ]
            for part in of_place
        ]
        print_table(TextTable(("method", "part", *numbers), rows, numbers, place), console)
        console.print()
    console.print(PARTS_NOTE, soft_wrap=not console.is_terminal)
    console.print()


def _place_of_part(part: MethodPart) -> str:
    return f"{part.where}, {part.how}"


def _place(verdict: Verdict, settings: Mapping[str, str]) -> str:
    """Returns where a comparison was made: column, setting, protocol, sweeps, and whether images judge."""
    if verdict.column is None:
        return f"{verdict.where}: {NOT_RUN}"
    sweeps = f"sweep {', '.join(verdict.sweeps)}" if verdict.sweeps else ""
    setting = f"in {settings[setting_of(verdict)]}" if setting_of(verdict) in settings else ""
    images = "judged by seeds and images" if verdict.comparison.by_images else ""
    return "; ".join(filter(None, [verdict.where, setting, verdict.protocol, sweeps, images]))


def _grouped(verdicts: Sequence[Verdict]) -> tuple[_Numbers, list[list[str]]]:
    """Returns headings and rows for a terminal: each worse method, with the methods claimed to be better below it."""
    heads, numbers = _numbers_of(verdicts)
    rows: list[list[str]] = []
    with_numbers = zip(verdicts, numbers, strict=True)
    for worse, of_worse in groupby(with_numbers, lambda with_its: with_its[0].claim.worse):
        rows.append([f"> {label(worse)}", *([""] * (1 + len(NUMBERS)))])
        rows += [[f"  {label(verdict.claim.better)}", verdict.outcome, *of_verdict] for verdict, of_verdict in of_worse]
    return heads, rows


def _numbers_of(verdicts: Sequence[Verdict]) -> tuple[_Numbers, list[_Numbers]]:
    """Returns the headings of `NUMBERS` and their cells."""
    otherwise = next((verdict.paper_of for verdict in verdicts if verdict.paper_of), "")

    def paper_of(verdict: Verdict) -> str:
        # A question that was not run has no measure of its own: it gets that of the others, for a common heading.
        not_run = verdict.column is None and published(verdict.claim.table).task
        return verdict.paper_of or (otherwise if not_run else "")

    return _with_the_papers_measure(
        [(_numbers(verdict.comparison, verdict.claim.published, verdict.p), paper_of(verdict)) for verdict in verdicts]
    )


def _with_the_papers_measure(cells: Sequence[tuple[_Numbers, str]]) -> tuple[_Numbers, list[_Numbers]]:
    """Returns the headings of `NUMBERS` and their cells, with the paper's measure if the runs are judged by another.

    The heading names the measure if all of the paper's numbers share it; else each cell names its own.

    Args:
        cells: For each row: what `_numbers` returns, and the measure of the paper's number; empty if it is the one by
            which the runs are judged.
    """
    measures = {measure for (paper, *_), measure in cells if paper != "–"}
    if len(measures) == 1 and (measure := measures.pop()):
        return (f"{NUMBERS[0]} ({measure})", *NUMBERS[1:]), [numbers for numbers, _ in cells]
    return NUMBERS, [
        (f"{paper} ({measure})" if measure and paper != "–" else paper, *others) for (paper, *others), measure in cells
    ]


def _numbers(comparison: Comparison, published: float | None, p: float | None) -> _Numbers:
    """Returns the cells of `NUMBERS`."""
    # Values of a damaged file, such as 1e300, have a mean of hundreds of digits that tells nothing.
    mean, interval = comparison.mean if comparison.finite else None, comparison.interval()
    return (
        difference_text(published),
        difference_text(mean),
        "–" if interval is None else number_text((interval[1] - interval[0]) / 2),
        str(comparison.n) if comparison.n else "–",
        "–" if p is None else p_text(p),
    )


def letters(verdicts: Sequence[FamilyVerdict]) -> dict[str, str]:
    """Returns a letter for each setting in which something was run: A to Z, then AA, AB and so on."""
    known = dict.fromkeys(verdict.setting for verdict in verdicts if verdict.setting)
    return {setting: _letter(place) for place, setting in enumerate(known)}


def _letter(place: int) -> str:
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)
