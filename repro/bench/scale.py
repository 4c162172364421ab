"""How costs grow with size: each subject is measured at several sizes, and an exponent is fitted."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.errors import UserError

Work = Callable[[], object]
"""What is measured, at one size."""


@dataclass(frozen=True)
class Subject:
    """Something whose cost is measured at several sizes.

    Attributes:
        name: Name of the subject, such as `plan`.
        unit: What its size counts, such as `runs`.
        largest: The largest size; the others are halves of it, and halves of those.
        prepare: Returns a context manager that makes what is measured at a size, and cleans up.
        counts_bytes: Whether the work returns bytes, which are measured instead of seconds.
    """

    name: str
    unit: str
    largest: int
    prepare: Callable[[int], AbstractContextManager[Work]]
    counts_bytes: bool = False


HALVINGS = 3
"""How often the largest size is halved."""


def measure_scale(subjects: Sequence[Subject], fraction: float, rounds: int) -> list[dict[str, Any]]:
    """Measures subjects at sizes of which each is twice the one before.

    Args:
        subjects: What is measured.
        fraction: Share of each subject's largest size that is used as its largest size here.
        rounds: Timed rounds; each size has its turn in each of them.

    Returns:
        A row for each subject and size, with the subject's exponent in the last one: the slope of the line through the
        logarithms of sizes and of CPU seconds (or bytes), by least squares. For a cost that is proportional to size, it
        is 1.
    """
    return [row for subject in subjects for row in _rows(subject, fraction, rounds)]


def sizes_of(subject: Subject, fraction: float) -> list[int]:
    """Returns the sizes of a subject, from the smallest.

    Raises:
        UserError: The fraction leaves too little to halve.
    """
    largest = round(subject.largest * fraction)
    smallest = 2**HALVINGS
    if largest < smallest:
        raise UserError(
            f"--fraction {fraction:g} leaves {largest} of {subject.largest} {subject.unit} of {subject.name}, too "
            f"few to be halved {HALVINGS} times",
            mend=f"--fraction {smallest / subject.largest:.2g} or more",
        )
    return [largest // 2**halving for halving in range(HALVINGS, -1, -1)]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns the slope of the line through the logarithms of sizes and costs, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _rows(subject: Subject, fraction: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of one subject."""
    sizes = sizes_of(subject, fraction)
    with ExitStack() as stack:
        works = {str(size): stack.enter_context(subject.prepare(size)) for size in sizes}
        if subject.counts_bytes:
            sent = [_bytes_of(work) for work in works.values()]
            costs, shown = sent, [{"wall_s": None, "cpu_s": None, "bytes": number} for number in sent]
        else:
            from repro.bench.timing import seconds_in_turn

            seconds = list(seconds_in_turn(works, rounds).values())
            costs = [each.cpu for each in seconds]
            shown = [{"wall_s": _rounded(each.wall), "cpu_s": _rounded(each.cpu), "bytes": None} for each in seconds]
    fitted = round(exponent(sizes, costs), 2)
    for size, values in zip(sizes, shown, strict=True):
        last = size == sizes[-1]
        yield {
            "subject": subject.name,
            "size": size,
            "unit": subject.unit,
            **values,
            "exponent": fitted if last else None,
        }


def _bytes_of(work: Work) -> float:
    sent = work()
    assert isinstance(sent, int)
    return sent


def _rounded(seconds: float) -> float:
    """Returns seconds with three significant digits."""
    return round(seconds, 2 - math.floor(math.log10(seconds))) if seconds > 0 else 0.0


@contextmanager
def images_to_mask(batch: int) -> Iterator[Work]:
    """Makes noise of 224 px with foregrounds; the work masks a query and its hard negative with high-pass."""
    from torch import Generator

    from repro.bench.masking import noise_to_mask
    from repro.bench.timing import best_device
    from repro.masking.branches import SaliencyMasking
    from repro.settings.choices import Strategy
    from repro.settings.sections import FidelitySettings, MaskingSettings

    device = best_device()
    noise = noise_to_mask(batch, 224, device)
    mask = SaliencyMasking(MaskingSettings(strategy=Strategy.high_pass), FidelitySettings(), group_size=batch)
    generator = Generator(device).manual_seed(0)
    yield lambda: mask(*noise, generator)
