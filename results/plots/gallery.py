"""The plot of galleries, what the networks see, and how a gallery's file is read."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from repro.errors import UserError, one_line
from repro.filesystem.files import read_regular
from results.collection.runs import RunRecord
from results.plots.material import Material, NothingToDrawError
from results.plots.style import WIDTH, folded_name

LARGEST_PICTURE = 256 * 2**20
"""Bytes of a gallery's file, a hundred times what ours have."""

log = logging.getLogger("salmask")


def gallery(material: Material) -> Figure:
    """Draws what the networks see: the first gallery of each method that has one."""
    pictures = _first_galleries(material.runs)
    if not pictures:
        raise NothingToDrawError("no run has a gallery yet", mend="start a run")
    names = list(pictures)
    rows = [names[start : start + 3] for start in range(0, len(names), 3)]
    # Three pictures per row, all of one height, so that each is as wide as its proportions ask for.
    ratios = {name: picture.width / picture.height for name, picture in pictures.items()}
    of_rows = [WIDTH / max(sum(map(ratios.__getitem__, row)), 1.2) for row in rows]  # their heights
    # The last row may have fewer pictures, which must not be larger for that.
    of_rows[-1] = min(of_rows[-2:])
    inches = {name: height for height, row in zip(of_rows, rows, strict=True) for name in row}
    titles = {name: folded_name(name, ratios[name] * inches[name]) for name in names}
    heights = [max(inches[name] + 0.3 * (1 + titles[name].count("\n")) for name in row) for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    strips = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for strip, row in zip(strips, rows, strict=True):
        widths = [ratios[name] for name in row]
        for axes, name in zip(strip.subplots(1, len(row), squeeze=False, width_ratios=widths)[0], row, strict=True):
            axes.imshow(np.asarray(pictures[name]), interpolation="antialiased")
            axes.set_title(titles[name])
            axes.axis("off")
    return figure


def _first_galleries(runs: Sequence[RunRecord]) -> dict[str, Image.Image]:
    """Returns the first gallery of each method; a file that is not a picture is logged, and the next one is taken."""
    pictures: dict[str, Image.Image] = {}
    for run in runs:
        for path in run.galleries:
            if run.method not in pictures:
                try:
                    pictures[run.method] = shrunk(path, 760, 1000)
                except UserError as error:
                    log.warning("%s; it is left out", error)
    return pictures


def shrunk(path: Path, width: int, height: int) -> Image.Image:
    """Loads a picture, shrunk to at most the given size.

    Args:
        path: A gallery, which may be very long.
        width: The largest width in pixels.
        height: The largest height in pixels.

    Returns:
        The picture in RGB, its proportions kept.

    Raises:
        UserError: The file cannot be read as a picture.
    """
    try:
        with Image.open(io.BytesIO(read_regular(path, LARGEST_PICTURE))) as file:
            picture = file.convert("RGB")
    except UserError:  # it has a mend of its own
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged bytes, and one for more pixels than it takes
        raise UserError(f"{path} is not a picture: {one_line(error)}", mend="remove it") from error
    picture.thumbnail((width, height))
    return picture
