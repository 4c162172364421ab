"""Decides whether colour tells what the filter is worth, by the tests that the study's page registered.

    python -m examples.study.decide_colours examples/study/colours examples/study/runs

The first folder holds runs on scenes whose classes have colours, the second those on the study's own scenes. Prints
three Markdown tables, as those of `tables.py` the first two: the rows on coloured scenes; the filter alone against its
framework there; and what the filter gains without colours and with them, seed by seed, with what colours take of it.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from examples.study.command import gathered, print_tables
from examples.study.decide import COLOURS, FRAMEWORKS, PARTS, Values, outcome_by_sign, top1
from examples.study.tables import difference_text, interval_text, of_runs, p_cell
from repro.command_line.text_tables import markdown_table
from repro.errors import UserError
from repro.settings.labels import label
from results.claims.verdicts import NOT_RUN
from results.statistics.paired import holm, paired


def losses(coloured: Values, plain: Values) -> str:
    """Returns the table of what colours take of the filter's gain, in points; its outcome is that of a loss above 0.

    Args:
        coloured: Top-1 by logistic regression on scenes whose classes have colours.
        plain: The same on the study's own scenes.
    """
    (pairs,) = COLOURS.values()
    gains = [[paired(values.get(a, {}), values.get(b, {})).by_seed for values in (plain, coloured)] for a, b in pairs]
    lost = [paired(without, with_colours) for without, with_colours in gains]
    corrected = holm([1.0 if loss.p is None else loss.p for loss in lost])
    rows = []
    for framework, of_framework, loss, corrected_p in zip(FRAMEWORKS, gains, lost, corrected, strict=True):
        p = None if loss.p is None else corrected_p
        outcome = NOT_RUN if loss.mean is None else outcome_by_sign(loss.mean, p)
        means = [mean(gain[seed] for seed in loss.seeds) if loss.seeds else None for gain in of_framework]
        shown = map(difference_text, (*means, loss.mean))
        rows.append([label(framework), str(loss.n), *shown, interval_text(loss.interval()), p_cell(p), outcome])
    heads = ("filter alone", "seeds", "gain without colours", "gain with colours", "lost", "95 %", "p", "outcome")
    return markdown_table(heads, rows, [head for head in heads[1:-1] if head != "95 %"])


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    mend = "give the runs on coloured scenes, then those on the study's own"
    if len(folders) != 2:
        raise UserError(f"two folders are compared, and {len(folders)} given", mend=mend)
    coloured, plain = (gathered([folder]) for folder in folders)
    for folder, (runs, _), has_colours in zip(folders, (coloured, plain), (True, False), strict=True):
        if any(record.run and (record.run.data.scenes.colour > 0) != has_colours for record in runs):
            raise UserError(f"{folder} has runs on scenes with{'out' if has_colours else ''} colours", mend=mend)
    yield from of_runs(*coloured, COLOURS, PARTS)
    yield losses(*(top1(frame, "logistic", PARTS) for _, frame in (coloured, plain)))


if __name__ == "__main__":
    sys.exit(print_tables("Decides what colour does to the filter's gain by the registered tests.", _tables))
