"""SCDA with the paper's relaxed constraint: which cells of an activation map show the object.

The activations of the last stage are summed over channels (the authors' poster has their mean, which gives the same
cells), and a cell of the grid is foreground unless its sum is more than `relax` standard deviations below the mean.
"""

from torch import Tensor


def summed(activations: Tensor) -> Tensor:
    """Returns activations B×D×h×w summed over channels, B×h×w, up to an offset for each image."""
    # The rule compares cells with their own mean, so that an offset common to all of them changes nothing but rounding.
    # Subtracting each channel's first cell makes a constant map exactly 0. Otherwise rounding would decide: the mean of
    # equal sums may lie above them, and equal columns may have unequal sums, because a kernel adds in one order where
    # it takes several cells at once, and in another order in the remaining cells.
    contrast = activations.float()
    return (contrast - contrast[:, :, :1, :1]).sum(1)


def foreground(activations: Tensor, relax: float = 0.6, row_sorted: bool = False) -> Tensor:
    """Returns the cells that show the object, by SCDA with the paper's relaxed constraint.

    A cell is foreground where `A >= mean(A) - relax * std(A)`, A being the activations summed over channels and std the
    population's (the authors' poster; released Dataset/localize.py:53-60). The largest-component step of the original
    SCDA is left out, as in the released code.

    Args:
        activations: B×D×h×w, of a frozen network.
        relax: How many standard deviations below the mean still count.
        row_sorted: Whether to do as the released code does (localize.py:83-87), which sorts each row of the map before
            reading it, and so pushes the foreground of every row to the right.

    Returns:
        B×h×w, boolean. A map without any contrast, each channel constant, is all foreground, since the rule holds with
        equality. (In the released code rounding decides: numpy's mean of 49 equal numbers may lie above them, and then
        no cell is foreground.) A map with NaN, as of a network that overflows in half precision, is all foreground too:
        without foreground its hard negative would lose nothing, and be the query's own positive.
    """
    cells = summed(activations)
    mean = cells.mean((1, 2), keepdim=True)
    std = cells.std((1, 2), correction=0, keepdim=True)  # the population's, as numpy's is in the released code
    if row_sorted:  # mean and deviation stay, and so does the number of foreground cells in each row
        cells = cells.sort(-1).values
    return ~(cells < mean - relax * std)  # not `>=`, which is False for NaN
