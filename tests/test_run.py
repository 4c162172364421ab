"""What a run is, which id it has, and what it refuses."""

import dataclasses
import operator
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from error_samples import message_of

import repro
from repro.errors import UserError
from repro.runs.choices import Source, Strategy
from repro.runs.comparison import sizes_below_recipe
from repro.runs.departures import scale_of
from repro.runs.frameworks import FRAMEWORKS
from repro.runs.identity import added, identity, outside_identity
from repro.runs.limits import LIMITS
from repro.runs.protocols import ProbeSettings
from repro.runs.reading import build, keys, load, parse_overrides, read_yaml
from repro.runs.run import Run
from repro.runs.sections import (
    AdiosSettings,
    DataSettings,
    FidelitySettings,
    MachineSettings,
    OptimizationSettings,
    SimclrSettings,
)

DEFAULT_ID = "45df9c0eca"
"""Of the default run. Never change it: it names the folder of every run made so far, and so will every other id that
changes with it. A new field goes in through `added`."""


def refusal(*overrides: str) -> str:
    """The message on these overrides, which is one line."""
    return message_of(lambda: build([parse_overrides(overrides)]))


def python(*arguments: str, executable: str = sys.executable, **environment: str) -> str:
    process = subprocess.run(
        [executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return process.stdout.strip()


def test_the_default_run_keeps_its_id() -> None:
    assert Run().id == DEFAULT_ID
    assert build([]).id == DEFAULT_ID
    assert Run().folder == f"mocov2/s0-{DEFAULT_ID}"


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_id_is_the_same_in_every_process(hash_seed: str) -> None:
    assert python("-c", "from repro.runs.run import Run; print(Run().id)", PYTHONHASHSEED=hash_seed) == DEFAULT_ID


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_the_id_is_the_same_on_other_pythons(version: str) -> None:
    executable = shutil.which(f"python{version}")
    # The run module needs only pure-Python packages, which another version reads from this one's folder.
    paths = os.pathsep.join([str(Path(repro.__file__).parents[1]), str(Path(yaml.__file__).parents[1])])
    if not executable or subprocess.run([executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {version} here")
    run_id = python("-c", "from repro.runs.run import Run; print(Run().id)", executable=executable, PYTHONPATH=paths)
    assert run_id == DEFAULT_ID


def test_the_run_module_imports_no_torch() -> None:
    heavy = "{'torch', 'torchvision', 'mmengine', 'timm', 'pandas', 'numpy'}"
    assert python("-c", f"import sys, repro.runs.run; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=08", "seed", 8),
        ("seed=010", "seed", 10),  # by eights it would be 8
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
    """Also a text of digits alone, which a hash may be, and one that YAML would take for a number or a time."""
    config = tmp_path / "run.yaml"
    for text in ("0123456701", "0123456789", "1e5", "1:30", "2024-01-01", "+07", "yes", "null", ".5", "0x1f", "1_0"):
        run = build([{"localizer.weights": text, "optimization.lr": 1e-5, "probe.lr_grid": [1e16, 1e-7]}])
        config.write_text(run.to_yaml())
        assert load(config) == run


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1:30", "settings: seed=1:30 is not a whole number"),  # by sixties it would be 90
        (f"seed={'9' * 30}", "settings: seed has too many digits"),
        (f"seed={'9' * 5000}", "'seed': the value cannot be read"),
        (f"optimization.lr={'9' * 400}", "settings: optimization.lr has too many digits"),
        (f"knn.neighbours=[{'9' * 30}]", "settings: knn.neighbours has too many digits"),
    ],
)
def test_numbers_without_end_are_refused_where_they_enter(override: str, said: str) -> None:
    assert refusal(override).startswith(said)


def test_the_id_does_not_depend_on_the_order_of_keys() -> None:
    settings = {"seed": 3, "data": {"crop": 112, "dataset": "scenes"}, "masking": {"strategy": "mean_fill"}}
    turned = {name: dict(reversed(v.items())) if isinstance(v, dict) else v for name, v in reversed(settings.items())}
    assert list(turned) != list(settings)
    assert build([settings]).id == build([turned]).id == build([{name: settings[name]} for name in turned]).id


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("method=mocov2+ours-hp", True),
        ("machine.workers=0", True),
        ("machine.data_root=elsewhere", True),
        ("machine.channels_last=true", True),
        ("probe.epochs=3", True),
        ("optimization.lr=0.0150", True),
        ("seed=1", False),
        ("optimization.lr=0.03", False),
        ("optimization.precision=bf16", False),
        ("masking.strategy=high_pass", False),
        ("data.scenes.seed=1", False),
        ("fidelity.cap=released", False),
        ("augmentation.backend=reference", False),
        ("localizer.weights=IMAGENET1K_V1", False),
    ],
)
def test_the_id_follows_what_a_run_is_and_not_how_it_is_carried_out(override: str, same: bool) -> None:
    changed = build([parse_overrides([override])])
    assert (changed.id == DEFAULT_ID) is same


