"""How settings are read from files and command lines: numbers, types, layers, and what is refused in one line."""

import operator
from enum import Enum
from pathlib import Path
from typing import get_origin

import pytest
import yaml
from error_samples import message_of, refusal

from repro.errors import UserError
from repro.settings.choices import Strategy
from repro.settings.identity import keys
from repro.settings.reading import build, load, parse_overrides, read_settings, read_yaml
from repro.settings.run import Run


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=08", "seed", 8),
        ("seed=010", "seed", 10),  # octal would be 8
        ("seed=007", "seed", 7),
        ("optimization.lr=010", "optimization.lr", 10.0),
        ("knn.neighbours=[010, 20]", "knn.neighbours", (10, 20)),
        ("machine.data_root=/data/010/x", "machine.data_root", "/data/010/x"),
        ("localizer.weights=010", "localizer.weights", "010"),
    ],
)
def test_digits_with_zeros_in_front_are_decimal(override: str, key: str, value: object) -> None:
    assert operator.attrgetter(key)(build([parse_overrides([override])])) == value


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("seed: 08", "seed", 8),
        ("seed: 010", "seed", 10),
        ("seed: +07", "seed", 7),
        ("optimization: {lr: 010}", "optimization.lr", 10.0),
        ("optimization: {lr: 1e-3}", "optimization.lr", 0.001),
        ("optimization.epochs: 1_000", "optimization.epochs", 1000),
        ("knn.neighbours: [010, 0x10]", "knn.neighbours", (10, 16)),
        ("machine: {data_root: /data/010}", "machine.data_root", "/data/010"),
        ("localizer: {weights: 010}", "localizer.weights", "010"),
    ],
)
def test_numbers_of_a_file_are_decimal(line: str, key: str, value: object, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"{line}\n")
    run = build([read_yaml(config)])
    assert (operator.attrgetter(key)(run), type(operator.attrgetter(key)(run))) == (value, type(value))


def test_an_empty_mapping_is_no_value_of_any_setting() -> None:
    """It would be ignored, and the run would be another one than was asked for."""
    for key in keys(Run):
        assert f"{key}={{}} " in refusal(f"{key}={{}}"), key
    assert refusal("seed={}") == "settings: seed={} is not a whole number; mend: for example seed=1"
    assert refusal("masking.strategy={}").startswith("settings: masking.strategy={} is unknown; mend: one of none, ")
    for section in ("masking", "fidelity", "data.scenes"):
        assert f"'{section}' is a section; mend: set its keys" in refusal(f"{section}={{}}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: 1:30", "seed=1:30 is not a whole number"),
        ("optimization: {lr: 1:30.5}", "optimization.lr=1:30.5 is not a number"),
        ("optimization: {lr: -.1e-3}", "optimization.lr=-0.0001 is out of range"),
        ("seed: 2024-01-01", "seed=2024-01-01 is not a whole number"),
        ("seed: 1\nseed: 2", "found duplicate key seed"),
        (f"seed: {'[' * 30}{']' * 30}", "is nested too deeply"),
        (f"seed: {'[' * 3000}{']' * 3000}", "is nested too deeply"),
        ("seed: &a [*a]", "is nested too deeply"),
    ],
)
def test_what_is_no_decimal_number_in_a_file_is_refused(line: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"{line}\n")
    assert message in message_of(lambda: build([read_yaml(config)]))


