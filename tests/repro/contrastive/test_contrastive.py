"""The losses against double loops written from their equations, and the parts of MoCo."""

import copy
import math
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import unit
from torch import Generator, Tensor, nn

from repro.contrastive.batch_norm import ReducedBatchNorm, SplitBatchNorm, split_batch_norm, sync_batch_norm
from repro.contrastive.encoders import build_encoder
from repro.contrastive.losses import info_nce, nt_xent
from repro.contrastive.moco import MoCo
from repro.contrastive.momentum import MomentumEncoder
from repro.contrastive.queue import Queue
from repro.contrastive.simclr import SimCLR
from repro.settings.sections import MocoSettings, SimclrSettings

B, C, K, T = 6, 16, 40, 0.2


def slow_info_nce(
    query: Tensor, key: Tensor, queue: Tensor, hard: Tensor | None, temperature: float, rho: float
) -> Tensor:
    """Equation A.5, term by term in double precision."""
    q, k, n = query.double(), key.double(), queue.double()
    losses = []
    for i in range(len(q)):
        positive = torch.exp(torch.dot(q[i], k[i]) / temperature)
        denominator = positive.clone()
        for j in range(n.shape[1]):
            denominator = denominator + torch.exp(torch.dot(q[i], n[:, j]) / temperature)
        if hard is not None:
            denominator = denominator + torch.exp(rho * torch.dot(q[i], hard[i].double()) / temperature)
        losses.append(-torch.log(positive / denominator))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0, None])
def test_info_nce_and_its_gradient_are_those_of_a_slow_loop(rho: float | None, temperature: float) -> None:
    tensors = [unit(B, C, seed=0), unit(B, C, seed=1), unit(C, K, seed=2, dim=0), unit(B, C, seed=3)]
    fast = [t.clone().requires_grad_() for t in tensors]
    slow = [t.clone().requires_grad_() for t in tensors]
    weight = {} if rho is None else {"hard_negative_weight": rho}
    loss = info_nce(*fast[:3], None if rho is None else fast[3], temperature=temperature, **weight)
    expected = slow_info_nce(*slow[:3], None if rho is None else slow[3], temperature, rho or 0.0)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    inputs = 3 if rho is None else 4
    for ours, theirs in zip(
        torch.autograd.grad(loss, fast[:inputs]), torch.autograd.grad(expected, slow[:inputs]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_hard_negative_weighs_two_unless_told() -> None:
    query, key, queue, hard = unit(B, C, seed=0), unit(B, C, seed=1), unit(C, K, seed=2, dim=0), unit(B, C, seed=3)
    default = info_nce(query, key, queue, hard, temperature=T)
    assert default == info_nce(query, key, queue, hard, temperature=T, hard_negative_weight=2.0)
    assert default != info_nce(query, key, queue, hard, temperature=T, hard_negative_weight=1.0)


def test_models_and_settings_have_the_same_defaults() -> None:
    for model, settings in ((MoCo, MocoSettings()), (SimCLR, SimclrSettings())):
        own = signature(model).parameters
        # A model's groups are those of one device, the settings' those of a global batch.
        expected = {name: value for name, value in vars(settings).items() if name != "bn_splits"}
        assert {name: own[name].default for name in expected} == expected


def test_info_nce_without_hard_negative_is_mocos_cross_entropy() -> None:
    query, key, queue = unit(B, C, seed=0), unit(B, C, seed=1), unit(C, K, seed=2, dim=0)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue], 1) / T
    expected = F.cross_entropy(logits, torch.zeros(B, dtype=torch.long))
    torch.testing.assert_close(info_nce(query, key, queue, temperature=T), expected)


def test_info_nce_by_hand() -> None:
    # s+ = 1, one negative at 0, hard negative at .6: -log(e^1 / (e^1 + e^0 + e^1.2)) at temperature 1 and weight 2.
    query = torch.tensor([[1.0, 0.0]])
    loss = info_nce(query, query, torch.tensor([[0.0], [1.0]]), torch.tensor([[0.6, 0.8]]), temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 1 + math.exp(1.2))), abs=1e-6)


def test_each_query_meets_its_own_hard_negative_only() -> None:
    query, key, queue, hard = unit(B, C, seed=0), unit(B, C, seed=1), unit(C, K, seed=2, dim=0), unit(B, C, seed=3)
    hard.requires_grad_()
    similar = info_nce(query[:1], key[:1], queue, hard[:1], temperature=T)
    (gradient,) = torch.autograd.grad(similar, hard)
    assert (gradient[0] != 0).any()
    assert (gradient[1:] == 0).all()


