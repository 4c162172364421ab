"""Decides the dose-response by the tests that the study's page registered, from the runs that are there.

    python -m examples.study.decide_dose examples/study/runs examples/study/dose

Prints three Markdown tables, all of top-1 by logistic regression. First each source's accuracy, mean and standard
deviation over seeds, beside the IoU of its foreground with the object. Then, for each role, the slope of accuracy on
IoU with its 95 % interval, the p value corrected over the roles, and the outcome. Then, for each role, truth −
inverted, paired by seed and judged by the spread of all rows of MoCo v2.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from baselines import resolve
from examples.study.command import gathered, print_tables
from examples.study.decide import HP, STUDY, Values, outcome_by_sign, rows_of, spread_of, top1
from examples.study.tables import cell_of, difference_text, interval_text, p_cell
from repro.command_line.text_tables import markdown_table
from repro.errors import UserError
from repro.quantities import number_text
from results.claims.verdicts import NOT_RUN
from results.collection.runs import RunRecord
from results.plots.dose import BOTH, HARD, QUERY, ROLES, Panel, panels_of, slope
from results.statistics.paired import holm, p_text, paired

TOO_FEW = "too few sources"
"""Shown in place of an outcome if sources were run, but too few to draw a line through."""
SWEEPS = (*STUDY, "saliency-dose")
"""The sweeps whose rows the spread is estimated from."""
ENDS: Mapping[str, tuple[str, str]] = {
    BOTH: (f"{HP}-by-truth", f"{HP}-by-inverted"),
    QUERY: (f"{HP}-by-truth", f"{HP}-query-by-inverted"),
    HARD: (f"{HP}-by-truth", f"{HP}-hard-by-inverted"),
}
"""For each role the row of the true mask, and the row whose foreground is everything except the object."""


def panel_of(frame: pd.DataFrame, runs: Sequence[RunRecord]) -> Panel:
    """Returns the dose-response by logistic regression.

    Raises:
        UserError: Fewer than two sources of foreground were run, or they were run in several regimes.
    """
    # Rows of other strategies have only the frozen network's foreground, so they make no panel.
    panels = panels_of(frame, runs, "logistic")
    if not panels:
        raise UserError("fewer than two sources of foreground were run", mend="salmask sweep saliency-dose")
    if len(panels) > 1:
        raise UserError("sources of foreground were run in several regimes", mend="give folders of one regime alone")
    return panels[0]


def sources(panel: Panel) -> str:
    """Returns the table of the sources that were run, for each role from the best foreground to the worst."""
    order = {role: number for number, role in enumerate(ROLES)}
    rows = [
        [point.role, point.source, str(len(point.values)), f"{point.means[0]:.2f}", cell_of(point.values)]
        for point in sorted(panel.points, key=lambda point: (order[point.role], -point.means[0]))
    ]
    heads = ("varied", "source of foreground", "seeds", "IoU", "logistic regression")
    return markdown_table(heads, rows, heads[2:])


def slopes(panel: Panel) -> str:
    """Returns the table of the slopes, in points of accuracy for .1 of IoU."""
    lines = {role: slope(panel.of_role(role)) for role in ROLES}
    corrected = holm([1.0 if line is None else line.p for line in lines.values()])
    rows = []
    for (role, line), p in zip(lines.items(), corrected, strict=True):
        sources_of_role = len(panel.of_role(role))
        cells = [role, str(sources_of_role)]
        if line is None:
            cells += ["–", "–", "–", TOO_FEW if sources_of_role else NOT_RUN]
        else:
            low, high = line.interval
            interval = interval_text((0.1 * low, 0.1 * high), digits=2)
            cells += [number_text(0.1 * line.rise, 2, "+"), interval, p_text(p), outcome_by_sign(line.rise, p)]
        rows.append(cells)
    heads = ("varied", "sources", "points per .1 IoU", "95 %", "p", "outcome")
    return markdown_table(heads, rows, ("sources", "points per .1 IoU", "p"))


def ends(values: Values) -> str:
    """Returns the table of truth − inverted for each role."""
    spread = spread_of(values, "mocov2", rows_of(SWEEPS))
    pairs = [paired(values.get(true, {}), values.get(inverted, {}), spread) for true, inverted in ENDS.values()]
    corrected = holm([1.0 if pair.p is None else pair.p for pair in pairs])
    rows = []
    for (role, methods), pair, corrected_p in zip(ENDS.items(), pairs, corrected, strict=True):
        p = None if pair.p is None else corrected_p
        outcome = NOT_RUN if pair.mean is None else outcome_by_sign(pair.mean, p)
        named = " − ".join(f"`{method}`" for method in methods)
        shown = (difference_text(pair.mean), interval_text(pair.interval()), p_cell(p))
        rows.append([role, named, str(pair.n), *shown, outcome])
    heads = ("varied", "comparison", "seeds", "difference", "95 %", "p", "outcome")
    return markdown_table(heads, rows, ("seeds", "difference", "p"))


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    runs, frame = gathered(folders, resolve)
    values = top1(frame, "logistic", SWEEPS)  # first of all: it refuses runs that cannot be compared
    panel = panel_of(frame, runs)
    yield sources(panel)
    yield slopes(panel)
    yield ends(values)


if __name__ == "__main__":
    sys.exit(print_tables("Decides the dose-response by its registered tests.", _tables))
