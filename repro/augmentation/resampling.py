"""Crops of different sizes resized in one batch, on any device, to the very bytes that PIL's `resize` gives.

PIL resizes along the rows, then along the columns (or the other way round, where that is quicker), and after each of
the two rounds to 8 bits. Its weights are whole multiples of 2**-22 (Pillow, src/libImaging/Resample.c). Here each pass
is a product with a matrix of these weights for each image. The matrix is split in two, of whole multiples of 2**-10 and
of 2**-22: all sums of products with bytes are then whole numbers below 2**24 (with up to 32 weights a pixel), which
single precision, and TF32's 11 bits of a factor, hold exactly. So nothing is lost to rounding, and the rounding to 8
bits falls as PIL's does. 32 weights are those of boxes 15 times as long as the view (bicubic 7 times); beyond, a pixel
may be off by a level where it all but lies between two.
"""

import math

import PIL
import torch
from torch import Tensor

from repro.runs.choices import Interpolation

WEIGHT_BITS = 22
"""Bits of PIL's weights behind the point."""
_COARSE_BITS = 10
_FINE_STEPS = 2 ** (WEIGHT_BITS - _COARSE_BITS)
_TURNS = int(PIL.__version__.split(".")[0]) >= 13
"""Whether the Pillow that is installed begins with the columns where much is gained by it."""
SUPPORT = {Interpolation.bilinear: 1.0, Interpolation.bicubic: 2.0}
"""Half the width of each filter, in pixels of what it resizes to, or from where it enlarges."""


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
    # Where PIL begins with the columns, the window is turned over its diagonal, and the result is turned back. Chosen
    # on the device, and without groups whose sizes would differ from batch to batch.
    rows_first = ~_columns_first(heights, widths, size)
    across, down = torch.where(rows_first, torch.stack([widths, heights]), torch.stack([heights, widths]))
    rows_first = rows_first.view(-1, 1, 1, 1)
    # Line by line, each line red, green and blue: the colours stay in the place of rows in the first pass, and in that
    # of columns in the second, so that nothing is transposed between them.
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
    """Rounds sums of pixels to 0..255, given those of coarse weights and of fine ones one after the other along `dim`.

    In place: the halves are of no use any more.
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
    stretch = scale.clamp(min=1.0)  # of the filter: it is as wide as the pixels that become one
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
    # Weights of 0 beyond a line's end may lie beyond the matrix too.
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
