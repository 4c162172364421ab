"""One step of MoCo: what it learns from, what it enqueues, and how it shuffles."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import noise
from torch import Tensor

import repro.contrastive.moco
from repro.contrastive.batch_norm import SplitBatchNorm
from repro.contrastive.losses import info_nce
from repro.contrastive.moco import MoCo
from repro.contrastive.shuffle import Shuffles
from repro.masking.views import Views

pytestmark = pytest.mark.usefixtures("small_encoder")

B, SIZE, DIM, QUEUE = 8, 32, 16, 24


def images(seed: int, count: int = B) -> Tensor:
    return noise(count, SIZE, seed)


def moco(seed: int = 0, **settings: Any) -> MoCo:
    torch.manual_seed(seed)
    return MoCo("small", DIM, **({"queue": QUEUE, "bn_splits": 2} | settings))


def key_inputs(model: MoCo) -> list[Tensor]:
    """Records every batch that the key encoder gets from now on."""
    seen: list[Tensor] = []
    model.encoder_k.network.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    return seen


def order_of(shuffled: Tensor, original: Tensor) -> list[int]:
    return [int((original == image).flatten(1).all(1).nonzero()) for image in shuffled]


def test_a_step_is_the_loss_of_the_equation_on_the_queue_as_it_was() -> None:
    model = moco(momentum=0.5, temperature=0.3, hard_negative_weight=1.5).eval()
    reference = copy.deepcopy(model)
    with torch.no_grad():  # encoders that differ, so that a wrong update shows
        for p in [*model.encoder_k.parameters(), *reference.encoder_k.parameters()]:
            p.mul_(1.1)
    model(Views(images(0), images(1), images(2)))["loss"].backward()

    reference.encoder_k.update(reference.encoder_q)
    embed = [F.normalize(f(x), dim=1) for f, x in ((reference.encoder_q, images(0)), (reference.encoder_k, images(1)))]
    hard = F.normalize(reference.encoder_k(images(2)), dim=1)
    expected = info_nce(*embed, reference.queue.keys, hard, temperature=0.3, hard_negative_weight=1.5)
    expected.backward()
    for p, expected_p in zip(model.encoder_q.parameters(), reference.encoder_q.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected_p.grad, rtol=1e-3, atol=1e-5)
    assert not torch.equal(model.queue.keys, reference.queue.keys)  # it was overwritten before backward


def test_the_key_encoder_has_no_gradient_and_is_updated_before_its_keys() -> None:
    model = moco(momentum=0.5)
    with torch.no_grad():
        for p in model.encoder_q.parameters():
            p.add_(0.01)
    before = [p.clone() for p in model.encoder_k.parameters()]
    model(Views(images(0), images(1), images(2)))["loss"].backward()
    for old, k, q in zip(before, model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True):
        assert k.grad is None
        assert q.grad is not None
        torch.testing.assert_close(k, 0.5 * old + 0.5 * q)


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_this_batchs_keys_are_enqueued_in_order_and_hard_negatives_never(splits: int) -> None:
    # In eval mode each key depends on its own image alone, so that the shuffle must be undone to match.
    model = moco(bn_splits=splits).eval()
    rest = model.queue.keys[:, B:].clone()
    model(Views(images(0), images(1), images(2)))
    expected = F.normalize(model.encoder_k(images(1)), dim=1)
    torch.testing.assert_close(model.queue.keys[:, :B].T, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.queue.keys[:, B:], rest)
    assert int(model.queue.position) == B
    model(Views(images(0), images(3), images(2)))
    assert int(model.queue.position) == 2 * B
    torch.testing.assert_close(
        model.queue.keys[:, B : 2 * B].T, F.normalize(model.encoder_k(images(3)), dim=1), rtol=1e-4, atol=1e-5
    )


def test_keys_and_hard_negatives_are_shuffled_anew_at_each_step() -> None:
    model = moco(bn_splits=2)
    seen = key_inputs(model)
    for _ in range(3):
        model(Views(images(0), images(1), images(2)))
    orders = [order_of(batch, images(1 + i % 2)) for i, batch in enumerate(seen)]
    assert len(orders) == 6
    assert all(sorted(order) == list(range(B)) for order in orders)
    assert len({tuple(order) for order in orders} | {tuple(range(B))}) == 7


def test_shuffles_follow_from_seed_and_steps_alone() -> None:
    orders = []
    for seed, steps in ((5, 40), (5, 40), (5, 41), (6, 40)):
        model = moco(seed=steps, bn_splits=2)
        model.shuffles.seed, model.steps = seed, steps
        batches = key_inputs(model)
        torch.manual_seed(len(orders))  # the global generator has no influence
        model(Views(images(0), images(1)))
        orders.append(order_of(batches[0], images(1)))
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]


def test_a_captured_step_reads_orders_that_are_refreshed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffles = Shuffles(seed=5)
    eager = [shuffles.order_and_inverse(step, 0, B, torch.device("cpu")).clone() for step in range(3)]
    monkeypatch.setattr("repro.contrastive.shuffle.is_capturing", lambda: True)
    captured = shuffles.order_and_inverse(2, 0, B, torch.device("cpu"))
    monkeypatch.undo()
    monkeypatch.setattr(Tensor, "pin_memory", lambda order: order)
    # A step outside of the graph uses memory of its own.
    assert shuffles.order_and_inverse(0, 0, B, torch.device("cpu")).data_ptr() != captured.data_ptr()
    for step in (1, 0):
        shuffles.refresh(step)
        assert torch.equal(captured, eager[step])


def test_a_replayed_step_counts_as_one_and_has_orders_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, refreshed = moco(), []
    monkeypatch.setattr(model.shuffles, "refresh", refreshed.append)
    model(Views(images(0), images(1)))
    model.before_replay()
    assert (refreshed, model.get_extra_state()) == ([1], {"steps": 2})


def test_without_groups_there_is_nothing_to_shuffle() -> None:
    model = moco(bn_splits=1)
    seen = key_inputs(model)
    model(Views(images(0), images(1)))
    assert order_of(seen[0], images(1)) == list(range(B))


def test_one_hard_negative_serves_every_query_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Tensor] = []

    def spy(*args: Tensor, **settings: float) -> Tensor:
        handed.append(args[3])
        return info_nce(*args, **settings)

    monkeypatch.setattr(repro.contrastive.moco, "info_nce", spy)
    model = moco().eval()
    loss = model(Views(images(0), images(1), images(2, 2), B // 2))["loss"]
    assert torch.isfinite(loss)
    (hard,) = handed
    expected = F.normalize(model.encoder_k(images(2, 2)), dim=1)
    torch.testing.assert_close(hard, expected[[0] * (B // 2) + [1] * (B // 2)], rtol=1e-4, atol=1e-5)


def test_hard_negatives_of_groups_are_normalised_each_alone_as_b3_says() -> None:
    model = moco(bn_splits=2)
    # Each embedding would differ if its image shared statistics with its neighbour, or with itself in another place.
    alone = [F.normalize(copy.deepcopy(plain_norms(model).encoder_k)(images(2, 2)[i : i + 1]), dim=1) for i in (0, 1)]
    torch.testing.assert_close(model.embed_keys(images(2, 2), stream=1), torch.cat(alone), rtol=1e-4, atol=1e-5)
    together = F.normalize(plain_norms(model).encoder_k(images(2, 2)), dim=1)
    assert (together - torch.cat(alone)).abs().max() > 0.01


def plain_norms(model: MoCo) -> MoCo:
    """A copy of the model whose batch norm has one group, the whole of its input."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, SplitBatchNorm):
            module.splits = 1
    return copied


