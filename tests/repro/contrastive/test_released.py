"""The released hard negative on one process and on four, against the authors' code for four GPUs, written out.

There, each GPU masks the key of image 0 of its own batch, embeds it alone, and uses it for all of its queries
(main_moco.py:362,375; moco/builder.py:144,156). A batch-norm group stands for a GPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import small_encoders
from torch import Generator, Tensor
from training_samples import CPU, fixed_batch, on_processes, tiny

from repro.contrastive.moco import MoCo
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed
from repro.training.learner import build_model, build_view_maker
from repro.training.steps.preprocess import Stages

GPUS, BATCH, SEED = 4, 8, 3
SHARE = BATCH // GPUS
SETTINGS = {
    "seed": SEED,
    "data.crop": 64,
    "masking.guidance": "random",  # no localizer
    "fidelity": "released",
    "optimization.batch": BATCH,
    "moco.bn_splits": GPUS,
    "moco.queue": 4 * BATCH,
}


def released_stages(method: str = "mocov2+ours-hp", **changes: object) -> Stages:
    """The first batch of a run, up to the network's inputs, on one process."""
    run = tiny(method, SETTINGS | changes)
    return build_view_maker(run, CPU).stages(fixed_batch(run, BATCH))


def make_model() -> MoCo:
    """The run's model, on the current number of processes."""
    torch.manual_seed(0)
    with small_encoders():
        model = build_model(tiny("mocov2+ours-hp", SETTINGS), None)
    assert isinstance(model, MoCo)
    return model.train()


def authors_loss(model: MoCo, views: Views) -> Tensor:
    """The mean of the losses of four GPUs, in the steps of moco/builder.py; the model's batch norm has one group."""
    assert views.hard_negative is not None
    order = torch.randperm(BATCH, generator=Generator().manual_seed(stream_seed(SEED, Purpose.shuffle, 0, 0)))
    shuffled_keys = [model.encoder_k(views.key[order[gpu * SHARE : (gpu + 1) * SHARE]]) for gpu in range(GPUS)]
    key = F.normalize(torch.cat(shuffled_keys)[order.argsort()], dim=1)
    losses = []
    for gpu in range(GPUS):
        share = slice(gpu * SHARE, (gpu + 1) * SHARE)
        query = F.normalize(model.encoder_q(views.query[share]), dim=1)
        hard_negative = F.normalize(model.encoder_k(views.hard_negative[gpu : gpu + 1]), dim=1)  # 1×dim
        positives = torch.einsum("nc,nc->n", query, key[share])[:, None]
        negatives = torch.einsum("nc,ck->nk", query, model.queue.keys)
        # A size of 1 is broadcast: so image 0 becomes the hard negative of all queries there.
        hard = model.hard_negative_weight * torch.einsum("nc,nc->n", query, hard_negative)[:, None]
        logits = torch.cat([positives, negatives, hard], dim=1) / model.temperature
        losses.append(F.cross_entropy(logits, torch.zeros(SHARE, dtype=torch.long)))
    return torch.stack(losses).mean()


def one_group(model: MoCo) -> MoCo:
    """The model as on one GPU: its batch norm has a single group."""
    for module in model.modules():
        if hasattr(module, "splits"):
            module.splits = 1
    return model


def share_of_gpu(number: int, place: Path) -> dict[str, Any]:
    views = torch.load(place / "views.pth", weights_only=False)
    share = slice(number * SHARE, (number + 1) * SHARE)
    # As `SaliencyMasking` does for a process's share: one hard negative for the whole share.
    own = Views(views.query[share], views.key[share], views.hard_negative[number : number + 1], SHARE)
    return {"loss": make_model()(own)["loss"].detach()}


def test_one_process_and_four_compute_the_loss_of_the_authors_four_gpus(tmp_path: Path) -> None:
    views = released_stages().views
    expected = authors_loss(one_group(make_model()), views)
    alone = make_model()(views)["loss"]
    torch.testing.assert_close(alone, expected, rtol=1e-6, atol=1e-6)
    torch.save(views, tmp_path / "views.pth")
    shares = [outcome["loss"] for outcome in on_processes(GPUS, share_of_gpu, tmp_path)]
    torch.testing.assert_close(torch.stack(shares).mean(), expected, rtol=1e-6, atol=1e-6)
    # A single hard negative for the whole batch, as if the four GPUs were one, gives another loss.
    assert views.hard_negative is not None
    of_one = Views(views.query, views.key, views.hard_negative[:1].expand(GPUS, -1, -1, -1), SHARE)
    assert abs(make_model()(of_one)["loss"] - expected) > 1e-4


@pytest.mark.parametrize("splits", [1, 2, 4, 8])
def test_each_groups_hard_negative_is_the_masked_key_of_its_first_image(splits: int) -> None:
    stages = released_stages("mocov2+ours-blur", **{"moco.bn_splits": splits})
    hard_negative, key = stages.views.hard_negative, stages.views.key
    assert hard_negative is not None
    assert (len(hard_negative), stages.views.hard_negative_serves) == (splits, BATCH // splits)
    for n, image in enumerate(hard_negative):
        same = [(image == other).float().mean().item() for other in key]
        assert max(range(BATCH), key=same.__getitem__) == n * BATCH // splits
        assert 0.2 < max(same) < 0.7  # 40 to 70 % of the patches are hidden
