"""The report of a check of a data set: problems, warnings, counts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro.data.annotations.findings import FindingKind

ProblemKind = Literal[
    FindingKind,
    "missing-split",
    "missing-class",
    "empty-class",
    "class-lists-differ",
    "zero-byte",
    "unreadable",
    "too-small",
    "overlap",
    "unusable",
    "wrong-size",
    "not-deterministic",
    "label-range",
]


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        kind: What sort of thing, for counting.
        path: The file or folder.
        message: What is wrong with it.
    """

    kind: ProblemKind
    path: str
    message: str


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        name: The data set.
        root: Its folder; None for drawn images.
        decoded: Whether every image was decoded.
        counts: Images for each split and class, or, of annotated images, objects; a missing class counts 0.
        images: Images for each split of annotated images, which no class counts.
        problems: What must be mended, in the order of the checks.
        warnings: What is unusual, but usable.
    """

    name: str
    root: Path | None
    decoded: bool
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no problems; warnings are allowed."""
        return not self.problems

    def total(self, split: str) -> int:
        """Images of a split; 0 where it is missing."""
        return self.images.get(split, sum(self.counts.get(split, {}).values()))

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {**asdict(self), "root": None if self.root is None else str(self.root), "ok": self.ok}

    def add(self, kind: ProblemKind, path: Path | str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, str(path), message))
