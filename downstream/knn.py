"""Weighted nearest neighbours on a frozen backbone's features, protocol `knn-v1`.

The k training images most like an image by cosine similarity s vote for their class with weight exp(s / T), T = 0.07
(Wu et al. 2018, section 3.4; DINO eval_knn.py). Central crops, no augmentation; k = 20 and 200.
"""

import torch
from torch import Tensor

from downstream.features import FeatureStore, labels_of
from downstream.measurement import Measurement, Target, measurements, scores
from downstream.partitions import standard
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.run import Run

QUERIES = 1024
"""Images scored at a time: their similarities to 130,000 training images take half a gigabyte."""


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """`top1`, `top5` and `mean_per_class` for each k.

    Raises:
        UserError: the backbone or the data do not fit, or there are fewer training images than neighbours.
    """
    parts = standard(target, seed=0)
    most = max(run.knn.neighbours)
    if most > len(parts.train):
        raise UserError(
            f"knn.neighbours={most}, but {target.dataset} has only {len(parts.train)} training images",
            mend=f"knn.neighbours=[{min(20, len(parts.train))}]",
        )
    store = FeatureStore.of(run, folder, device, "knn")
    bank, queries = (torch.from_numpy(store(part)).to(device) for part in (parts.train, parts.scored))
    bank_labels, labels = (torch.from_numpy(labels_of(part)).to(device) for part in (parts.train, parts.scored))
    found = []
    for k in run.knn.neighbours:
        votes = vote(queries, bank, bank_labels, len(parts.train.classes), k, run.knn.temperature)
        found += measurements(run.knn.protocol(k), parts.split, scores(votes, labels))
    return found


@torch.no_grad()
def vote(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Weighted votes of the k most similar.

    Args:
        queries: N×D features, of any length.
        bank: M×D features, M at least k.
        labels: M, of the bank.
        classes: number of them.
        k: neighbours.
        temperature: T; the smaller, the more the nearest counts.

    Returns:
        N×classes, the sums of exp(s / T).
    """
    bank = torch.nn.functional.normalize(bank, dim=1)
    votes = torch.zeros(len(queries), classes, dtype=torch.float64, device=queries.device)
    for start in range(0, len(queries), QUERIES):
        some = torch.nn.functional.normalize(queries[start : start + QUERIES], dim=1)
        similarity, neighbour = (some @ bank.T).topk(k, dim=1)
        weights = (similarity.double() / temperature).exp()
        votes[start : start + QUERIES].scatter_add_(1, labels[neighbour], weights)
    return votes
