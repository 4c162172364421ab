"""The benchmark of the input: JPEG files to two views, on one core, by the usual way and by ours; and their colours."""

import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import pil_to_tensor

from repro.augmentation.draws import draw_box, draw_view
from repro.augmentation.on_device import apply_on_device
from repro.augmentation.reference import apply_reference
from repro.bench.timing import Seconds, one_thread, seconds_in_turn
from repro.data.errors import PathError
from repro.data.folders import FileImages, image_files
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.data.jpeg import Pixels, libjpeg_turbo
from repro.data.pixel_cache import CachedImages
from repro.data.pixel_cache_writer import cache_images
from repro.data.splits import Images
from repro.distributed import device_name
from repro.randomness import Purpose, stream
from repro.runs.choices import Resizer
from repro.runs.sections import AugmentationSettings
from repro.scenes.dataset import Scenes
from repro.training.loading import TwoViews
from repro.training.resident import ResidentImages
from repro.training.view_draws import ViewDraws

SIZE = (500, 375)
"""Width and height in pixels of the built-in photographs, those of most of ImageNet's."""
QUALITY = 92
BATCH = 256
"""Images, at least, that are drawn for at once, and cropped at once on a GPU."""
VIEWS = 64
"""Views whose colours are changed at once."""
CACHED_SIDE = 256
OWN_SIDE = 10**6
"""As a cache's side: images stay as large as they are, and their crops are those of the files."""


@dataclass(frozen=True)
class Rival:
    """One way of doing something."""

    stage: str
    name: str
    run: Callable[[], object] | None
    """Does it for all photographs; None where what it needs is not installed."""
    departure: Callable[[], int] | None = None
    """Returns its largest difference from Pillow's pixels; None where they are not comparable."""
    note: str = ""
    times: float = 1
    """How often it does it for all of them in a round; a share where it does so for fewer."""
    on_device: bool = False
    """Whether the work is not the CPU's, so that the clock on the wall counts."""


def measure_input(size: int, count: int, photographs: Path | None) -> dict[str, Any]:
    """Times decoding alone, and the whole way from a file to two views, on one core.

    Args:
        size: side of the views in pixels.
        count: photographs a round.
        photographs: a folder with JPEGs; None: built-in ones of 500×375 pixels.

    Returns:
        What the photographs are, the device, and a row for each rival: images a CPU second, milliseconds an image by
        both clocks, how many times as fast as the usual pipeline (of decoders: as Pillow), and the largest difference
        from Pillow's pixels.

    Raises:
        UserError: the folder cannot be read, or holds no JPEG.
    """
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if photographs is None:
            images, described = write_photographs(Path(folder) / "photographs", count)
        else:
            images, described = find_photographs(photographs, count), f"JPEGs of {photographs}"
        caches = {side: cached(images, side, Path(folder)) for side in (CACHED_SIDE, OWN_SIDE)}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rivals = [
            *decoders(images),
            *view_makers(images, caches, size),
            *resident_images(caches[OWN_SIDE], size, device),
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
                # A clock may not have moved in a rival that is over at once: then there is no rate to tell.
                "images/s": round(1 / cpu) if cpu else None,
                "cpu ms": None if spent is None else round(1000 * spent.cpu, 4),
                "wall ms": None if spent is None else round(1000 * spent.wall, 4),
                "times as fast": round(base / cpu, 2) if cpu and base else None,
                "off by": rival.departure() if rival.run and rival.departure else None,
                "note": rival.note,
            }
        )
    return rows


def write_photographs(folder: Path, count: int) -> tuple[FileImages, str]:
    """Writes JPEGs of 500×375 pixels: parts of scikit-learn's two photographs, or scenes where that is missing.

    Args:
        folder: where they go.
        count: how many.

    Returns:
        The files, and what they show.
    """
    try:
        from sklearn.datasets import load_sample_images

        originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
        described = "parts of scikit-learn's photographs"
    except ImportError:
        scenes = Scenes("train", count=4, size=512)
        originals, described = [scenes[index][0] for index in range(4)], "scenes, as scikit-learn is not installed"
    folder.mkdir(parents=True)
    files = [f"{index}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        original = originals[index % len(originals)]
        rng = stream(0, Purpose.view, 0, index)
        share = rng.uniform(0.8, 1.0)
        width, height = (round(share * side) for side in original.size)
        left, top = (int(rng.integers(room + 1)) for room in (original.width - width, original.height - height))
        part = original.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.LANCZOS)
        part.save(folder / file, quality=QUALITY)
    return FileImages(folder, files, [0] * count, ["photograph"]), f"{described}, {SIZE[0]}×{SIZE[1]}, q {QUALITY}"


def find_photographs(folder: Path, count: int) -> FileImages:
    """Returns the first JPEGs in a folder and below.

    Raises:
        UserError: It cannot be read, or holds none.
    """
    files = [file for file in image_files(folder) if file.lower().endswith((".jpg", ".jpeg"))][:count]
    if not files:
        raise PathError(folder, "there is no JPEG", mend="name a folder of photographs")
    return FileImages(folder, files, [0] * len(files), ["photograph"])


def cached(images: Images, side: int, root: Path) -> CachedImages:
    """Decodes the images into a cache of this side."""
    outcome = cache_images(images, "bench", "train", side, root, workers=1, say=lambda _: None)
    return CachedImages(Path(outcome["folder"]))


def decoders(images: FileImages) -> list[Rival]:
    """Returns the ways to the pixels of a whole image, Pillow's first; files are in the memory already."""
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
    """Returns OpenCV's decoder; None where it is not installed, or lacks a library of the system."""
    try:
        import cv2
    except ImportError:
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(content: bytes) -> Pixels:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        assert pixels is not None  # Pillow has decoded it before
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    return decode


