"""Parts of a data set: drawn class by class from a seed, with exact sizes. No torch."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.data.jpeg import Pixels
from repro.data.splits import Images, names_of, pixels_of, size_of
from repro.randomness import Purpose, stream

Indices = NDArray[np.int64]


class Subset:
    """Some images of a pool.

    Attributes:
        pool: All images of the data set.
        indices: Which of them, N indices into the pool.
        classes: The pool's class names.
        targets: The label of each of the N images.
    """

    def __init__(self, pool: Images, indices: Sequence[int] | Indices) -> None:
        """Takes the images at `indices`, in that order; of a subset, straight from its pool."""
        pool_indices = np.asarray(indices, dtype=np.int64)
        # One level only, however often parts are taken of parts: `join` can then compare pools, and `data verify` and
        # the features' cache find the pool's own numbers.
        if isinstance(pool, Subset):
            pool_indices, pool = pool.indices[pool_indices], pool.pool
        self.pool: Images = pool
        self.indices: Indices = pool_indices
        self.classes: tuple[str, ...] = tuple(pool.classes)
        self.targets: list[int] = np.asarray(pool.targets, dtype=np.int64)[pool_indices].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pool[int(self.indices[index])]

    @property
    def names(self) -> list[str]:
        """The images' names in the pool."""
        names = names_of(self.pool)
        return [names[index] for index in self.indices]

    def pixels(self, index: int) -> tuple[Pixels, int]:
        """Returns an image's pixels, H×W×3, and its label."""
        return pixels_of(self.pool, int(self.indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels."""
        return size_of(self.pool, int(self.indices[index]))

    def fingerprint(self) -> str:
        """Returns 16 hex digits of a SHA-256 over the pool's fingerprint, the indices and the labels."""
        digest = hashlib.sha256(self.pool.fingerprint().encode())
        digest.update(self.indices.tobytes())
        digest.update(np.asarray(self.targets, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]


def apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Shares a total out over classes in proportion to their sizes, by largest remainders (the first class wins a tie).

    Args:
        sizes: The sizes of the classes.
        total: The total, at most the sum of the sizes.

    Returns:
        A count for each class, at most its size; they add up to `total`.
    """
    quotas = np.asarray(sizes, dtype=np.float64) * total / sum(sizes)
    counts = np.floor(quotas).astype(int)
    order = np.argsort(-(quotas - counts), kind="stable")  # stable, so that a tie is broken the same way everywhere
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()


def divide(images: Images, counts: Sequence[Sequence[int]], seed: int) -> list[Subset]:
    """Draws disjoint parts class by class; the last one is what remains.

    Args:
        images: The images to divide.
        counts: For each part but the last, how many images of each class it gets.
        seed: The seed of the draw.

    Returns:
        `len(counts) + 1` parts, indices ascending.
    """
    labels, classes = np.asarray(images.targets), range(len(images.classes))
    # Each class has a stream of its own, so that its order does not change with the other classes.
    orders = [stream(seed, Purpose.split, label).permutation(np.flatnonzero(labels == label)) for label in classes]
    # Each part continues where the one before it stopped in every class's order. The last asks for more than is left,
    # and a slice ends with the list.
    parts, starts = [], [0] * len(orders)
    for class_counts in [*counts, [len(order) for order in orders]]:
        ends = [start + count for start, count in zip(starts, class_counts, strict=True)]
        indices = [order[start:end] for order, start, end in zip(orders, starts, ends, strict=True)]
        parts.append(Subset(images, np.sort(np.concatenate(indices))))
        starts = ends
    return parts


def sizes(images: Images) -> list[int]:
    """Counts the images of each class."""
    return np.bincount(np.asarray(images.targets, dtype=np.int64), minlength=len(images.classes)).tolist()


def share_of(images: Images, share: float, seed: int) -> Subset:
    """Draws a share of the images, as equal for all classes as whole numbers allow, at least one of each class.

    SimCLR's 1 % and 10 % are balanced like this; drawing without regard to class would leave some out. A class that is
    smaller than its even part gives all that it has, and the other classes do not make up for it.

    Args:
        images: The images to draw from.
        share: The share of all images, 0 to 1.
        seed: The seed of the draw.
    """
    class_sizes = sizes(images)
    each, rest = divmod(round(share * sum(class_sizes)), len(class_sizes))
    # The first classes get one more each where there is a rest.
    counts = [min(size, max(1, each + (label < rest))) for label, size in enumerate(class_sizes)]
    return divide(images, [counts], seed)[0]


def join(first: Subset, second: Subset) -> Subset:
    """Joins two parts of one pool, indices ascending.

    Raises:
        ValueError: They are parts of different pools.
    """
    if first.pool is not second.pool:
        raise ValueError("only parts of one pool can be joined")
    return Subset(first.pool, np.sort(np.concatenate([first.indices, second.indices])))
