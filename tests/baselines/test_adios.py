"""ADIOS: penalties and steps against the written-out equations, and the effect of a step on both players."""

import copy
import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from adios_samples import CROP, DIM, FRAMEWORKS, SEED, B, make_adios, make_views, with_optimizers
from error_samples import message_of
from torch import Generator, Tensor, nn
from training_samples import assert_same

from baselines.adios import MARGIN, Adios, frozen, negative_entropy, sparsity_penalty
from baselines.adios_contrast import contrast_of
from repro.contrastive.losses import info_nce, nt_xent
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.masking.views import Views
from repro.randomness import Purpose, stream_seed

pytestmark = pytest.mark.usefixtures("small_encoder")


# The penalties


def slow_sparsity(shares: Tensor) -> float:
    return sum(
        sum(1 / math.sin(math.pi * share) for share in column) / len(shares) for column in shares.double().T.tolist()
    )


def slow_entropy(shares: Tensor) -> float:
    total = 0.0
    for row in shares.double().tolist():
        normaliser = sum(math.exp(share) for share in row)
        total += sum(math.exp(share) / normaliser * math.log(math.exp(share) / normaliser) for share in row)
    return total


@pytest.fixture
def shares() -> Tensor:
    return torch.randn(6, 4, generator=Generator().manual_seed(2)).mul(2).softmax(1)


def test_penalties_equal_the_written_out_sums(shares: Tensor) -> None:
    assert shares.min() < 0.02
    assert float(sparsity_penalty(shares)) == pytest.approx(slow_sparsity(shares), rel=1e-5)
    assert float(negative_entropy(shares)) == pytest.approx(slow_entropy(shares), rel=1e-5)
    even = torch.full((5, 4), 0.25)
    assert float(sparsity_penalty(even)) == pytest.approx(4 * math.sqrt(2))
    assert float(negative_entropy(even)) == pytest.approx(-5 * math.log(4))
    assert negative_entropy(shares) > -6 * math.log(4)


def test_the_published_penalty_turns_into_a_reward_where_ours_stays_one() -> None:
    everything = torch.ones(())
    published = 1 / (torch.sin(everything * math.pi) + 1e-10)
    assert published < -1e7  # which the guard prevents
    for share in (0.0, 1e-9, 1 - 1e-7, 1.0):
        penalty = sparsity_penalty(torch.tensor([[share]]))
        assert 300 < float(penalty) < 700
    # Within a thousandth of an end the penalty follows its tangent: at the end it is twice that at a thousandth.
    assert float(sparsity_penalty(torch.zeros(1, 1))) == pytest.approx(2 / (math.pi * 1e-3), rel=1e-4)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_guard_is_continuous_and_leads_back_from_an_end(end: float) -> None:
    inside, outside = (torch.tensor([[abs(end - MARGIN * f)]], dtype=torch.float64) for f in (1.0001, 0.9999))
    values, gradients = [], []
    for share in (inside, outside):
        share.requires_grad_()
        penalty = sparsity_penalty(share)
        penalty.backward()
        values.append(float(penalty.detach()))
        gradients.append(float(share.grad))  # type: ignore[arg-type]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-3)
    at_end = torch.tensor([[end]], requires_grad=True)
    sparsity_penalty(at_end).backward()
    assert math.isfinite(float(at_end.grad))  # type: ignore[arg-type]
    # Descent moves the share away from the end.
    assert float(at_end.grad) * (0.5 - end) < -1e5  # type: ignore[arg-type]


# The two steps


def drawn_masks(steps: int, turn: int) -> Tensor:
    generator = Generator().manual_seed(stream_seed(SEED, Purpose.occlusion, steps, turn))
    return torch.randint(4, (B,), generator=generator)


def slow_masked(images: Tensor, masks: Tensor, choices: Tensor) -> Tensor:
    return torch.stack([image * (1 - masks[i, choices[i]]) for i, image in enumerate(images)])