def test_every_setting_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Also a text of digits alone, such as a hash, and one that YAML would take for a number or a time."""
    config = tmp_path / "run.yaml"
    for text in ("0123456701", "0123456789", "1e5", "1:30", "2024-01-01", "+07", "yes", "null", ".5", "0x1f", "1_0"):
        run = build([{"localizer.weights": text, "optimization.lr": 1e-5, "probe.lr_grid": [1e16, 1e-7]}])
        config.write_text(run.to_yaml())
        assert load(config) == run


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1:30", "settings: seed=1:30 is not a whole number"),  # sexagesimal would be 90
        (f"seed={'9' * 30}", "settings: seed has too many digits"),
        (f"seed={'9' * 5000}", "'seed': the value cannot be read"),
        (f"optimization.lr={'9' * 400}", "settings: optimization.lr has too many digits"),
        (f"knn.neighbours=[{'9' * 30}]", "settings: knn.neighbours has too many digits"),
    ],
)
def test_numbers_without_end_are_refused_where_they_enter(override: str, said: str) -> None:
    assert refusal(override).startswith(said)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("sed=1", "seed"),
        ("seeds=1", "seed"),
        ("crop=64", "data.crop"),
        ("data.corp=64", "data.crop"),
        ("data.scenes.clases=3", "data.scenes.classes"),
        ("optimisation.lr=1", "optimization.lr"),
        ("optimization.learning=1", None),
        ("lr=3", None),
        ("masking.relax=1", "localizer.relax"),
        ("moco.temprature=.1", "moco.temperature"),
        ("machine.worker=2", "machine.workers"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(override: str, nearest: str | None) -> None:
    message = refusal(override)
    assert message.startswith(f"settings: unknown key '{override.partition('=')[0]}'; ")
    if nearest:
        assert message.endswith(f"did you mean '{nearest}'?")


def test_a_key_like_no_other_is_answered_with_the_top_level_keys() -> None:
    message = refusal("xyzzy=1")
    assert "unknown key 'xyzzy'; mend: the top-level keys are method, framework, seed, data" in message


def test_a_section_is_no_value() -> None:
    assert refusal("data=scenes") == "settings: 'data' is a section; mend: set its keys, for example data.dataset"
    both = "'optimization' is a section, but has a value of its own beside 'optimization.lr'; mend: set its keys only"
    assert refusal("optimization=3", "optimization.lr=0.1") == both


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=one", "seed=one is not a whole number; mend: for example seed=1"),
        ("seed=1.5", "seed=1.5 is not a whole number; mend: for example seed=1"),
        ("seed=true", "seed=True is not a whole number; mend: for example seed=1"),
        ("optimization.lr=fast", "optimization.lr=fast is not a number; mend: for example optimization.lr=0.1"),
        ("optimization.lr=false", "optimization.lr=False is not a number; mend: for example optimization.lr=0.1"),
        (
            "masking.hard_negative=1",
            "masking.hard_negative=1 is not true or false; mend: for example masking.hard_negative=true",
        ),
        ("data.crop=null", "data.crop=None is not a whole number; mend: for example data.crop=1"),
        ("data.crop=[1,2]", "data.crop=[1, 2] is not a whole number; mend: for example data.crop=1"),
        ("method=[a]", "method=['a'] is not text; mend: for example method=some-text"),
        (
            "knn.neighbours=[a]",
            "knn.neighbours=['a'] is not a list of whole numbers; mend: for example knn.neighbours=[1,2]",
        ),
        (
            "masking.strategy=hp",
            f"masking.strategy=hp is unknown; mend: one of {', '.join(Strategy)}",  # a contributor may add one
        ),
        ("masking.branch=0", "masking.branch=0 is unknown; mend: one of query, key, both"),
        ("fidelity=new", "fidelity.saliency_map=new is unknown; mend: one of paper, released"),
    ],
)
def test_a_wrong_type_is_one_line_with_the_right_one(override: str, message: str) -> None:
    assert refusal(override) == f"settings: {message}"


def test_every_setting_is_of_a_type_that_a_message_can_name() -> None:
    types = {kind for kind in keys(Run).values() if not issubclass(get_origin(kind) or kind, Enum)}
    assert types == {int, float, bool, str, tuple[int, ...], tuple[float, ...]}


@pytest.mark.parametrize("item", ["seed", "=1", "", "seed 1"])
def test_an_override_without_key_or_value_is_refused_with_an_example(item: str) -> None:
    assert refusal(item) == f"'{item}' is not a setting; mend: write key.sub=value, for example seed=1 or data.crop=64"


def test_an_override_that_is_no_yaml_is_refused() -> None:
    line = refusal("method=[1,")
    assert line.startswith("'method=[1,': the value is no YAML: ")
    assert line.endswith("; mend: write a number, text, true, false, or a list such as [1,2]")


@pytest.mark.parametrize("folder", ["masks #2", "#2", "2026 #2", "no #2"])
def test_a_folders_name_is_not_cut_off_at_a_hash(folder: str) -> None:
    """YAML took the rest for a comment: a run read another folder, if there was one of the shorter name."""
    run = build([parse_overrides([f"data.masks={folder}", f"machine.data_root=/{folder}"])])
    assert (run.data.masks, run.machine.data_root) == (folder, f"/{folder}")
    assert build([parse_overrides([f"data.masks='{folder}'"])]).data.masks == folder


def test_later_layers_win_over_earlier_ones_and_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 1\noptimization:\n  lr: 0.1\n  epochs: 5\ndata.crop: 64\n")
    row = {"masking.strategy": "high_pass", "seed": 9, "optimization.epochs": 7}
    run = build([row, read_yaml(config), parse_overrides(["seed=2", "optimization.lr=0.2"])])
    assert (run.seed, run.optimization.lr, run.optimization.epochs) == (2, 0.2, 5)
    assert (run.data.crop, run.masking.strategy, run.optimization.batch) == (64, Strategy.high_pass, 128)


def test_the_last_of_two_overrides_of_one_key_wins() -> None:
    assert build([parse_overrides(["seed=1", "seed=2"])]).seed == 2


def test_a_run_is_read_back_from_its_yaml_unchanged(tmp_path: Path) -> None:
    overrides = ["seed=7", "fidelity=released", "masking.strategy=mean_fill", "machine.workers=1", "probe.epochs=5"]
    run = build([parse_overrides([*overrides, "method=mine", "optimization.lr=1e-3", "data.scenes.classes=4"])])
    path = tmp_path / "run.yaml"
    path.write_text(run.to_yaml())
    again = load(path)
    assert again == run
    assert again.id == run.id
    assert again.to_yaml() == run.to_yaml()
    assert yaml.safe_load(run.to_yaml())["masking"]["strategy"] == "mean_fill"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"seed: [1,\n", "is no YAML"),
        (b"- seed\n", "holds no settings of the form `key: value`"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"sed: 1\n", "unknown key 'sed'; mend: did you mean 'seed'?"),
        (b"seed: x\n", "seed=x is not a whole number"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.mend
    assert "write lines" not in caught.value.mend  # a run's own file has an id, and nobody else writes it
    assert "\n" not in str(caught.value)


def test_settings_of_a_file_are_blamed_on_it_and_not_asked_whether_they_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sed: 1")
    assert (
        message_of(lambda: read_settings(path)) == f"config file {path}: unknown key 'sed'; mend: did you mean 'seed'?"
    )
    path.write_text("seed: {")
    assert ' in "the text", line ' in message_of(lambda: read_settings(path))
    path.write_text("optimization.batch: 100")  # with which the queue would not fit
    assert read_settings(path) == {"optimization.batch": 100}


def test_a_folder_in_a_config_files_place_is_not_to_be_removed(tmp_path: Path) -> None:
    line = f"config file {tmp_path} is not a regular file; mend: name a text file that can be read"
    assert message_of(lambda: read_settings(tmp_path)) == line
