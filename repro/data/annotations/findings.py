"""Findings, each of one thing that is wrong with annotated images, and how they become an error. No torch.

`voc` and `coco`, beside this file, collect findings in a `Survey`; `salmask data verify` reports all of them, and a
training with findings is refused.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from repro.data.errors import READABLE, PathError, reason_of
from repro.data.images import Fault, FaultKind, find_header_fault
from repro.errors import UserError
from repro.filesystem.files import read_regular

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
    FaultKind,
]

LISTED = 8
"""Findings that a refusal lists at most; `salmask data verify` lists all."""

_CHUNK = 256  # images whose headers a thread reads at a time
_THREADS = 16  # more than cores: on a file system over the network they wait rather than compute


class BrokenFileError(PathError):
    """A file of annotations that cannot be used.

    A survey turns it into a finding, with a mend that names the archive to unpack.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, mend="unpack its archive again")


TOLERANCE = 1.0
"""Pixels by which a box may reach over the edge of its image, since COCO's boxes are rounded."""


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
    """An image that annotations list, and whose file is there.

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
        objects: Number of objects of each of these splits, by class.
        files: Every listed image whose file is there.
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

    def add_image_faults(self) -> None:
        """Reads the headers of all images, and adds those that are damaged or not of the size that annotations say.

        Such an image would end a detector's training when it is first read. Pixels are not decoded here.
        """
        chunks = [self.files[start : start + _CHUNK] for start in range(0, len(self.files), _CHUNK)]
        with ThreadPoolExecutor(_THREADS) as pool:
            for images, faults in zip(chunks, pool.map(_header_faults, chunks), strict=True):
                for image, fault in zip(images, faults, strict=True):
                    if fault is not None:
                        mend = "correct the annotation, or replace the image"
                        self.add(fault.kind, image.path, fault.reason, mend)

    def refuse(self) -> None:
        """Raises all findings as one error, which lists the first `LISTED` of them.

        Raises:
            UserError: There is a finding.
        """
        if not self.findings:
            return
        # Findings come in the order of the checks: a missing folder stands before what should lie in it.
        first, *others = self.findings
        listed = [f"{finding.path}: {finding.message}" for finding in others[: LISTED - 1]]
        if len(others) > len(listed):
            listed.append(f"{len(others) - len(listed)} that `salmask data verify` lists")
        more = f" (and {len(others)} more: {'; '.join(listed)})" if others else ""
        raise PathError(first.path, f"{first.message}{more}", mend=first.mend)


def _header_faults(images: Sequence[AnnotatedImage]) -> list[Fault | None]:
    """Returns what is wrong with the header of each image, None for nothing."""
    return [find_header_fault(image.path, image.size) for image in images]


BoxCorners = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels from the upper left corner of the image, upper edges exclusive."""


def box_fault(box: BoxCorners, size: tuple[int, int]) -> str:
    """Says how a box reaches out of its image by more than `TOLERANCE`; returns "" where it does not.

    Args:
        box: The corners, in pixels.
        size: The image's (width, height) in pixels.
    """
    (x0, y0, x1, y1), (width, height) = box, size  # the size that annotations say; the image's own is checked elsewhere
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        corners = ", ".join(f"{value:g}" for value in box)
        return f"a box ({corners}) reaches out of the image of {width}×{height} pixels"
    return ""


def repetitions(names: Iterable[str]) -> list[str]:
    """Returns the sorted names that are listed more than once."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def content_of(path: Path, *, missing: str = "No such file or directory") -> bytes:
    """Reads a file of annotations.

    Args:
        path: The file.
        missing: The error's reason if the file is missing.

    Raises:
        BrokenFileError: The file is missing, cannot be read, or is not a regular file.
    """
    try:
        return read_regular(path, sys.maxsize)
    except FileNotFoundError:
        raise BrokenFileError(path, missing) from None
    except OSError as error:
        raise BrokenFileError(path, reason_of(error)) from error
    except UserError as error:
        raise BrokenFileError(path, "not a regular file") from error


def listing(folder: Path) -> frozenset[str]:
    """Returns the names in a folder; none where it is missing.

    Looking a name up in this set costs nothing; a call of `stat` for each of 10^5 images would take minutes on a file
    system over the network.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        # With an empty set all files would seem to be missing, and unpacking an archive would not mend that.
        raise PathError(folder, reason_of(error), mend=READABLE) from error
