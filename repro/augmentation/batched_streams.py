"""Many random streams at once: the numbers of `repro.randomness.stream` for a whole batch of names.

NumPy takes some 15 microseconds to make a generator and one to draw a number. For a view of a small image, this is more
than all other work on the host. So this module carries out on arrays what NumPy's `SeedSequence` and `PCG64` do, and
how its `Generator` turns raw numbers into doubles and bounded integers. The numbers are the same, bit for bit.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repro.randomness import Purpose

Words = NDArray[np.uint32]
RawNumbers = NDArray[np.uint64]
Wide = tuple[RawNumbers, RawNumbers]
"""128-bit numbers: their upper 64 bits and their lower 64 bits."""

_BLOCK = 32
"""Raw numbers of each stream that are computed at a time."""
_POOL = 4
"""Words of a SeedSequence's pool."""
_MULTIPLIER = 2549297995355413924 << 64 | 4865540595714422341
"""Multiplier of PCG64's state, a linear congruential generator of 128 bits."""
_LOW_HALF = np.uint64(0xFFFFFFFF)
"""Mask of the lower 32 bits of a raw number."""
_HALF = np.uint64(32)
"""Number of bits in half a raw number."""


class BatchedStreams:
    """B random streams, each of which advances independently.

    The methods are those of `numpy.random.Generator`, and return one number for each stream. Their argument `where`,
    B booleans, says which streams draw; by default all do.
    """

    def __init__(self, seed: int, purpose: Purpose, *names: NDArray[np.int64]) -> None:
        """Starts the streams `stream(seed, purpose, names[0][b], names[1][b], ...)`.

        Args:
            seed: Of the run.
            purpose: What the streams are for.
            names: Arrays of B whole numbers each, 0 to 2**32 - 1.
        """
        words = [*_words(seed), *_words(purpose), *(name.astype(np.uint32) for name in names)]
        first, second, third, fourth = _seed_state(words)
        # PCG64's initialisation: one step from (state + increment).
        self._increment = _odd(third, fourth)
        self._state = _step(_add((first, second), self._increment), self._increment)
        self._rows = np.arange(len(first))
        self._raw: RawNumbers = np.empty((len(first), 0), np.uint64)
        self._place = np.zeros(len(first), np.int64)
        # A bounded integer takes the lower half of a raw number; the upper half is kept for the next integer.
        self._kept = np.zeros(len(first), np.uint64)
        self._keeps = np.zeros(len(first), np.bool_)

    def random(self, where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Returns B numbers in 0..1, below 1; those of streams that did not draw are arbitrary."""
        return (self._next(where) >> np.uint64(11)) * np.float64(2.0**-53)

    def uniform(self, low: ArrayLike, high: ArrayLike, where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Returns B numbers in low..high; those of streams that did not draw are arbitrary."""
        return np.asarray(low) + np.subtract(high, low) * self.random(where)

    def integers(self, high: ArrayLike, where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Returns B whole numbers in 0..high - 1, by Lemire's method.

        Args:
            high: B numbers or one, 1 to 2**32 - 1.
            where: Which streams draw; the numbers of the others are arbitrary.
        """
        bounds = np.broadcast_to(np.asarray(high, np.uint64), self._place.shape)
        drawing = bounds > 1  # where there is no choice, nothing is drawn
        if where is not None:
            drawing &= where
        product = np.where(drawing, bounds * self._next_half(drawing), np.uint64(0))
        threshold = (np.uint64(2**32) - bounds) % np.maximum(bounds, np.uint64(1))
        rejected = drawing & ((product & _LOW_HALF) < threshold)
        while rejected.any():
            product = np.where(rejected, bounds * self._next_half(rejected), product)
            rejected &= (product & _LOW_HALF) < threshold
        return (product >> _HALF).astype(np.int64)

    def _next(self, where: NDArray[np.bool_] | None = None) -> RawNumbers:
        """Returns the next raw number of each stream that draws."""
        if self._place.max(initial=-1) >= self._raw.shape[1]:
            self._extend()
        numbers = self._raw[self._rows, self._place]
        self._place += 1 if where is None else where
        return numbers

    def _next_half(self, where: NDArray[np.bool_]) -> RawNumbers:
        """Returns the next 32 bits of each stream that draws: the lower half of a raw number, then its upper half."""
        fresh = where & ~self._keeps
        numbers = self._next(fresh)
        halves = np.where(fresh, numbers & _LOW_HALF, self._kept)
        self._kept = np.where(fresh, numbers >> _HALF, self._kept)
        self._keeps = np.where(where, fresh, self._keeps)
        return halves

    def _extend(self) -> None:
        """Computes a further block of raw numbers of all streams."""
        high, low = _add(_multiply(_column(self._state), _POWERS), _multiply(_column(self._increment), _SUMS))
        self._state = high[:, -1], low[:, -1]
        # PCG's output XSL-RR: the halves' exclusive or, rotated to the right by the upper six bits.
        mixed, rotation = high ^ low, high >> np.uint64(58)
        numbers = mixed >> rotation | mixed << (-rotation & np.uint64(63))
        self._raw = np.concatenate([self._raw, numbers], 1)


def _words(number: int) -> list[Words]:
    """Returns a number as 32-bit words, the lowest first, as SeedSequence splits it: without leading zeros."""
    words = [number >> shift & 0xFFFFFFFF for shift in range(0, max(1, number.bit_length()), 32)]
    return [np.array([word], np.uint32) for word in words]


def _constants(first: int, multiplier: int) -> Iterator[np.uint32]:
    """Yields the constants of one of SeedSequence's hashes: each is the one before times `multiplier`, in 32 bits."""
    while True:
        yield np.uint32(first)
        first = first * multiplier & 0xFFFFFFFF


def _seed_state(words: list[Words]) -> list[RawNumbers]:
    """Returns `SeedSequence(words).generate_state(4, np.uint64)` for arrays of words, four arrays B."""
    constants = _constants(0x43B0D7E5, 0x931E8875)
    constant = next(constants)

    def hashed(value: Words) -> Words:
        nonlocal constant
        value = value ^ constant
        constant = next(constants)
        value = value * constant
        return value ^ value >> np.uint32(16)

    def mixed(one: Words, other: Words) -> Words:
        value = np.uint32(0xCA01F9DD) * one - np.uint32(0x4973F715) * other
        return value ^ value >> np.uint32(16)

    padded = words + [np.zeros(1, np.uint32)] * (_POOL - len(words))
    pool = [hashed(word) for word in padded[:_POOL]]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in padded[_POOL:]:
        for target in range(_POOL):
            pool[target] = mixed(pool[target], hashed(word))

    constants = _constants(0x8B51F9DD, 0x58F38DED)
    constant = next(constants)
    halves = [hashed(pool[number % _POOL]).astype(np.uint64) for number in range(8)]
    return [low | high << _HALF for low, high in zip(halves[::2], halves[1::2], strict=True)]


def _odd(high: RawNumbers, low: RawNumbers) -> Wide:
    """Returns 2n + 1, as PCG's increment must be odd."""
    return high << np.uint64(1) | low >> np.uint64(63), low << np.uint64(1) | np.uint64(1)


def _add(one: Wide, other: Wide) -> Wide:
    low = one[1] + other[1]
    return one[0] + other[0] + (low < one[1]), low


def _multiply(one: Wide, other: Wide) -> Wide:
    """Returns the product modulo 2**128."""
    (one_high, one_low), (other_high, other_low) = one, other
    a, b = one_low >> _HALF, one_low & _LOW_HALF
    c, d = other_low >> _HALF, other_low & _LOW_HALF
    # The upper 64 bits of the product of the lower halves, by 32 bits at a time; no sum here exceeds 64 bits.
    right = b * d
    middle = a * d + (right >> _HALF)
    other_middle = b * c + (middle & _LOW_HALF)
    carried = a * c + (middle >> _HALF) + (other_middle >> _HALF)
    return carried + one_high * other_low + one_low * other_high, one_low * other_low


def _step(state: Wide, increment: Wide) -> Wide:
    return _add(_multiply(state, _wide([_MULTIPLIER])), increment)


def _column(numbers: Wide) -> Wide:
    return numbers[0][:, None], numbers[1][:, None]


def _wide(numbers: list[int]) -> Wide:
    high, low = (np.array([number >> shift & 2**64 - 1 for number in numbers], np.uint64) for shift in (64, 0))
    return high, low


# The state after n steps is power[n] * state + sum[n] * increment, so that a block needs no loop over its numbers.
_powers = [pow(_MULTIPLIER, number, 2**128) for number in range(_BLOCK + 1)]
_POWERS = _wide(_powers[1:])
_SUMS = _wide([sum(_powers[:number]) % 2**128 for number in range(1, _BLOCK + 1)])
