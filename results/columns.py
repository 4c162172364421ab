"""Which columns a table has: the paper's, and ours beside them, one for each way of measuring."""

from dataclasses import dataclass

import pandas as pd

from results.collect import KEYS
from results.published import DATASETS, Published, PublishedGroup


@dataclass(frozen=True)
class Column:
    """One column group: a group of the paper, and our runs of one data set, split, protocol, fidelity and scale.

    Attributes:
        group: The paper's columns that stand beside.
        metrics: Our metric -> its printed name.
        key: Values of `KEYS`; empty texts where there are no runs.
        planned: Whether there are no runs of it at all.
    """

    group: PublishedGroup
    metrics: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    planned: bool = False

    @property
    def dataset(self) -> str:
        """Ours, which may be none of the paper's."""
        return self.key[0]

    @property
    def fidelity(self) -> str:
        """As `Result.fidelity`."""
        return self.key[3]

    @property
    def scale(self) -> str:
        """As `Result.scale`."""
        return self.key[4]

    @property
    def of_the_paper(self) -> bool:
        """Whether the data set is the one of the paper's columns."""
        return self.dataset == self.group.dataset

    @property
    def title(self) -> str:
        """Its heading."""
        title = self.group.title if self.of_the_paper else self.dataset
        return title + (" (TINY)" if self.scale else "")

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The results that belong here."""
        mine = frame["metric"].isin([metric for metric, _ in self.metrics])
        for name, value in zip(KEYS, self.key, strict=True):
            mine &= frame[name] == value
        return frame[mine]


def find_columns(frame: pd.DataFrame, published: Published, metric: str, *, every: bool) -> list[Column]:
    """The columns in the paper's order, data sets that it does not have last.

    Args:
        frame: Results of the table's task.
        published: The table.
        metric: What stands in for the paper's metric, where the paper leaves it open; else empty.
        every: Also columns of the paper that nothing was run for.
    """
    ours: list[Column] = []
    for group in published.groups:
        metrics = _metrics(group, metric)
        found = _keys(frame[(frame["dataset"] == group.dataset) & frame["metric"].isin(dict(metrics))])
        ours += [Column(group, metrics, key) for key in found]
        if every and not found:
            ours.append(planned(group, metrics))
    taken: set[str] = set()
    for group in published.groups:
        metrics = _metrics(group, metric)
        foreign = frame[~frame["dataset"].isin(DATASETS) & frame["metric"].isin(dict(metrics))]
        if published.task:  # one column of the paper is enough to stand beside
            metrics = tuple(pair for pair in metrics if pair[0] not in taken)
            taken |= set(dict(metrics))
            foreign = foreign[foreign["metric"].isin(dict(metrics))]
        else:  # scenes stand in for VOC and for COCO, and the task says for which
            foreign = foreign[foreign["task"] == group.dataset]
        ours += [Column(group, metrics, key) for key in _keys(foreign)]
    return ours


def paper_columns(published: Published) -> list[Column]:
    """The paper's columns alone."""
    return [planned(group, tuple(group.metrics.items())) for group in published.groups]


def planned(group: PublishedGroup, metrics: tuple[tuple[str, str], ...]) -> Column:
    """A column of the paper that nothing was run for: the paper's equations at the paper's scale."""
    return Column(group, metrics, (group.dataset, "", "", "paper", ""), planned=True)


def _metrics(group: PublishedGroup, metric: str) -> tuple[tuple[str, str], ...]:
    return ((metric, ""),) if metric else tuple(group.metrics.items())


def _keys(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return sorted(set(frame[KEYS].drop_duplicates().astype(str).itertuples(index=False, name=None)))
