"""SimCLR: its loss against a slow double loop and other libraries' values, its step, and its step on two processes."""

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import build_small, noise, unit
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn
from training_samples import CPU, on_two_processes

import repro.contrastive.simclr
from repro.contrastive.batch_norm import ReducedBatchNorm, SplitBatchNorm, joint_statistics, sync_batch_norm
from repro.contrastive.encoders import build_encoder
from repro.contrastive.losses import nt_xent
from repro.contrastive.simclr import SimCLR
from repro.masking.views import Views
from repro.processes.distributed import gather_with_gradient, in_ddp
from repro.settings.choices import Anchor

B, C, T, SIZE, DIM = 6, 16, 0.2, 16, 8


def slow_nt_xent(
    query: Tensor, key: Tensor, hard: Tensor | None, temperature: float, rho: float, anchors: Sequence[str]
) -> Tensor:
    """Equation A.7, term by term in double precision: every view is an anchor; only `anchors` have a hard negative."""
    views = {"query": query.double(), "key": key.double()}
    losses = []
    for side, partner_side in (("query", "key"), ("key", "query")):
        for i in range(len(query)):
            anchor = views[side][i]
            positive = torch.exp(torch.dot(anchor, views[partner_side][i]) / temperature)
            denominator = positive.clone()
            for view in views.values():
                for j in range(len(query)):
                    if j != i:
                        denominator = denominator + torch.exp(torch.dot(anchor, view[j]) / temperature)
            if hard is not None and side in anchors:
                denominator = denominator + torch.exp(rho * torch.dot(anchor, hard[i].double()) / temperature)
            losses.append(-torch.log(positive / denominator))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize(
    ("rho", "anchor", "anchors"),
    [
        (None, Anchor.query, ()),
        (0.0, Anchor.query, ("query",)),
        (1.0, Anchor.query, ("query",)),
        (2.0, Anchor.query, ("query",)),
        (2.0, Anchor.both, ("query", "key")),
    ],
)
def test_nt_xent_and_its_gradient_are_those_of_a_slow_loop(
    rho: float | None, anchor: Anchor, anchors: Sequence[str], temperature: float
) -> None:
    tensors = [unit(B, C, seed=seed) for seed in range(3 if rho is not None else 2)]
    fast, slow = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    loss = nt_xent(*fast, temperature=temperature, hard_negative_weight=rho or 0.0, anchor=anchor)
    hard = slow[2] if rho is not None else None
    expected = slow_nt_xent(slow[0], slow[1], hard, temperature, rho or 0.0, anchors)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, fast), torch.autograd.grad(expected, slow), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, 1.0986123), (8, 2.7080502), (16, 3.4339872)])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_equal_embeddings_have_the_loss_that_lightlys_tests_state(
    count: int, expected: float, temperature: float
) -> None:
    # lightly tests/loss/test_ntx_ent_loss.py, test_with_correlated_embedding: log(2n - 1).
    same = F.normalize(torch.tensor([[1.0, 2.0]]).expand(count, 2), dim=1)
    assert nt_xent(same, same, temperature=temperature).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.07, 1.6021983), (0.2, 0.9878814), (0.5, 1.3649470), (1.0, 1.7112096)]
)
def test_nt_xent_gives_the_values_of_lightly_1_6(temperature: float, expected: float) -> None:
    # What lightly.loss.NTXentLoss(temperature) of lightly 1.6.0 returns for these two tensors.
    i = torch.arange(35, dtype=torch.float64).view(5, 7)
    query, key = (F.normalize(torch.sin(start + 1.7 * i + 0.05 * i * i), dim=1) for start in (0.3, 1.1))
    assert nt_xent(query, key, temperature=temperature).item() == pytest.approx(expected, abs=1e-6)


def test_nt_xent_with_a_hard_negative_by_hand() -> None:
    # One image: positive 1, hard negative .6 at weight 2, which only the query has; the key has no negative at all.
    one = torch.tensor([[1.0, 0.0]])
    loss = nt_xent(one, one, torch.tensor([[0.6, 0.8]]), temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + math.exp(1.2))) / 2, abs=1e-6)


