"""Numbers that tell, without training a probe, how useful a network's features are and whether they have collapsed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.settings.protocols import KnnSettings

NEIGHBOURS = 5
"""How many nearest other images vote for an image's class."""
TEMPERATURE = KnnSettings().temperature
"""Temperature of the votes, that of the protocol `knn-v1`."""


def knn_top1(features: Tensor, labels: Tensor) -> float:
    """Returns the share of images, in percent, whose nearest neighbours among the others vote for their class.

    Args:
        features: N×D, of any norm; N is more than `NEIGHBOURS`.
        labels: N classes, from 0.
    """
    unit = F.normalize(features.double(), dim=1)
    similarities, neighbours = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(NEIGHBOURS, dim=1)
    votes = unit.new_zeros(len(unit), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[neighbours], (similarities / TEMPERATURE).exp())
    return 100 * float((votes.argmax(1) == labels).double().mean())


def effective_rank(features: Tensor) -> float:
    """Returns the exponential of the entropy of the centred features' normalised singular values.

    Of N×D features it lies between 1 (all on a line) and min(N - 1, D); it is 0 where all are the same (Roy and
    Vetterli 2007; RankMe, Garrido et al. 2023, does not centre, but the mean of features behind a ReLU would hide the
    rest).
    """
    centred = features.double() - features.double().mean(0)
    # What centring leaves of equal features is a rounding error of this size.
    if float(centred.norm()) <= 1e-6 * float(features.double().norm()):
        return 0.0
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spread(embeddings: Tensor) -> float:
    """Returns the variance of unit embeddings N×C, summed over dimensions: 1 where they cancel out, 0 in one point."""
    return 1 - float(embeddings.double().mean(0).square().sum())


def alignment(query: Tensor, key: Tensor) -> float:
    """Returns the mean squared distance of unit embeddings N×C of two views of an image (Wang and Isola 2020)."""
    return float((query - key).square().sum(1).mean())


def uniformity(embeddings: Tensor) -> float:
    """Returns the logarithm of the mean Gaussian potential of all pairs of unit embeddings N×C (Wang and Isola 2020).

    0 where all lie in one point; lower the more evenly they cover the sphere.
    """
    return float(torch.pdist(embeddings.double()).square().mul(-2).exp().mean().log())


def hard_negative_share(
    query: Tensor, key: Tensor, hard_negative: Tensor, others: Tensor, *, temperature: float, weight: float
) -> float:
    """Returns the mean share of the hard negative in the denominator of a query's softmax, see `info_nce`.

    Args:
        query: N×C, unit length.
        key: N×C, the positives.
        hard_negative: N×C, each query's own.
        others: N×K, the similarities of each query with its other negatives; minus infinity where it has no negative.
        temperature: t.
        weight: rho.
    """
    positive = (query * key).sum(1, keepdim=True)
    hard = weight * (query * hard_negative).sum(1, keepdim=True)
    return float(torch.cat([hard, positive, others], 1).div(temperature).softmax(1)[:, 0].mean())


def similarities_to_others(query: Tensor, key: Tensor) -> Tensor:
    """Returns the similarities of each query with its negatives in SimCLR, both views of all other images.

    Args:
        query: N×C, unit length.
        key: N×C, the positives.

    Returns:
        N×2N: with all queries, then with all keys; minus infinity where the view is one of the query's own image.
    """
    own = torch.eye(len(query), dtype=torch.bool, device=query.device).repeat(1, 2)
    return (query @ torch.cat([query, key]).T).masked_fill(own, -math.inf)
