"""The benchmark of the input on one core: from JPEG files to two views and their colours, as usual and as ours."""

import io
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import pil_to_tensor

from repro.augmentation.draws import draw_view
from repro.augmentation.on_device import apply_on_device
from repro.augmentation.reference import apply_reference
from repro.bench.input_rival import Rival, difference
from repro.bench.photographs import find_photographs, write_photographs
from repro.bench.resident_input import ResidentViews
from repro.bench.timing import Seconds, best_device, one_thread, seconds_in_turn
from repro.data.folders import FileImages
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.data.jpeg import Pixels, libjpeg_turbo
from repro.data.pixel_cache import CachedImages
from repro.data.pixel_cache_writer import cache_images
from repro.data.splits import Images
from repro.processes.distributed import device_name
from repro.randomness import Purpose, stream
from repro.settings.choices import Resizer
from repro.settings.sections import AugmentationSettings
from repro.training.batches.loading import TwoViews

VIEWS = 64
"""Number of views whose colours are changed at once."""
CACHED_SIDE = 256
OWN_SIDE = 10**6
"""Side of a cache that leaves images as large as they are, so that its crops are those of the files."""


def measure_input(size: int, count: int, photographs: Path | None) -> dict[str, Any]:
    """Times decoding alone, and the whole way from a file to two views, on one core.

    Args:
        size: Side of the views in pixels.
        count: Photographs a round.
        photographs: A folder with JPEGs; None: built-in ones of 500×375 pixels.

    Returns:
        What the photographs are, the device, and a row for each rival: images a CPU second, milliseconds an image by
        both clocks, how many times as fast as the first rival of its stage (the usual pipeline, or Pillow), and the
        largest difference from Pillow's pixels.

    Raises:
        UserError: The folder cannot be read, or holds no JPEG.
    """
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if photographs is None:
            images, described = write_photographs(Path(folder) / "photographs", count)
        else:
            images, described = find_photographs(photographs, count, jpegs=True), f"JPEGs of {photographs}"
        caches = {side: cached(images, side, Path(folder)) for side in (CACHED_SIDE, OWN_SIDE)}
        device = best_device()
        rivals = [
            *decoders(images),
            *ViewMakers(images, caches, size).rivals(),
            *ResidentViews(caches[OWN_SIDE], size, device).rivals(),
            *augmenters(size, len(images), device),
        ]
        seconds = seconds_in_turn({rival.stage + rival.name: rival.run for rival in rivals if rival.run})
        kilobytes = sum((images.folder / file).stat().st_size for file in images.files) / len(images) / 1000
        return {
            "photographs": f"{len(images)} {described}, {kilobytes:.0f} kB on average",
            "device": device_name(torch.device("cpu")) + (f", {device_name(device)}" if device.type == "cuda" else ""),
            "rows": rows_of(rivals, seconds, len(images)),
        }


def rows_of(rivals: list[Rival], seconds: Mapping[str, Seconds], count: int) -> list[dict[str, Any]]:
    """Returns a row for each rival; the first of each stage is the one that the others are compared with."""
    rows = []
    first: dict[str, float] = {}
    for rival in rivals:
        spent = seconds.get(rival.stage + rival.name)
        if spent is not None:
            spent = Seconds(*(value / rival.times / count for value in spent))
        cpu = None if spent is None else spent.wall if rival.on_device else spent.cpu
        base = first.setdefault(rival.stage, cpu or 0.0)
        rows.append(
            {
                "stage": rival.stage,
                "rival": rival.name,
                # The clock may not have moved during a very short rival: then there is no rate.
                "images/s": round(1 / cpu) if cpu else None,
                "cpu ms": None if spent is None else round(1000 * spent.cpu, 4),
                "wall ms": None if spent is None else round(1000 * spent.wall, 4),
                "times as fast": round(base / cpu, 2) if cpu and base else None,
                "off by": rival.departure() if rival.run and rival.departure else None,
                "note": rival.note,
            }
        )
    return rows


def cached(images: Images, side: int, root: Path) -> CachedImages:
    """Decodes the images into a cache of this side."""
    outcome = cache_images(images, "bench", "train", side, root, workers=1, say=lambda _: None)
    return CachedImages(Path(outcome["folder"]))


def decoders(images: FileImages) -> list[Rival]:
    """Returns the ways to decode a whole image, Pillow's first; the files are already in memory."""
    contents = [(images.folder / file).read_bytes() for file in images.files]

    def rival(name: str, decode: Callable[[bytes], Pixels] | None, note: str = "") -> Rival:
        if decode is None:
            return Rival("decode", name, None, note=f"not installed: pip install {note}")
        return Rival("decode", name, lambda: [decode(content) for content in contents], lambda: departure(decode), note)

    def departure(decode: Callable[[bytes], Pixels]) -> int:
        return max(difference(decode(content), decode_with_pillow(content)) for content in contents)

    cv2 = cv2_decoder()
    return [
        rival("Pillow", decode_with_pillow),
        rival("torchvision", decode_with_torchvision),
        rival("cv2", cv2, "silent on torn files" if cv2 else "opencv-python-headless"),
        rival("simplejpeg", libjpeg_turbo(), "" if libjpeg_turbo() else "simplejpeg"),
    ]


