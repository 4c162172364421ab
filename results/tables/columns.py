"""The columns of a table: the paper's, and ours beside them, one for each way of measuring."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from repro.runs.comparison import settings
from repro.runs.departures import Departure, common_sizes
from repro.runs.run import Run
from results.collection.collect import KEYS
from results.collection.row_comparison import ALTERED, TINY, RowComparison, words
from results.collection.scored_images import SCORED_IMAGES, images_of
from results.collection.training_images import TRAINING_IMAGES, TrainingImages, are_unlike, training_images
from results.paper.published import DATASETS, Published, PublishedGroup


@dataclass(frozen=True)
class Column:
    """One column group: a group of the paper, and our runs of one data set, split, protocol, fidelity and scale.

    Attributes:
        group: The paper's columns that stand beside.
        metrics: Pairs of our metric and its printed name.
        key: Values of `KEYS`; empty texts where there are no runs.
        task: What they were measured by, or would be where there are no runs.
        comparisons: How the runs of each method stand to its row.
        sweeps: The sweeps that the runs of each method are of.
        planned: Whether there are no runs of it at all.
        evaluation_scale: What of the scale is the evaluation's own, as `Result.evaluation_scale`.
        images: Fingerprints of the images that each method's runs were scored on, of those whose predictions tell.
        trained_on: The images that each method's runs were trained on, of those that tell.
    """

    group: PublishedGroup
    metrics: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    task: str = ""
    comparisons: Mapping[str, RowComparison] = field(default_factory=dict)
    sweeps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    planned: bool = False
    evaluation_scale: str = ""
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    trained_on: Mapping[str, frozenset[TrainingImages]] = field(default_factory=dict)

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
    def sizes(self) -> tuple[str, ...]:
        """The parts of the scale, each of them whole; empty at the paper's.

        Of runs that have no row to be compared with the scale is known as a recorded text alone: it is one part.
        """
        if not self.scale:
            return ()
        with_row = next((comparison for comparison in self.comparisons.values() if comparison.row), None)
        if with_row is None:
            return (self.scale,)
        return tuple(filter(None, [*map(str, common_sizes(with_row.smaller)), self.evaluation_scale]))

    @property
    def split(self) -> str:
        """The split that our runs were measured on."""
        return self.key[1]

    @property
    def protocol(self) -> str:
        """The protocol by which our runs were measured."""
        return self.key[2]

    @cached_property
    def common(self) -> tuple[Departure, ...]:
        """What departs alike in all methods in which it plays a part: said once for the column.

        Where some methods are as in the paper, nothing is: then those that are not are marked one by one.
        """
        if any(comparison.is_the_row for comparison in self.comparisons.values()):
            return ()
        departures: dict[str, Departure] = {}
        for comparison in self.comparisons.values():
            departures |= comparison.by_name
        # In the order of the settings, whichever method is looked at first.
        return tuple(departures[name] for name in settings(Run()) if name in departures and self._is_common(name))

    def _is_common(self, name: str) -> bool:
        concerned = [comparison.by_name for comparison in self.comparisons.values() if name in comparison.values]
        # By what is here: the rows of two frameworks may have batches of their own, and depart to the same one.
        return all(name in by_name for by_name in concerned) and len({by_name[name].here for by_name in concerned}) == 1

    def own_words(self, method: str) -> str:
        """Returns what departs in a method's runs and not in all of the column's; empty where that is nothing.

        Args:
            method: A method that has runs here.
        """
        comparison = self.comparisons[method]
        common = {departure.what for departure in self.common}
        return comparison.unknown or words(d for d in comparison.departures if d.what not in common)

    @property
    def settings(self) -> str:
        """What departs in all of the runs alike, and whether there is more at the rows."""
        if all(comparison.is_the_row for comparison in self.comparisons.values()) and not self.scale:
            return "scale and settings: as in the paper"
        if self.common:
            common = words(self.common, self.evaluation_scale)
        else:  # there may be a scale still: of the evaluation, or of runs that have no row to be compared with
            common = f"{TINY}: {self.scale}" if self.scale else ""
        more = any(self.own_words(method) for method in self.comparisons)
        what = "what else departs" if common else "what departs from the paper"
        return "; ".join(filter(None, [common, f"{what} stands at the rows" if more else ""]))

    @property
    def mark(self) -> str:
        """What the heading says of all runs of the column: `TINY`, `ALTERED`, or nothing."""
        if self.scale:
            return TINY
        known = [c for c in self.comparisons.values() if c.row]
        return ALTERED if known and all(comparison.departures for comparison in known) else ""

    def compares(self, method: str) -> bool:
        """Returns whether a difference to the published number may be taken.

        Data, method and protocol have to be the paper's: a difference in any of them would pass for the method's.

        Args:
            method: A method that has runs here.
        """
        setting_known = self.of_the_paper and not self.group.other_setting
        as_the_row = not self.scale and self.comparisons[method].is_the_row
        return setting_known and as_the_row and self.follows_the_protocol(method)

    def follows_the_protocol(self, method: str) -> bool:
        """Returns whether a method's runs were measured by the protocol itself, or by what its row makes of it.

        Args:
            method: A method that has runs here.
        """
        return self.comparisons[method].measured_by_protocol(self.task, self.dataset, self.protocol)

    def unlike(self, first: str, second: str) -> tuple[str, ...]:
        """Returns in what the runs of two methods differ besides: a difference of their numbers is that one's as well.

        These are settings in which their rows do not differ, and the images that they were trained and scored on. What
        is not known is not named.

        Args:
            first: A method.
            second: Another one.
        """
        one, other = self.comparisons.get(first), self.comparisons.get(second)
        altered = one.altered_unlike(other) if one and other else ()
        images = self.images.get(first, frozenset()) | self.images.get(second, frozenset())
        trained_on = self.trained_on.get(first, frozenset()) | self.trained_on.get(second, frozenset())
        others = {TRAINING_IMAGES: are_unlike(trained_on), SCORED_IMAGES: len(images) > 1}
        return (*altered, *(name for name, differ in others.items() if differ))

    @property
    def of_the_paper(self) -> bool:
        """Whether the data set is the one of the paper's columns."""
        return self.dataset == self.group.dataset

    @property
    def title(self) -> str:
        """The heading of the column group."""
        title = self.group.title if self.of_the_paper else self.dataset
        if not self.of_the_paper and any(printed_name for _, printed_name in self.metrics):
            title = f"{self.dataset} as {self.group.title}"  # of detection, that has boxes and masks of one data set
        return title + (f" ({self.mark})" if self.mark else "")

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the results of its task that belong into this column group, for all of its metrics."""
        belongs = (frame["task"] == self.task) & frame["metric"].isin([metric for metric, _ in self.metrics])
        for name, value in zip(KEYS, self.key, strict=True):
            belongs &= frame[name] == value
        return frame[belongs]


def find_columns(frame: pd.DataFrame, paper: Published, metric: str, *, every: bool) -> list[Column]:
    """Lists a table's columns in the paper's order, data sets that the paper does not have last.

    Args:
        frame: Results of the table's task.
        paper: The published table.
        metric: What stands in for the paper's metric, where the paper leaves it open; else empty.
        every: Also columns of the paper that nothing was run for.
    """
    columns: list[Column] = []
    for group in paper.groups:
        metrics = _metrics(group, metric)
        ours = _columns(group, metrics, frame[(frame["dataset"] == group.dataset) & _has_metric(frame, metrics)])
        columns += ours
        if every and not ours:
            columns.append(planned(group, metrics, paper.task))
    metrics_with_column: set[str] = set()
    for group in paper.groups:
        metrics = _metrics(group, metric)
        foreign = frame[~frame["dataset"].isin(DATASETS) & _has_metric(frame, metrics)]
        if paper.task:
            # All groups of such a table have the same metric: a foreign data set stands beside the first of them, and
            # not once more beside each.
            metrics = tuple(pair for pair in metrics if pair[0] not in metrics_with_column)
            metrics_with_column |= set(dict(metrics))
            foreign = foreign[_has_metric(foreign, metrics)]
        else:  # scenes stand in for VOC and for COCO, and the task says for which
            foreign = foreign[foreign["task"] == group.dataset]
        columns += _columns(group, metrics, foreign)
    return columns


def paper_columns(paper: Published) -> list[Column]:
    """Returns the paper's columns alone, each without runs."""
    return [planned(group, tuple(group.metrics.items()), paper.task) for group in paper.groups]


