"""Maps of whole images, cropped and resampled to the patches of views, for a whole batch at once."""

import torch
from torch import Tensor

SMOOTHING = 1.5
"""Half the width of the triangular kernel that resamples activations, in cells of the coarser of the two grids.

Chosen by `salmask bench saliency agreement`: a network's activations of a view and of the whole image differ in detail,
and agree better once they are smoothed.
"""


def crop_maps(maps: Tensor, boxes: Tensor, sizes: Tensor, flips: Tensor, grid: int, *, exact: bool = False) -> Tensor:
    """Crops maps of whole images as their views were cropped.

    Args:
        maps: B×G×G, each of a whole image, whatever its aspect ratio.
        boxes: B×4, top, left, height and width of each view in its image's pixels, before it was resized.
        sizes: B×2, height and width of each image in pixels.
        flips: B, boolean, whether the view was flipped from left to right.
        grid: Cells a side of a view.
        exact: Whether a view's cell is the mean over exactly its area, as for the true mask of an object; otherwise the
            map's cells are weighted by a triangle around its centre, see `SMOOTHING`.

    Returns:
        B×grid×grid, on the maps' device, in the maps' units: each cell is a weighted mean of the map's cells.
    """
    cells = maps.shape[-1]
    # B×2, for rows and columns: where a view begins and the distance between its cells, in cells of the map.
    start, step = cells * boxes[:, :2] / sizes, cells * boxes[:, 2:] / sizes / grid
    weights = _overlaps(start, step, grid, cells) if exact else _triangles(start, step, grid, cells)
    rows, columns = (weights / weights.sum(-1, keepdim=True)).unbind(1)
    columns = torch.where(flips.view(-1, 1, 1), columns.flip(1), columns)
    # Products and sums instead of a matrix product, which may be rounded to TF32 and so move cells over the threshold.
    tall = (rows.unsqueeze(-1) * maps.unsqueeze(1)).sum(2)
    return (tall.unsqueeze(2) * columns.unsqueeze(1)).sum(-1)


def _triangles(start: Tensor, step: Tensor, grid: int, cells: int) -> Tensor:
    """Returns weights B×2×grid×cells that fall linearly with the distance between the cells' centres."""
    centres = start.unsqueeze(-1) + (torch.arange(grid, device=start.device) + 0.5) * step.unsqueeze(-1)
    distances = (centres.unsqueeze(-1) - (torch.arange(cells, device=start.device) + 0.5)).abs()
    return (1 - distances / (SMOOTHING * step.clamp(min=1))[..., None, None]).clamp(min=0)


def _overlaps(start: Tensor, step: Tensor, grid: int, cells: int) -> Tensor:
    """Returns weights B×2×grid×cells, how much of each cell of the map lies within each cell of the view."""
    edges = start.unsqueeze(-1) + torch.arange(grid + 1, device=start.device) * step.unsqueeze(-1)
    low, high = edges[..., :-1, None], edges[..., 1:, None]
    cell = torch.arange(cells, device=start.device)
    return (torch.minimum(high, cell + 1) - torch.maximum(low, cell)).clamp(min=0)
