"""What is wrong with annotated images, one finding for each thing, and how one becomes a refusal. No torch.

`voc` and `coco`, beside this file, find; `salmask data verify` tells all, and a training refuses with the first.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from repro.errors import UserError

FindingKind = Literal[
    "missing-split",
    "missing-image",
    "missing-annotation",
    "other-split",
    "broken-annotation",
    "unknown-class",
    "outside-image",
    "no-objects",
    "overlap",
]


class BrokenFileError(UserError):
    """A file of annotations that cannot be used.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


TOLERANCE = 1.0
"""Pixels that a box may reach over the edge of its image: COCO's are rounded so."""


@dataclass(frozen=True)
class Finding:
    """One thing to mend.

    Attributes:
        kind: What sort of thing, for counting.
        path: The file or folder.
        message: What is wrong with it.
        mend: What to do about it.
    """

    kind: FindingKind
    path: str
    message: str
    mend: str


@dataclass(frozen=True)
class AnnotatedImage:
    """An image that annotations speak of, and that lies where it should.

    Attributes:
        path: Its file.
        test: Whether it is for testing, rather than for training.
        size: (width, height) in pixels, as the annotations say.
    """

    path: str
    test: bool
    size: tuple[int, int]


@dataclass
class Survey:
    """All that annotations say, and all that is wrong with them.

    Attributes:
        classes: Names in the order of their labels.
        images: Number of images listed for each split that can be read.
        objects: Objects of each of these splits and class.
        files: Every image that lies where it should.
        findings: What must be mended.
        warnings: What is unusual, but usable.
    """

    classes: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, dict[str, int]] = field(default_factory=dict)
    files: list[AnnotatedImage] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, kind: FindingKind, path: Path | str, message: str, mend: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, str(path), message, mend))

    def refuse_first(self) -> None:
        """Raise the first finding as an error, with how many there are of its kind.

        Raises:
            UserError: there is one.
        """
        if not self.findings:
            return
        first = self.findings[0]
        alike = sum(finding.kind == first.kind for finding in self.findings) - 1
        more = f" (and {alike} more like it)" if alike else ""
        raise UserError(f"{first.path}: {first.message}{more}", mend=f"{first.mend}")


BoxCorners = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels from the upper left corner of the image, upper edges exclusive."""


def box_fault(box: BoxCorners, size: tuple[int, int]) -> str:
    """How a box reaches out of its image by more than `TOLERANCE`; empty where it does not."""
    (x0, y0, x1, y1), (width, height) = box, size
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        corners = ", ".join(f"{value:g}" for value in box)
        return f"a box ({corners}) reaches out of the image of {width}×{height} pixels"
    return ""


def listing(folder: Path) -> frozenset[str]:
    """The names in a folder; none where it is missing or unreadable."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()
