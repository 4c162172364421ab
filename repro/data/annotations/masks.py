"""The masks of COCO's objects: polygons, or run-length codes (RLE), checked without pycocotools. No torch."""

import math
from typing import Any

from repro.data.annotations.fields import whole

Mask = list[list[float]] | dict[str, Any]
"""Polygons, each x and y in turn in pixels; or an RLE with `counts`, a list or COCO's text, and `size`, [H, W]."""

_LEAST_COORDINATES = 6  # of a polygon: three points


def read_mask(value: Any) -> Mask | None:
    """Reads an object's `segmentation`.

    Polygons of fewer than three points are left out, as detectron2 does (data/datasets/coco.py).

    Args:
        value: The JSON value.

    Returns:
        The mask; None where there is none, or no polygon in it.

    Raises:
        ValueError: The value is no mask.
    """
    if value in (None, "", [], {}):
        return None
    if isinstance(value, list):
        return _polygons(value)
    if isinstance(value, dict):
        return _run_lengths(value)
    raise ValueError(f"is a {type(value).__name__}, neither polygons nor an RLE")


def has_pixels(mask: Mask) -> bool:
    """Says whether an RLE has a pixel; polygons are assumed to have some, which is known only once they are drawn."""
    return not isinstance(mask, dict) or any(_runs(mask["counts"])[1::2])  # runs of 0 and of 1 in turn


def mask_fault(mask: Mask | None, size: tuple[int, int]) -> str:
    """Says why a mask cannot belong to an image; returns "" where it can.

    Args:
        mask: From `read_mask`.
        size: The image's (width, height) in pixels.
    """
    width, height = size
    if isinstance(mask, dict):
        rows, columns = mask["size"]
        if (columns, rows) != size:
            return f"an RLE of {columns}×{rows} pixels, where the image has {width}×{height}"
    elif mask is not None:
        # COCO's own polygons reach some pixels beyond the edge. One that reaches far beyond is of another image, and
        # pycocotools would draw all of it.
        reach = max(size)
        if any(min(polygon) < -reach or max(polygon) > 2 * reach for polygon in mask):
            return f"a polygon far outside of the image of {width}×{height} pixels"
    return ""


def _polygons(value: list[Any]) -> list[list[float]] | None:
    for polygon in value:
        try:
            # One sum, in C: a million polygons have fifty million coordinates.
            sound = isinstance(polygon, list) and math.isfinite(sum(polygon))
        except (TypeError, OverflowError):
            sound = False
        if not sound:
            raise ValueError("holds a polygon that is not a list of finite numbers")
    return [polygon for polygon in value if len(polygon) >= _LEAST_COORDINATES and len(polygon) % 2 == 0] or None


def _run_lengths(value: dict[str, Any]) -> dict[str, Any]:
    size = value.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError("is an RLE without a 'size' of two numbers")
    height, width = (whole(side) for side in size)
    runs = _runs(value.get("counts"))
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"is an RLE of {sum(runs)} pixels, where its size {width}×{height} has {height * width}")
    return {"counts": value["counts"] if isinstance(value["counts"], str) else runs, "size": [height, width]}


def _runs(counts: Any) -> list[int]:
    """Returns the lengths of an RLE's runs of 0 and of 1 in turn."""
    if isinstance(counts, list):
        return [whole(count) for count in counts]
    if isinstance(counts, str):
        return decoded_runs(counts)
    raise ValueError("is an RLE without 'counts'")


def decoded_runs(text: str) -> list[int]:
    """Decodes the text of a compressed RLE into the lengths of runs (pycocotools, common/maskApi.c, rleFrString).

    Each character has five bits of a signed number, the lowest bits first. A number is a run's length; from the fourth
    run on, it is the difference from the length of two runs before.

    Raises:
        ValueError: The text is no compressed RLE.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError("is an RLE whose text has a character that none has")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more characters of this length follow
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("is an RLE whose text ends within a number")
    return runs
