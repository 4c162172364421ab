"""The numbers of the paper's Table 1, as `results/paper/table1.csv` holds them."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PAPER = Path(__file__).parent / "paper"

ORIENTATION = "ImageNet-100"
"""The paper's column that stands beside a dataset which the paper does not have."""

DATASETS = {"imagenet100": "ImageNet-100", "caltech101": "Caltech-101", "flowers102": "Flowers-102"}
"""Our dataset's name -> the column of the paper."""

METRICS = ("top1", "top1_best")
"""Our metrics that the paper's accuracy may be: it names neither the metric nor the epoch."""

SINGLE_RUNS = (
    "the paper's Table 1 gives single runs and no std; it names neither the metric (top-1 is inferred) nor whether the "
    "last or the best epoch is reported"
)

COLUMN_CAVEATS = {
    "Caltech-101": "the paper states neither split nor metric, and its values fit no plain top-1 count",
    "Flowers-102": "the paper's values are multiples of 1/818, so a validation folder of 818 images rather than the "
    "official split",
}
"""What to know about a column of the paper before comparing with it."""

_PROBE = "far below every other row although the same weights detect well; not a target to tune towards"
CELL_CAVEATS = {("supervised", "Caltech-101"): _PROBE, ("supervised", "Flowers-102"): _PROBE}
"""What to know about single cells, by row and column of the paper."""

_STRATEGIES = {"high_pass": "high-pass", "strong_blur": "strong blur", "mean_fill": "mean fill"}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        method: Name that joins it to `Result.method`.
        label: How it is printed.
        block: Framework whose block it stands in: `none` for the supervised one, else `mocov2` or `simclr`.
    """

    method: str
    label: str
    block: str


@dataclass(frozen=True)
class Published:
    """The published table.

    Attributes:
        rows: The paper's rows in its order, by method.
        values: Percent, by (method, column of the paper).
        best: The cells that are the best of their block and column.
    """

    rows: dict[str, Row]
    values: dict[tuple[str, str], float]
    best: frozenset[tuple[str, str]]


def table1() -> Published:
    """Read the published Table 1.

    Returns:
        All 13 rows and 39 values.
    """
    with (PAPER / "table1.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    bases = {line["framework"]: line["method"] for line in lines if line["method_family"] == "baseline"}
    rows = {
        line["row"]: Row(
            line["row"], _label(line["method"], line["strategy"], bases.get(line["framework"])), line["framework"]
        )
        for line in lines
    }
    values = {(line["row"], line["dataset"]): float(line["value"]) for line in lines}
    return Published(rows, values, _best(rows, values))


def _best(rows: dict[str, Row], values: dict[tuple[str, str], float]) -> frozenset[tuple[str, str]]:
    sizes = Counter((rows[method].block, column) for method, column in values)
    top: dict[tuple[str, str], float] = {}
    for (method, column), value in values.items():
        place = (rows[method].block, column)
        top[place] = max(value, top.get(place, value))
    return frozenset(
        (method, column)
        for (method, column), value in values.items()
        if sizes[place := (rows[method].block, column)] > 1 and value == top[place]
    )


def _label(method: str, strategy: str, base: str | None) -> str:
    if base is None or method == base:
        return method
    return f"{base} + {method}" + (f", {_STRATEGIES[strategy]}" if strategy in _STRATEGIES else "")
