"""The paper's tables: their numbers, from `results/paper/*.csv`, and which of our results stand beside them."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from repro.errors import UserError, nearest
from repro.settings.labels import label_parts

PAPER = Path(__file__).parent
"""Folder of the files with the paper's numbers and claims."""

SINGLE_RUNS = (
    "the paper's Table 1 gives single runs and no std; it names neither the metric (top-1 is inferred) nor whether the "
    "last or the best epoch is reported"
)
_PROBE = "far below every other row although the same weights detect well; not a target to tune towards"
ROW_NOTES = {
    "mocov2+adios": (
        "ADIOS has no script for MoCo v2: the row's encoder follows MoCo v2's recipe (batch 128, SGD at 0.015), its "
        "occlusion network the authors' script for SimCLR (LARS at 0.499)"
    ),
    "simclr+adios": (
        "the row's recipe is our SimCLR's, not that of ADIOS's script (simclr_adios_s.sh: ResNet-18, 400 epochs): "
        "batch 256 instead of 128, learning rate 0.3 instead of 0.19, jitter .8/.8/.8/.2 instead of .7/.6/.8/.15, "
        "warm-up by steps instead of epochs; the occlusion network's learning rate is the script's, 0.499; "
        "simclr+adios-script has the script's values"
    ),
}
"""Row -> how ours departs from the source that it cites: a note on each of its measured numbers."""
CELL_CAVEATS = {("supervised", "Caltech-101"): _PROBE, ("supervised", "Flowers-102"): _PROBE}
"""What to know about single cells, by row and column group of the paper."""

NO_HARD_NEGATIVE, WITH_HARD_NEGATIVE = "-no-hard-negative", ", with hard negative"
"""Endings of Table 3's two readings: of methods' names without a hard negative, and of blocks with one."""

DATASETS = ("imagenet100", "caltech101", "flowers102", "voc07+12", "coco")
"""Our names of the paper's data sets."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table.

    Attributes:
        method: Name that joins it to `Result.method`.
        parts: The parts of its label, as `repro.settings.labels.label_parts` spells them.
        framework: `none` for the supervised one, else `mocov2` or `simclr`.
        block: Rows of one block stand between two rules and compete for best and second best. The block is named after
            the framework; in Table 3, which compares the branches of one strategy, after the strategy.
        branch: `key`, `both` or `query`, or `none` without masking; empty in tables that do not compare branches.
    """

    method: str
    parts: tuple[str, ...]
    framework: str
    block: str
    branch: str = ""

    @property
    def label(self) -> str:
        """The label as one text."""
        return ", ".join(self.parts)


@dataclass(frozen=True)
class PublishedGroup:
    """Columns of the paper under one heading.

    Attributes:
        name: As the CSV calls it.
        title: As it is printed.
        dataset: Name that joins it to `Result.dataset`.
        metrics: Our metric -> its printed name, in the paper's order.
        caveats: What to know before comparing with it.
        other_setting: Why a difference to its numbers says nothing about the method; empty if it does.
        data_named: Whether the paper names the data set of its numbers.
    """

    name: str
    title: str
    dataset: str
    metrics: Mapping[str, str]
    caveats: tuple[str, ...] = ()
    other_setting: str = ""
    data_named: bool = True


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        name: `table1`, `table2` or `table3`.
        source: Where the paper has it, `Table 1`.
        title: What the numbers are.
        title_without_task: The title for numbers by another evaluation than the paper's, whose name is appended.
        task: The task whose results belong into the table; empty if the metrics alone decide.
        metrics: Metrics of ours that the paper may mean, the default first; empty if the paper names its metrics.
        groups: The columns in its order.
        rows: The rows in its order, by method.
        values: Percent, by (method, name of the group, printed metric).
        unpublished_rows: Further rows of ours, by method, that show another reading of the paper and have no number in
            it; in blocks of their own.
    """

    name: str
    source: str
    title: str
    title_without_task: str
    task: str
    metrics: tuple[str, ...]
    groups: tuple[PublishedGroup, ...]
    rows: dict[str, PublishedRow]
    values: dict[tuple[str, str, str], float]
    unpublished_rows: dict[str, PublishedRow] = field(default_factory=dict)

    def prints(self, metric: str) -> bool:
        """Returns whether a published number may stand beside a metric of ours: top-1 beside top-5 would mislead."""
        return not self.metrics or metric in self.metrics

    @property
    def every_row(self) -> dict[str, PublishedRow]:
        """The paper's rows, then the unpublished ones, by method."""
        return self.rows | self.unpublished_rows

    def ranks(self) -> dict[tuple[str, str, str], int]:
        """Ranks the published cells within each block and column.

        Returns:
            1 for the best and 2 for the second best, by the keys of `values`; other cells have no entry.
        """
        ranked: dict[tuple[str, str, str], int] = {}
        for block in dict.fromkeys(row.block for row in self.rows.values()):
            for group, metric in dict.fromkeys(key[1:] for key in self.values):
                cells = {
                    key: value
                    for key, value in self.values.items()
                    if key[1:] == (group, metric) and self.rows[key[0]].block == block
                }
                rank_of = ranks(cells.values())
                ranked |= {key: rank_of[value] for key, value in cells.items() if value in rank_of}
        return ranked


def has_row(paper: Published, method: str) -> bool:
    """Returns whether a table has a row for a method: one of its own, or a further one for a method of no table.

    Tables 1 and 3 share their task, so neither shows rows of the other as further ones. The exceptions are Table 3's
    rows that mask the query without a hard negative: Table 1 shows them, as ablations of its own rows.
    """
    other_branches = {row.method for row in table3().every_row.values() if row.branch in ("key", "both")}
    return method in paper.every_row or method not in table1().rows.keys() | other_branches