def test_a_small_temperature_does_not_overflow() -> None:
    query, queue = unit(B, C, seed=0), unit(C, K, seed=2, dim=0)
    assert info_nce(query, query, queue, query, temperature=1e-3).item() == pytest.approx(1000, rel=1e-4)
    assert torch.isfinite(nt_xent(query, query, temperature=1e-3))


def test_nt_xent_by_hand() -> None:
    # a = b = the two axes: each anchor has cosine 1 to its partner, and 0 to the two others.
    axes = torch.eye(2)
    assert nt_xent(axes, axes, temperature=0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_nt_xent_does_not_care_which_view_is_which() -> None:
    a, b = unit(B, C, seed=0), unit(B, C, seed=1)
    torch.testing.assert_close(nt_xent(a, b, temperature=T), nt_xent(b, a, temperature=T))
    assert nt_xent(a, a, temperature=T) < nt_xent(a, a.roll(1, 0), temperature=T)


def test_losses_are_computed_in_full_precision_under_autocast() -> None:
    query, key, queue, hard = unit(B, C, seed=0), unit(B, C, seed=1), unit(C, K, seed=2, dim=0), unit(B, C, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = info_nce(query, key, queue, hard, temperature=T), nt_xent(query, key, temperature=T)
    plain = info_nce(query, key, queue, hard, temperature=T), nt_xent(query, key, temperature=T)
    assert [loss.dtype for loss in mixed] == [torch.float32] * 2
    assert mixed == plain
    coarse = [t.bfloat16() for t in (query, key, queue, hard)]
    expected = info_nce(*(t.float() for t in coarse), temperature=T)
    assert info_nce(*coarse, temperature=T) == expected


def test_a_queue_starts_with_unit_vectors() -> None:
    torch.manual_seed(0)
    queue = Queue(C, K)
    assert queue.keys.shape == (C, K)
    torch.testing.assert_close(queue.keys.norm(dim=0), torch.ones(K))
    assert queue.keys.std(1).min() > 0.1


@pytest.mark.parametrize("size", [8, 7], ids=["multiple", "wraps within a batch"])
def test_the_queue_forgets_the_oldest_first(size: int) -> None:
    torch.manual_seed(0)
    queue = Queue(1, size)
    expected = queue.keys[0].tolist()
    for step in range(12):
        batch = [float(2 + 4 * step + i) for i in range(4)]
        queue.enqueue(torch.tensor(batch).unsqueeze(1))
        expected = (expected + batch)[-size:]
        # The oldest key is at `position`.
        assert queue.keys[0].roll(-int(queue.position)).tolist() == expected
        assert int(queue.position) == 4 * (step + 1) % size


def test_queue_and_position_are_part_of_a_checkpoint() -> None:
    torch.manual_seed(0)
    queue = Queue(C, K)
    queue.enqueue(unit(5, C, seed=0))
    other = Queue(C, K)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(unit(5, C, seed=1))
    assert torch.equal(queue.keys, other.keys)


def small_network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))


def test_the_momentum_encoder_starts_as_a_copy_and_follows_by_the_formula() -> None:
    encoder = small_network(0)
    follower = MomentumEncoder(encoder, small_network(1), 0.9)
    for copied, original in zip(follower.network.state_dict().values(), encoder.state_dict().values(), strict=True):
        assert torch.equal(copied, original)
    expected = [p.detach().double().clone() for p in encoder.parameters()]
    for step in range(3):
        with torch.no_grad():
            for p in encoder.parameters():
                p.add_(0.1 * (step + 1) * torch.ones_like(p))
        follower.update(encoder)
        expected = [0.9 * e + 0.1 * p.detach().double() for e, p in zip(expected, encoder.parameters(), strict=True)]
    for p, value in zip(follower.network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.double(), value, rtol=1e-5, atol=1e-6)
        assert not p.requires_grad


def test_the_momentum_encoders_buffers_are_its_own() -> None:
    encoder = small_network(0)
    follower = MomentumEncoder(encoder, small_network(1), 0.9)
    encoder(torch.randn(4, 3, 8, 8) + 3)
    follower.update(encoder)
    assert (encoder[1].running_mean != 0).all()
    assert (follower.network[1].running_mean == 0).all()
    assert int(follower.network[1].num_batches_tracked) == 0
    out = follower(torch.randn(4, 3, 8, 8))
    assert not out.requires_grad
    assert (follower.network[1].running_mean != 0).all()


