"""What is wrong with annotated images, one finding for each thing, and how one becomes a refusal. No torch.

`voc` and `coco`, beside this file, collect findings in a `Survey`; `salmask data verify` reports all of them, and a
training refuses with the first.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from repro.data.errors import PathError

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


class BrokenFileError(PathError):
    """A file of annotations that cannot be used.

    A survey turns it into a finding, with a mend that names the archive to unpack.
    """

    def __init__(self, path: Path, reason: str, *, mend: str = "unpack its archive again") -> None:
        super().__init__(path, reason, mend=mend)


TOLERANCE = 1.0
"""Pixels that a box may reach over the edge of its image: COCO's are rounded so."""


@dataclass(frozen=True)
class Finding:
    """One thing in annotations that a person must mend.

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
        """Adds a finding.

        Args:
            kind: What sort of thing, for counting.
            path: The file or folder.
            message: What is wrong with it.
            mend: What a person can do about it.
        """
        self.findings.append(Finding(kind, str(path), message, mend))

    def refuse_first(self) -> None:
        """Raises the first finding as an error that also says how many more there are of its kind.

        Raises:
            UserError: There is a finding.
        """
        if not self.findings:
            return
        # Findings come in the order of the checks: a missing folder stands before what should lie in it.
        first = self.findings[0]
        alike = sum(finding.kind == first.kind for finding in self.findings) - 1
        more = f" (and {alike} more like it)" if alike else ""
        raise PathError(first.path, f"{first.message}{more}", mend=first.mend)


BoxCorners = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels from the upper left corner of the image, upper edges exclusive."""


def box_fault(box: BoxCorners, size: tuple[int, int]) -> str:
    """Says how a box reaches out of its image by more than `TOLERANCE`; returns "" where it does not.

    Args:
        box: The corners, in pixels.
        size: The image's (width, height) in pixels.
    """
    (x0, y0, x1, y1), (width, height) = box, size  # as annotations say; whether the image has it, decoding tells
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        corners = ", ".join(f"{value:g}" for value in box)
        return f"a box ({corners}) reaches out of the image of {width}×{height} pixels"
    return ""


def listing(folder: Path) -> frozenset[str]:
    """Returns the names in a folder; none where it is missing or unreadable.

    Looking a name up in this set costs nothing; a call of `stat` for each of 10^5 images would take minutes on a file
    system over the network.
    """
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()
