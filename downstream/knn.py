"""Weighted nearest neighbours on a frozen backbone's features, protocol `knn-v1`.

The k training images most like an image by cosine similarity s vote for their class with weight exp(s / T), T = 0.07
(Wu et al. 2018, section 3.4; DINO eval_knn.py). Central crops, no augmentation; k = 20 and 200.
"""

import torch
from torch import Tensor

from downstream.features import FeatureStore, labels_of
from downstream.measurement import Measurement, Target, keep_predictions, measurements, predictions_of, scores
from downstream.partitions import standard
from repro.backbones.backbone import Backbone
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.settings.run import Run

QUERIES = 1024
"""Images scored at a time: their similarities to ImageNet-100's 130,000 training images take half a gigabyte."""


def check(run: Run, target: Target, backbone: Backbone) -> None:
    """Checks what can be known before features are computed.

    Args:
        run: `knn` is used.
        target: The data set.
        backbone: Not used.

    Raises:
        UserError: The data set is broken, or has fewer training images than neighbours.
    """
    run.knn.refuse_fewer(target.dataset, len(standard(target, seed=0).train))


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """Measures `top1`, `top5` and `mean_per_class` for each k.

    Args:
        run: `knn`, `data.crop` and `machine` are used.
        folder: Of the run, with its `backbone.pth`.
        target: The data set.
        device: Where features and votes are computed.

    Raises:
        UserError: The backbone or the data do not fit.
    """
    partition = standard(target, seed=0)
    train, test = partition.train, partition.scored
    store = FeatureStore.of(run, folder, device, "knn", channels_last=run.knn.channels_last)
    bank, queries = (torch.from_numpy(store(images)).to(device) for images in (train, test))
    bank_labels, labels = (torch.from_numpy(labels_of(images)).to(device) for images in (train, test))
    rows = []
    for k in run.knn.neighbours:
        votes = vote(queries, bank, bank_labels, len(train.classes), k, run.knn.temperature)
        protocol, values = run.knn.protocol(k).name, scores(votes, labels)
        predictions = predictions_of(votes, test, votes / votes.sum(1, keepdim=True))
        kept = keep_predictions(folder, Evaluation("knn", target.dataset), protocol, predictions, values)
        rows += measurements(protocol, partition.split, values, kept)
    return rows


@torch.no_grad()
def vote(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Lets the k most similar features of a bank vote for each query's class.

    Args:
        queries: N×D features, of any norm.
        bank: M×D features, of any norm; M is at least k.
        labels: M, the classes of the bank's features.
        classes: Number of classes.
        k: How many neighbours vote.
        temperature: T; the smaller, the more the nearest counts.

    Returns:
        N×classes, the sums of exp(s / T) over the neighbours of each class.
    """
    # Of unit vectors the dot product is the cosine.
    bank = torch.nn.functional.normalize(bank, dim=1)
    # Double precision: exp(1 / 0.07) is 1.6e6, and single precision would lose what far neighbours add to it.
    votes = torch.zeros(len(queries), classes, dtype=torch.float64, device=queries.device)
    for start in range(0, len(queries), QUERIES):
        chunk = torch.nn.functional.normalize(queries[start : start + QUERIES], dim=1)
        similarities, neighbours = (chunk @ bank.T).topk(k, dim=1)
        weights = (similarities.double() / temperature).exp()
        # A slice is a view, so this adds to `votes`; neighbours of one class add up.
        votes[start : start + QUERIES].scatter_add_(1, labels[neighbours], weights)
    return votes
