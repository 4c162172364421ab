"""Saliency maps of whole images, computed once and kept: a few hundred bytes an image instead of a network's pass."""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import normalize, pil_to_tensor

from repro.command_line.progress import ProgressBars
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.data.splits import Images, read_image
from repro.filesystem.presence import exists
from repro.processes.distributed import barrier, rank, world_size
from repro.processes.loader import Loader
from repro.quantities import counted
from repro.saliency.localizer import STRIDE
from repro.saliency.map_file import CHUNK, MapFile, Maps, map_path
from repro.saliency.networks import build_localizer
from repro.saliency.scda import summed
from repro.settings.sections import LocalizerSettings

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class MapSource:
    """How maps of a data set's images are made."""

    identity: Mapping[str, Any]
    """What distinguishes it from other sources, as JSON values."""
    grid: int
    """Cells a side G of its maps."""
    prepare: Callable[[int], Tensor]
    """Returns the input of an image's map, given the image's index; called in the loader's workers."""
    build: Callable[[torch.device], Callable[[Tensor], Tensor]]
    """Builds the function that turns a batch of such inputs on the device into maps B×G×G; only if maps are missing."""


@dataclass(frozen=True)
class WholeImages:
    """Whole images, squeezed to a square."""

    images: Images
    side: int
    """Pixels a side."""

    def __call__(self, index: int) -> Tensor:
        """Returns an image, 3×S×S, uint8. Views are squeezed to squares as well, from aspect ratios of up to 4/3."""
        image, _ = read_image(self.images, index)
        return pil_to_tensor(image.resize((self.side, self.side), Image.Resampling.BILINEAR))