def test_all_that_makes_a_backbone_is_in_the_identity_and_no_evaluation() -> None:
    changed = build([{"simclr.temperature": 0.1, "adios.masks": 2}])
    assert set(identity(changed)) == {
        *("framework", "seed", "data", "augmentation", "localizer", "masking", "fidelity", "encoder"),
        *("moco", "simclr", "adios", "optimization"),
    }
    assert set(identity(changed)["simclr"]) == {f.name for f in dataclasses.fields(SimclrSettings)}
    assert set(identity(changed)["adios"]) == {f.name for f in dataclasses.fields(AdiosSettings)}
    # Runs from before there was a SimCLR or ADIOS keep their ids.
    assert set(identity(Run())) == set(identity(changed)) - {"simclr", "adios"}


def test_a_whole_number_and_its_float_are_the_same_setting() -> None:
    assert build([{"optimization": {"lr": 1}}]).id == build([{"optimization": {"lr": 1.0}}]).id
    assert Run(optimization=OptimizationSettings(lr=1)).id == Run(optimization=OptimizationSettings(lr=1.0)).id
    assert build([parse_overrides(["optimization.lr=1"])]).id == build([parse_overrides(["optimization.lr=1e0"])]).id


def test_runs_of_one_recipe_differ_in_their_seed_only() -> None:
    first, second = (Run(seed=seed) for seed in (0, 1))
    assert first.recipe == second.recipe
    assert first.id != second.id
    assert first.recipe != build([{"optimization.lr": 0.03}], base=first).recipe


@dataclass(frozen=True)
class _Old:
    lr: float = 0.1


@dataclass(frozen=True)
class _Grown:
    lr: float = 0.1
    nesterov: bool = added(True, absent=False)
    note: str = outside_identity("")


@dataclass(frozen=True)
class _DefaultChanged:
    lr: float = 0.1
    nesterov: bool = added(False, absent=False)
    note: str = outside_identity("")


@dataclass(frozen=True)
class _Holder:
    inner: Any = field(default_factory=_Old)


def test_a_field_added_later_keeps_the_ids_of_runs_that_did_without_it() -> None:
    assert identity(_Grown(nesterov=False)) == identity(_Old())
    assert identity(_Holder(_Grown(nesterov=False))) == identity(_Holder(_Old()))
    assert identity(_Grown()) == {"lr": 0.1, "nesterov": True}


def test_changing_the_default_of_an_added_field_changes_no_meaning() -> None:
    for value in (True, False):
        assert identity(_Grown(nesterov=value)) == identity(_DefaultChanged(nesterov=value))
    assert identity(_DefaultChanged()) == identity(_Old())
    assert identity(_Grown()) != identity(_DefaultChanged())


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
    both = "'optimization' is a section and has a value beside 'optimization.lr'; mend: set its keys only"
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
            "masking.strategy=hp is unknown; mend: one of none, high_pass, strong_blur, mean_fill, learned",
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
    assert refusal(item) == f"'{item}' is no setting; mend: write key.sub=value, for example seed=1 or data.crop=64"


