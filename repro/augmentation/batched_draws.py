"""The draws of a whole batch of views in array operations, bit for bit what `draws` draws image by image."""

import numpy as np
from numpy.typing import NDArray

from repro.augmentation.batched_streams import BatchedStreams
from repro.augmentation.draws import COLUMNS, ORDERS, RATIO_MAX, RATIO_MIN, TRIES
from repro.settings.sections import AugmentationSettings


def draw_boxes(sizes: NDArray[np.int64], scale_min: float, streams: BatchedStreams) -> NDArray[np.int64]:
    """Draws a box of each image as `draws.draw_box` does.

    Args:
        sizes: B×2, height and width of the images in pixels.
        scale_min: Smallest share of the image's area.
        streams: One for each sample; they advance by what is drawn.

    Returns:
        B×4: top, left, height and width in pixels of the image.
    """
    heights, widths = sizes.T
    # The box after ten misses; a hit overwrites it.
    h = np.minimum(heights, np.rint(widths * RATIO_MAX).astype(np.int64))
    w = np.minimum(widths, np.rint(heights * RATIO_MAX).astype(np.int64))
    top, left = (heights - h) // 2, (widths - w) // 2
    pending = np.ones(len(sizes), np.bool_)
    for _ in range(TRIES):
        area = widths * heights * streams.uniform(scale_min, 1.0, pending)
        ratio = np.exp(streams.uniform(np.log(RATIO_MIN), np.log(RATIO_MAX), pending))
        width, height = (np.rint(np.sqrt(a)).astype(np.int64) for a in (area * ratio, area / ratio))
        hit = pending & (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
        w, h = np.where(hit, width, w), np.where(hit, height, h)
        left = np.where(hit, streams.integers(widths - w + 1, hit), left)
        top = np.where(hit, streams.integers(heights - h + 1, hit), top)
        pending &= ~hit
        if not pending.any():
            break
    return np.stack([top, left, h, w], 1)


def draw_views(streams: BatchedStreams, settings: AugmentationSettings) -> NDArray[np.float32]:
    """Draws all but the crops of a batch of views as `draws.draw_view` does.

    Args:
        streams: One for each sample, after the view's box was drawn from it.
        settings: Probabilities and strengths.

    Returns:
        B×9, rows of `Draw.row`.
    """

    def around(value: float) -> NDArray[np.float64]:
        return streams.uniform(max(0.0, 1 - value), 1 + value)

    # In the order in which `draw_view` reads a stream.
    values = {
        "jitter": streams.random() < settings.jitter_probability,
        "order": streams.integers(len(ORDERS)),
        "brightness": around(settings.brightness),
        "contrast": around(settings.contrast),
        "saturation": around(settings.saturation),
        "hue": streams.uniform(-settings.hue, settings.hue),
        "grey": streams.random() < settings.grey_probability,
    }
    blurred = streams.random() < settings.blur_probability
    sigma = streams.uniform(settings.blur_sigma_min, settings.blur_sigma_max, blurred)
    values |= {"sigma": np.where(blurred, sigma, 0.0), "flip": streams.random() < settings.flip_probability}
    return np.stack([values[name].astype(np.float32) for name in COLUMNS], 1)


def largest_boxes(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the longest side that a box of each image may have, in pixels.

    Args:
        sizes: B×2, height and width of the images in pixels.
    """
    heights, widths = sizes.T
    longest = np.ceil(np.sqrt(heights * widths * RATIO_MAX)).astype(np.int64)
    return np.minimum(longest, np.maximum(heights, widths))
