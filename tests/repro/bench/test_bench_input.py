"""`salmask bench input` measures rivals that do the same thing, and says which cannot be had."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from image_samples import write_image
from PIL import Image
from training_samples import refused, salmask

from repro.bench import input as bench
from repro.bench import timing
from repro.data import jpeg


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "seconds_in_turn", partial(timing.seconds_in_turn, rounds=1))


def test_processor_time_stands_beside_the_time_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clocks advance only when the rivals move them."""
    wall, cpu = 0, 0

    def sleep() -> None:
        nonlocal wall
        wall += 5

    def work() -> None:
        nonlocal wall, cpu
        wall, cpu = wall + 3, cpu + 2

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: wall, process_time=lambda: cpu))
    assert timing.seconds_in_turn({"sleep": sleep, "work": work}, rounds=1) == {"sleep": (5, 0), "work": (3, 2)}


def test_our_views_are_pillows_and_every_decoders_pixels_too() -> None:
    pytest.importorskip("simplejpeg")
    measured = json.loads(salmask("bench", "input", "--size", "32", "--count", "2", "--json").out)
    assert "2 parts of scikit-learn's photographs, 500×375" in measured["photographs"]
    off_by = {row["rival"]: row["off by"] for row in measured["rows"]}
    assert [off_by[name] for name in ("Pillow", "torchvision", "cv2", "simplejpeg")] == [0, 0, 0, 0]
    ours = {name: value for name, value in off_by.items() if name.startswith("salmask")}
    assert list(ours.values()) == [0, 1, 0, 1, None, None, 0, None]
    for row in measured["rows"]:
        assert row["cpu ms"] > 0
        assert row["images/s"] == pytest.approx(1000 / row["cpu ms"], rel=0.02)
    firsts = {row["stage"]: row["times as fast"] for row in reversed(measured["rows"])}
    assert set(firsts.values()) == {1}
    assert set(firsts) == {"decode", "two views", "draws of two views", "crops of two views", "colours of 64 views"}


def test_what_is_not_installed_is_named_and_the_rest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cv2", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(bench, "libjpeg_turbo", lambda: None)
    monkeypatch.setattr(jpeg, "libjpeg_turbo", lambda: None)
    measured = bench.measure_input(32, 1, None)
    assert measured["photographs"].startswith("1 scenes, as scikit-learn is not installed, 500×375")
    rows = {row["rival"]: row for row in measured["rows"]}
    for name, package in (("cv2", "opencv-python-headless"), ("simplejpeg", "simplejpeg")):
        assert rows[name]["note"] == f"not installed: pip install {package}"
        assert (rows[name]["images/s"], rows[name]["off by"]) == (None, None)
    fast = rows["salmask, augmentation.resizer=torch"]
    assert fast["note"] == "Pillow decodes: pip install simplejpeg"
    assert fast["off by"] <= 1


def test_photographs_may_be_given(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (60, 40), (index, 99, 0)).save(tmp_path / f"{index}.JPEG", format="JPEG")
    write_image(tmp_path / "other.png", 1)
    ended = salmask("bench", "input", "--size", "32", "--count", "5", "--photographs", str(tmp_path))
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"3 JPEGs of {tmp_path}")
    (tmp_path / "none").mkdir()
    assert refused("bench", "input", "--photographs", str(tmp_path / "none")) == (
        f"{tmp_path / 'none'}: there is no JPEG; mend: name a folder of photographs"
    )
    assert refused("bench", "input", "--photographs", str(tmp_path / "missing")) == (
        f"{tmp_path / 'missing'}: no such folder; mend: name a folder of photographs"
    )
