"""Annotations of any content: read as they say, or refused by what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.data.annotations.coco_instances import read_instances
from repro.data.annotations.voc_annotation import read_annotation
from repro.drill.inputs import try_input
from repro.errors import UserError

NAME = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=8)
SIDE, CORNER = st.integers(1, 5000), st.integers(1, 5000) | st.floats(1, 5000)
OBJECTS = st.lists(st.tuples(NAME, st.tuples(CORNER, CORNER, CORNER, CORNER), st.sampled_from("01")), max_size=3)
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY = st.recursive(
    ODD, lambda kinds: st.lists(kinds, max_size=3) | st.dictionaries(NAME, kinds, max_size=2), max_leaves=6
)
EDGES = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("annotations")


@given(size=st.tuples(SIDE, SIDE), objects=OBJECTS)
def test_voc_is_read_as_it_says_or_refused(size: tuple[int, int], objects: list[Any], place: Path) -> None:
    bodies = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(EDGES, corners, strict=True))
        + "</bndbox></object>"
        for name, corners, difficult in objects
    ]
    path = place / "x.xml"
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{''.join(bodies)}</annotation>",
        encoding="utf-8",
    )
    if any(xmin > xmax or ymin > ymax for _, (xmin, ymin, xmax, ymax), _ in objects):
        with pytest.raises(UserError, match="has no area"):
            read_annotation(path)
        return
    annotation = read_annotation(path)
    assert annotation.size == size
    for read, (name, (xmin, ymin, xmax, ymax), difficult) in zip(annotation.objects, objects, strict=True):
        assert (read.name, read.difficult) == (name, difficult == "1")
        assert read.box == pytest.approx((xmin - 1, ymin - 1, xmax, ymax))


LISTS, FIELDS = (
    ("images", "categories", "annotations"),
    ("", "id", "file_name", "width", "name", "bbox", "segmentation"),
)


@given(name=st.sampled_from(LISTS), field=st.sampled_from(FIELDS), value=ANY)
def test_coco_of_any_content_is_read_or_refused(name: str, field: str, value: Any, place: Path) -> None:
    entries: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}],
    }
    if field:
        entries[name][0][field] = value
    else:
        entries[name] = value
    path = place / "instances.json"
    path.write_text(json.dumps(entries))
    assert try_input(lambda: read_instances(path), place) == ""
