"""The galleries of a page: each at its own size, on the page's background in light and in dark."""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from repro.errors import UserError
from repro.html import data_uri
from results.collection.runs import RunRecord
from results.plots.gallery import shrunk

log = logging.getLogger("salmask")

BYTES = 24_000_000
"""How many bytes of pictures a page holds; what is left out is named."""
MOST_PIXELS = 2600
"""The longest side that a picture keeps; a gallery of eight images of 224 px has 1,350 by 1,100."""
WHITE = 236
"""A line of pixels with at least this mean grey value, of 255, is margin: after JPEG, white is not quite 255."""
TITLE_GREY = 128
"""Grey value of titles, which can be read on a light and on a dark page."""


@dataclass(frozen=True)
class Gallery:
    """A gallery as the page embeds it."""

    anchor: str
    """The id of its place on the page."""
    method: str
    run: str
    """Name of the run."""
    file: str
    uri: str
    """The picture, transparent where the file has margins; empty if the page has no room for it."""


def embed(runs: Sequence[RunRecord]) -> dict[str, list[Gallery]]:
    """Embeds the runs' galleries, the first one of each method and sweep before any second one.

    Args:
        runs: The run folders at hand.

    Returns:
        Name of a run -> its galleries.
    """
    room = BYTES
    galleries: dict[str, list[Gallery]] = {run.name: [] for run in runs}
    for number, (run, path) in enumerate(_first_seeds_first(runs)):
        try:
            content = _on_any_page(path) if room > 0 else b""
        except UserError as error:
            log.warning("%s; it is left out", error)
            continue
        room -= len(content)
        uri = data_uri(content, "image/webp") if content and room >= 0 else ""
        galleries[run.name].append(Gallery(f"gallery-{number}", run.method, run.name, path.name, uri))
    return galleries


def _first_seeds_first(runs: Sequence[RunRecord]) -> Iterator[tuple[RunRecord, Path]]:
    seen: dict[tuple[str, str], int] = {}
    ranked = []
    for run in runs:
        if run.galleries:
            key = (run.sweep, run.method)
            seen[key] = seen.get(key, 0) + 1
            ranked.append((seen[key], run))
    for _, run in sorted(ranked, key=lambda pair: pair[0]):  # stable: within a rank the order of the runs
        yield from ((run, path) for path in run.galleries)


def _on_any_page(path: Path) -> bytes:
    """Returns a gallery as WebP, which is transparent in its margins and grey in its titles.

    Galleries are drawn on white. A dark version of each would double the page; one whose margins let the page show
    through does for both. Only lines of pixels that are white from edge to edge become transparent: no pixel of an
    image is touched unless a whole line across all images is white.
    """
    pixels = np.asarray(shrunk(path, MOST_PIXELS, MOST_PIXELS))
    grey = pixels.mean(2)
    alpha = np.full(grey.shape, 255.0)
    first = _first_image_line(grey)
    alpha[:first] = 255 - grey[:first]  # letters are dark on white: the darker, the more opaque
    below = grey[first:]
    if below.size:
        alpha[first:][below.mean(1) >= WHITE] = 0
        alpha[first:, below.mean(0) >= WHITE] = 0
    colours = pixels.copy()
    colours[:first] = TITLE_GREY
    buffer = io.BytesIO()
    shown = Image.fromarray(np.dstack([colours, np.clip(alpha, 0, 255).astype(np.uint8)]))
    shown.save(buffer, "WEBP", quality=88, method=4)
    return buffer.getvalue()


def _first_image_line(grey: np.ndarray) -> int:
    """Returns the first line of the images below the titles: from it on, most of a line is not white.

    Args:
        grey: Grey values H×W of 0 to 255.
    """
    filled = (grey < WHITE).mean(1) > 0.5
    return int(filled.argmax()) if filled.any() else len(filled)
