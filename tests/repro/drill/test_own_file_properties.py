"""Every file of ours that is read back, with any bytes changed, is read, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.drill.inputs import ODD_VALUES, try_input
from repro.drill.own_files import OwnFile, own_files

NAMES = (
    *("run.yaml", "status.json", "provenance.json", "usage.json", "health.json", "foregrounds.json"),
    *(
        "metrics.jsonl",
        "results.jsonl",
        "predictions.parquet",
        "backbone.pth",
        "step.pth",
        "foreign.pth",
        "weights.safetensors",
    ),
    *(
        "features.npy",
        "fits.npz",
        "artifact.zip",
        "jobs.jsonl",
        ".cancels.jsonl",
        "calls.json",
        "report.json",
        "sweep.yaml",
        "profile.yaml",
        "steps.jsonl",
    ),
    *("instances.json", "voc.xml", "data.yaml", "checksums.jsonl", "index.npy", "cache.json"),
    *("picture.png", "picture.jpg"),
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),  # the place, as a share of the file
        st.integers(0, 12),  # how many bytes are removed
        st.binary(max_size=3) | st.sampled_from([value.encode() for value in ODD_VALUES]) | st.just(b"[" * 10_000),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnFile]:
    return own_files(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt")


@pytest.fixture(scope="module")
def right(kinds: dict[str, OwnFile], place: Path) -> dict[str, Any]:
    """The content of the files as they were written."""
    said = {}
    for name, kind in kinds.items():
        (place / name).write_bytes(kind.content)
        value = kind.read(place / name)
        said[name] = kind.gist(value) if kind.gist else None
        (place / name).unlink()
    return said


def test_every_kind_is_read_as_it_was_written(right: dict[str, Any]) -> None:
    assert tuple(right) == NAMES
    assert [name for name, gist in right.items() if gist] == ["predictions.parquet", "backbone.pth", "step.pth"]


@pytest.mark.parametrize("name", NAMES)
@given(edits=EDITS)
def test_any_change_is_read_or_refused_in_one_line(
    kinds: dict[str, OwnFile], right: dict[str, Any], place: Path, name: str, edits: list[tuple[float, int, bytes]]
) -> None:
    kind, path, said = kinds[name], place / name, right[name]
    content = kind.content
    for share, length, by in edits:
        start = int(share * len(content))
        content = content[:start] + by + content[start + length :]
    path.write_bytes(content)

    def read() -> None:
        value = kind.read(path)
        assert kind.gist is None or kind.gist(value) == said, "a file with checksums says something else"

    try:
        assert try_input(read, place) == ""
    finally:
        path.unlink()
