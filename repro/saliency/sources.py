"""Builds the source of foreground that a run uses, on the device."""

from collections.abc import Sequence

import torch
from torch import Generator

from repro.data.splits import Images
from repro.errors import UserError
from repro.masking.patches import ranks
from repro.randomness import Purpose, stream_seed
from repro.saliency.foregrounds import ByImage, ByMask, ByView, Everywhere, Foregrounds, RandomCells
from repro.saliency.image_maps import MapSource, load_maps, load_some_maps, network_maps
from repro.saliency.localizer import grid_of
from repro.saliency.maps_of_files import maps_of_files
from repro.saliency.networks import build_localizer
from repro.saliency.true_maps import centre_prior, true_maps
from repro.saliency.true_masks import TrueMasks, true_masks
from repro.settings.choices import MapOf, Source
from repro.settings.run import Run
from repro.settings.saliency_sources import SaliencySource, SourceKind

TRUTH = SaliencySource(SourceKind.truth)
NETWORK = SaliencySource(SourceKind.network)


def build_foregrounds(
    run: Run, device: torch.device, images: Images | None, *, only: Sequence[int] | None = None
) -> tuple[Foregrounds, Foregrounds]:
    """Builds what tells foreground from background in the views of a run that masks.

    Args:
        run: Says which sources it uses, if any.
        device: Where the views are.
        images: Of the data set. Maps of whole images need them, and are computed here if missing; so do random cells.
        only: The indices of the images whose views will be made; None: all of them.

    Returns:
        The foregrounds of masked views, and those of keys that become hard negatives; they may be the same object.

    Raises:
        UserError: The localizer cannot be built, its grid does not fit the views, the images have no true masks, or an
            image has no file.
        ValueError: `images` is None, and a source needs them.
    """
    if not run.guided:
        everywhere = Everywhere(grid_of(run.data.crop))
        return everywhere, everywhere
    source, hard = run.saliency_sources
    foregrounds = _build(source, run, device, images, only)
    return foregrounds, foregrounds if hard == source else _build(hard, run, device, images, only)


def map_source(run: Run, images: Images, source: SaliencySource) -> MapSource:
    """Returns how a run's maps of whole images are made.

    Args:
        run: Its settings of the localizer and the data.
        images: Of the data set.
        source: A network, files or true masks. `inverted` and `random` need the maps of `truth`.

    Raises:
        UserError: The images have no true masks, or an image has no file.
    """
    if source.needs_network:
        return network_maps(run.localizer, images, run.seed)
    if source.needs_files:
        return maps_of_files(run.localizer, images)
    of_mask = TRUTH if source.kind in (SourceKind.inverted, SourceKind.random) else source
    return true_maps(of_mask, _known_masks(images, source, run))


def _known_masks(images: Images, source: SaliencySource, run: Run) -> TrueMasks:
    """Returns the true masks of images.

    Raises:
        UserError: They are not known.
    """
    masks = true_masks(run, images)
    if masks is not None:
        return masks
    if run.data.drawn and not run.data.cached_side:
        raise ValueError(f"{type(images).__name__} in the place of {run.data.dataset} have no true masks")
    without = "cached images have" if run.data.drawn else f"data.dataset={run.data.dataset} has"
    mend = "data.cached_side=0" if run.data.drawn else "data.masks=DIR, or data.dataset=scenes or scenes-cutouts"
    raise UserError(f"localizer.source={source} needs true masks, and {without} none", mend=mend)


def _build(
    source: SaliencySource, run: Run, device: torch.device, images: Images | None, only: Sequence[int] | None
) -> Foregrounds:
    """Builds the foregrounds of one source."""
    if source.kind is SourceKind.shuffled:
        return _at_random(_build(NETWORK, run, device, images, only), run, device, images)
    settings, grid = run.localizer, grid_of(run.data.crop)
    row_sorted = run.fidelity.saliency_map is Source.released
    if source.kind is SourceKind.network and settings.map is MapOf.view:
        localizer = build_localizer(settings.network, settings.weights, seed=run.seed, sha256=settings.sha256)
        localizer.to(device).check(run.data.crop)
        return ByView(localizer, settings.relax, row_sorted)
    if images is None:
        raise ValueError("maps of whole images need the images")
    if source.kind is SourceKind.centre:
        return ByImage(centre_prior(device).expand(len(images), -1, -1), grid, settings.relax, row_sorted)
    of_images, workers = map_source(run, images, source), run.machine.workers
    if only is None:
        maps = load_maps(of_images, images, device, workers=workers)
    else:
        maps = load_some_maps(of_images, images, only, device, workers=workers)
    if source.is_read_by_rule:
        return ByImage(maps, grid, settings.relax, row_sorted)
    by_mask = ByMask(maps, grid, inverted=source.kind is SourceKind.inverted)
    return _at_random(by_mask, run, device, images) if source.kind is SourceKind.random else by_mask


def _at_random(counted: Foregrounds, run: Run, device: torch.device, images: Images | None) -> RandomCells:
    """Builds foregrounds of random cells, as many as another source finds."""
    if images is None:
        raise ValueError("which cells are drawn goes by the images' numbers")
    # The trailing zero has no effect, so this is also the seed of a localizer's random weights. That does no harm, as
    # the numbers serve another purpose, and recorded runs have these cells.
    generator = Generator().manual_seed(stream_seed(run.seed, Purpose.localizer, 0))
    numbers = torch.rand(len(images), grid_of(run.data.crop) ** 2, generator=generator)
    # As many rows as images: with fewer, two images of an epoch would share one. Ranks are small: two bytes hold them.
    return RandomCells(counted, ranks(numbers).to(device, torch.int16))