def test_an_override_that_is_no_yaml_is_refused() -> None:
    line = refusal("method=[1,")
    assert line.startswith("'method=[1,': the value is no YAML: ")
    assert line.endswith("; mend: write a number, text, true, false, or a list such as [1,2]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["augmentation.resizer=torch", "augmentation.interpolation=bicubic"],
            "augmentation.resizer=torch departs from Pillow with augmentation.interpolation=bicubic; mend: "
            "augmentation.resizer=pil, or augmentation.interpolation=bilinear",
        ),
        (["seed=-1"], "seed=-1 is out of range; mend: 0 or more"),
        (["data.scenes.context=2"], "data.scenes.context=2 is out of range; mend: 0..1"),
        (["data.scenes.size=63"], "data.scenes.size=63 is out of range; mend: 64..512"),
        (
            ["data.scenes.context=.5", "data.scenes.grounds=9"],
            "data.scenes.context=0.5 needs a ground of its own for each of 10 classes, and data.scenes.grounds=9; "
            "mend: data.scenes.grounds=10 or more",
        ),
        (["optimization.batch=1"], "optimization.batch=1 is out of range; mend: 2 or more"),
        (["moco.bn_splits=3"], "moco.bn_splits=3 does not divide optimization.batch=128; mend"),
        (["moco.bn_splits=0"], "moco.bn_splits=0 is out of range; mend: 1 or more"),
        (["moco.queue=1000"], "moco.queue=1000 is not a multiple of optimization.batch=128; mend"),
        (["moco.queue=0"], "moco.queue=0 is out of range; mend: 1 or more"),
        (["masking.ratio_min=.3"], "masking.ratio_min=0.3 is larger than masking.ratio_max=0.25; mend"),
        (["masking.hard_ratio_max=1.1"], "masking.hard_ratio_max=1.1 is out of range; mend: 0..1"),
        (["masking.ratio_min=.nan"], "masking.ratio_min=nan is out of range; mend: 0..1"),
        (["augmentation.flip_probability=2"], "augmentation.flip_probability=2 is out of range; mend: 0..1"),
        (["masking.focal_probability=-.1"], "masking.focal_probability=-0.1 is out of range; mend: 0..1"),
        (["moco.temperature=0"], "moco.temperature=0 is out of range; mend: more than 0"),
        (["optimization.lr=.inf"], "optimization.lr=inf is out of range; mend: more than 0"),
        (["optimization.weight_decay=-1e-4"], "optimization.weight_decay=-0.0001 is out of range; mend: 0 or more"),
        (["augmentation.hue=.6"], "augmentation.hue=0.6 is out of range; mend: 0..0.5"),
        (["augmentation.blur_sigma_min=3"], "augmentation.blur_sigma_min=3 is larger than"),
        (["data.crop=32", "moco.bn_splits=128"], "data.crop=32 with batch-norm groups of one image"),
        (
            ["data.crop=32", "fidelity=released", "masking.strategy=mean_fill"],
            "data.crop=32 with batch-norm groups of one image",
        ),
        (["machine.device=gpu"], "machine.device=gpu is unknown; mend: one of auto, cpu, cuda"),
        (["machine.checkpoint_every=0"], "machine.checkpoint_every=0 is out of range; mend: 1 or more"),
    ],
)
def test_settings_that_exclude_each_other_or_leave_their_range_are_refused(overrides: list[str], message: str) -> None:
    assert refusal(*overrides).startswith(message)


