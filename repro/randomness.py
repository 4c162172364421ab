"""Randomness as a function of names, not of history.

Everything random draws from a stream named by whole numbers (seed, purpose, epoch, index ...), so neither the number of
workers nor a resume changes it. Nor does the number of processes, except for masks: a process draws all masks of its
share of a batch from one stream, named by the share's first image, so that other shares get other masks. The streams of
the built-in scenes (`scene_streams`, `scene_label_stream`) are older than the purposes, and have none in their names. A
purpose would change every scene, and so the results of all runs on scenes. New code draws from `stream` or
`stream_seed`.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; two purposes never share random numbers.

    The values are part of every stream's name: a changed one would change the runs that draw from it.
    """

    initialisation = 0
    order = 1
    view = 2
    mask = 3
    shuffle = 4
    split = 7
    trial = 5
    regions = 6
    occlusion = 8
    localizer = 9
    ground = 10
    member = 11
    monitor = 12
    bootstrap = 13
    colour = 14


def stream(seed: int, purpose: Purpose, *names: int) -> np.random.Generator:
    """Returns a NumPy generator for a stream, at its beginning.

    Args:
        seed: The run's seed, or the seed of what is drawn.
        purpose: What the stream is for.
        names: Further whole numbers, 0 or more, such as the epoch and the image's index.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose, *names))))


def scene_streams(seed: int, split: int, index: int) -> list[np.random.Generator]:
    """Returns the three independent streams of one scene; they are spawned, so `stream` never returns one of them.

    Args:
        seed: The scenes' seed.
        split: The number of the scenes' split.
        index: The scene's index.
    """
    root = np.random.SeedSequence((seed, split, index))
    return [np.random.Generator(np.random.PCG64(child)) for child in root.spawn(3)]


def scene_label_stream(seed: int, split: int) -> np.random.Generator:
    """Returns the stream of the labels of a split's scenes.

    If a run has the scenes' seed, the stream of split 1 is also that of the image order in the run's first epoch: 1 is
    the number of `Purpose.order`, and trailing zeros, such as epoch 0, do not count. This does no harm: labels of
    validation images and a permutation of training images have nothing to do with each other.

    Args:
        seed: The scenes' seed.
        split: The number of the scenes' split.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, split))))


def stream_seed(seed: int, purpose: Purpose, *names: int) -> int:
    """Returns a stream's seed for `torch.Generator.manual_seed`, 0 to 2**63 - 1.

    Trailing zeros of a name do not count: (seed, purpose) and (seed, purpose, 0) are one stream. Names of one purpose
    should be of one length.

    Args:
        seed: The run's seed, or the seed of what is drawn.
        purpose: What the stream is for.
        names: Further whole numbers, 0 or more, such as the epoch and the image's index.
    """
    # SeedSequence hashes its numbers, so that neighbouring seeds or epochs give unrelated streams. Its last bit is
    # dropped, as torch takes a signed number.
    return int(np.random.SeedSequence((seed, purpose, *names)).generate_state(1, np.uint64)[0] >> 1)
