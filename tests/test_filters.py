import math

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import GaussianBlur

from repro.augmentation.blur import gaussian_blur, gaussian_matrix
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.masking.filters import high_pass, strong_blur

GAIN = {224: 0.003, 64: 0.04, 32: 0.16, 22: 0.31, 16: 0.53, 11: 0.88}
"""Of the high-pass on sinusoids by their period in pixels (specification A.1)."""


def pictures(count: int, height: int = 224, width: int = 224, seed: int = 0) -> Tensor:
    """Normalised pixels: white noise is what a wrong tap or a wrong border shows on most clearly."""
    pixels = torch.rand(count, 3, height, width, generator=Generator().manual_seed(seed))
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (96, 40)])
def test_high_pass_is_the_image_less_torchvisions_blur_of_it(height: int, width: int) -> None:
    images = pictures(4, height, width)
    blur = GaussianBlur(11, sigma=5.0)
    expected = torch.stack([image - blur(image) for image in images])
    assert (high_pass(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 57)])
def test_strong_blur_is_torchvisions(height: int, width: int) -> None:
    images = pictures(4, height, width)
    blur = GaussianBlur(31, sigma=10.0)
    expected = torch.stack([blur(image) for image in images])
    assert (strong_blur(images) - expected).abs().max() < 1e-5


def test_each_image_is_blurred_with_its_own_sigma() -> None:
    images, sigmas = pictures(5, 48, 64), torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    expected = torch.stack([GaussianBlur(17, sigma=float(s))(x) for x, s in zip(images, sigmas, strict=True)])
    assert (gaussian_blur(images, 17, sigmas) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("period", "gain"), GAIN.items())
@pytest.mark.parametrize("along", [-1, -2])
def test_high_pass_lets_a_sinusoid_through_as_the_specification_tabulates(period: int, gain: float, along: int) -> None:
    # Away from the border, whose reflection changes the phase.
    wave = torch.sin(2 * math.pi * torch.arange(448) / period).expand(1, 1, 64, 448)
    wave = wave if along == -1 else wave.mT.contiguous()
    passed, inner = high_pass(wave), slice(6, -6)
    measured = passed[..., inner, inner].std() / wave[..., inner, inner].std()
    assert measured.item() == pytest.approx(gain, abs=0.0005 if gain < 0.01 else 0.006)


def test_high_pass_commutes_with_normalisation_but_for_the_scale() -> None:
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    pixels = torch.rand(4, 3, 64, 64, generator=Generator().manual_seed(1))
    assert (high_pass((pixels - mean) / std) - high_pass(pixels) / std).abs().max() < 1e-5
    assert (strong_blur((pixels - mean) / std) - (strong_blur(pixels) - mean) / std).abs().max() < 1e-5


def test_a_constant_image_has_no_high_frequencies_and_no_blur() -> None:
    flat = torch.full((2, 3, 40, 40), 1.7)
    assert high_pass(flat).abs().max() < 1e-6
    assert (strong_blur(flat) - flat).abs().max() < 1e-6


def test_a_blur_matrix_averages_and_is_symmetric_under_reversal() -> None:
    matrix = gaussian_matrix(20, 11, torch.tensor([0.5, 5.0]))
    assert matrix.shape == (2, 20, 20)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 20))
    torch.testing.assert_close(matrix.flip(-1, -2), matrix)
    assert (matrix >= 0).all()


@pytest.mark.parametrize(("call", "smallest"), [(high_pass, 6), (strong_blur, 16)])
def test_an_image_too_small_to_reflect_is_refused(call: object, smallest: int) -> None:
    assert callable(call)
    assert call(torch.ones(1, 3, smallest, smallest)).shape == (1, 3, smallest, smallest)
    for height, width in ((smallest - 1, 64), (64, smallest - 1)):
        with pytest.raises(ValueError, match=f"more than {smallest - 1} pixels, not {smallest - 1}"):
            call(torch.ones(1, 3, height, width))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd kernel"):
        gaussian_blur(torch.ones(1, 3, 32, 32), 10, 5.0)


def test_autocast_does_not_coarsen_the_filter() -> None:
    images = pictures(2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = high_pass(images)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, high_pass(images), rtol=0, atol=0)


def test_half_precision_pixels_come_back_in_half_precision() -> None:
    images = pictures(2, 64, 64)
    coarse = strong_blur(images.bfloat16())
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - strong_blur(images)).abs().max() < 0.02


def test_filters_leave_their_input_as_it_is() -> None:
    images = pictures(1, 32, 32)
    before = images.clone()
    high_pass(images)
    strong_blur(images)
    assert torch.equal(images, before)
