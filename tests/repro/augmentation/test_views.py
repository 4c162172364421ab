"""The draws of a view, and that both ways of applying them give the same picture."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from contrastive_samples import draws, pixels
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import pil_to_tensor

from repro.augmentation import on_device
from repro.augmentation.blur import box_blur
from repro.augmentation.colour import blend_, turn_hue_
from repro.augmentation.crops import resized_crop
from repro.augmentation.draws import ORDERS, CropBox, Draw, draw_box, draw_view
from repro.augmentation.on_device import MOCO, apply_on_device, apply_to_all
from repro.augmentation.reference import apply_reference
from repro.settings.choices import Blur, Interpolation
from repro.settings.sections import AugmentationSettings

NOTHING = Draw(jitter=0.0, order=0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, grey=0, sigma=0.0, flip=0)


def photograph(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """A picture with smooth areas, edges and every hue."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[height // 4 : height // 2, width // 3 :] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def column(views: list[Draw], name: str) -> NDArray[np.float64]:
    return np.array([getattr(draw, name) for draw in views], dtype=float)


def test_views_are_drawn_with_moco_v2s_probabilities_and_ranges() -> None:
    views = draws(6000, AugmentationSettings())
    for name, probability in (("jitter", 0.8), ("grey", 0.2), ("flip", 0.5)):
        assert stats.binomtest(int(column(views, name).sum()), len(views), probability).pvalue > 1e-4
    sigma = column(views, "sigma")
    assert stats.binomtest(int((sigma > 0).sum()), len(views), 0.5).pvalue > 1e-4
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.6, 1.4), "hue": (-0.1, 0.1)}
    for name, (low, high) in ranges.items():
        assert stats.kstest(column(views, name), stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    assert stats.chisquare(np.bincount(column(views, "order").astype(int), minlength=24)).pvalue > 1e-4
    # The draws of one view are independent of each other.
    table = np.stack([column(views, f.name) for f in fields(Draw)])
    assert np.abs(np.corrcoef(table) - np.eye(len(table))).max() < 5 / math.sqrt(len(views))


def test_a_strength_above_one_draws_no_negative_factor() -> None:
    assert column(draws(300, AugmentationSettings(brightness=1.5)), "brightness").min() >= 0


def test_what_is_switched_off_is_never_drawn() -> None:
    off = AugmentationSettings(jitter_probability=0, grey_probability=0, blur_probability=0, flip_probability=0)
    views = draws(100, off)
    assert all(column(views, name).sum() == 0 for name in ("jitter", "grey", "sigma", "flip"))
    image = photograph(0)
    assert np.array_equal(np.asarray(apply_reference(image, views[0])), np.asarray(image))


def test_a_row_holds_every_field_in_order() -> None:
    draw = Draw(
        jitter=1, order=7, brightness=0.75, contrast=1.25, saturation=0.5, hue=-0.0625, grey=0, sigma=1.5, flip=1
    )
    assert draw.row().tolist() == [1, 7, 0.75, 1.25, 0.5, -0.0625, 0, 1.5, 1]


CHANGES = {
    "brightness": (lambda x, f: blend_(x, f, 0 * f, 0 * f), tvf.adjust_brightness, 0.6, 1.4),
    "contrast": (lambda x, f: blend_(x, f, 0 * f, 1 - f), tvf.adjust_contrast, 0.6, 1.4),
    "saturation": (lambda x, f: blend_(x, f, 1 - f, 0 * f), tvf.adjust_saturation, 0.6, 1.4),
    "hue": (turn_hue_, tvf.adjust_hue, -0.5, 0.5),
}
"""Our function for each change of colour, torchvision's function, and the amounts to compare them at."""


@pytest.mark.parametrize("change", CHANGES)
def test_each_batched_change_of_colour_is_torchvisions_of_each_image(change: str) -> None:
    ours, theirs, low, high = CHANGES[change]
    # Six levels a channel: each sector of the hue with its borders, where two channels are equal, and greys.
    levels = torch.cartesian_prod(*[torch.arange(6) / 5] * 3).T.reshape(3, 12, 18)
    images = torch.cat([pixels(9, 18)[..., :12, :], levels.expand(16, -1, -1, -1)])
    images[0] = images[0, :1]  # a grey image has no hue
    images[1] = images[1, :1] + 1e-7 * torch.rand(3, 12, 18)  # nor has one that is grey up to rounding
    amounts = torch.linspace(low, high, len(images))[torch.randperm(len(images))]
    expected = torch.stack([theirs(x, float(a)) for x, a in zip(images, amounts, strict=True)])
    ours(images, amounts.view(-1, 1, 1, 1))
    assert (images - expected).abs().max() < 3e-6


def test_an_idle_blend_changes_no_bit() -> None:
    images, one = pixels(4), torch.ones(4, 1, 1, 1)
    before = images.clone()
    blend_(images, one, 0 * one, 0 * one)
    assert torch.equal(images, before)


def apply_one(image: Tensor, draw: Draw) -> Tensor:
    """A draw on one tensor image by torchvision's own functions."""
    if draw.jitter:
        steps = [
            lambda x: tvf.adjust_brightness(x, draw.brightness),
            lambda x: tvf.adjust_contrast(x, draw.contrast),
            lambda x: tvf.adjust_saturation(x, draw.saturation),
            lambda x: tvf.adjust_hue(x, draw.hue),
        ]
        for step in ORDERS[int(draw.order)]:
            image = steps[step](image)
    if draw.grey:
        image = tvf.rgb_to_grayscale(image, 3)
    if draw.sigma:
        image = tvf.gaussian_blur(image, [17] * 2, [draw.sigma] * 2)
    return tvf.hflip(image) if draw.flip else image


def test_a_batch_of_draws_is_torchvisions_functions_on_each_image() -> None:
    images, made = pixels(60), draws(60, AugmentationSettings(), seed=3)
    before = images.clone()
    applied = apply_on_device(images, torch.stack([draw.row() for draw in made]))
    expected = torch.stack([apply_one(x, draw) for x, draw in zip(images, made, strict=True)])
    assert (applied - expected).abs().max() < 1e-5
    assert torch.equal(images, before)
    assert applied.min() >= 0
    assert applied.max() <= 1


def test_every_order_of_the_jitter_is_kept() -> None:
    strong = replace(NOTHING, jitter=1, brightness=1.4, contrast=0.6, saturation=1.4, hue=0.1)
    made = [replace(strong, order=i) for i in range(len(ORDERS))]
    image = pixels(1).expand(len(made), -1, -1, -1)
    applied = apply_on_device(image, torch.stack([draw.row() for draw in made]))
    expected = torch.stack([apply_one(image[0], draw) for draw in made])
    assert (applied - expected).abs().max() < 1e-5
    assert len({tuple(picture.flatten()[:50].tolist()) for picture in applied}) > 12


def test_a_batch_in_which_nobody_is_changed_stays_as_it_is() -> None:
    images = pixels(3)
    assert torch.equal(apply_on_device(images, NOTHING.row().expand(3, -1)), images)


def test_other_devices_apply_every_step_to_every_image_with_the_same_numbers() -> None:
    made = draws(60, AugmentationSettings(), seed=3)
    images, rows = pixels(60), torch.stack([draw.row() for draw in made])
    for settings in (MOCO, replace(MOCO, blur=Blur.box)):
        assert (apply_to_all(images, rows, settings) - apply_on_device(images, rows, settings)).abs().max() < 1e-6


@pytest.mark.parametrize("blur", Blur)
@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_a_blur_is_as_wide_as_its_sigma(sigma: float, blur: Blur) -> None:
    settings = AugmentationSettings(blur=blur, blur_sigma_max=sigma)
    dot = torch.zeros(1, 3, 129, 129)
    dot[..., 64, 64] = 1
    spread = apply_on_device(dot, replace(NOTHING, sigma=sigma).row().unsqueeze(0), settings)[0, 0].sum(0)
    deviation = float((spread * (torch.arange(129) - 64.0) ** 2).sum().sqrt())
    assert deviation == pytest.approx(sigma, rel=0.01)


def test_a_view_too_small_for_a_blur_is_made_where_none_is_drawn() -> None:
    settings = replace(MOCO, blur_probability=0.0)
    images, made = pixels(3)[..., :8, :8], draws(3, settings)
    assert apply_to_all(images, torch.stack([draw.row() for draw in made]), settings).shape == images.shape


def speckle(seed: int) -> Image.Image:
    """White noise, on which a wrong weight or a wrong border shows most."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def departure(made: list[Draw], settings: AugmentationSettings = MOCO) -> Tensor:
    """How far the device's views are from PIL's at each pixel of photographs and of speckle, in levels of 255."""
    pictures = [make(i) for make in (photograph, speckle) for i in range(len(made))]
    rows = torch.stack([draw.row() for draw in made]).repeat(2, 1)
    crops = torch.stack([pil_to_tensor(picture) for picture in pictures])
    reference = [pil_to_tensor(apply_reference(p, d)) for p, d in zip(pictures, made * 2, strict=True)]
    return (255 * apply_on_device(crops / 255, rows, settings) - torch.stack(reference)).abs()


def departure_of_colour(change: str, amounts: list[float]) -> Tensor:
    """How far one change of colour is from PIL's at each pixel, in levels of 255."""
    ours, theirs, _, _ = CHANGES[change]
    pictures = [make(i) for make in (photograph, speckle) for i in range(len(amounts))]
    images = torch.stack([pil_to_tensor(picture) for picture in pictures]) / 255
    ours(images, torch.tensor(amounts).repeat(2).view(-1, 1, 1, 1))
    reference = [pil_to_tensor(theirs(p, a)) for p, a in zip(pictures, amounts * 2, strict=True)]
    return (255 * images - torch.stack(reference)).abs()


def rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


@pytest.mark.parametrize(
    # The bounds are stated at `Backend`. PIL truncates brightness, contrast and saturation to whole levels, so it is
    # off by up to a level, plus that of the mean or the grey it blends with; the hue of PIL's HSV has 256 values.
    ("change", "low", "high", "bound_of_rms", "bound"),
    [
        ("brightness", 0.6, 1.4, 0.6, 1.01),
        ("contrast", 0.6, 1.4, 0.6, 1.3),
        ("saturation", 0.6, 1.4, 0.6, 1.3),
        ("hue", -0.1, 0.1, 1.9, 18),
    ],
)
def test_each_change_of_colour_departs_from_pils_as_stated(
    change: str, low: float, high: float, bound_of_rms: float, bound: float
) -> None:
    off = departure_of_colour(change, np.linspace(low, high, 16).tolist())
    assert rms(off) < bound_of_rms
    assert off.max() < bound


@pytest.mark.parametrize(
    ("step", "bound_of_rms", "bound"), [({"flip": 1}, 1e-4, 1e-4), ({"grey": 1}, 0.3, 0.55)], ids=["flip", "grey"]
)
def test_flip_and_grey_depart_from_pils_as_stated(step: dict[str, float], bound_of_rms: float, bound: float) -> None:
    off = departure([replace(NOTHING, **step)] * 8)
    assert rms(off) < bound_of_rms
    assert off.max() < bound


@pytest.mark.parametrize("blur", Blur)
def test_the_box_blur_is_pils_up_to_rounding_and_the_gaussian_is_not(blur: Blur) -> None:
    sigmas = [*np.linspace(0.1, 2.0, 20).tolist(), math.sqrt(2)]  # at the last one, a box gains a pixel
    off = departure([replace(NOTHING, sigma=sigma) for sigma in sigmas], replace(MOCO, blur=blur))
    if blur is Blur.box:
        # PIL truncates to whole levels after each of six passes.
        assert rms(off) < 0.7
        assert off.max() < 3.5
    else:
        photographs, speckles = off.chunk(2)
        assert rms(photographs) < 0.8
        assert photographs.max() < 20
        assert 40 < speckles.max() < 70  # as stated: no mere rounding


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.0])
def test_the_box_blur_has_the_gaussians_variance_and_repeats_the_border(sigma: float) -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = box_blur(point, torch.tensor([sigma]), 2.0)[0, 0]
    offsets = torch.arange(41) - 20.0
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * offsets**2).sum().item() == pytest.approx(sigma**2, rel=1e-4)
    ramp = torch.arange(41.0).expand(1, 1, 41, 41)
    ends = box_blur(ramp, torch.tensor([sigma]), 2.0)[0, 0, 20]
    assert ends[0] > 0  # beyond the border lies the border's own 0, and all else is more
    assert (ends[10:-10] - ramp[0, 0, 20, 10:-10]).abs().max() < 1e-4


