"""The benchmark of the built-in scenes: how long they take to draw, and to read back from a cache file."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.bench.timing import seconds_in_turn
from repro.scenes.dataset import Scenes


def scenes(size: int, cutouts: Path | None, count: int = 64, *, grounds: int = 0, members: int = 0) -> dict[str, Any]:
    """Times drawing scenes beside reading the same ones from a cache file.

    Args:
        size: Pixels a side.
        cutouts: Folder of RGBA cut-outs; None for drawn shapes.
        count: Scenes a round.
        grounds: Number of textures that grounds are pieces of; 0: each scene has a texture of its own.
        members: Number of different objects of each class; 0: one file, or one outline and pattern.

    Returns:
        What kind of scenes were timed, the milliseconds for one drawn and for one read, and their ratio.
    """
    uncached, cached = (
        Scenes("train", count=count, size=size, cutouts=cutouts, grounds=grounds, members=members) for _ in range(2)
    )

    def read_all(images: Scenes) -> Callable[[], object]:
        return lambda: [images[index] for index in range(count)]

    with tempfile.TemporaryDirectory() as folder:
        cached.keep(Path(folder))  # the warm-up round draws and stores them; all later rounds read
        taken = seconds_in_turn({"draw": read_all(uncached), "read": read_all(cached)})
    draw, read = taken["draw"].wall, taken["read"].wall
    kind = "drawn shapes" if cutouts is None else "cut-outs"
    return {
        "scene": f"{size}×{size}, {kind}, {grounds or 'unshared'} grounds, {members or 'no'} members",
        "draw_ms": round(1000 * draw / count, 2),
        "read_ms": round(1000 * read / count, 2),
        "draw / read": round(draw / read, 1),
    }