def view_makers(images: FileImages, caches: Mapping[int, CachedImages], size: int) -> list[Rival]:
    """Returns the ways from a file to two views, the usual one first; colours are ours to change on the device."""
    usual = usual_pipeline(size)
    crop = transforms.RandomResizedCrop(size, scale=(0.2, 1.0))

    def with_pillow(make_view: Callable[[Image.Image], object]) -> Callable[[], object]:
        def run() -> None:
            for file in images.files:
                with (images.folder / file).open("rb") as stream:
                    image = Image.open(stream).convert("RGB")
                make_view(image), make_view(image)

        return run

    def ours(source: Images, resizer: Resizer) -> TwoViews:
        return TwoViews(source, size, AugmentationSettings(resizer=resizer), seed=0)

    def all_of(views: TwoViews) -> list[dict[str, Any]]:
        return [views[0, index] for index in range(len(views))]

    def rival(name: str, views: TwoViews, *, comparable: bool = True, note: str = "") -> Rival:
        return Rival("two views", name, lambda: all_of(views), (lambda: departure(views)) if comparable else None, note)

    def departure(views: TwoViews) -> int:
        pairs = zip(all_of(views), all_of(reference), strict=True)
        return max(difference(a[name].numpy(), b[name].numpy()) for a, b in pairs for name in TwoViews.names)

    reference = ours(images, Resizer.pil)
    fast_decoding = "" if libjpeg_turbo() else "Pillow decodes: pip install simplejpeg"
    small = f"data.cached_side={CACHED_SIDE}"
    return [
        Rival("two views", "usual: torchvision on Pillow, as MoCo's main_moco.py", with_pillow(usual)),
        Rival("two views", "Pillow decodes and crops", with_pillow(lambda image: pil_to_tensor(crop(image)))),
        rival("salmask, augmentation.resizer=pil", reference, note=fast_decoding),
        rival("salmask, augmentation.resizer=torch", ours(images, Resizer.torch), note=fast_decoding),
        rival("salmask, pil, from a cache of whole images", ours(caches[OWN_SIDE], Resizer.pil)),
        rival("salmask, torch, from a cache of whole images", ours(caches[OWN_SIDE], Resizer.torch)),
        rival(f"salmask, torch, {small}", ours(caches[CACHED_SIDE], Resizer.torch), comparable=False),
    ]


def resident_images(images: CachedImages, size: int, device: torch.device) -> list[Rival]:
    """Returns what is left to do where the images lie in a device's memory (`machine.resident`): draws, and crops.

    Args:
        images: decoded.
        size: side of the views in pixels.
        device: where they are to lie.
    """
    settings = AugmentationSettings()
    views = TwoViews(images, size, settings, seed=0)
    resident = ResidentImages.load(images, device, workers=0)
    draws = ViewDraws(views, resident.sizes)
    on_gpu, full_batch = device.type == "cuda", -(-BATCH // len(images))

    def names(epochs: int) -> list[tuple[int, int]]:
        return [(epoch, index) for epoch in range(epochs) for index in range(len(images))]

    def draw_in_turn() -> None:
        for epoch, index in names(full_batch):
            rng = stream(0, Purpose.view, epoch, index)
            width, height = images.size(index)
            for _ in TwoViews.names:
                draw_box(width, height, settings.crop_scale_min, rng), draw_view(rng, settings).row()

    def crops(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        boxes = {name: batch[f"{name}_box"] for name in TwoViews.names}
        return {name: resident.crops(batch["index"], boxes[name], size, settings.interpolation) for name in boxes}

    def departure() -> int:
        ours = crops(draws.__getitems__(names(1)))
        pairs = ((views[0, index][name], ours[name][index]) for index in range(len(images)) for name in ours)
        return max(difference(expected.numpy(), crop.cpu().numpy()) for expected, crop in pairs)

    # A GPU is only busy with a whole batch; a CPU would be so for minutes.
    at_once = full_batch if on_gpu else 1
    batch = draws.__getitems__(names(at_once))
    note = f"{len(images) * at_once} images at once" + (", by the clock on the wall" if on_gpu else "")
    return [
        Rival("draws of two views", "image by image", draw_in_turn, times=full_batch),
        Rival(
            "draws of two views",
            "salmask, machine.resident",
            lambda: draws.__getitems__(names(full_batch)),
            times=full_batch,
            note=f"{len(images) * full_batch} images at once",
        ),
        Rival(
            "crops of two views",
            f"salmask, machine.resident on {device.type}",
            lambda: crops(batch),
            departure,
            note,
            times=at_once,
            on_device=on_gpu,
        ),
    ]


def augmenters(size: int, count: int, device: torch.device) -> list[Rival]:
    """Returns the ways from a crop to a view: jitter, grey, blur and flip, as MoCo v2 draws them.

    Args:
        size: side of the views in pixels.
        count: photographs a round; a view counts as one.
        device: where ours are changed.
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
            note="by the clock on the wall" if device.type == "cuda" else "",
            times=times,
            on_device=device.type == "cuda",
        ),
    ]


def usual_pipeline(size: int) -> Callable[[Image.Image], object]:
    """Returns MoCo v2's augmentation as its authors wrote it (moco, main_moco.py:247-259 and moco/loader.py)."""

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


def difference(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Returns the largest difference of two arrays of pixels, in levels of 255."""
    return int(np.abs(one.astype(np.int16) - other).max())
