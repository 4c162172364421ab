"""Settings, sweeps and profiles are read back as they were written, whatever their content and order."""

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from repro.drill.inputs import try_input
from repro.errors import UserError
from repro.settings.identity import keys
from repro.settings.limits import LIMITS
from repro.settings.ranges import NOT_NEGATIVE
from repro.settings.reading import build, flat, load, parse_overrides
from repro.settings.run import Run
from repro.settings.yaml_text import format_yaml, parse_yaml
from slurm.planning.sweep import load as load_sweep
from slurm.profiles import profile
from slurm.profiles.profile_values import minutes

KEYS = keys(Run)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | TEXT
TREES = st.recursive(SCALARS, lambda kinds: st.lists(kinds, max_size=3) | st.dictionaries(TEXT, kinds, max_size=3))
NAMES = {
    "method": ["mocov2", "simclr+ours-hp", "010", "a@b_c.d-e"],
    "data.dataset": ["imagenet100", "scenes", "flowers102"],
    "encoder.arch": ["resnet18", "resnet50"],
}
"""Some values of settings that are names. For other texts anything is tried, and may be refused."""


def values(key: str, kind: Any) -> st.SearchStrategy[Any]:
    """Values of a setting's type, most of them within its limits."""
    limit = LIMITS.get(key, NOT_NEGATIVE)
    low, high = limit.low, min(limit.high, 1e6)
    whole, real = st.integers(int(low), int(high)), st.floats(low, high, exclude_min=limit.above)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from([member.name for member in kind])
    of_type = {bool: st.booleans(), int: whole, float: real | whole, tuple[int, ...]: st.lists(whole, max_size=3)}
    of_type |= {tuple[float, ...]: st.lists(real, max_size=3)}
    return of_type.get(kind, st.sampled_from(NAMES[key]) if key in NAMES else TEXT)


SETTINGS = st.lists(st.sampled_from(sorted(KEYS)), unique=True, min_size=1, max_size=6).flatmap(
    lambda names: st.fixed_dictionaries({name: values(name, KEYS[name]) for name in names})
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@given(TREES)
def test_yaml_is_read_back_as_it_was_written(content: Any) -> None:
    assert parse_yaml(format_yaml(content)) == content


@given(settings=SETTINGS, order=st.randoms(use_true_random=False))
def test_a_run_is_what_was_written_of_it_in_any_order(settings: dict[str, Any], order: Any, place: Path) -> None:
    try:
        run = build([settings])
    except UserError:
        assume(False)
    (place / "run.yaml").write_text(run.to_yaml(), encoding="utf-8")
    assert load(place / "run.yaml") == run
    shuffled = list(settings.items())
    order.shuffle(shuffled)
    assert build([dict([pair]) for pair in shuffled]) == run  # each in a layer of its own
    lines = [
        f"{key}={format_yaml([value]).removeprefix('- ')}" for key, value in shuffled if not isinstance(value, list)
    ]
    lists = {key: value for key, value in shuffled if isinstance(value, list)}
    again = build([lists, parse_overrides(lines)])
    assert (again.id, again.recipe) == (run.id, run.recipe)


@given(changes=SETTINGS)
def test_ids_are_those_of_what_counts(changes: dict[str, Any]) -> None:
    try:
        run = build([changes])
    except UserError:
        assume(False)
    machine = {key: value for key, value in changes.items() if key.startswith(("machine.", "probe.", "knn."))}
    assert build([{key: value for key, value in changes.items() if key not in machine}]).id == run.id
    assert build([{"seed": run.seed + 1}], base=run).recipe == run.recipe
    assert build([{"seed": run.seed + 1}], base=run).id != run.id


@given(key=st.sampled_from(sorted(KEYS)), value=TREES)
def test_any_value_in_a_settings_place_is_taken_or_refused(key: str, value: Any, place: Path) -> None:
    assert try_input(lambda: build([{key: value}]), place) == ""


SWEEPS = st.fixed_dictionaries(
    {
        "methods": st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True),
        "seeds": st.lists(st.integers(0, 10**9), min_size=1, max_size=3, unique=True),
    },
    optional={
        "tasks": st.lists(st.sampled_from(["linear", "knn", "linear@caltech101"]), unique=True),
        "table": st.lists(st.sampled_from(["table1", "table2"]), unique=True),
        "settings": st.dictionaries(st.sampled_from(["data.crop", "seed", "encoder.dim"]), st.integers(1, 99)),
    },
)


@given(content=SWEEPS, order=st.randoms(use_true_random=False))
def test_a_sweep_says_what_its_file_says_in_any_order(content: dict[str, Any], order: Any, place: Path) -> None:
    lines = list(content.items())
    order.shuffle(lines)
    path = place / "sweep.yaml"
    path.write_text(format_yaml(dict(lines)), encoding="utf-8")
    (part,) = load_sweep(str(path)).parts
    assert (list(part.methods), list(part.seeds)) == (content["methods"], content["seeds"])
    assert list(part.tasks) == content.get("tasks", ["linear"])
    assert dict(flat(part.settings)) == content.get("settings", {})


@given(key=st.sampled_from(["methods", "seeds", "tasks", "table", "settings", "parts", "include"]), value=TREES)
def test_any_value_in_a_sweeps_place_is_taken_or_refused(key: str, value: Any, place: Path) -> None:
    path = place / "sweep.yaml"
    path.write_text(format_yaml({"methods": ["mocov2"], "seeds": [0], key: value}), encoding="utf-8")
    assert try_input(lambda: load_sweep(str(path)), place) == ""


PROFILE_KEYS = (*profile.keys_of(profile.Resources), *profile.keys_of(profile.Cluster), "executor", "tasks")


@given(content=st.dictionaries(st.sampled_from(PROFILE_KEYS) | TEXT, TREES, max_size=4))
def test_any_profile_is_taken_or_refused(content: dict[str, Any], place: Path) -> None:
    path = place / "mine.yaml"
    path.write_text(format_yaml(content), encoding="utf-8")
    assert try_input(lambda: profile.load(str(path)), place) == ""


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_are_read_as_they_are_written(days: int, hours: int, minute: int, second: int) -> None:
    seconds = ((days * 24 + hours) * 60 + minute) * 60 + second
    assume(seconds >= 60)
    expected = -(-seconds // 60)
    assert minutes("x", "time", f"{days}-{hours:02d}:{minute:02d}:{second:02d}") == expected
    assert minutes("x", "time", f"{24 * days + hours}:{minute:02d}:{second:02d}") == expected
    assert minutes("x", "time", f"{60 * (24 * days + hours) + minute}:{second:02d}") == expected
