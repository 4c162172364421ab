"""Where foreground comes from: the frozen network, files, or maps of graded quality where true masks are known."""

import re
from dataclasses import dataclass
from enum import StrEnum

from repro.errors import UserError


class SourceKind(StrEnum):
    """What tells foreground from background."""

    network = "network"
    """The frozen network that `localizer.network` names."""
    truth = "truth"
    """The true mask of the main object."""
    dilated = "truth-dilated"
    """The true mask, grown by N cells."""
    eroded = "truth-eroded"
    """The true mask, shrunk by N cells, but to half of its greatest depth at most."""
    shifted = "truth-shifted"
    """The true mask, moved by N cells in a direction drawn for each image; what leaves the image enters opposite."""
    inverted = "inverted"
    """Everything except the main object."""
    centre = "centre"
    """A Gaussian around the image's centre, read by the same rule as a network's map."""
    random = "random"
    """As many cells as the true mask has, anywhere in the view."""
    shuffled = "network-shuffled"
    """As many cells as the frozen network finds, anywhere in the view."""
    maps = "maps"
    """A saliency map of each image, from a file of `localizer.files`, read by the same rule as a network's."""


OF_TRUTH = frozenset(
    {
        *(SourceKind.truth, SourceKind.dilated, SourceKind.eroded, SourceKind.shifted),
        *(SourceKind.inverted, SourceKind.random),
    }
)
"""The kinds that are made from the true masks."""
COUNTED = (SourceKind.dilated, SourceKind.eroded, SourceKind.shifted)
"""The kinds that need a number of cells."""
CELLS = 16
"""Cells per side of an image's true mask; dilation, erosion and shifts are counted in them."""
NAMES = tuple(f"{kind}-N" if kind in COUNTED else str(kind) for kind in SourceKind)
"""How sources are written; N is a whole number of cells."""


@dataclass(frozen=True)
class SaliencySource:
    """A source of foreground."""

    kind: SourceKind
    cells: int = 0
    """By how many cells the true mask is changed, 1 to `CELLS` - 1; 0 where it is not."""

    @classmethod
    def parse(cls, text: str) -> "SaliencySource":
        """Reads a source as settings have it, for example `network` or `truth-dilated-2`.

        Raises:
            UserError: There is no such source.
        """
        name, number = text, ""
        if match := re.fullmatch(r"(.+)-([1-9]\d?)", text):
            name, number = match.groups()
        kind = next((kind for kind in SourceKind if kind == name), None)
        if kind is None or (kind in COUNTED) is not bool(number) or int(number or 0) >= CELLS:
            raise UserError(
                f"'{text}' is not a source of saliency", mend=f"one of {', '.join(NAMES)}; N: 1 to {CELLS - 1}"
            )
        return cls(kind, int(number or 0))

    @property
    def needs_truth(self) -> bool:
        """Whether the true masks must be known."""
        return self.kind in OF_TRUTH

    @property
    def needs_network(self) -> bool:
        """Whether the frozen network is asked."""
        return self.kind in (SourceKind.network, SourceKind.shuffled)

    @property
    def needs_files(self) -> bool:
        """Whether a person's own files are read."""
        return self.kind is SourceKind.maps

    @property
    def is_read_by_rule(self) -> bool:
        """Whether foreground is read off a map by the paper's rule; off a true mask it is not."""
        return not self.needs_truth

    def __str__(self) -> str:
        return f"{self.kind}-{self.cells}" if self.cells else str(self.kind)
