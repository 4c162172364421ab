"""Two sweeps side by side: what both measured, and in which settings they differ."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from repro.runs.evaluation import HEADLINES
from repro.settings.comparison import difference
from repro.settings.departures import shown_value
from repro.settings.labels import label
from repro.settings.run import Run
from results.collection.collect import KEYS
from results.statistics.paired import Comparison, paired
from results.tables.cells import summary

MEASURE = ["method", "task", "dataset", "metric"]
"""Numbers of two sweeps that agree in these are compared; scale and protocol may differ, and are named."""
MOST_PAIRS = 15
"""The most pairs of sweeps that a page shows: those with most in common."""


@dataclass(frozen=True)
class SharedMeasure:
    """One measure that both sweeps have."""

    label: str
    measure: str
    """The data set, and the protocol, or both protocols if they differ."""
    first: str
    """Mean ± standard deviation (seeds)."""
    second: str
    comparison: Comparison
    """Second − first, for the seeds that both have, which may be fewer than those of either number."""


@dataclass(frozen=True)
class SweepPair:
    """Two sweeps with something in common."""

    first: str
    second: str
    settings: dict[str, str]
    """Setting -> its two values, if runs of a method that both sweeps have differ in it."""
    lines: tuple[SharedMeasure, ...]
    unknown: tuple[str, ...] = ()
    """Labels of methods whose settings cannot be read in one of the sweeps, so that more may differ."""


def sweep_pairs(frame: pd.DataFrame | None) -> list[SweepPair]:
    """Compares each two sweeps that measured the same methods in the same tasks.

    Args:
        frame: The results, as `results.collection.collect.collect` returns them; None where nothing was evaluated.

    Returns:
        At most `MOST_PAIRS` pairs, in the order of the sweeps' names.
    """
    if frame is None:
        return []
    results = frame[frame["metric"].isin(HEADLINES)]
    sweeps = sorted(results["sweep"].unique())
    of_sweep = {sweep: results[results["sweep"] == sweep] for sweep in sweeps}
    pairs = [_pair(first, second, of_sweep[first], of_sweep[second]) for first, second in combinations(sweeps, 2)]
    richest = sorted((pair for pair in pairs if pair.lines), key=lambda pair: -len(pair.lines))[:MOST_PAIRS]
    return sorted(richest, key=lambda pair: (pair.first, pair.second))


def _pair(first: str, second: str, of_first: pd.DataFrame, of_second: pd.DataFrame) -> SweepPair:
    groups = [dict(list(rows.groupby(MEASURE, observed=True, sort=False))) for rows in (of_first, of_second)]
    common = [key for key in groups[0] if key in groups[1]]
    lines = {key: _lines(groups[0][key], groups[1][key]) for key in common}
    # Only of what is shown: a method that is left out because of several recipes has no single setting to name.
    methods = sorted({str(key[0]) for key, shown in lines.items() if shown})
    runs = {method: (_run(of_first, method), _run(of_second, method)) for method in methods}
    unknown = tuple(label(method) for method in methods if None in runs[method])
    return SweepPair(
        first, second, _settings(runs.values()), tuple(line for shown in lines.values() for line in shown), unknown
    )


def _lines(first: pd.DataFrame, second: pd.DataFrame) -> list[SharedMeasure]:
    """Returns the lines of a measure: one for each protocol that both sweeps have, else one across protocols."""
    shared = [protocol for protocol in first["protocol"].unique() if (second["protocol"] == protocol).any()]
    pairs = [tuple(rows[rows["protocol"] == protocol] for rows in (first, second)) for protocol in shared]
    lines = [_line(*pair) for pair in pairs or [(first, second)]]
    return [line for line in lines if line is not None]


def _line(first: pd.DataFrame, second: pd.DataFrame) -> SharedMeasure | None:
    """Returns a line of a measure.

    None if a sweep has several numbers for a seed, as by kNN with two k that the other sweep has not, or if no table
    would average its seeds, as they are of several recipes or were not measured alike.
    """
    apart = [*KEYS, "recipe"]
    if any(rows["seed"].duplicated().any() or (rows[apart].nunique() > 1).any() for rows in (first, second)):
        return None
    row = first.iloc[0]
    protocols = dict.fromkeys(str(rows["protocol"].iloc[0]) for rows in (first, second))
    values = [dict(zip(rows["seed"], rows["value"], strict=True)) for rows in (first, second)]
    method = str(row["method"])
    return SharedMeasure(
        label=label(method),
        measure=f"{row['dataset']}, {' / '.join(protocols)}",
        first=summary(first["value"]),
        second=summary(second["value"]),
        comparison=paired(values[1], values[0]),
    )


def _settings(runs: Iterable[tuple[Run | None, Run | None]]) -> dict[str, str]:
    """Returns the settings in which two sweeps' runs of a method differ, with the values of the first such method.

    Args:
        runs: For each method, one run of either sweep.
    """
    differing: dict[str, str] = {}
    for first, second in runs:
        if first is not None and second is not None:
            for name, values in difference(first, second).items():
                differing.setdefault(name, " → ".join(map(shown_value, values)))
    return differing


def _run(rows: pd.DataFrame, method: str) -> Run | None:
    comparison: Any = rows.loc[rows["method"] == method, "departures"].iloc[0]
    run: Run | None = comparison.run
    return run
