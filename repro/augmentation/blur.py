"""Gaussian blur as a product with banded matrices.

A separable blur of an H×W image is `M_H @ image @ M_W.T`, where row i of M holds the kernel around pixel i, reflected
at the border. Two small matrix products replace padding and depthwise convolution: faster than torchvision's
`gaussian_blur` on a CPU, the more so the longer the kernel, and exact in fp32 on GPUs, where convolution may use TF32.
"""

import torch
from torch import Tensor


def gaussian_matrix(size: int, kernel: int, sigma: Tensor) -> Tensor:
    """Returns the matrix that blurs a line of pixels, with reflection at both ends.

    Args:
        size: pixels of the line, more than `kernel // 2`.
        kernel: taps, odd.
        sigma: standard deviation in pixels, of any shape S.

    Returns:
        S×size×size; each row sums to 1.

    Raises:
        ValueError: the line is too short to reflect, or the kernel is even.
    """
    radius = kernel // 2
    if kernel % 2 == 0 or radius >= size:
        raise ValueError(f"a {kernel}-tap blur needs an odd kernel and lines of more than {radius} pixels, not {size}")
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma.unsqueeze(-1) ** 2))
    weights = weights / weights.sum(-1, keepdim=True)
    # The pixel that each tap reads: `abs` reflects what lies before the first one, `where` what lies beyond the last.
    columns = (torch.arange(size, device=sigma.device).unsqueeze(1) + offsets).abs()
    columns = torch.where(columns >= size, 2 * (size - 1) - columns, columns)
    matrix = torch.zeros(*sigma.shape, size, size, device=sigma.device, dtype=weights.dtype)
    # Added, as at a border a pixel is read by two taps.
    shape = (*sigma.shape, size, kernel)
    return matrix.scatter_add_(-1, columns.expand(shape), weights.unsqueeze(-2).expand(shape))


def gaussian_blur(images: Tensor, kernel: int, sigma: float | Tensor) -> Tensor:
    """Blurs images, all alike or each with its own sigma.

    Equals torchvision's `gaussian_blur(image, [kernel, kernel], [sigma, sigma])` for each image.

    Args:
        images: B×C×H×W floats.
        kernel: taps, odd.
        sigma: standard deviation in pixels; a number, or one for each image (B).

    Returns:
        B×C×H×W.
    """
    # Weights of half precision would blur by a wrong amount; the pixels themselves may be of any precision.
    with torch.autocast(images.device.type, enabled=False):
        sigmas = sigma if isinstance(sigma, Tensor) else torch.full((), float(sigma), device=images.device)
        rows = gaussian_matrix(images.shape[-2], kernel, sigmas)
        columns = rows if images.shape[-1] == images.shape[-2] else gaussian_matrix(images.shape[-1], kernel, sigmas)
        if sigmas.ndim:  # B×1×H×H, for all channels of an image
            rows, columns = rows.unsqueeze(1), columns.unsqueeze(1)
        return (rows @ (images.float() @ columns.mT)).to(images.dtype)