def decode_with_pillow(content: bytes) -> Pixels:
    """Decodes a JPEG as torchvision's image folders do, to an array."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def decode_with_torchvision(content: bytes) -> Pixels:
    """Decodes a JPEG with torchvision's own decoder."""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(data, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()


def cv2_decoder() -> Callable[[bytes], Pixels] | None:
    """Returns OpenCV's decoder; None if OpenCV is not installed, or lacks a library of the system."""
    try:
        import cv2
    except ImportError:
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(content: bytes) -> Pixels:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        assert pixels is not None  # Pillow has decoded the same file
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    return decode


class ViewMakers:
    """The ways from a file to two views, without colours: salmask changes those on the device."""

    def __init__(self, images: FileImages, caches: Mapping[int, CachedImages], size: int) -> None:
        """Prepares to make views.

        Args:
            images: The photographs.
            caches: The same, decoded, by their shorter side.
            size: Side of the views in pixels.
        """
        self.images, self.caches, self.size = images, caches, size
        self.reference = self._ours(images, Resizer.pil)

    def rivals(self) -> list[Rival]:
        """Returns the ways, the usual one first."""
        usual, crop = usual_pipeline(self.size), transforms.RandomResizedCrop(self.size, scale=(0.2, 1.0))
        fast_decoding = "" if libjpeg_turbo() else "Pillow decodes: pip install simplejpeg"
        whole, small = self.caches[OWN_SIDE], self.caches[CACHED_SIDE]
        by_torch = self._ours(self.images, Resizer.torch)
        return [
            self._by_pillow("usual: torchvision on Pillow, as MoCo's main_moco.py", usual),
            self._by_pillow("Pillow decodes and crops", lambda image: pil_to_tensor(crop(image))),
            self._rival("salmask, augmentation.resizer=pil", self.reference, note=fast_decoding),
            self._rival("salmask, augmentation.resizer=torch", by_torch, note=fast_decoding),
            self._rival("salmask, pil, from a cache of whole images", self._ours(whole, Resizer.pil)),
            self._rival("salmask, torch, from a cache of whole images", self._ours(whole, Resizer.torch)),
            self._rival(
                f"salmask, torch, data.cached_side={CACHED_SIDE}", self._ours(small, Resizer.torch), comparable=False
            ),
        ]

    def _ours(self, source: Images, resizer: Resizer) -> TwoViews:
        return TwoViews(source, self.size, AugmentationSettings(resizer=resizer), seed=0)

    def _by_pillow(self, name: str, make_view: Callable[[Image.Image], object]) -> Rival:
        """Returns a rival that makes both views of an image that Pillow has decoded."""

        def run() -> None:
            for file in self.images.files:
                with (self.images.folder / file).open("rb") as stream:
                    image = Image.open(stream).convert("RGB")
                make_view(image), make_view(image)

        return Rival("two views", name, run)

    def _rival(self, name: str, views: TwoViews, *, comparable: bool = True, note: str = "") -> Rival:
        departure = partial(self._departure, views) if comparable else None
        return Rival("two views", name, partial(_all_of, views), departure, note)

    def _departure(self, views: TwoViews) -> int:
        pairs = zip(_all_of(views), _all_of(self.reference), strict=True)
        return max(difference(a[name].numpy(), b[name].numpy()) for a, b in pairs for name in TwoViews.names)


def _all_of(views: TwoViews) -> list[dict[str, Any]]:
    """Returns the views of every image in epoch 0."""
    return [views[0, index] for index in range(len(views))]


def augmenters(size: int, count: int, device: torch.device) -> list[Rival]:
    """Returns the ways from a crop to a view: jitter, grey, blur and flip, as MoCo v2 draws them.

    Args:
        size: Side of the views in pixels.
        count: Photographs a round; here, each view counts as one.
        device: Where salmask changes its views.
    """
    settings = AugmentationSettings()
    draws = [draw_view(stream(0, Purpose.view, 0, index), settings) for index in range(VIEWS)]
    rows = torch.stack([draw.row() for draw in draws])
    noise = torch.randint(256, (VIEWS, 3, size, size), dtype=torch.uint8)
    crops = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in noise]
    views = noise.to(device) / 255
    stage, times = f"colours of {VIEWS} views", VIEWS / count

    def one_by_one() -> None:
        for crop, draw in zip(crops, draws, strict=True):
            pil_to_tensor(apply_reference(crop, draw))

    return [
        Rival(stage, "Pillow, augmentation.backend=reference", one_by_one, times=times),
        Rival(
            stage,
            f"salmask, augmentation.backend=device on {device.type}",
            lambda: apply_on_device(views, rows, settings),
            note="by wall-clock time" if device.type == "cuda" else "",
            times=times,
            on_device=device.type == "cuda",
        ),
    ]


def usual_pipeline(size: int) -> Callable[[Image.Image], object]:
    """Returns MoCo v2's augmentation as its authors wrote it (facebookresearch/moco, main_moco.py `--aug-plus`)."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=float(np.random.default_rng().uniform(0.1, 2.0))))

    pipeline: Callable[[Image.Image], object] = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([blur], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    return pipeline
