"""What every split of a data set is: decoded images with labels, by index."""

from collections.abc import Sequence
from typing import Literal, Protocol

from PIL import Image

Split = Literal["train", "val"]


SPLITS: tuple[Split, ...] = ("train", "val")


class Images(Protocol):
    """What every split of a data set is: decoded images with labels, by index."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; a label is an index into them."""

    @property
    def targets(self) -> Sequence[int]:
        """The label of every image, known without decoding any."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...

    def fingerprint(self) -> str:
        """A short hex digest that changes when the data does."""
