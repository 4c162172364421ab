"""Crops of different sizes resized in one batch, on any device, to the very bytes that PIL's `resize` gives.

PIL resizes along the rows, then along the columns (or the other way round, where that is quicker), and rounds to 8 bits
after each of the two passes. Its weights are whole multiples of 2**-22 (Pillow, src/libImaging/Resample.c). Here each
pass is a product with a matrix of these weights for each image. The matrix is split into a coarse one, of whole
multiples of 2**-10, and a fine one, of multiples of 2**-22. All sums of products with bytes are then whole numbers
below 2**24 (with up to 32 weights a pixel). Single precision holds them exactly, and all factors fit into TF32's 11
bits. So the sums are exact, and are rounded to 8 bits as PIL's are. Boxes up to 15 times as long as the view (bicubic:
7 times) need no more than 32 weights. With longer ones, a pixel very near the middle of two levels may be off by one.
"""

import math

import PIL
import torch
from torch import Tensor

from repro.settings.choices import Interpolation

WEIGHT_BITS = 22
"""Bits of PIL's weights behind the point."""
_COARSE_BITS = 10
_FINE_STEPS = 2 ** (WEIGHT_BITS - _COARSE_BITS)
_TURNS = int(PIL.__version__.split(".")[0]) >= 13
"""Whether the installed Pillow resizes along the columns first where that is much quicker."""
SUPPORT = {Interpolation.bilinear: 1.0, Interpolation.bicubic: 2.0}
"""Half the width of each filter, in pixels of the result; where it enlarges, in pixels of the original."""


def resample(windows: Tensor, heights: Tensor, widths: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Resizes the upper left part of each window, with antialiasing.

    Args:
        windows: B×L×L×3, uint8.
        heights: B, rows of each part, 1 to L.
        widths: B, columns of each part, 1 to L.
        size: S, side of the results in pixels.
        interpolation: The filter.

    Returns:
        B×3×S×S floats, whole numbers in 0..255.
    """
    B, L = windows.shape[:2]
    # Where PIL begins with the columns, the window is transposed, and the result is transposed back. `where` chooses on
    # the device: groups of windows would differ in size from batch to batch.
    rows_first = ~_columns_first(heights, widths, size)
    across, down = torch.where(rows_first, torch.stack([widths, heights]), torch.stack([heights, widths]))
    rows_first = rows_first.view(-1, 1, 1, 1)
    # Line by line, each line as red, green and blue: colours count as rows in the first pass and as columns in the
    # second, so that nothing is transposed between them.
    lines = torch.where(rows_first, windows.permute(0, 1, 3, 2).contiguous(), windows.permute(0, 2, 3, 1))
    pixels = lines.to(torch.float32, memory_format=torch.contiguous_format).view(B, L * 3, L)
    pixels = _rounded(torch.bmm(pixels, _weights(across, size, L, interpolation).mT), dim=2)
    pixels = _rounded(torch.bmm(_weights(down, size, L, interpolation), pixels.view(B, L, 3 * size)), dim=1)
    pixels = pixels.view(B, size, 3, size)
    return torch.where(rows_first, pixels.transpose(1, 2), pixels.permute(0, 2, 3, 1)).contiguous()


def _columns_first(heights: Tensor, widths: Tensor, size: int) -> Tensor:
    """Returns for which images PIL resizes along the columns first, B booleans."""
    if not _TURNS:
        return torch.zeros_like(heights, dtype=torch.bool)
    return (heights > size) & (heights - size > 2 * (widths - size))


def taps(longest: int, size: int, interpolation: Interpolation) -> int:
    """Returns the most weights that a pixel has where lines of up to `longest` pixels are resized to `size`."""
    return min(longest, 2 * math.ceil(SUPPORT[interpolation] * max(1.0, longest / size)) + 1)


def _rounded(sums: Tensor, dim: int) -> Tensor:
    """Returns pixels, whole numbers in 0..255, of the sums with coarse weights and those with fine ones.

    The two lie one after the other along `dim`, and are overwritten.
    """
    coarse, fine = sums.chunk(2, dim)
    # floor((coarse * steps + fine + half) / 2**22), one division after the other so that no number needs over 24 bits.
    fine.mul_(1 / _FINE_STEPS).floor_()
    return (coarse + fine).add_(2 ** (_COARSE_BITS - 1)).mul_(2**-_COARSE_BITS).floor_().clamp_(0, 255)


def _weights(lengths: Tensor, size: int, longest: int, interpolation: Interpolation) -> Tensor:
    """Returns PIL's weights that resize lines of pixels.

    Args:
        lengths: B, pixels of each line, 1 to `longest`.
        size: S, pixels of the resized lines.
        longest: L.
        interpolation: The filter.

    Returns:
        B×2S×L: whole numbers in single precision. S rows count 2**-10 each, and S more 2**-22.
    """
    # In double precision, and in the order of PIL's own lines, so that weights round as there.
    length = lengths.to(torch.float64).view(-1, 1, 1)
    scale = length / size
    stretch = scale.clamp(min=1.0)  # the filter is as wide as the pixels that become one
    support = SUPPORT[interpolation] * stretch
    centre = (torch.arange(size, device=lengths.device, dtype=torch.float64).view(1, -1, 1) + 0.5) * scale
    first = (centre - support + 0.5).floor().clamp_(min=0)
    end = torch.minimum((centre + support + 0.5).floor(), length)
    count = taps(longest, size, interpolation)
    places = first + torch.arange(count, device=lengths.device)
    weights = _filter((places - centre + 0.5) * (1.0 / stretch), interpolation) * (places < end)
    weights = weights / weights.sum(2, keepdim=True)
    whole = (weights.abs() * 2**WEIGHT_BITS + 0.5).floor_().copysign_(weights)
    coarse = (whole / _FINE_STEPS).round_()
    fine = whole - coarse * _FINE_STEPS
    # Weights of 0 beyond the end of the longest line need columns too, which are cut off again.
    matrix = torch.zeros(len(lengths), 2 * size, longest + count, device=lengths.device)
    matrix.scatter_(2, places.long().repeat(1, 2, 1), torch.cat([coarse, fine], 1).float())
    return matrix[:, :, :longest]


def _filter(distance: Tensor, interpolation: Interpolation) -> Tensor:
    """Returns the filter's value at distances from its centre."""
    x = distance.abs()
    if interpolation is Interpolation.bilinear:
        return (1.0 - x).clamp_(min=0)
    a = -0.5  # PIL's cubic convolution
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