def ranks(values: Iterable[float]) -> dict[float, int]:
    """Tells which value is the best and which the second best.

    Args:
        values: The values that compete, with repetitions.

    Returns:
        Value -> rank, 1 or 2. Of two values only the best has a rank, and a single value has none: nothing is marked
        for being the last of two, or for having no rival.
    """
    values = list(values)
    top = sorted(set(values), reverse=True)[: 2 if len(values) > 2 else len(values) - 1]
    return {value: rank for rank, value in enumerate(top, start=1)}


def published(name: str) -> Published:
    """Returns the published table of that name.

    Raises:
        UserError: There is none.
    """
    if name not in TABLES:
        raise UserError(f"no table {name!r}", mend=nearest(name, TABLES))
    return TABLES[name]()


@cache
def table1() -> Published:
    """Returns Table 1, classification by a linear probe: 13 rows, 39 values."""
    caltech = "the paper states neither split nor metric, and its values fit no plain top-1 count"
    flowers = (
        "the paper's values are multiples of 1/818, so a validation folder of 818 images rather than the official split"
    )
    top1 = {"top1": ""}
    return _load(
        "table1",
        source="Table 1",
        title="Linear evaluation, the paper's Table 1",
        title_without_task="The paper's Table 1",
        task="linear",
        metrics=("top1", "top1_best"),
        groups=(
            PublishedGroup("ImageNet-100", "ImageNet-100", "imagenet100", top1, (SINGLE_RUNS,)),
            PublishedGroup("Caltech-101", "Caltech-101", "caltech101", top1, (caltech, SINGLE_RUNS)),
            PublishedGroup("Flowers-102", "Flowers-102", "flowers102", top1, (flowers, SINGLE_RUNS)),
        ),
    )


@cache
def table2() -> Published:
    """Returns Table 2, detection and instance segmentation: 13 rows, 117 values."""
    single = "the paper's Table 2 gives single numbers and no std; MoCo reports a std of 0.2 to 0.4 AP between trials"
    schedule = "the paper does not state the COCO schedule, 1x or 2x"
    box = {"bbox_AP": "AP", "bbox_AP50": "AP50", "bbox_AP75": "AP75"}
    mask = {"mask_AP": "AP", "mask_AP50": "AP50", "mask_AP75": "AP75"}
    return _load(
        "table2",
        source="Table 2",
        title="Detection and instance segmentation, the paper's Table 2",
        groups=(
            PublishedGroup("VOC07+12_detection", "VOC07+12 detection", "voc07+12", box, (single,)),
            PublishedGroup("COCO_detection", "COCO detection", "coco", box, (schedule, single)),
            PublishedGroup(
                "COCO_instance_segmentation", "COCO instance segmentation", "coco", mask, (schedule, single)
            ),
        ),
    )


@cache
def table3() -> Published:
    """Returns Table 3, which branch is masked: 10 rows, 10 values.

    The paper does not say whether its rows have a hard negative. Its numbers stand beside those without, which differ
    in the branch alone; those with it are `unpublished_rows`.
    """
    setting = (
        "the paper names neither data set nor epochs of its Table 3, and MoCo v2 is 56.00 there and 68.22 in Table 1: "
        "read the order of its rows, not the differences"
    )
    reading = (
        "the paper does not say whether its Table 3 has hard negatives: its numbers stand beside rows without, so that "
        "a strategy's rows differ in the branch alone; rows with a hard negative stand in blocks of their own"
    )
    paper = _load(
        "table3",
        source="Table 3",
        title="Which branch is masked, the paper's Table 3",
        task="linear",
        metrics=("top1", "top1_best"),
        groups=(
            PublishedGroup(
                "not_stated_on_poster",
                "Top1",
                "imagenet100",
                {"top1": ""},
                (setting, reading),
                setting,
                data_named=False,
            ),
        ),
    )
    with_hard_negative = {
        method.removesuffix(NO_HARD_NEGATIVE): replace(
            row,
            method=method.removesuffix(NO_HARD_NEGATIVE),
            parts=label_parts(method.removesuffix(NO_HARD_NEGATIVE), branch=row.branch),
            block=f"{row.block}{WITH_HARD_NEGATIVE}",
        )
        for method, row in paper.rows.items()
        if row.branch != "none"
    }
    return replace(paper, unpublished_rows=with_hard_negative)


TABLES = {"table1": table1, "table2": table2, "table3": table3}
"""Name of a table -> what loads it."""


def _load(
    name: str,
    *,
    source: str,
    title: str,
    title_without_task: str = "",
    task: str = "",
    metrics: tuple[str, ...] = (),
    groups: tuple[PublishedGroup, ...],
) -> Published:
    """Reads a table's CSV; an empty `title_without_task` stands for the title."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = {line["row"]: _row(line) for line in lines}
    # Tables 1 and 3 do not name their metric: their CSVs call it `top1_acc_pct`, whose printed name is empty.
    printed_names = {(group.name, ours): printed for group in groups for ours, printed in group.metrics.items()}
    values = {
        (line["row"], line["dataset"], printed_names.get((line["dataset"], line["metric"]), "")): float(line["value"])
        for line in lines
    }
    return Published(name, source, title, title_without_task or title, task, metrics, groups, rows, values)


def _row(line: dict[str, str]) -> PublishedRow:
    branch = line.get("mask_branch", "")
    # Table 3 compares branches, so its blocks are strategies, and its labels name the query too.
    block = line["strategy"] if branch else line["framework"]
    parts = label_parts(line["row"], branch="" if branch == "none" else branch)
    return PublishedRow(line["row"], parts, line["framework"], block, branch)
