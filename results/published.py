"""The numbers of the paper's tables, as `results/paper/*.csv` hold them, and what is ours beside which column."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from repro.errors import UserError

PAPER = Path(__file__).parent / "paper"

SINGLE_RUNS = (
    "the paper's Table 1 gives single runs and no std; it names neither the metric (top-1 is inferred) nor whether the "
    "last or the best epoch is reported"
)
_PROBE = "far below every other row although the same weights detect well; not a target to tune towards"
CELL_CAVEATS = {("supervised", "Caltech-101"): _PROBE, ("supervised", "Flowers-102"): _PROBE}
"""What to know about single cells, by row and column group of the paper."""

STRATEGIES = {"high_pass": "high-pass", "strong_blur": "strong blur", "mean_fill": "mean fill"}


DATASETS = ("imagenet100", "caltech101", "flowers102", "voc07+12", "coco")
"""Our names of the paper's data sets."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table.

    Attributes:
        method: Name that joins it to `Result.method`.
        label: How it is printed.
        framework: `none` for the supervised one, else `mocov2` or `simclr`.
        block: Rows of one block stand between two rules and compete for best and second best.
    """

    method: str
    label: str
    framework: str
    block: str


@dataclass(frozen=True)
class PublishedGroup:
    """Columns of the paper under one heading.

    Attributes:
        name: As the CSV calls it.
        title: As it is printed.
        dataset: Name that joins it to `Result.dataset`.
        metrics: Our metric -> its printed name, in the paper's order.
        caveats: What to know before comparing with it.
        other_setting: Why a difference to it says nothing about the method, where that is so.
    """

    name: str
    title: str
    dataset: str
    metrics: Mapping[str, str]
    caveats: tuple[str, ...] = ()
    other_setting: str = ""


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        name: `table1`, `table2` or `table3`.
        title: What the numbers are.
        task: The task whose results belong into it; empty where the metrics alone tell.
        metrics: Metrics of ours that may be shown in place of the first one, where the paper leaves it open.
        groups: The columns in its order.
        rows: The rows in its order, by method.
        values: Percent, by (method, name of the group, printed metric).
    """

    name: str
    title: str
    task: str
    metrics: tuple[str, ...]
    groups: tuple[PublishedGroup, ...]
    rows: dict[str, PublishedRow]
    values: dict[tuple[str, str, str], float]

    def ranks(self) -> dict[tuple[str, str, str], int]:
        """1 for the best and 2 for the second best cell of each block and column."""
        ranked: dict[tuple[str, str, str], int] = {}
        for block in dict.fromkeys(row.block for row in self.rows.values()):
            for group, metric in dict.fromkeys(key[1:] for key in self.values):
                cells = {
                    key: value
                    for key, value in self.values.items()
                    if key[1:] == (group, metric) and self.rows[key[0]].block == block
                }
                places = ranks(cells.values())
                ranked |= {key: places[value] for key, value in cells.items() if value in places}
        return ranked


def ranks(values: Iterable[float]) -> dict[float, int]:
    """Which value is the best (1) and which the second best (2); a pair has only a best, one alone neither."""
    values = list(values)
    top = sorted(set(values), reverse=True)[: 2 if len(values) > 2 else len(values) - 1]
    return {value: place for place, value in enumerate(top, start=1)}


def published(name: str) -> Published:
    """The published table of that name.

    Raises:
        UserError: There is none.
    """
    if name not in TABLES:
        raise UserError(f"no table {name!r}; there is: {', '.join(TABLES)}")
    return TABLES[name]()


@cache
def table1() -> Published:
    """Classification: 13 rows, 39 values."""
    caltech = "the paper states neither split nor metric, and its values fit no plain top-1 count"
    flowers = (
        "the paper's values are multiples of 1/818, so a validation folder of 818 images rather than the official split"
    )
    top1 = {"top1": ""}
    return _load(
        "table1",
        "Linear evaluation, the paper's Table 1",
        ("top1", "top1_best"),
        (
            PublishedGroup("ImageNet-100", "ImageNet-100", "imagenet100", top1, (SINGLE_RUNS,)),
            PublishedGroup("Caltech-101", "Caltech-101", "caltech101", top1, (caltech, SINGLE_RUNS)),
            PublishedGroup("Flowers-102", "Flowers-102", "flowers102", top1, (flowers, SINGLE_RUNS)),
        ),
        task="linear",
    )


@cache
def table2() -> Published:
    """Detection and instance segmentation: 13 rows, 117 values."""
    single = "the paper's Table 2 gives single numbers and no std; MoCo reports a std of 0.2 to 0.4 AP between trials"
    schedule = "the paper does not state the COCO schedule, 1x or 2x"
    box = {"bbox_AP": "AP", "bbox_AP50": "AP50", "bbox_AP75": "AP75"}
    mask = {"mask_AP": "AP", "mask_AP50": "AP50", "mask_AP75": "AP75"}
    return _load(
        "table2",
        "Detection and instance segmentation, the paper's Table 2",
        (),
        (
            PublishedGroup("VOC07+12_detection", "VOC07+12 detection", "voc07+12", box, (single,)),
            PublishedGroup("COCO_detection", "COCO detection", "coco", box, (schedule, single)),
            PublishedGroup(
                "COCO_instance_segmentation", "COCO instance segmentation", "coco", mask, (schedule, single)
            ),
        ),
    )


@cache
def table3() -> Published:
    """Which branch is masked: 10 rows, 10 values."""
    setting = (
        "the paper names neither data set nor epochs of its Table 3, and MoCo v2 is 56.00 there and 68.22 in Table 1: "
        "read the order of its rows, not the differences"
    )
    return _load(
        "table3",
        "Which branch is masked, the paper's Table 3",
        ("top1", "top1_best"),
        (PublishedGroup("not_stated_on_poster", "Top1", "imagenet100", {"top1": ""}, (setting,), setting),),
        task="linear",
    )


TABLES = {"table1": table1, "table2": table2, "table3": table3}


def _load(
    name: str, title: str, metrics: tuple[str, ...], groups: tuple[PublishedGroup, ...], *, task: str = ""
) -> Published:
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    bases = {line["framework"]: line["method"] for line in lines if line["method_family"] == "baseline"}
    rows = {line["row"]: _row(line, bases) for line in lines}
    printed = {(group.name, ours): shown for group in groups for ours, shown in group.metrics.items()}
    values = {
        (line["row"], line["dataset"], printed.get((line["dataset"], line["metric"]), "")): float(line["value"])
        for line in lines
    }
    return Published(name, title, task, metrics, groups, rows, values)


def _row(line: dict[str, str], bases: dict[str, str]) -> PublishedRow:
    base, method, strategy = bases.get(line["framework"]), line["method"], line["strategy"]
    label = method if base is None or method == base else f"{base} + {method}"
    label += f", {STRATEGIES[strategy]}" if strategy in STRATEGIES else ""
    block = line["framework"]
    if branch := line.get("mask_branch"):  # Table 3 compares the branches of one strategy
        label += f" ({branch} masked)" if branch != "none" else ""
        block = strategy
    return PublishedRow(line["row"], label, line["framework"], block)
