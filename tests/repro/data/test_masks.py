"""Masks of COCO's objects as annotation tools write them: which are read, and what is wrong with the others."""

import math
from typing import Any

import pytest

from repro.data.annotations.masks import has_pixels, mask_fault, read_mask

TRIANGLE = [0, 0, 9, 0, 9, 9]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "is a int, neither polygons nor an RLE"),
        ([TRIANGLE, [1, 2, "x"]], "holds a polygon that is not a list of finite numbers"),
        ([[1, math.inf]], "holds a polygon that is not a list of finite numbers"),
        ([9], "holds a polygon that is not a list of finite numbers"),
        ({"counts": [4]}, "is an RLE without a 'size' of two numbers"),
        ({"counts": [4], "size": "22"}, "is an RLE without a 'size' of two numbers"),
        ({"counts": [4], "size": [2, 2, 1]}, "is an RLE without a 'size' of two numbers"),
        ({"size": [2, 3]}, "is an RLE without 'counts'"),
        ({"counts": [5], "size": [2, 3]}, "is an RLE of 5 pixels, where its size 3×2 has 6"),
        ({"counts": [-1, 7], "size": [2, 3]}, "is an RLE of 6 pixels, where its size 3×2 has 6"),
        ({"counts": [], "size": [0, 3]}, "is an RLE of 0 pixels, where its size 3×0 has 0"),
        ({"counts": "/", "size": [2, 3]}, "is an RLE whose text has a character that none has"),
        ({"counts": "p", "size": [2, 3]}, "is an RLE whose text has a character that none has"),
        ({"counts": "6P", "size": [2, 3]}, "is an RLE whose text ends within a number"),
    ],
)
def test_what_is_wrong_with_a_mask_is_said(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="^" + reason.replace("(", r"\(") + "$"):
        read_mask(value)


@pytest.mark.parametrize("value", [None, "", [], {}, [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]]])
def test_what_holds_no_polygon_of_three_points_is_no_mask(value: Any) -> None:
    assert read_mask(value) is None


def test_polygons_of_three_points_and_run_lengths_are_read() -> None:
    assert read_mask([TRIANGLE, [1, 2, 3, 4]]) == [TRIANGLE]
    full, empty = {"counts": [0, 6], "size": [2, 3]}, {"counts": "6", "size": [2, 3]}
    assert (read_mask(full), read_mask({**empty, "more": 1})) == (full, empty)
    assert (has_pixels([TRIANGLE]), has_pixels(full), has_pixels(empty)) == (True, True, False)


def test_a_mask_of_another_image_is_told() -> None:
    mask = {"counts": [6], "size": [2, 3]}
    assert mask_fault(None, (3, 2)) == mask_fault(mask, (3, 2)) == ""
    assert mask_fault(mask, (2, 3)) == "an RLE of 3×2 pixels, where the image has 2×3"
    far = "a polygon far outside of the image of 3×10 pixels"
    for edges, fault in (((-10, 20), ""), ((-11, 20), far), ((-10, 21), far)):
        assert mask_fault([TRIANGLE, [0, 0, 1, 0, *edges]], (3, 10)) == fault
