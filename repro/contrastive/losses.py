"""The contrastive losses, with the paper's weighted hard negative as an optional term."""

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.settings.choices import Anchor


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    hard_negative: Tensor | None = None,
    *,
    temperature: float,
    hard_negative_weight: float = 2.0,
) -> Tensor:
    """Computes InfoNCE against a queue of negatives and one weighted hard negative for each query.

    `-log exp(s+/tau) / (exp(s+/tau) + sum_j exp(s_j/tau) + exp(rho * s-/tau))`, s being similarities of unit vectors:
    s+ with the key, s_j with the queue's keys, s- with the hard negative (the authors' poster; released
    moco/builder.py:116-171). The positive stands in the denominator, as in the code and in MoCo; the poster leaves it
    out.

    Args:
        query: B×C, unit length.
        key: B×C, unit length, the positives; in MoCo without gradient, as are queue and hard negatives.
        queue: C×K, unit length, the negatives that all queries share.
        hard_negative: B×C, unit length, each query's own; none for plain MoCo.
        temperature: The formula's tau, positive.
        hard_negative_weight: The formula's rho, 0 or more. It multiplies the hard negative's similarity within the
            exponent: a rho of 2 halves the term's temperature, and does not count the term twice.

    Returns:
        The mean loss in nats, a scalar; log(K + 2) where all similarities are 0, log(K + 1) without a hard negative.
    """
    with torch.autocast(query.device.type, enabled=False):  # in half precision, logits would be off by 1e-3 / tau
        query, key, queue = query.float(), key.float(), queue.float()
        positive = (query * key).sum(1) / temperature
        # The logarithm of the denominator is taken in two steps: to concatenate the queue's B×K similarities with the
        # other columns would copy them once more. All terms stay logarithms, as `exp` would overflow at a low
        # temperature.
        terms = [positive, (query @ queue / temperature).logsumexp(1)]
        if hard_negative is not None:
            terms.append(hard_negative_weight * (query * hard_negative.float()).sum(1) / temperature)
        return (torch.stack(terms).logsumexp(0) - positive).mean()


def nt_xent(
    query: Tensor,
    key: Tensor,
    hard_negative: Tensor | None = None,
    *,
    temperature: float,
    hard_negative_weight: float = 2.0,
    anchor: Anchor = Anchor.query,
) -> Tensor:
    """Computes NT-Xent, SimCLR's loss: each view against its partner, 2B - 2 other views and a weighted hard negative.

    Chen et al. 2020, equation 1 and algorithm 1. An anchor a with partner b and hard negative h adds
    `exp(rho * a.h / tau)` to its denominator, as a query does in `info_nce`.

    Args:
        query: B×C, unit length.
        key: B×C, unit length; key[i] is the other view of query[i]'s image.
        hard_negative: B×C, unit length, each a negative of its own image alone; none for plain SimCLR.
        temperature: Tau, as in `info_nce`.
        hard_negative_weight: Rho, likewise.
        anchor: Which views have the hard negative in their denominator: queries alone, as in MoCo, or keys as well.

    Returns:
        The mean over the 2B anchors in nats, a scalar.
    """
    with torch.autocast(query.device.type, enabled=False):  # in single precision, as `info_nce`
        z = torch.cat([query.float(), key.float()])
        logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # no view is its own negative
        # Queries are rows 0..B-1 and keys B..2B-1, so that a partner is half the rows away.
        partner = torch.arange(len(z), device=z.device).roll(len(query))
        if hard_negative is not None:
            # One more column of logits: in each row the hard negative of the row's own image.
            hard = hard_negative_weight * (z * hard_negative.float().repeat(2, 1)).sum(1) / temperature
            if anchor is Anchor.query:
                hard = torch.cat([hard[: len(query)], torch.full_like(hard[len(query) :], -torch.inf)])
            logits = torch.cat([logits, hard.unsqueeze(1)], 1)
        return F.cross_entropy(logits, partner)