def network_maps(settings: LocalizerSettings, images: Images, seed: int) -> MapSource:
    """Returns a frozen network as a source of maps: its last stage's activations, summed over channels.

    Args:
        settings: Which network, and the side of the images that it sees.
        images: Of the data set.
        seed: Of random weights.
    """
    side = settings.image_side
    identity: dict[str, Any] = {"network": settings.network, "weights": settings.sha256 or settings.weights}
    if settings.weights == "random":
        identity["seed"] = seed
    elif settings.network == "efficientnet-lite0":
        identity["weights"] = ""  # it has only one set of trained weights, whatever the setting says

    def build(device: torch.device) -> Callable[[Tensor], Tensor]:
        localizer = build_localizer(settings.network, settings.weights, seed=seed, sha256=settings.sha256).to(device)
        localizer.check(side, "localizer.image_side")

        def maps(pixels: Tensor) -> Tensor:
            return standardised(summed(localizer(normalize(pixels.float() / 255, IMAGENET_MEAN, IMAGENET_STD))))

        return maps

    return MapSource({**identity, "side": side}, side // STRIDE, WholeImages(images, side), build)


def standardised(maps: Tensor) -> Tensor:
    """Returns maps B×G×G shifted and scaled to mean 0 and standard deviation 1, which half precision holds well.

    This does not change the foreground, since the rule only compares a map's cells with each other.
    """
    std, mean = torch.std_mean(maps, (1, 2), correction=0, keepdim=True)
    return (maps - mean) / std.clamp(min=torch.finfo(std.dtype).tiny)


def load_maps(source: MapSource, images: Images, device: torch.device, *, workers: int = 0) -> Tensor:
    """Returns the maps of all images, computing and keeping those that are missing.

    Several processes, such as ranks or other runs, share the work: each begins at a different chunk and skips chunks
    that another one has written meanwhile.

    Args:
        source: Of the maps.
        images: Of the data set; if their fingerprint is empty, the maps are not kept.
        device: Where maps are computed, and where they are returned.
        workers: Processes that load images.

    Returns:
        N×G×G in half precision; on the CPU, memory-mapped from a file that all processes share.

    Raises:
        UserError: An image cannot be read, or the localizer cannot be built.
    """
    fingerprint = images.fingerprint()
    path = map_path(source.identity, fingerprint) if fingerprint else None
    if path is not None and not exists(path):
        source = replace(source, build=functools.cache(source.build))
        source.build(device)  # before `MapFile` makes a file, which would stay empty if the network cannot be had
    file = MapFile(path, len(images), source.grid)
    _compute_missing(source, file, device, workers)
    # By now this rank knows every map: it has computed it, or found it whole. But where a file system has no locks,
    # another rank may be writing the same chunk a second time, whose checksum does not hold in between; `read` would
    # take its maps for missing ones.
    barrier()
    return file.read().to(device)


def load_some_maps(
    source: MapSource, images: Images, indices: Sequence[int], device: torch.device, *, workers: int = 0
) -> Tensor:
    """Returns maps of all images, of which only those of `indices` must be right; only these are computed.

    Maps that are kept already are read; those computed here are not kept.

    Args:
        source: Of the maps.
        images: Of the data set.
        indices: The images whose maps are needed.
        device: Where maps are computed, and where they are returned.
        workers: Processes that load images.

    Returns:
        N×G×G in half precision, like `load_maps`.

    Raises:
        UserError: An image cannot be read, or the localizer cannot be built.
    """
    fingerprint = images.fingerprint()
    path = map_path(source.identity, fingerprint) if fingerprint else None
    # `MapFile` would create a missing file in its full length, which is not needed here.
    file = MapFile(path if path is not None and os.access(path, os.R_OK) else None, len(images), source.grid)
    maps = file.read()  # copied on write, so that the file stays as it is
    if missing := [index for index in indices if not file.is_whole(index // CHUNK)]:
        batches = [missing[begin : begin + CHUNK] for begin in range(0, len(missing), CHUNK)]
        for numbers, computed in _computed(source, batches, device, workers):
            maps[numbers] = torch.from_numpy(computed)
    return maps.to(device)


def _compute_missing(source: MapSource, file: MapFile, device: torch.device, workers: int) -> None:
    """Computes and writes the chunks that are not in the file."""
    missing = [chunk for chunk in range(file.chunks) if not file.is_whole(chunk)]
    if not missing:
        return
    total = sum(len(file.images_of(chunk)) for chunk in missing)
    kept = f", to be kept in {file.path}" if file.path else ""
    log.info("computing the saliency of %s%s", counted(total, "whole image"), kept)
    with ProgressBars(shown=rank() == 0) as bars:
        bar = bars.add_task("saliency", total=total, unit="images", summary=True)
        for indices, maps in _computed(source, _Missing(file, missing), device, workers):
            file.write(int(indices[0]) // CHUNK, maps)
            bars.advance(bar, len(maps))
        bars.update(bar, completed=total)  # includes the chunks that another process wrote meanwhile


@torch.no_grad()
def _computed(
    source: MapSource, batches: Iterable[list[int]], device: torch.device, workers: int
) -> Iterator[tuple[Tensor, Maps]]:
    """Yields the indices of each batch of images, and their maps B×G×G in half precision."""
    make_maps = source.build(device)
    loader = Loader(_Prepared(source.prepare), workers=workers, batch_sampler=batches)
    for indices, inputs in loader:
        with torch.autocast(device.type, enabled=False):
            maps = make_maps(inputs.to(device, non_blocking=True))
        yield indices, maps.half().cpu().numpy()


@dataclass(frozen=True)
class _Prepared(Dataset[tuple[int, Tensor]]):
    """The input of each image's map, with the image's index."""

    prepare: Callable[[int], Tensor]

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.prepare(index)


@dataclass(frozen=True)
class _Missing:
    """Yields the images of each chunk that is still missing when its turn comes."""

    file: MapFile
    chunks: list[int]

    def __iter__(self) -> Iterator[list[int]]:
        # Ranks begin at evenly spaced chunks. Runs of one process do not know of each other, and begin anywhere.
        place = rank() * len(self.chunks) // world_size() if world_size() > 1 else os.getpid() % len(self.chunks)
        for chunk in (*self.chunks[place:], *self.chunks[:place]):
            if not self.file.is_whole(chunk):
                yield list(self.file.images_of(chunk))