def test_the_hard_negative_adds_to_the_loss() -> None:
    plain, hardened = (moco().eval()(Views(images(0), images(1), hard))["loss"] for hard in (None, images(2)))
    assert hardened > plain


def test_a_checkpoint_holds_queue_position_and_steps(tmp_path: Path) -> None:
    model = moco()
    for step in range(3):
        model(Views(images(0), images(step), images(2)))
    torch.save(model.state_dict(), tmp_path / "moco.pth")
    resumed = moco(seed=1)
    resumed.load_state_dict(torch.load(tmp_path / "moco.pth", weights_only=True))
    assert resumed.steps == 3
    assert int(resumed.queue.position) == 3 * B % QUEUE
    # From here both models take the same step, shuffles included.
    losses = [network(Views(images(0), images(9), images(2)))["loss"] for network in (model, resumed)]
    assert torch.equal(*losses)
    assert torch.equal(model.queue.keys, resumed.queue.keys)


@pytest.mark.parametrize("splits", [1, 2])
def test_mixed_precision_hands_full_precision_unit_vectors_to_the_loss(
    monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    handed: list[Tensor] = []

    def spy(*args: Tensor, **settings: float) -> Tensor:
        handed.extend(args)
        return info_nce(*args, **settings)

    monkeypatch.setattr(repro.contrastive.moco, "info_nce", spy)
    model = moco(bn_splits=splits)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(Views(images(0), images(1), images(2)))["loss"]
    assert loss.dtype == torch.float32
    query, key, queue, hard = handed
    for vectors in (query, key, queue.T, hard):
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), rtol=0, atol=1e-5)


def test_a_mode_other_than_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="predict"):
        moco()(Views(images(0), images(1)), mode="predict")
