"""What the paper claims: `results/paper/claims.yaml` as families of comparisons, each with its source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Any

import yaml

from results.paper.published import PAPER, PublishedGroup, published


class Origin(StrEnum):
    """Where a claim comes from; the paper's full text was not at hand."""

    abstract = "abstract"
    """The abstract says it."""
    colour = "colour"
    """The colours of the tables say it: orange for the best, blue for the second best."""
    cell = "table cell"
    """The printed numbers have this order, but no text says so."""
    reading = "our reading"
    """Nothing says it: we ask, because the tables invite the question."""


@dataclass(frozen=True)
class Family:
    """Comparisons that belong to one sentence.

    Attributes:
        id: `ours-beats-baseline`, ...
        says: The sentence, in our words.
        source: Where it comes from.
        quote: The paper's words; empty where there are none.
        reading: How the comparisons follow from the source.
        decided_by_mean: Whether the mean of the differences decides the sentence; else there is no verdict as a whole.
    """

    id: str
    says: str
    source: Origin
    quote: str
    reading: str
    decided_by_mean: bool

    @property
    def evidence(self) -> str:
        """The source, the paper's words, and how comparisons follow from it."""
        quote = f" “{self.quote}”" if self.quote else ""
        return f"{self.source}:{quote} Comparisons: {self.reading}" if quote else f"{self.source}: {self.reading}"


@dataclass(frozen=True)
class Claim:
    """One comparison of a family: in one column one row is better than another.

    Attributes:
        family: The sentence that it belongs to.
        table: `table1`, `table2` or `table3`.
        group: Name of the column group of that table.
        metric: Our name of the metric.
        better: Method that is said to be better.
        worse: Method that is said to be worse.
        published: Published difference in points; negative if the paper's own numbers contradict the claim.
    """

    family: Family = field(repr=False)
    table: str
    group: str
    metric: str
    better: str
    worse: str
    published: float

    @property
    def label(self) -> str:
        """The two rows as the tables print them, `MoCo v2 + ours (high-pass) > MoCo v2`."""
        rows = published(self.table).rows
        return f"{rows[self.better].label} > {rows[self.worse].label}"

    @property
    def column(self) -> str:
        """The paper's column with the metric's printed name, `COCO detection AP50`."""
        group = next(group for group in published(self.table).groups if group.name == self.group)
        return f"{group.title} {group.metrics[self.metric]}".strip()

    @property
    def published_by(self) -> str:
        """The evaluation and the measure of the published difference, `linear top1`, as results name them."""
        paper = published(self.table)
        dataset = next(group.dataset for group in paper.groups if group.name == self.group)
        return f"{paper.task or dataset} {self.metric}"


@dataclass(frozen=True)
class Question:
    """All claims about the same two rows in one column; they are tested once.

    Attributes:
        claims: The claims, those of the first family first; others may say the opposite.
    """

    claims: tuple[Claim, ...]

    @property
    def claim(self) -> Claim:
        """The claim in whose direction the question is asked."""
        return self.claims[0]

    def agrees(self, claim: Claim) -> bool:
        """Whether a claim of the question has the direction in which the question is asked."""
        return claim.better == self.claim.better

    @property
    def others(self) -> str:
        """The other families with a claim of the question; those that claim the opposite end in ` (reversed)`."""
        return ", ".join(claim.family.id + ("" if self.agrees(claim) else " (reversed)") for claim in self.claims[1:])


@cache
def families() -> tuple[Family, ...]:
    """Returns the families of `claims.yaml`, in its order."""
    return tuple(_family(entry) for entry in _content()["families"])


@cache
def claims() -> tuple[Claim, ...]:
    """Returns every claim of every family, in the order of the file, of the tables and of their columns."""
    return tuple(
        claim
        for family, entry in zip(families(), _content()["families"], strict=True)
        for claim in (*_pairs(family, entry), *_rankings(family, entry))
    )


@cache
def questions() -> tuple[Question, ...]:
    """Returns every question, each once, in the order of the claims that ask it first."""
    asked: dict[tuple[Any, ...], list[Claim]] = {}
    for claim in claims():
        rows = frozenset((claim.better, claim.worse))
        asked.setdefault((claim.table, claim.group, claim.metric, rows), []).append(claim)
    return tuple(Question(tuple(same)) for same in asked.values())


@cache
def compared_rows(claim: Claim) -> tuple[str, ...]:
    """Returns the rows that a claim's sentence compares in the claim's column, in the order of its claims."""
    column = (claim.family, claim.table, claim.group, claim.metric)
    of_column = [other for other in claims() if (other.family, other.table, other.group, other.metric) == column]
    return tuple(dict.fromkeys(method for other in of_column for method in (other.better, other.worse)))


def margin() -> float:
    """Returns the points within which a difference counts as none."""
    return float(_content()["margin"])


@cache
def _content() -> dict[str, Any]:
    """Returns `claims.yaml`, which explains its own layout."""
    content = yaml.safe_load((PAPER / "claims.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _family(entry: Mapping[str, Any]) -> Family:
    decided_by_mean = {"mean": True, "singly": False}[entry["decided"]]
    return Family(
        entry["id"], entry["says"], Origin(entry["source"]), entry["quote"], entry["reading"], decided_by_mean
    )


def _pairs(family: Family, entry: Mapping[str, Any]) -> Iterator[Claim]:
    """Yields the comparisons of a family's pairs in every column of its tables."""
    for table in entry.get("tables", ()):
        for group in published(table).groups:
            for metric in group.metrics:
                for better, worse in entry["pairs"]:
                    yield _claim(family, table, group, metric, better, worse)


def _rankings(family: Family, entry: Mapping[str, Any]) -> Iterator[Claim]:
    """Yields the comparisons of a family's rankings: each row with the next one of its list."""
    for table, rankings in entry.get("rankings", {}).items():
        groups = {group.name: group for group in published(table).groups}
        for ranking in rankings:
            for better, worse in pairwise(ranking["order"]):
                yield _claim(family, table, groups[ranking["column"]], ranking["metric"], better, worse)


def _claim(family: Family, table: str, group: PublishedGroup, metric: str, better: str, worse: str) -> Claim:
    """Returns a claim with the published difference between its two rows."""
    values = published(table).values
    column = (group.name, group.metrics[metric])
    # The paper prints two decimals: what lies beyond them comes from the subtraction of floats.
    difference = round(values[better, *column] - values[worse, *column], 2)
    return Claim(family, table, group.name, metric, better, worse, difference)
