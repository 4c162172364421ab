"""Gaussian blur as a product with banded matrices: torchvision's, and the one that PIL approximates with boxes.

A separable blur of an H×W image is `M_H @ image @ M_W.T`. Row i of M holds the kernel around pixel i, with the weights
beyond the border moved to the pixels that stand in there. Two matrix products replace padding and depthwise
convolution. They are faster than torchvision's `gaussian_blur`, especially with long kernels, and exact in fp32 on
GPUs, where convolution may use TF32.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 32
"""Pixels of a line that a CPU computes in one product."""

CACHED_NUMBERS = 2**19
"""Numbers that a CPU blurs at a time, 2 MiB: they stay in its cache."""


def gaussian_matrix(size: int, kernel: int, sigma: Tensor) -> Tensor:
    """Returns the matrix that blurs a line of pixels, with reflection at both ends.

    Args:
        size: Pixels of the line, more than `kernel // 2`.
        kernel: Taps, odd.
        sigma: Standard deviation in pixels, of any shape S.

    Returns:
        S×size×size; each row sums to 1.

    Raises:
        ValueError: The line is too short to reflect, or the kernel is even.
    """
    radius = kernel // 2
    if kernel % 2 == 0 or radius >= size:
        raise ValueError(f"a {kernel}-tap blur needs an odd kernel and lines of more than {radius} pixels, not {size}")
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma.unsqueeze(-1) ** 2))
    weights = weights / weights.sum(-1, keepdim=True)
    # The pixel that each tap reads: `abs` reflects before the first pixel, `where` beyond the last one.
    columns = (torch.arange(size, device=sigma.device).unsqueeze(1) + offsets).abs()
    columns = torch.where(columns >= size, 2 * (size - 1) - columns, columns)
    return _scatter_taps(weights, columns)


def box_matrix(size: int, reach: int, sigma: Tensor) -> Tensor:
    """Returns the matrix that blurs a line of pixels as PIL's `GaussianBlur` does, up to its rounding to 8 bits.

    PIL blurs three times by a box. The end pixels of the box have less weight, so that the three together have the
    Gaussian's variance (Gwosdek et al. 2011, equations 7 to 14; libImaging/BoxBlur.c). Each time, the pixel at the
    border is repeated.

    Args:
        size: Pixels of the line.
        reach: Pixels that a box may reach to each side, at least `box_reach` of the largest sigma.
        sigma: Standard deviation in pixels, more than 0, of any shape S.

    Returns:
        S×size×size; each row sums to 1.
    """
    variance = sigma.unsqueeze(-1) ** 2 / 3  # of each of the three boxes
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()  # pixels of full weight to each side
    end = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    distance = offsets.abs()
    # 1 within the box, `end` for the pixel after it, and 0 beyond.
    weights = torch.where(distance <= whole, 1.0, torch.where(distance == whole + 1, end, 0.0))
    weights = weights / (2 * (whole + end) + 1)
    columns = torch.arange(size, device=sigma.device).unsqueeze(1) + offsets
    box = _scatter_taps(weights, columns.clamp(0, size - 1))
    return box @ box @ box


def box_reach(sigma_max: float) -> int:
    """Returns how many pixels one of PIL's three boxes reaches to each side, for a sigma of at most `sigma_max`."""
    return math.floor((math.sqrt(4 * sigma_max**2 + 1) - 1) / 2) + 1


def _scatter_taps(weights: Tensor, columns: Tensor) -> Tensor:
    """Returns a matrix S×size×size: the weights S×taps at the columns size×taps of each row, added where they meet."""
    size, taps = columns.shape
    shape = (*weights.shape[:-1], size, taps)
    matrix = torch.zeros(*weights.shape[:-1], size, size, device=weights.device, dtype=weights.dtype)
    return matrix.scatter_add_(-1, columns.expand(shape), weights.unsqueeze(-2).expand(shape))