def learned_norm(module: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 2.0, module.num_features))
        module.bias.copy_(torch.linspace(-1.0, 1.0, module.num_features))
        module.running_mean.copy_(torch.linspace(0.0, 0.3, module.num_features))  # type: ignore[union-attr]
    return module


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [3, 1], ids=["three images each", "one image each"])
@pytest.mark.parametrize("compiled", [False, True], ids=["group by group", "as one expression"])
def test_split_batch_norm_is_a_batch_norm_for_each_group(
    layout: torch.memory_format, size: int, compiled: bool
) -> None:
    features, splits = 5, 4
    split = learned_norm(SplitBatchNorm(features, splits))
    # This backend only traces: the graph that a compiler would get runs as it is.
    normalise = torch.compile(split, backend="eager") if compiled else split
    count = splits * size
    images = torch.randn(count, features, 6, 7, generator=Generator().manual_seed(0)) * 2 + 1
    images = images + torch.arange(float(count)).view(count, 1, 1, 1)  # groups of clearly different statistics
    images = images.contiguous(memory_format=layout)
    ours_in, theirs_in = images.clone().requires_grad_(), images.clone().requires_grad_()
    norms = [learned_norm(nn.BatchNorm2d(features)) for _ in range(splits)]
    expected = torch.empty_like(images)
    for group, norm in enumerate(norms):
        device = slice(size * group, size * (group + 1))
        expected[device] = norm(theirs_in[device])
    out = normalise(ours_in)
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, expected)
    slope = torch.randn(images.shape, generator=Generator().manual_seed(1))
    (out * slope).sum().backward()
    (expected * slope).sum().backward()
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        total = torch.stack([getattr(norm, name).grad for norm in norms]).sum(0)
        torch.testing.assert_close(getattr(split, name).grad, total, rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(norm, name) for norm in norms]).mean(0)
        torch.testing.assert_close(getattr(split, name), mean)
    assert int(split.num_batches_tracked) == 1


@pytest.mark.parametrize("compiled", [False, True], ids=["group by group", "as one expression"])
@pytest.mark.parametrize("count", [10, 3])
def test_groups_are_of_one_size(count: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    with pytest.raises(ValueError, match=rf"^{count} images are no multiple of 4 batch-norm groups$"):
        SplitBatchNorm(5, 4)(torch.randn(count, 5, 4, 4))


@pytest.mark.parametrize(
    ("backend", "kind"), [("", SplitBatchNorm), ("gloo", ReducedBatchNorm), ("nccl", nn.SyncBatchNorm)]
)
def test_a_norm_keeps_settings_and_weights_of_the_one_in_whose_place_it_is(
    backend: str, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.contrastive.batch_norm.world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    one = learned_norm(nn.BatchNorm2d(5, eps=1e-3, momentum=0.01))
    before = copy.deepcopy(one.state_dict())
    network = nn.Sequential(nn.Sequential(one))
    ((norm,),) = sync_batch_norm(network) if backend else split_batch_norm(network, 2)  # type: ignore[misc]
    assert type(norm) is kind
    assert (norm.eps, norm.momentum, getattr(norm, "splits", 2)) == (1e-3, 0.01, 2)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_split_batch_norm_in_eval_mode_is_batch_norm() -> None:
    split, plain = (learned_norm(m).eval() for m in (SplitBatchNorm(5, 4), nn.BatchNorm2d(5)))
    images = torch.randn(6, 5, 4, 4)  # 6 is not a multiple of 4
    torch.testing.assert_close(split(images), plain(images), rtol=0, atol=0)
    assert int(split.num_batches_tracked) == 0


def test_one_group_is_plain_batch_norm() -> None:
    split, plain = learned_norm(SplitBatchNorm(5, 1)), learned_norm(nn.BatchNorm2d(5))
    images = torch.randn(6, 5, 4, 4)
    torch.testing.assert_close(split(images), plain(images))
    torch.testing.assert_close(split.running_var, plain.running_var)


def test_every_norm_of_a_network_is_split_and_keeps_its_parameters() -> None:
    torch.manual_seed(0)
    network = build_encoder("resnet18", C)
    before = copy.deepcopy(network.state_dict())
    split_batch_norm(network, 2)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(isinstance(m, SplitBatchNorm) and m.splits == 2 for m in norms)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_projector_is_moco_v2s_two_layers() -> None:
    encoder = build_encoder("resnet18", 32)
    first, activation, second = encoder.fc
    assert (first.in_features, first.out_features) == (512, 512)
    assert isinstance(activation, nn.ReLU)
    assert (second.in_features, second.out_features) == (512, 32)
