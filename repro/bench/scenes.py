"""Drawing built-in scenes beside reading those that are kept."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.bench.timing import timed_in_turn
from repro.scenes.dataset import Scenes


def scenes(size: int, cutouts: Path | None, count: int = 64) -> dict[str, Any]:
    """Drawing scenes, and reading those that are kept.

    Args:
        size: pixels a side.
        cutouts: folder of RGBA cut-outs; None for drawn shapes.
        count: scenes a round.
    """
    drawn, kept = (Scenes("train", count=count, size=size, cutouts=cutouts) for _ in range(2))

    def all_of(made: Scenes) -> Callable[[], object]:
        return lambda: [made[index] for index in range(count)]

    with tempfile.TemporaryDirectory() as folder:
        kept.keep(Path(folder))
        seconds = timed_in_turn({"draw": all_of(drawn), "read": all_of(kept)})
    return {
        "scene": f"{size}×{size}, {'drawn shapes' if cutouts is None else 'cut-outs'}",
        "draw_ms": round(1000 * seconds["draw"] / count, 2),
        "read_ms": round(1000 * seconds["read"] / count, 2),
        "draw / read": round(seconds["draw"] / seconds["read"], 1),
    }
