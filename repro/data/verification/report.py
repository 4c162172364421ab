"""The report of a check of a data set: its problems, warnings and counts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro.data.annotations.findings import FindingKind
from repro.data.errors import PathError
from repro.errors import UserError

ProblemKind = Literal[
    FindingKind,
    "missing-class",
    "empty-class",
    "class-lists-differ",
    "unusable",
    "not-deterministic",
    "label-range",
]

_UNDECODED = frozenset[ProblemKind]({"zero-byte", "unreadable"})
"""Problems of images that cannot be decoded."""


@dataclass(frozen=True)
class DataProblem:
    """One thing in a data set that a person must mend.

    Attributes:
        kind: What sort of thing, for counting.
        path: The file or folder.
        message: What is wrong with it, and the mend where the kind does not say it already.
    """

    kind: ProblemKind
    path: str
    message: str


@dataclass
class Report:
    """What `verify` learned about a data set.

    Attributes:
        name: The data set's name.
        root: The data set's folder; None for drawn images.
        decoded: Whether images were decoded; False if only sizes were looked at, or the data set could not be opened.
        counts: Images for each split and class, or, of annotated images, objects; a missing class counts 0.
        images: Images for each split of annotated images, of which `counts` has the objects.
        problems: What must be mended, in the order of the checks.
        warnings: What is unusual, but usable.
    """

    name: str
    root: Path | None
    decoded: bool
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    problems: list[DataProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no problems; warnings are allowed."""
        return not self.problems

    def total(self, split: str) -> int:
        """Returns the number of images of a split; 0 where it is missing."""
        return self.images.get(split, sum(self.counts.get(split, {}).values()))

    def to_plain(self) -> dict[str, Any]:
        """Returns the report as JSON can hold it."""
        return {**asdict(self), "root": None if self.root is None else str(self.root), "ok": self.ok}

    def add(self, kind: ProblemKind, path: Path | str, message: str, mend: str = "") -> None:
        """Adds a problem.

        Args:
            kind: What sort of thing, for counting.
            path: The file or folder.
            message: What is wrong with it.
            mend: What a person can do about it; empty where the message tells enough.
        """
        # Worded as an error on the command line is, so that a problem reads the same in both places.
        self.problems.append(DataProblem(kind, str(path), str(UserError(message, mend=mend))))

    def add_error(self, kind: ProblemKind, folder: Path, error: UserError) -> None:
        """Adds an error as a problem of a folder.

        Args:
            kind: What sort of thing, for counting.
            folder: The folder that was looked at; the error may be about something below it.
            error: The error. The folder is left out of its message, as a problem has a field for that.
        """
        message = error.what
        if isinstance(error, PathError) and error.path.is_relative_to(folder):
            below = error.path.relative_to(folder)
            message = error.reason if below == Path() else f"{below}: {error.reason}"
        self.add(kind, folder, message, error.mend)

    def end_with(self, root: Path, error: UserError) -> None:
        """Adds the error because of which no image of a data set could be looked at.

        Args:
            root: The data set's folder.
            error: See `add_error`.
        """
        self.decoded = False
        self.add_error("unusable", root, error)

    @property
    def depth(self) -> str:
        """How far the images were checked, as the end of a sentence."""
        kinds = {problem.kind for problem in self.problems}
        if not self.decoded:
            return "no image decoded" if "unusable" in kinds else "images not decoded (--quick)"
        if not any(any(objects.values()) for objects in self.counts.values()) and not any(self.images.values()):
            return "no image found"
        return "every other image decoded" if kinds & _UNDECODED else "every image decoded"