def planned(group: PublishedGroup, metrics: tuple[tuple[str, str], ...], task: str) -> Column:
    """Returns a column of the paper that nothing was run for.

    Args:
        group: The paper's columns.
        metrics: Pairs of our metric and its printed name.
        task: The table's; empty for detection, whose tasks have the names of their data.
    """
    # The paper's equations at its scale: a run without a result belongs here if it has both (`results.tables.absence`).
    return Column(group, metrics, (group.dataset, "", "", "paper", ""), task or group.dataset, planned=True)


def _metrics(group: PublishedGroup, metric: str) -> tuple[tuple[str, str], ...]:
    return ((metric, ""),) if metric else tuple(group.metrics.items())


def _has_metric(frame: pd.DataFrame, metrics: tuple[tuple[str, str], ...]) -> "pd.Series[bool]":
    return frame["metric"].isin(dict(metrics))


def _columns(group: PublishedGroup, metrics: tuple[tuple[str, str], ...], frame: pd.DataFrame) -> list[Column]:
    """Returns a column for each way of measuring among some rows."""
    columns: dict[tuple[str, ...], Column] = {}
    for row in frame.drop_duplicates([*KEYS, "method", "sweep"]).to_dict("records"):
        key, method = tuple(str(row[name]) for name in KEYS), row["method"]
        column = columns.get(key) or Column(
            group, metrics, key, row["task"], evaluation_scale=str(row["evaluation_scale"])
        )
        columns[key] = replace(
            column,
            comparisons={**column.comparisons, method: row["departures"]},
            sweeps={**column.sweeps, method: (*column.sweeps.get(method, ()), str(row["sweep"]))},
        )
    with_predictions = frame[frame["predictions"] != ""]  # of a million rows there may be none
    for (*key_of_rows, method), rows in with_predictions.groupby([*KEYS, "method"], observed=True):
        key = tuple(map(str, key_of_rows))
        columns[key] = replace(columns[key], images={**columns[key].images, str(method): images_of(rows)})
    trained = frame[frame["trained_on"] != ""].drop_duplicates([*KEYS, "path"])
    for (*key_of_rows, method), rows in trained.groupby([*KEYS, "method"], observed=True):
        key = tuple(map(str, key_of_rows))
        trained_on = {**columns[key].trained_on, str(method): training_images(rows)}
        columns[key] = replace(columns[key], trained_on=trained_on)
    return [columns[key] for key in sorted(columns)]