def slow_loss(model: Adios, masked: Tensor, views: Views) -> Tensor:
    """The contrastive loss of one masked query view, from the parts."""
    substrate = model.contrast.substrate
    if isinstance(substrate, SimCLR):
        query, key = (F.normalize(substrate.encoder(x), dim=1) for x in (masked, views.key))
        return nt_xent(query, key, temperature=0.2)
    query = F.normalize(substrate.encoder_q(masked), dim=1)
    return info_nce(query, substrate.embed_keys(views.key), substrate.queue.keys, temperature=0.2)


def follow(model: Adios) -> None:
    """Updates the momentum encoder, if there is one."""
    if isinstance(model.contrast.substrate, MoCo):
        model.contrast.substrate.encoder_k.update(model.contrast.substrate.encoder_q)


def gradient(network: nn.Module) -> Tensor:
    """All gradients of a network in one vector; every parameter must have one."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) == len(list(network.parameters()))
    return torch.cat([tensor.flatten() for tensor in gradients])


def assert_close_gradients(network: nn.Module, reference: nn.Module) -> None:
    actual, expected = gradient(network), gradient(reference)
    assert (actual - expected).norm() < 5e-3 * expected.norm()  # a ReLU at its kink accounts for 1e-3


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_encoders_loss_is_the_equations(framework: str, single: bool) -> None:
    model, views = make_adios(framework, single=single), make_views()
    reference = copy.deepcopy(model)
    loss, _ = model.encoder_loss(views)
    loss.backward()
    follow(reference)
    with torch.no_grad():
        masks = reference.occlusion(views.query)
    choices = [drawn_masks(0, 0)] if single else [torch.full((B,), n) for n in range(4)]
    expected = torch.stack([slow_loss(reference, slow_masked(views.query, masks, c), views) for c in choices]).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_close_gradients(model.contrast.substrate.encoder, reference.contrast.substrate.encoder)
    assert all(p.grad is None for p in model.occlusion.parameters())


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_occlusion_networks_loss_is_the_equations(framework: str, single: bool) -> None:
    model, views = make_adios(framework, single=single, alpha_sparsity=0.75, alpha_entropy=50.0), make_views()
    keys = model.contrast.keys(views.key)
    reference = copy.deepcopy(model)
    objective, numbers = model.occlusion_loss(views, keys.detach())
    objective.backward()

    masks = reference.occlusion(views.query)
    choices = [drawn_masks(0, 1)] if single else [torch.full((B,), n) for n in range(4)]
    contrastive = torch.stack([slow_loss(reference, slow_masked(views.query, masks, c), views) for c in choices]).sum()
    size = masks.sum([-1, -2]) / CROP**2
    sparsity = (1 / (torch.sin(size * math.pi) + 1e-10)).mean(0).sum(0)
    entropy = (F.softmax(size, dim=1) * F.log_softmax(size, dim=1)).sum()
    expected = -(contrastive - 0.75 * sparsity + 50.0 * entropy)
    expected.backward()
    torch.testing.assert_close(objective, expected, rtol=1e-4, atol=1e-4)
    assert_close_gradients(model.occlusion, reference.occlusion)
    assert float(numbers["sparsity"]) == pytest.approx(float(sparsity.detach()), rel=1e-5)
    assert float(numbers["entropy"]) == pytest.approx(-float(entropy.detach()) / B, rel=1e-5)
    assert [float(numbers[f"mask_share_{n}"]) for n in (1, 2, 3, 4)] == pytest.approx(size.mean(0).tolist())
    assert all(p.grad is None for p in model.contrast.parameters())  # frozen


def test_what_was_frozen_learns_again_and_what_never_learned_does_not() -> None:
    model = make_adios("mocov2")
    before = [p.requires_grad for p in model.contrast.parameters()]
    assert True in before
    assert False in before  # the momentum encoder
    with frozen(model.contrast):
        assert not any(p.requires_grad for p in model.contrast.parameters())
    assert [p.requires_grad for p in model.contrast.parameters()] == before


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_encoder_lowers_and_the_occlusion_network_raises_the_loss_of_a_fixed_batch(framework: str) -> None:
    views = make_views()
    contrastive: dict[str, list[float]] = {}
    for player in ("encoder", "occlusion"):
        model = make_adios(framework, single=False, alpha_sparsity=0.0)
        optimizer = with_optimizers(model, 0.02)[player]
        contrastive[player] = []
        for _ in range(20):
            loss, keys = model.encoder_loss(views)
            if player == "occlusion":
                loss, _ = model.occlusion_loss(views, keys.detach())
            contrastive[player].append(abs(float(loss.detach())))
            optimizer.update_params(loss)
    first, last = contrastive["encoder"][0], contrastive["encoder"][-1]
    assert last < 0.9 * first
    first, last = contrastive["occlusion"][0], contrastive["occlusion"][-1]
    assert last > first + 0.02


def test_sparsity_brings_masks_back_that_hide_nothing_or_everything() -> None:
    model, views = make_adios("simclr", alpha_sparsity=1.0), make_views()
    with torch.no_grad():
        model.occlusion.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    optimizer = with_optimizers(model, 1e-4)["occlusion"]
    penalties = []
    for _ in range(30):
        objective, numbers = model.occlusion_loss(views, model.contrast.keys(views.key).detach())
        optimizer.update_params(objective)
        penalties.append(float(numbers["sparsity"]))
    assert penalties[0] > 1000
    assert penalties[-1] < 50
    assert float(numbers["mask_share_1"]) < 0.95


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_step_moves_both_players_each_by_its_own_gradient(framework: str) -> None:
    model = make_adios(framework)
    optimizers = with_optimizers(model)
    reference = copy.deepcopy(model)
    views = make_views()
    out = model.train_step(views, optimizers)

    reference_optimizers = with_optimizers(reference)
    loss, keys = reference.encoder_loss(views)
    loss.backward()
    occlusion_before = [p.clone() for p in reference.occlusion.parameters()]
    reference_optimizers["encoder"].step()
    for before, p in zip(occlusion_before, reference.occlusion.parameters(), strict=True):
        assert torch.equal(before, p)
    reference_optimizers["encoder"].zero_grad()
    objective, _ = reference.occlusion_loss(views, keys.detach())
    objective.backward()
    encoder_before = [p.clone() for p in reference.contrast.parameters()]
    reference_optimizers["occlusion"].step()
    for before, p in zip(encoder_before, reference.contrast.parameters(), strict=True):
        assert torch.equal(before, p)
    for (name, p), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert float(out["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(out["occlusion_loss"]) == pytest.approx(float(objective.detach()), rel=1e-5)
    assert set(out) == {"loss", "occlusion_loss", "sparsity", "entropy", *(f"mask_share_{n}" for n in (1, 2, 3, 4))}
    assert not any(value.requires_grad for value in out.values())
    assert model.steps == 1


def test_moco_follows_and_enqueues_once_a_step() -> None:
    model = make_adios("mocov2")
    moco = model.contrast.substrate
    assert isinstance(moco, MoCo)
    queue = moco.queue.keys.clone()
    key_before = [p.clone() for p in moco.encoder_k.parameters()]
    with torch.no_grad():
        for p in moco.encoder_q.parameters():
            p.add_(0.1)  # both encoders start equal, so that following would not show
    query_before = [p.clone() for p in moco.encoder_q.parameters()]
    model.train_step(make_views(), with_optimizers(model))
    for before, query, p in zip(key_before, query_before, moco.encoder_k.parameters(), strict=True):
        torch.testing.assert_close(p, 0.9 * before + 0.1 * query)
    assert int(moco.queue.position) == B
    assert moco.steps == 1
    assert not torch.equal(moco.queue.keys[:, :B], queue[:, :B])
    assert torch.equal(moco.queue.keys[:, B:], queue[:, B:])


def test_the_occlusion_network_plays_against_the_queue_without_this_steps_keys() -> None:
    model = make_adios("mocov2")
    moco = model.contrast.substrate
    queues: list[Tensor] = []
    contrast = moco.contrast

    def spy(query: Tensor, key: Tensor) -> Tensor:
        queues.append(moco.queue.keys.clone())
        return contrast(query, key)

    with patch.object(moco, "contrast", spy):
        model.train_step(make_views(), with_optimizers(model))
    assert len(queues) == 2
    assert torch.equal(queues[0], queues[1])
    assert not torch.equal(queues[1], moco.queue.keys)


def test_the_occlusion_network_plays_against_the_encoder_as_it_is_now() -> None:
    simclr, views = make_adios("simclr"), make_views()
    unlike = F.normalize(torch.randn(B, DIM), dim=1)
    assert torch.equal(simclr.occlusion_loss(views, unlike)[0], simclr.occlusion_loss(views, -unlike)[0])
    moco = make_adios("mocov2")  # the momentum encoder's keys have not moved
    assert not torch.equal(moco.occlusion_loss(views, unlike)[0], moco.occlusion_loss(views, -unlike)[0])


def test_masks_are_drawn_anew_in_each_step_and_turn_and_by_the_seed() -> None:
    model = make_adios("simclr")
    draws = []
    for steps, turn in ((0, 0), (0, 1), (1, 0), (1, 1)):
        model.steps = steps
        draws.append(model._draw(64, 4, turn))
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    assert all(sorted(set(draw.tolist())) == [0, 1, 2, 3] for draw in draws)
    torch.manual_seed(7)  # the global generator has no influence
    assert torch.equal(model._draw(64, 4, 1), draws[3])
    model.seed += 1
    assert not torch.equal(model._draw(64, 4, 1), draws[3])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_state_dict_goes_round(framework: str, tmp_path: Path) -> None:
    model, restored = make_adios(framework), make_adios(framework)
    optimizers = with_optimizers(model)
    model.train_step(make_views(), optimizers)
    torch.save(model.state_dict(), tmp_path / "adios.pth")
    restored.load_state_dict(torch.load(tmp_path / "adios.pth", weights_only=True))
    assert restored.steps == 1
    assert {name.partition(".")[0] for name in model.state_dict()} == {"contrast", "occlusion", "_extra_state"}
    steps = [player.train_step(make_views(2), with_optimizers(player)) for player in (model, restored)]
    assert_same(*steps)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_half_precision_and_channels_last_change_little(framework: str) -> None:
    views = make_views()
    outcomes = {}
    for name in ("exact", "half", "last"):
        model = make_adios(framework, single=False)
        inputs = views
        if name == "last":
            model.to(memory_format=torch.channels_last)
            inputs = Views(*(x.contiguous(memory_format=torch.channels_last) for x in (views.query, views.key)))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "half"):
            loss, keys = model.encoder_loss(inputs)
        loss.backward()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "half"):
            objective, _ = model.occlusion_loss(inputs, keys.detach())
        objective.backward()
        outcomes[name] = torch.cat([loss.detach().view(1), objective.detach().view(1)]), model
    assert (outcomes["half"][0] - outcomes["exact"][0]).abs().max() < 0.4  # four losses, as in test_training
    torch.testing.assert_close(outcomes["last"][0], outcomes["exact"][0], rtol=1e-4, atol=1e-4)
    for player in ("contrast.substrate.encoder", "occlusion"):
        exact, half = (
            torch.cat([p.grad.flatten() for p in outcomes[name][1].get_submodule(player).parameters()])
            for name in ("exact", "half")
        )
        assert F.cosine_similarity(exact, half, dim=0) > 0.9, player


def test_on_a_framework_without_a_contrast_of_its_own_adios_is_refused() -> None:
    model = nn.Linear(1, 1)
    line = "ADIOS is not written for Linear; mend: a row on mocov2 or simclr"
    assert message_of(lambda: contrast_of(model)) == line  # type: ignore[arg-type]  # such as a person's own