@pytest.mark.parametrize("blur", Blur)
def test_whole_views_depart_from_pils_as_stated(blur: Blur) -> None:
    rng = np.random.default_rng(5)
    made = [draw_view(rng, MOCO) for _ in range(60)]
    photographs, _ = departure(made, replace(MOCO, blur=blur)).chunk(2)
    # PIL truncates to whole levels after each of up to six steps, and a later step may enlarge that error.
    assert rms(photographs) < 2
    assert photographs.mean((1, 2, 3)).max() < 4


class Boxes:
    """Stands in for an image of some size, and records the boxes that are cut out of it."""

    def __init__(self, width: int, height: int) -> None:
        self.size, self.boxes = (width, height), []

    def crop(self, box: tuple[int, int, int, int]) -> "Boxes":
        self.boxes.append(box)
        return self

    def resize(self, size: tuple[int, int], _how: object) -> None:
        pass


def random_crop(
    image: Image.Image,
    size: int,
    scale_min: float,
    rng: np.random.Generator,
    interpolation: Interpolation = Interpolation.bilinear,
) -> Image.Image:
    return resized_crop(image, draw_box(*image.size, scale_min, rng), size, interpolation)


def crops(width: int, height: int, count: int) -> NDArray[np.int64]:
    """Left, top, width and height of crops, count×4."""
    image, rng = Boxes(width, height), np.random.default_rng(0)
    for _ in range(count):
        random_crop(image, 8, 0.2, rng)  # type: ignore[arg-type]
    left, top, right, bottom = np.array(image.boxes).T
    return np.stack([left, top, right - left, bottom - top], 1)


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (500, 120)])
def test_crops_have_the_distribution_of_torchvisions(width: int, height: int) -> None:
    count = 2500
    torch.manual_seed(0)
    blank = torch.empty(0, height, width)
    theirs = np.array([RandomResizedCrop.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    theirs = theirs[:, [1, 0, 3, 2]]  # torchvision gives top, left, height, width
    ours = crops(width, height, count)
    for read in (
        lambda c: c[:, 0],
        lambda c: c[:, 1],
        lambda c: c[:, 2] * c[:, 3],
        lambda c: np.log(c[:, 2] / c[:, 3]),
    ):
        # Of two samples of n, the KS distance exceeds 1.95 * sqrt(2 / n) once in a thousand times.
        assert stats.ks_2samp(read(ours), read(theirs)).statistic < 1.95 * math.sqrt(2 / count)


def test_crops_lie_inside_and_keep_area_and_ratio() -> None:
    left, top, width, height = crops(400, 300, 2000).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert (left + width).max() <= 400
    assert (top + height).max() <= 300
    area, ratio = width * height / 120_000, width / height
    assert 0.195 < area.min() < 0.22
    assert 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.35


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (2, 3), (1000, 2), (3, 500)])
def test_odd_images_are_cropped_as_torchvision_falls_back(width: int, height: int) -> None:
    image = photograph(0, max(width, 8), max(height, 8)).crop((0, 0, width, height))
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert random_crop(image, 16, 0.2, rng).size == (16, 16)
    left, top, w, h = crops(width, height, 200).T
    assert min(w.min(), h.min()) >= 1
    assert ((left >= 0) & (left + w <= width) & (top >= 0) & (top + h <= height)).all()
    if max(width, height) / min(width, height) > 8:  # no crop of an allowed ratio: the largest in the middle
        expected = RandomResizedCrop.get_params(torch.empty(0, height, width), [0.2, 1.0], [3 / 4, 4 / 3])
        if (w == w[0]).all():
            assert (top[0], left[0], h[0], w[0]) == expected