def test_nobody_meets_another_images_hard_negative() -> None:
    query, key, hard = (unit(B, C, seed=seed) for seed in range(3))
    hard.requires_grad_()
    total = B * 2 * nt_xent(query, key, hard, temperature=T)
    swapped = hard.detach().clone()
    swapped[1:] = swapped[1:].roll(1, 0)
    rest = B * 2 * nt_xent(query, key, swapped, temperature=T)
    assert not torch.isclose(total, rest)
    (gradient,) = torch.autograd.grad(total, hard)
    cosine = F.cosine_similarity(gradient, query)  # each gradient lies along its own query
    torch.testing.assert_close(cosine, torch.ones(B))


def images(seed: int, count: int = 8) -> Tensor:
    return noise(count, SIZE, seed)


def simclr(**settings: Any) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR("small", DIM, **settings)


@pytest.mark.parametrize("stopgrad", [False, True])
@pytest.mark.parametrize("anchor", list(Anchor))
def test_a_step_is_the_loss_of_the_equation_with_each_view_normalised_by_itself(
    small_encoder: None, anchor: Anchor, stopgrad: bool
) -> None:
    settings = {"temperature": 0.3, "hard_negative_weight": 1.5, "hard_negative_anchor": anchor}
    model = simclr(**settings, hard_negative_stopgrad=stopgrad)
    reference = copy.deepcopy(model.encoder)
    loss = model(Views(images(0), images(1), images(2)))["loss"]
    loss.backward()
    embedded = [F.normalize(reference(images(seed)), dim=1) for seed in range(3)]
    if stopgrad:
        embedded[2] = embedded[2].detach()
    anchors = ("query",) if anchor is Anchor.query else ("query", "key")
    expected = slow_nt_xent(*embedded, 0.3, 1.5, anchors)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, p), expected_p in zip(model.encoder.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected_p.grad, rtol=1e-3, atol=1e-5, msg=name)
    # Three batches updated the running statistics, in this order.
    for buffer, expected_buffer in zip(model.encoder.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected_buffer)


def test_plain_simclr_makes_two_forward_passes(small_encoder: None) -> None:
    model = simclr()
    seen: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert torch.isfinite(model(Views(images(0), images(1)))["loss"])
    assert seen == [8, 8]


def test_mixed_precision_hands_full_precision_unit_vectors_to_the_loss(
    small_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Tensor] = []

    def spy(*args: Tensor, **settings: Any) -> Tensor:
        handed.extend(args)
        return nt_xent(*args, **settings)

    monkeypatch.setattr(repro.contrastive.simclr, "nt_xent", spy)
    model = simclr()
    exact = model(Views(images(0), images(1), images(2)))["loss"]
    model.to(memory_format=torch.channels_last)
    views = [images(seed).contiguous(memory_format=torch.channels_last) for seed in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(Views(*views))["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=0.1)
    assert loss != exact
    assert len(handed) == 6
    for vectors in handed:
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8), rtol=0, atol=1e-5)


def test_a_state_dict_goes_round(small_encoder: None, tmp_path: Path) -> None:
    model = simclr()
    model(Views(images(0), images(1)))
    torch.save(model.state_dict(), tmp_path / "simclr.pth")
    torch.manual_seed(1)
    other = SimCLR("small", DIM)
    other.load_state_dict(torch.load(tmp_path / "simclr.pth", weights_only=True))
    losses = [each(Views(images(0), images(1)))["loss"] for each in (model, other)]
    assert torch.equal(*losses)


def test_a_mode_other_than_loss_is_refused(small_encoder: None) -> None:
    with pytest.raises(ValueError, match="predict"):
        simclr()(Views(images(0), images(1)), mode="predict")


def test_the_projector_is_adios_two_layers() -> None:
    first, activation, second = SimCLR("resnet18", 32).encoder.fc
    assert isinstance(activation, nn.ReLU)
    assert (first.in_features, first.out_features, second.out_features) == (512, 512, 32)


