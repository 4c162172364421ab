"""ADIOS's occlusion network against its authors' tables of channels, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from contrastive_samples import noise
from torch import Tensor, nn

from baselines.unet import OcclusionNetwork, stages_of
from repro.errors import UserError
from repro.settings.choices import Norm

# YugeTen/adios, src/utils/unet.py:21-35, in units of the base channels; the input has 3.
PUBLISHED = {
    4: ([3, 1, 2, 2], [1, 2, 2, 2], [4, 4, 4, 2], [2, 2, 1, 1]),
    5: ([3, 1, 1, 2, 2], [1, 1, 2, 2, 2], [4, 4, 4, 2, 2], [2, 2, 1, 1, 1]),
    6: ([3, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2], [4, 4, 4, 2, 2, 2], [2, 2, 1, 1, 1, 1]),
}


def images(crop: int, count: int = 2) -> Tensor:
    return noise(count, crop, seed=crop)


def network(crop: int = 32, **settings: object) -> OcclusionNetwork:
    torch.manual_seed(0)
    return OcclusionNetwork(crop, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("crop", "stages"), [(32, 4), (64, 5), (96, 5), (112, 5), (128, 6), (160, 6), (224, 6)])
def test_channels_are_the_published_ones(crop: int, stages: int) -> None:
    assert stages_of(crop) == stages
    unet = network(crop, base=8)
    enc_in, enc_out, dec_in, dec_out = PUBLISHED[stages]
    convolutions = [[stage[0] for stage in way] for way in (unet.down, unet.up)]
    assert [[c.in_channels for c in way] for way in convolutions] == [
        [3] + [8 * n for n in enc_in[1:]],
        [8 * n for n in dec_in],
    ]
    assert [[c.out_channels for c in way] for way in convolutions] == [
        [8 * n for n in enc_out],
        [8 * n for n in dec_out],
    ]
    side = crop // 2 ** (stages - 1)
    widths = [(m.in_features, m.out_features) for m in unet.bottleneck if isinstance(m, nn.Linear)]
    assert widths == [(16 * side**2, 128), (128, 128), (128, 16 * side**2)]


@pytest.mark.parametrize(
    ("crop", "settings", "count"),
    [
        (224, {}, 240540),  # as the docstring says
        (224, {"norm": Norm.instance}, 240540),
        (224, {"norm": Norm.none}, 240404),  # 136 biases instead of 272 scales and shifts
        (224, {"masks": 6}, 240540 + 2 * 9),
        (96, {"base": 32, "norm": Norm.instance}, 933284),  # the authors' ImageNet100-S
        (64, {}, 103084),
        (32, {}, 101324),
    ],
)
def test_number_of_parameters(crop: int, settings: dict[str, object], count: int) -> None:
    assert sum(p.numel() for p in network(crop, **settings).parameters()) == count


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize(("crop", "masks"), [(32, 2), (64, 4), (112, 6), (224, 4)])
def test_masks_have_the_size_of_the_image_and_sum_to_one(crop: int, masks: int, norm: Norm) -> None:
    output = network(crop, masks=masks, norm=norm)(images(crop))
    assert output.shape == (2, masks, crop, crop)
    assert output.dtype is torch.float32
    assert output.min() >= 0
    torch.testing.assert_close(output.sum(1), torch.ones(2, crop, crop), rtol=0, atol=1e-6)
    assert output.std() > 0


def slow_masks(unet: OcclusionNetwork, x: Tensor) -> Tensor:
    """The published forward pass, with halving and doubling written out."""
    outputs_down: list[Tensor] = []
    for number, stage in enumerate(unet.down):
        x = stage(x)
        outputs_down.append(x)
        if number < len(unet.down) - 1:
            x = x[:, :, ::2, ::2]
    shape = x.shape
    for layer in unet.bottleneck:
        if isinstance(layer, nn.Linear):
            x = (x.reshape(len(x), -1) @ layer.weight.T + layer.bias).clamp(min=0)
    x = x.reshape(shape)
    for number, stage in enumerate(unet.up):
        x = stage(torch.cat([x, outputs_down[-1 - number]], 1))
        if number < len(unet.up) - 1:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    logits = torch.einsum("bchw,nc->bnhw", x, unet.head.weight[:, :, 0, 0]) + unet.head.bias.view(-1, 1, 1)
    return logits.exp() / logits.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("crop", [32, 96, 128])
def test_it_computes_what_the_published_network_computes(crop: int) -> None:
    unet = network(crop)
    torch.testing.assert_close(unet(images(crop)), slow_masks(unet, images(crop)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", Norm)
def test_norms_are_where_and_what_they_are_said_to_be(norm: Norm) -> None:
    unet = network(norm=norm)
    kinds = {Norm.group: nn.GroupNorm, Norm.instance: nn.InstanceNorm2d}
    for stage in (*unet.down, *unet.up):
        assert (stage[0].bias is None) == (norm is not Norm.none)
        assert [type(layer) for layer in stage[1:]] == ([kinds[norm]] if norm in kinds else []) + [nn.ReLU]
        if norm is Norm.group:
            assert stage[1].num_groups == 8
        if norm is Norm.instance:
            assert stage[1].affine


def test_an_image_alone_has_the_masks_that_it_has_in_a_batch() -> None:
    unet = network()
    torch.testing.assert_close(unet(images(32))[:1], unet(images(32)[:1]), rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    unet = network()
    (unet(images(32))[:, 0] * torch.linspace(0, 1, 32)).mean().backward()
    for name, p in unet.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_channels_last_and_bf16() -> None:
    unet, x = network(64), images(64)
    exact = unet(x)
    unet.to(memory_format=torch.channels_last)
    fast = unet(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = unet(x)
    assert half.dtype is torch.float32
    torch.testing.assert_close(half.sum(1), torch.ones(2, 64, 64), rtol=0, atol=1e-6)
    assert F.l1_loss(half, exact) < 0.02


@pytest.mark.parametrize(
    ("crop", "line"),
    [
        (16, r"data.crop=16 is too small for ADIOS's occlusion network; mend: data.crop=32 or more"),
        (31, r"data.crop=31 is too small"),
        (1, r"data.crop=1 is too small"),
        (100, r"data.crop=100 cannot be halved 4 times, .*; mend: data.crop=96 or 112"),
        (225, r"data.crop=225 cannot be halved 5 times, .*; mend: data.crop=224 or 256"),
    ],
)
def test_crops_that_do_not_fit_are_refused(crop: int, line: str) -> None:
    with pytest.raises(UserError, match=line):
        OcclusionNetwork(crop)


def test_the_crops_that_a_refusal_offers_fit() -> None:
    fitting = 0
    for crop in range(32, 300):
        try:
            stages_of(crop)
        except UserError as refusal:
            below, above = (int(word) for word in str(refusal).rpartition("data.crop=")[2].split(" or "))
            assert below < crop < above
            assert stages_of(below) + 1 >= stages_of(above) >= stages_of(below)
        else:
            fitting += 1
    assert fitting == 4 + 4 + 4 + 1  # 32 to 56 by 8, 64 to 112 by 16, 128 to 224 by 32, 256


def test_channels_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(UserError, match=r"adios.base_filters=12 .* 8 groups; mend: a multiple of 8, or adios.norm="):
        OcclusionNetwork(32, base=12)
    assert OcclusionNetwork(32, base=12, norm=Norm.instance)(images(32)).shape == (2, 4, 32, 32)