def test_ten_boxes_are_tried_as_by_torchvision_before_the_middle_is_taken() -> None:
    rng, expected = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_box(1000, 1, 0.2, rng) == CropBox(499, 0, 1, 1)
    expected.random(2 * 10)  # area and ratio of each; another number of them would change what is drawn next
    assert rng.random() == expected.random()


def test_a_crop_shows_its_box_resized() -> None:
    image, size = photograph(1, 200, 150), 64
    for seed in range(10):
        view = random_crop(image, size, 0.2, np.random.default_rng(seed))
        boxes = Boxes(200, 150)
        random_crop(boxes, size, 0.2, np.random.default_rng(seed))  # type: ignore[arg-type]
        expected = image.crop(boxes.boxes[0]).resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(view), np.asarray(expected))


def test_the_stream_alone_decides_a_crop() -> None:
    image = photograph(2)
    first, again, other = (np.asarray(random_crop(image, 24, 0.2, np.random.default_rng(s))) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_a_crop_is_resized_as_it_should_be(interpolation: Interpolation) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    crop = random_crop(noise, 32, 1.0, np.random.default_rng(1), interpolation)
    whole = noise.resize((32, 32), Image.Resampling[interpolation.name.upper()])
    assert np.array_equal(np.asarray(crop), np.asarray(whole))  # the whole image is the only crop of scale 1 and 4:3


def test_what_a_compiler_is_given_makes_the_same_views(monkeypatch: pytest.MonkeyPatch) -> None:
    # This backend only traces. Real ones take minutes; `test_gpu.py` has one.
    monkeypatch.setattr(on_device, "_compiled", lambda: torch.compile(on_device._apply, backend="eager"))
    images = pixels(16)
    rows = torch.stack([draw.row() for draw in draws(16, AugmentationSettings())])
    plain = apply_to_all(images, rows, AugmentationSettings())
    torch.testing.assert_close(apply_on_device(images, rows, compiled=True), plain, rtol=0, atol=1e-6)