# Two processes: the joint batch, its statistics and its negatives, on halves.

HALVES = (slice(0, 4), slice(4, 8))


def step(model: nn.Module, inner: SimCLR, chosen: slice) -> dict[str, Any]:
    """Loss, gradients and running statistics of a step on a part of the batch."""
    loss = model(views=Views(*(images(seed)[chosen] for seed in range(3))), mode="loss")["loss"]
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in inner.encoder.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "gradients": gradients, "buffers": dict(inner.encoder.named_buffers())}


def running_means(number: int) -> tuple[float, float]:
    """A norm's running mean while the statistics of all ranks are joined, and afterwards."""
    norm = SplitBatchNorm(1, 2)
    norm.running_mean.fill_(number)
    with joint_statistics(norm):
        joint = norm.running_mean.item()
    return joint, norm.running_mean.item()


def one_of_two(number: int, _place: Path) -> dict[str, Any]:
    """What each of two processes computes."""
    repro.contrastive.simclr.build_encoder = build_small
    outcome: dict[str, Any] = {}
    for stopgrad in (False, True):
        model = simclr(hard_negative_stopgrad=stopgrad)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            wrapped = in_ddp(model, CPU, MMDistributedDataParallel)
        outcome["warned"] = [str(warning.message) for warning in warned]
        outcome[f"stopgrad {stopgrad}"] = step(wrapped, model, HALVES[number])
    local = torch.full((2, 3), float(number + 1), requires_grad=True)
    joined = gather_with_gradient(local)
    (joined * torch.arange(12.0).view(4, 3) * (number + 1)).sum().backward()
    outcome["gathered"], outcome["local gradient"] = joined.detach(), local.grad
    outcome["running means"] = running_means(number)
    # A ResNet's norms keep their parameters when they are replaced.
    network = sync_batch_norm(build_encoder("resnet18", DIM))
    outcome["norms"] = {type(m).__name__ for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return outcome


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[dict[str, Any]]:
    return on_two_processes(one_of_two, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("stopgrad", [False, True])
def test_two_processes_are_one_on_the_joined_batch(
    small_encoder: None, ranks: Sequence[dict[str, Any]], stopgrad: bool
) -> None:
    model = simclr(hard_negative_stopgrad=stopgrad)
    alone = step(model, model, slice(None))
    for outcome in ranks:
        joint = outcome[f"stopgrad {stopgrad}"]
        torch.testing.assert_close(joint["loss"], alone["loss"], rtol=1e-5, atol=1e-6)
        assert joint["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(joint["gradients"][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
        for name, buffer in alone["buffers"].items():
            torch.testing.assert_close(joint["buffers"][name], buffer, rtol=1e-4, atol=1e-6, msg=name)


def test_a_gathered_gradient_is_the_sum_over_the_ranks_losses(ranks: Sequence[dict[str, Any]]) -> None:
    factors = torch.arange(12.0).view(4, 3) * (1 + 2)
    for number, outcome in enumerate(ranks):
        assert outcome["gathered"].tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
        assert torch.equal(outcome["local gradient"], factors[2 * number : 2 * number + 2])


def test_ddp_warns_of_nothing(ranks: Sequence[dict[str, Any]]) -> None:
    assert [outcome["warned"] for outcome in ranks] == [[], []]


def test_a_look_at_joint_statistics_leaves_each_process_its_own(ranks: Sequence[dict[str, Any]]) -> None:
    assert [outcome["running means"] for outcome in ranks] == [(0.5, 0.0), (0.5, 1.0)]


def test_every_norm_spans_the_processes_and_one_process_needs_none(ranks: Sequence[dict[str, Any]]) -> None:
    assert ranks[0]["norms"] == {ReducedBatchNorm.__name__}
    network = build_small("", DIM)
    assert sync_batch_norm(network) is network
    assert not any(isinstance(m, ReducedBatchNorm) for m in network.modules())
    one, plain = ReducedBatchNorm(12), nn.BatchNorm2d(12)
    batch = torch.randn(4, 12, 3, 3)
    assert torch.equal(one(batch), plain(batch))
