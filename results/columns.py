"""The columns of a table: the paper's, and ours beside them, one for each way of measuring."""

from dataclasses import dataclass

import pandas as pd

from results.collect import KEYS
from results.published import DATASETS, Published, PublishedGroup


@dataclass(frozen=True)
class Column:
    """One column group: a group of the paper, and our runs of one data set, split, protocol, fidelity and scale.

    Attributes:
        group: The paper's columns that stand beside.
        metrics: Pairs of our metric and its printed name.
        key: Values of `KEYS`; empty texts where there are no runs.
        planned: Whether there are no runs of it at all.
    """

    group: PublishedGroup
    metrics: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    planned: bool = False

    @property
    def dataset(self) -> str:
        """The data set of our runs, which may be none of the paper's."""
        return self.key[0]

    @property
    def fidelity(self) -> str:
        """The fidelity of our runs, as `Result.fidelity` has it."""
        return self.key[3]

    @property
    def scale(self) -> str:
        """The scale of our runs, as `Result.scale` has it; empty at the paper's."""
        return self.key[4]

    @property
    def of_the_paper(self) -> bool:
        """Whether the data set is the one of the paper's columns."""
        return self.dataset == self.group.dataset

    @property
    def title(self) -> str:
        """The heading of the column group."""
        title = self.group.title if self.of_the_paper else self.dataset
        return title + (" (TINY)" if self.scale else "")

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the results that belong into this column group, for all of its metrics."""
        belongs = frame["metric"].isin([metric for metric, _ in self.metrics])
        for name, value in zip(KEYS, self.key, strict=True):
            belongs &= frame[name] == value
        return frame[belongs]


def find_columns(frame: pd.DataFrame, paper: Published, metric: str, *, every: bool) -> list[Column]:
    """List a table's columns in the paper's order, data sets that the paper does not have last.

    Args:
        frame: Results of the table's task.
        paper: The published table.
        metric: What stands in for the paper's metric, where the paper leaves it open; else empty.
        every: Also columns of the paper that nothing was run for.
    """
    columns: list[Column] = []
    for group in paper.groups:
        metrics = _metrics(group, metric)
        keys = _keys(frame[(frame["dataset"] == group.dataset) & frame["metric"].isin(dict(metrics))])
        columns += [Column(group, metrics, key) for key in keys]
        if every and not keys:
            columns.append(planned(group, metrics))
    metrics_with_column: set[str] = set()
    for group in paper.groups:
        metrics = _metrics(group, metric)
        foreign = frame[~frame["dataset"].isin(DATASETS) & frame["metric"].isin(dict(metrics))]
        if paper.task:
            # All groups of such a table have the same metric: a foreign data set stands beside the first of them, and
            # not once more beside each.
            metrics = tuple(pair for pair in metrics if pair[0] not in metrics_with_column)
            metrics_with_column |= set(dict(metrics))
            foreign = foreign[foreign["metric"].isin(dict(metrics))]
        else:  # scenes stand in for VOC and for COCO, and the task says for which
            foreign = foreign[foreign["task"] == group.dataset]
        columns += [Column(group, metrics, key) for key in _keys(foreign)]
    return columns


def paper_columns(paper: Published) -> list[Column]:
    """Returns the paper's columns alone, each without runs."""
    return [planned(group, tuple(group.metrics.items())) for group in paper.groups]


def planned(group: PublishedGroup, metrics: tuple[tuple[str, str], ...]) -> Column:
    """Returns a column of the paper that nothing was run for.

    Args:
        group: The paper's columns.
        metrics: Pairs of our metric and its printed name.
    """
    # The paper's equations at its scale: a run without a result belongs here if it has both (`results.absence`).
    return Column(group, metrics, (group.dataset, "", "", "paper", ""), planned=True)


def _metrics(group: PublishedGroup, metric: str) -> tuple[tuple[str, str], ...]:
    return ((metric, ""),) if metric else tuple(group.metrics.items())


def _keys(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return sorted(set(frame[KEYS].drop_duplicates().astype(str).itertuples(index=False, name=None)))
