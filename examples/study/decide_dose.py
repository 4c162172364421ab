"""Decides the dose-response by the tests that the study's page registered, from the runs that are there.

    python -m examples.study.decide_dose examples/study/runs examples/study/dose

Prints three Markdown tables, all of top-1 by logistic regression. First each source's accuracy, mean and standard
deviation over seeds, beside the IoU of its foreground with the object. Then, for each role, the slope of accuracy on
IoU with its 95 % interval, the p value corrected over the roles, and the outcome. Then, for each role, truth −
inverted, paired by seed and judged by the spread of all rows of MoCo v2.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from baselines import resolve
from examples.study.decide import CONTRADICTED, NOT_RUN, SUPPORTED, UNDECIDED, Values, spread_of, top1
from examples.study.tables import cell_of, interval_text
from results.collect import collect_runs
from results.dose import BOTH, HARD, QUERY, ROLES, Panel, Slope, panels_of, slope
from results.paired import LEVEL, Comparison, holm, p_text, paired
from results.runs import find_runs

HP = "mocov2+ours-hp"
ENDS: Mapping[str, tuple[str, str]] = {
    BOTH: (f"{HP}-by-truth", f"{HP}-by-inverted"),
    QUERY: (f"{HP}-by-truth", f"{HP}-query-by-inverted"),
    HARD: (f"{HP}-by-truth", f"{HP}-hard-by-inverted"),
}
"""For each role the row of the true mask, and the row whose foreground is all but the object."""


def panel_of(folders: Sequence[Path]) -> Panel | None:
    """Returns the dose-response by logistic regression; None where fewer than two sources were run."""
    records = find_runs(folders, resolve)
    frame = collect_runs(records)
    # Rows of other strategies have the frozen network's foreground alone, and make no panel.
    panels = panels_of(frame[frame["task"] == "logistic"], records)
    return panels[0] if panels else None


def sources(panel: Panel) -> str:
    """Returns the table of the sources that were run, for each role from the best foreground to the worst."""
    lines = [
        "| varied | source of foreground | seeds | IoU | logistic regression |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    order = {role: number for number, role in enumerate(ROLES)}
    for point in sorted(panel.points, key=lambda point: (order[point.role], -point.means[0])):
        cells = [point.role, point.source, str(len(point.values)), f"{point.means[0]:.2f}", cell_of(point.values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def outcome(value: float, p: float | None) -> str:
    """Returns what a corrected p value decides: the paper's account predicts a value above 0."""
    if p is None or p >= LEVEL:
        return UNDECIDED
    return SUPPORTED if value > 0 else CONTRADICTED


def slopes(panel: Panel) -> str:
    """Returns the table of the slopes, in points of accuracy for .1 of IoU."""
    lines = [
        "| varied | sources | points per .1 IoU | 95 % | p | outcome |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    by_role: dict[str, Slope | None] = {role: slope(panel.of_role(role)) for role in ROLES}
    corrected = holm([1.0 if line is None else line.p for line in by_role.values()])
    for (role, line), p in zip(by_role.items(), corrected, strict=True):
        if line is None:
            cells = [role, str(len(panel.of_role(role))), "–", "–", "–", NOT_RUN]
        else:
            low, high = line.interval
            ends = interval_text((0.1 * low, 0.1 * high), digits=2)
            cells = [role, str(line.sources), f"{0.1 * line.rise:+.2f}", ends, p_text(p), outcome(line.rise, p)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ends(values: Values) -> str:
    """Returns the table of truth − inverted for each role."""
    lines = [
        "| varied | comparison | seeds | difference | 95 % | p | outcome |",
        "| --- | --- | ---: | ---: | --- | ---: | --- |",
    ]
    spread = spread_of(values, "mocov2")
    comparisons: Sequence[Comparison] = [
        paired(values.get(true, {}), values.get(inverted, {}), spread) for true, inverted in ENDS.values()
    ]
    corrected = holm([1.0 if comparison.p is None else comparison.p for comparison in comparisons])
    for (role, pair), comparison, p in zip(ENDS.items(), comparisons, corrected, strict=True):
        cells = [role, " − ".join(f"`{method}`" for method in pair), str(comparison.n)]
        if comparison.mean is None:
            cells += ["–", "–", "–", NOT_RUN]
        else:
            known = None if comparison.p is None else p
            cells += [f"{comparison.mean:+.1f}", interval_text(comparison.interval())]
            cells += ["–" if known is None else p_text(known), outcome(comparison.mean, known)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]]
    found = panel_of(folders)
    if found is None:
        sys.exit("fewer than two sources of foreground; run salmask sweep saliency-dose")
    print(sources(found), slopes(found), ends(top1(folders, "logistic", "study", "saliency-dose")), sep="\n\n")
