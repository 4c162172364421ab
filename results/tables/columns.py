"""The columns of a table: the paper's, and ours beside them, one for each way of measuring."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from repro.settings.comparison import settings
from repro.settings.departures import Departure, common_sizes
from repro.settings.run import Run
from results.collection.collect import KEYS
from results.collection.row_comparison import ALTERED, TINY, RowComparison, words
from results.collection.scored_images import SCORED_IMAGES, images_by
from results.collection.training_images import TRAINING_IMAGES, TrainingImages, are_unlike, training_images_by
from results.paper.published import DATASETS, Published, PublishedGroup


@dataclass(frozen=True)
class Column:
    """One column group: a group of the paper, and our runs of one data set, split, protocol, fidelity and scale.

    Attributes:
        group: The paper's columns that stand beside ours.
        metrics: Pairs of our metric and its printed name.
        key: Values of `KEYS`; empty texts where there are no runs.
        task: The evaluation by which our runs were measured, or would be.
        comparisons: Method -> how its runs compare with its row.
        sweeps: Method -> the sweeps of its runs.
        planned: Whether the column has no runs.
        evaluation_scale: The part of the scale that is the evaluation's own, as `Result.evaluation_scale`.
        images: Method -> fingerprints of the images on which its runs were scored, as far as predictions tell.
        trained_on: Method -> the images on which its runs were trained, as far as they are known.
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
        """The fidelity of our runs beside that of their rows, as `RowComparison.fidelity` has it."""
        return self.key[3]

    @property
    def fidelity_note(self) -> str:
        """The fidelity in words, which say if rows have another one by their names."""
        of_names = any(
            comparison.row and comparison.run and comparison.run.masks and str(comparison.run.fidelity) != self.fidelity
            for comparison in self.comparisons.values()
        )
        return f"{self.fidelity}, or as a row's name says" if of_names else self.fidelity

    @property
    def scale(self) -> str:
        """The scale of our runs, as `Result.scale` has it; empty at the paper's."""
        return self.key[4]

    @property
    def sizes(self) -> tuple[str, ...]:
        """The parts of the scale; empty at the paper's.

        The scale of runs that cannot be compared with a row is known as a recorded text alone, which is one part.
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
        """The departures that are the same in all methods in which the setting plays a part: noted once for the column.

        Empty if some methods are as in the paper: then the others are marked one by one.
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
        # By the value here: rows of two frameworks may have different batch sizes, and depart to the same one.
        return all(name in by_name for by_name in concerned) and len({by_name[name].here for by_name in concerned}) == 1

    def own_words(self, method: str) -> str:
        """Returns the departures of a method's runs beside `common`, or why they are unknown; empty if there are none.

        Args:
            method: A method that has runs here.
        """
        comparison = self.comparisons[method]
        common = {departure.what for departure in self.common}
        return comparison.unknown or "; ".join(words(d for d in comparison.departures if d.what not in common))

    @property
    def settings(self) -> list[str]:
        """The departures that all runs of the column share, and whether rows have further ones."""
        if all(comparison.is_the_row for comparison in self.comparisons.values()) and not self.scale:
            return ["scale and settings: as in the paper"]
        if self.common:
            common = words(self.common, self.evaluation_scale)
        else:  # a scale may remain: of the evaluation, or of runs that cannot be compared with a row
            common = [f"{TINY}: {self.scale}"] if self.scale else []
        more = any(self.own_words(method) for method in self.comparisons)
        what = "further departures" if common else "departures from the paper"
        return [*common, f"{what} are noted at the rows"] if more else common

    @property
    def mark(self) -> str:
        """What the heading says of all runs of the column: `TINY`, `ALTERED`, or nothing."""
        if self.scale:
            return TINY
        known = [c for c in self.comparisons.values() if c.row]
        return ALTERED if known and all(comparison.departures for comparison in known) else ""

    def compares(self, method: str) -> bool:
        """Returns whether a difference to the published number may be taken.

        Data, settings and protocol must be the paper's: else these may cause the difference.

        Args:
            method: A method that has runs here.
        """
        setting_known = self.of_the_paper and not self.group.other_setting
        as_the_row = not self.scale and self.comparisons[method].is_the_row
        return setting_known and as_the_row and self.follows_the_protocol(method)

    def follows_the_protocol(self, method: str) -> bool:
        """Returns whether a method's runs were measured by the task's protocol, as it is or with the row's settings.

        Args:
            method: A method that has runs here.
        """
        return self.comparisons[method].measured_by_protocol(self.task, self.dataset, self.protocol)

    def unlike(self, first: str, second: str) -> tuple[str, ...]:
        """Returns what the runs of two methods differ in beside the methods, which may cause a difference as well.

        That is settings in which their rows do not differ, and the images on which they were trained and scored, as far
        as these are known.

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
            title = f"{self.dataset} as {self.group.title}"  # in Table 2, boxes and masks of one data set
        return title + (f" ({self.mark})" if self.mark else "")

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the results of its task that belong to this column group, for all of its metrics."""
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
        every: Also columns of the paper for which nothing was run.
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
            # All groups of such a table have the same metric: another data set stands beside the first of them only.
            metrics = tuple(pair for pair in metrics if pair[0] not in metrics_with_column)
            metrics_with_column |= set(dict(metrics))
            foreign = foreign[_has_metric(foreign, metrics)]
        else:  # scenes stand in for VOC or for COCO, as the task says
            foreign = foreign[foreign["task"] == group.dataset]
        columns += _columns(group, metrics, foreign)
    return columns