def test_every_number_of_a_run_has_a_limit_or_is_free_on_purpose() -> None:
    free = {"augmentation.blur_sigma_max"}  # held by blur_sigma_min, which is not larger
    numbers = {key for key, kind in keys(Run).items() if kind in (int, float)}
    of_frameworks = {key for entry in FRAMEWORKS.values() for key in entry.limits}
    assert numbers - free == set(LIMITS) | of_frameworks
    assert not set(LIMITS) & of_frameworks


def test_a_run_made_in_code_is_checked_too() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        Run(seed=-1)


def test_later_layers_win_over_earlier_ones_and_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 1\noptimization:\n  lr: 0.1\n  epochs: 5\ndata.crop: 64\n")
    row = {"masking.strategy": "high_pass", "seed": 9, "optimization.epochs": 7}
    run = build([row, read_yaml(config), parse_overrides(["seed=2", "optimization.lr=0.2"])])
    assert (run.seed, run.optimization.lr, run.optimization.epochs) == (2, 0.2, 5)
    assert (run.data.crop, run.masking.strategy, run.optimization.batch) == (64, Strategy.high_pass, 128)


def test_the_last_of_two_overrides_of_one_key_wins() -> None:
    assert build([parse_overrides(["seed=1", "seed=2"])]).seed == 2


def test_fidelity_is_short_for_all_of_its_switches() -> None:
    run = build([parse_overrides(["fidelity=released"])])
    assert run.fidelity == FidelitySettings(*[Source.released] * len(dataclasses.fields(FidelitySettings)))
    assert str(run.fidelity) == "released"
    partly = build([{"fidelity": "released"}, {"fidelity": {"noise": "paper", "cap": "paper"}}]).fidelity
    assert str(partly) == "paper, released: saliency_map, hard_negative, counts, negative_count, single_patch"
    assert str(build([{"fidelity": "released"}, {"fidelity": "paper"}]).fidelity) == "paper"


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


def test_replacing_changes_a_copy_and_a_run_itself_never_changes() -> None:
    run = Run()
    changed = build([{"data.crop": 64, "machine.workers": 0}], base=run)
    assert (run.data.crop, changed.data.crop, changed.machine.workers) == (224, 64, 0)
    assert build([{"data.crop": 224, "machine.workers": 4}], base=changed) == run
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]
    with pytest.raises(UserError, match=r"unknown key 'data\.corp'"):
        build([{"data.corp": 1}], base=run)


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
    assert "\n" not in str(caught.value)


def test_the_probes_protocol_names_every_departure() -> None:
    assert ProbeSettings().protocol == "linear-moco-v1"
    assert ProbeSettings(epochs=20, lr=1.5).protocol == "linear-moco-v1[epochs=20,lr=1.5]"


def test_the_defaults_are_the_papers_recipe_and_a_smaller_run_says_in_what() -> None:
    run = Run()
    assert sizes_below_recipe(run) == ()
    assert (run.optimization.lr, run.optimization.batch, run.optimization.epochs) == (0.015, 128, 200)
    assert (run.optimization.momentum, run.optimization.weight_decay) == (0.9, 1e-4)
    assert (run.moco.queue, run.moco.momentum, run.moco.temperature) == (65536, 0.999, 0.2)
    assert (run.moco.hard_negative_weight, run.moco.bn_splits, run.localizer.relax) == (2.0, 4, 0.6)
    tiny = Run(
        data=DataSettings("scenes", 64), optimization=OptimizationSettings(epochs=2), machine=MachineSettings(workers=0)
    )
    assert scale_of(sizes_below_recipe(tiny)) == "scenes (10 classes, 1024 images), 64 px, 2 epochs"


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        ([], False),
        (["masking.strategy=mean_fill"], True),
        (["masking.strategy=mean_fill", "masking.guidance=random"], False),
    ],
)
def test_a_localizer_is_needed_only_where_saliency_guides(overrides: list[str], needed: bool) -> None:
    assert build([parse_overrides(overrides)]).needs_localizer is needed
