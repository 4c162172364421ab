"""The filters of the masking strategies: the strong blur fills masked patches, the high-pass filters whole views."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from repro.augmentation.blur import gaussian_blur
from repro.settings.choices import FILTER_TAPS, FilterLibrary, Strategy


def high_pass(images: Tensor, library: FilterLibrary = FilterLibrary.torch) -> Tensor:
    """Returns `x - blur(x)` with an 11×11 Gaussian of sigma 5 (released moco/loader.py:15,68-78).

    The filter is linear and removes constants, so that filtering before or after normalisation gives the same, but for
    the division. It has no gradient, as it writes in place: torch refuses images that require one.

    Args:
        images: B×3×H×W, normalised, H and W at least 6.
        library: Which library blurs on a CPU.

    Returns:
        B×3×H×W in normalised units; on photographs with a mean of about 0 and a standard deviation of some 0.1 to 0.5.

    Raises:
        ValueError: H or W is too small to be reflected at the border.
    """
    return _filter(images, FILTER_TAPS[Strategy.high_pass], 5.0, library, removed=True)


def strong_blur(images: Tensor, library: FilterLibrary = FilterLibrary.torch) -> Tensor:
    """Blurs images by a 31×31 Gaussian of sigma 10 (released moco/loader.py:16-19).

    On a CPU it has no gradient: torch, or OpenCV, refuses images that require one.

    Args:
        images: B×3×H×W, normalised, H and W at least 16.
        library: Which library blurs on a CPU.

    Returns:
        B×3×H×W, in the units of the images.

    Raises:
        ValueError: H or W is too small to be reflected at the border.
    """
    return _filter(images, FILTER_TAPS[Strategy.strong_blur], 10.0, library, removed=False)


def _filter(images: Tensor, kernel: int, sigma: float, library: FilterLibrary, *, removed: bool) -> Tensor:
    """Blurs images B×C×H×W, or returns what the blur removes from them."""
    # OpenCV reflects at a border repeatedly, and takes images that torch refuses as too small: they go to torch, so
    # that both libraries refuse them.
    if library is FilterLibrary.cv2 and images.is_cpu and min(images.shape[-2:]) > kernel // 2:
        return _filter_with_opencv(images, kernel, sigma, removed=removed)
    blurred = gaussian_blur(images, kernel, sigma)
    return torch.sub(images, blurred, out=blurred) if removed else blurred


def _filter_with_opencv(images: Tensor, kernel: int, sigma: float, *, removed: bool) -> Tensor:
    """Does the work of `_filter` on the host, plane by plane: a plane stays in a core's cache."""
    import cv2  # only where it is asked for: it takes time to load

    pixels = images.float().contiguous()
    filtered = torch.empty_like(pixels)
    planes, results = (tensor.flatten(0, -3).numpy() for tensor in (pixels, filtered))

    def blur(some: slice) -> None:
        for plane, result in zip(planes[some], results[some], strict=True):
            cv2.GaussianBlur(plane, (kernel, kernel), sigma, dst=result, borderType=cv2.BORDER_REFLECT_101)
            if removed:
                np.subtract(plane, result, out=result)

    # OpenCV blurs a plane in one thread; torch's setting says how many threads this process may use.
    threads = torch.get_num_threads()
    share = -(-len(planes) // threads)
    parts = [slice(start, start + share) for start in range(0, len(planes), share)]
    list(_threads(threads).map(blur, parts) if len(parts) > 1 else map(blur, parts))
    return filtered.to(images.dtype)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="filter")