def paper_columns(paper: Published) -> list[Column]:
    """Returns the paper's columns alone, each without runs."""
    return [planned(group, tuple(group.metrics.items()), paper.task) for group in paper.groups]


def planned(group: PublishedGroup, metrics: tuple[tuple[str, str], ...], task: str) -> Column:
    """Returns a column of the paper for which nothing was run.

    Args:
        group: The paper's columns.
        metrics: Pairs of our metric and its printed name.
        task: The table's; empty for detection, whose tasks are named after their data sets.
    """
    # The paper's equations at its scale: a run without a result belongs here if it has both (`results.tables.absence`).
    return Column(group, metrics, (group.dataset, "", "", "paper", ""), task or group.dataset, planned=True)


def _metrics(group: PublishedGroup, metric: str) -> tuple[tuple[str, str], ...]:
    return ((metric, ""),) if metric else tuple(group.metrics.items())


def _has_metric(frame: pd.DataFrame, metrics: tuple[tuple[str, str], ...]) -> "pd.Series[bool]":
    return frame["metric"].isin(dict(metrics))


def _columns(group: PublishedGroup, metrics: tuple[tuple[str, str], ...], frame: pd.DataFrame) -> list[Column]:
    """Returns a column for each way of measuring among some rows."""
    if frame.empty:  # as most of a table's columns are; pandas takes milliseconds to group nothing
        return []
    rows_by_method = [*KEYS, "method"]
    told = [*rows_by_method, "sweep", "task", "evaluation_scale", "departures"]
    columns: dict[tuple[str, ...], Column] = {}
    for row in frame[told].drop_duplicates([*rows_by_method, "sweep"]).to_dict("records"):
        key, method = tuple(str(row[name]) for name in KEYS), row["method"]
        column = columns.get(key) or Column(
            group, metrics, key, row["task"], evaluation_scale=str(row["evaluation_scale"])
        )
        columns[key] = replace(
            column,
            comparisons={**column.comparisons, method: row["departures"]},
            sweeps={**column.sweeps, method: (*column.sweeps.get(method, ()), str(row["sweep"]))},
        )
    for (*of_column, method), images in images_by(frame, rows_by_method).items():
        column = columns[tuple(of_column)]
        columns[column.key] = replace(column, images={**column.images, method: images})
    for (*of_column, method), trained_on in training_images_by(frame, rows_by_method).items():
        column = columns[tuple(of_column)]
        columns[column.key] = replace(column, trained_on={**column.trained_on, method: trained_on})
    return [columns[key] for key in sorted(columns)]
