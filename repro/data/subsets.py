"""Parts of a data set: drawn class by class from a seed, with exact sizes. No torch."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.randomness import Purpose, stream

if TYPE_CHECKING:
    from repro.data.splits import Images

Indices = NDArray[np.int64]


class Subset:
    """Some images of a pool.

    Attributes:
        pool: all of them.
        indices: which, N.
        classes: the pool's.
        targets: the label of each.
    """

    def __init__(self, pool: "Images", indices: Sequence[int] | Indices) -> None:
        """Take the images at `indices`, in that order; of a subset, straight from its pool."""
        chosen = np.asarray(indices, dtype=np.int64)
        if isinstance(pool, Subset):
            chosen, pool = pool.indices[chosen], pool.pool
        self.pool: Images = pool
        self.indices: Indices = chosen
        self.classes: tuple[str, ...] = tuple(pool.classes)
        self.targets: list[int] = np.asarray(pool.targets, dtype=np.int64)[chosen].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pool[int(self.indices[index])]

    def fingerprint(self) -> str:
        """16 hex digits over the pool's fingerprint, the indices and the labels."""
        digest = hashlib.sha256(self.pool.fingerprint().encode())
        digest.update(self.indices.tobytes())
        digest.update(np.asarray(self.targets, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Share a total out over classes in proportion to their sizes, by largest remainders (the first class wins a tie).

    Args:
        sizes: of the classes.
        total: at most their sum.

    Returns:
        A count for each class, at most its size; they add up to `total`.
    """
    quotas = np.asarray(sizes, dtype=np.float64) * total / sum(sizes)
    counts = np.floor(quotas).astype(int)
    order = np.argsort(-(quotas - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()


def shuffled_classes(targets: Sequence[int], classes: int, seed: int) -> list[Indices]:
    """The images of each class in a random order, each class from a stream of its own."""
    labels = np.asarray(targets)
    return [stream(seed, Purpose.split, label).permutation(np.flatnonzero(labels == label)) for label in range(classes)]


def divide(images: "Images", counts: Sequence[Sequence[int]], seed: int) -> list[Subset]:
    """Draw disjoint parts class by class; the last one is what remains.

    Args:
        images: what to divide.
        counts: for each part but the last, images of each class.
        seed: of the draw.

    Returns:
        `len(counts) + 1` parts, indices ascending.
    """
    orders = shuffled_classes(images.targets, len(images.classes), seed)
    parts, taken = [], [0] * len(orders)
    for part in [*counts, [len(order) for order in orders]]:
        ends = [start + count for start, count in zip(taken, part, strict=True)]
        drawn = [order[start:end] for order, start, end in zip(orders, taken, ends, strict=True)]
        parts.append(Subset(images, np.sort(np.concatenate(drawn))))
        taken = ends
    return parts


def sizes(images: "Images") -> list[int]:
    """Images of each class."""
    return np.bincount(np.asarray(images.targets, dtype=np.int64), minlength=len(images.classes)).tolist()


def share_of(images: "Images", share: float, seed: int) -> Subset:
    """A share of the images, as equal for all classes as whole numbers allow, at least one of each class.

    SimCLR's 1 % and 10 % are balanced like this; drawing without regard to class would leave some out.
    """
    available = sizes(images)
    counts = [min(size, max(1, count)) for size, count in zip(available, _balanced(available, share), strict=True)]
    return divide(images, [counts], seed)[0]


def _balanced(available: Sequence[int], share: float) -> list[int]:
    total = round(share * sum(available))
    each, more = divmod(total, len(available))
    return [each + (label < more) for label in range(len(available))]


def join(first: Subset, second: Subset) -> Subset:
    """Two parts of one pool as one, indices ascending."""
    if first.pool is not second.pool:
        raise ValueError("only parts of one pool can be joined")
    return Subset(first.pool, np.sort(np.concatenate([first.indices, second.indices])))
