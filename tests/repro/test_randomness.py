"""Random streams are functions of their names, and all are made in one place."""

import ast
from pathlib import Path

import numpy as np
import pytest

import repro.randomness
from repro.randomness import Purpose, scene_label_stream, scene_streams, stream, stream_seed
from repro.scenes.dataset import Scenes

ROOT = Path(repro.randomness.__file__).parents[1]
ROOMS = ("repro", "baselines", "downstream", "slurm", "results")


def first(generator: np.random.Generator) -> int:
    return int(generator.integers(2**62))


def test_a_name_is_a_stream_and_another_name_another() -> None:
    names = [(seed, purpose, index) for seed in (0, 5) for purpose in Purpose for index in (1, 2)]
    draws = [first(stream(*name)) for name in names]
    assert draws == [first(stream(*name)) for name in names]
    assert len(set(draws)) == len(names)
    seeds = [stream_seed(*name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_streams_of_scenes_stay_what_they_were_before_purposes() -> None:
    """The expected values are numpy's own, as in the first release: all recorded runs' pictures depend on them."""
    root = np.random.SeedSequence((3, 1, 7))
    before = [first(np.random.Generator(np.random.PCG64(child))) for child in root.spawn(3)]
    assert [first(generator) for generator in scene_streams(3, 1, 7)] == before
    labels = np.random.Generator(np.random.PCG64(np.random.SeedSequence((3, 1))))
    assert first(scene_label_stream(3, 1)) == first(labels)
    assert Scenes("train", count=10, seed=3).targets == [9, 6, 0, 2, 1, 4, 7, 5, 3, 8]
    assert Scenes("train", count=10, seed=3).fingerprint() == "9951c2a4cf43"


@pytest.mark.parametrize("seed", [0, 3])
def test_no_stream_of_a_scene_is_a_stream_of_a_purpose(seed: int) -> None:
    of_scenes = {first(generator) for split in (0, 1) for generator in scene_streams(seed, split, 7)}
    of_purposes = {first(stream(seed, purpose, 7)) for purpose in Purpose}
    assert len(of_scenes) == 6
    assert not of_scenes & of_purposes


def test_nobody_else_makes_generators_of_seeds() -> None:
    makers = {"SeedSequence", "PCG64", "RandomState"}
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 150
    making = set()
    for path in sources:
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if makers & {call.attr for call in calls if isinstance(call, ast.Attribute)}:
            making.add(path.name)
    assert making == {"randomness.py"}