def gaussian_blur(images: Tensor, kernel: int, sigma: float | Tensor) -> Tensor:
    """Blurs images, all alike or each with its own sigma.

    Equals torchvision's `gaussian_blur(image, [kernel, kernel], [sigma, sigma])` for each image, by which the released
    code filters (moco/loader.py:15-19, 68-78). On a CPU it has no gradient: torch refuses images that require one.

    Args:
        images: B×C×H×W floats.
        kernel: Taps, odd.
        sigma: Standard deviation in pixels; a number, or one for each image (B).

    Returns:
        B×C×H×W.

    Raises:
        ValueError: An even number of taps, or images too small to be reflected at the border.
    """
    sigmas = sigma if isinstance(sigma, Tensor) else torch.full((), float(sigma), device=images.device)
    return _blur(images, lambda size: gaussian_matrix(size, kernel, sigmas), kernel // 2)


def box_blur(images: Tensor, sigma: Tensor, sigma_max: float) -> Tensor:
    """Blurs images as PIL's `GaussianBlur(sigma)` does, without its rounding to 8 bits; see `box_matrix`.

    On a CPU it has no gradient, as `gaussian_blur` has none.

    Args:
        images: B×C×H×W floats.
        sigma: Standard deviation in pixels of each image (B), more than 0.
        sigma_max: At least the largest of them; on the host, so that the length of the kernel is known there.

    Returns:
        B×C×H×W.
    """
    reach = box_reach(sigma_max)
    return _blur(images, lambda size: box_matrix(size, reach, sigma), 3 * reach)


def _blur(images: Tensor, matrix: Callable[[int], Tensor], radius: int) -> Tensor:
    """Blurs images B×C×H×W by `matrix(size)`, the matrix for lines of a size, zero beyond `radius` off the diagonal."""
    # Weights of half precision would blur by a wrong amount; the pixels themselves may be of any precision.
    with torch.autocast(images.device.type, enabled=False):
        H, W = images.shape[-2:]
        rows = matrix(H)
        columns = rows if W == H else matrix(W)
        pixels = images.float()
        if images.is_cpu:
            return _multiply_blocks(pixels, rows, columns, radius).to(images.dtype)
        # One large product for each direction: on a GPU, launching several small ones would take longer.
        if rows.ndim == 3:  # B×1×H×H, for all channels of an image
            rows, columns = rows.unsqueeze(1), columns.unsqueeze(1)
        return (rows @ (pixels @ columns.mT)).to(images.dtype)


def _multiply_blocks(images: Tensor, rows: Tensor, columns: Tensor, radius: int) -> Tensor:
    """Returns `rows @ images @ columns.T` on a CPU, for matrices that are zero further than `radius` off the diagonal.

    It skips the products with these zeros, which are three quarters of all at 224 pixels. A few images at a time go
    through both products, so that the result of the first is still in the cache for the second.
    """
    B, C, H, W = images.shape
    blurred = torch.empty_like(images, memory_format=torch.contiguous_format)
    count = max(1, CACHED_NUMBERS // (C * H * W))
    for start in range(0, B, count):
        some = slice(start, start + count)
        lines, result = (tensor[some].reshape(-1, H, W) for tensor in (images, blurred))
        # One matrix for each image, repeated for its channels; or one for all images.
        down, along = (
            matrix[some].repeat_interleave(C, 0) if matrix.ndim == 3 else matrix.expand(len(lines), -1, -1)
            for matrix in (rows, columns.mT)
        )
        across = torch.cat([lines[..., near] @ along[:, near, part] for part, near in _blocks(W, radius)], 2)
        torch.cat([down[:, part, near] @ across[:, near] for part, near in _blocks(H, radius)], 1, out=result)
    return blurred


def _blocks(size: int, radius: int) -> list[tuple[slice, slice]]:
    """Returns the parts that a line is computed in, each with the pixels that its kernels read."""
    return [
        (slice(start, start + BLOCK), slice(max(0, start - radius), start + BLOCK + radius))
        for start in range(0, size, BLOCK)
    ]
