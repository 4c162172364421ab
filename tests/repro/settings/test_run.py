"""The settings of a run, its id, and the settings that are refused."""

import dataclasses
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from error_samples import refusal

import repro
from repro.errors import UserError
from repro.settings.choices import Source
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.identity import added, identity, keys, outside_identity
from repro.settings.limits import LIMITS
from repro.settings.protocols import LogisticSettings, ProbeSettings
from repro.settings.reading import build, parse_overrides
from repro.settings.run import Run
from repro.settings.sections import (
    AdiosSettings,
    DataSettings,
    FidelitySettings,
    MachineSettings,
    OptimizationSettings,
    SimclrSettings,
)

DEFAULT_ID = "45df9c0eca"
"""The id of the default run. Never change it: it names the folder of every run made so far, and every other id would
change with it. A new field goes in through `added`."""


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
    assert python("-c", "from repro.settings.run import Run; print(Run().id)", PYTHONHASHSEED=hash_seed) == DEFAULT_ID


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_the_id_is_the_same_on_other_pythons(version: str) -> None:
    executable = shutil.which(f"python{version}")
    # The run module needs only pure-Python packages, which another Python can import from this one's folder.
    paths = os.pathsep.join([str(Path(repro.__file__).parents[1]), str(Path(yaml.__file__).parents[1])])
    if not executable or subprocess.run([executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {version} here")
    code = "from repro.settings.run import Run; print(Run().id)"
    run_id = python("-c", code, executable=executable, PYTHONPATH=paths)
    assert run_id == DEFAULT_ID


def test_the_run_module_imports_no_torch() -> None:
    heavy = "{'torch', 'torchvision', 'mmengine', 'timm', 'pandas', 'numpy'}"
    assert python("-c", f"import sys, repro.settings.run; print(sorted({heavy} & set(sys.modules)))") == "[]"


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
        ("machine.filter_library=cv2", True),
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
    ("overrides", "message"),
    [
        (
            ["augmentation.resizer=torch", "augmentation.interpolation=bicubic"],
            "augmentation.resizer=torch departs from Pillow with augmentation.interpolation=bicubic; mend: "
            "augmentation.resizer=pil, or augmentation.interpolation=bilinear",
        ),
        (["seed=-1"], "seed=-1 is out of range; mend: 0 or more"),
        (["data.cached_side=31"], "data.cached_side=31 is out of range; mend: 0 for the originals, or 32..65535"),
        (["data.cached_side=65536"], "data.cached_side=65536 is out of range; mend: 0..65535"),
        (["data.scenes.context=2"], "data.scenes.context=2 is out of range; mend: 0..1"),
        (["data.scenes.size=63"], "data.scenes.size=63 is out of range; mend: 64..512"),
        (
            ["data.scenes.context=.5", "data.scenes.grounds=9"],
            "data.scenes.context=0.5 needs a ground of its own for each of 10 classes, and data.scenes.grounds=9; "
            "mend: data.scenes.grounds=10 or more",
        ),
        (
            ["data.scenes.colour=.5", "data.dataset=scenes-cutouts"],
            "data.scenes.colour=0.5: objects of data.dataset=scenes-cutouts keep their colours; "
            "mend: data.scenes.colour=0, or data.dataset=scenes",
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
        (["augmentation.blur_sigma_max=.inf"], "augmentation.blur_sigma_max=inf is out of range; mend: 0 or more"),
        (["augmentation.blur_sigma_min=3"], "augmentation.blur_sigma_min=3 is larger than"),
        (["data.crop=32", "moco.bn_splits=128"], "data.crop=32 with batch-norm groups of one image"),
        (
            ["data.crop=32", "fidelity=released", "masking.strategy=mean_fill"],
            "data.crop=32 with batch-norm groups of one image",
        ),
        (["data.crop=8"], "data.crop=8 is too small for augmentation.blur=gaussian, which reaches 8 pixels to"),
        (
            ["data.crop=64", "augmentation.blur_sigma_max=16"],
            "data.crop=64 is too small for augmentation.blur=gaussian, which reaches 64 pixels to each side; mend: "
            "data.crop=65 or more",
        ),
        (
            ["data.crop=15", "augmentation.blur=box", "masking.strategy=strong_blur"],
            "data.crop=15 is too small for masking.strategy=strong_blur, which reaches 15 pixels",
        ),
        (
            ["data.crop=5", "augmentation.blur_probability=0", "masking.strategy=high_pass"],
            "data.crop=5 is too small for masking.strategy=high_pass, which reaches 5 pixels",
        ),
        (
            ["localizer.network=efficientnet-lite0", "localizer.weights=mine.pth"],
            "localizer.weights=mine.pth plays no part with localizer.network=efficientnet-lite0, which has its own",
        ),
        *(
            (
                [f"localizer.{key}={name}"],
                f"localizer.{key}: '{name}' is not a source of saliency; mend: one of ",
            )
            for key, name in (("source", "bogus"), ("hard_negative_source", "truth-dilated-16"))
        ),
        (["machine.device=gpu"], "machine.device=gpu is unknown; mend: one of auto, cpu, cuda"),
        (["machine.checkpoint_every=0"], "machine.checkpoint_every=0 is out of range; mend: 1 or more"),
    ],
)
def test_settings_that_exclude_each_other_or_leave_their_range_are_refused(overrides: list[str], message: str) -> None:
    assert refusal(*overrides).startswith(message)


def test_every_number_of_a_run_has_a_limit() -> None:
    numbers = {key for key, kind in keys(Run).items() if kind in (int, float)}
    of_frameworks = {key for entry in FRAMEWORKS.values() for key in entry.limits}
    assert numbers == set(LIMITS) | of_frameworks
    assert not set(LIMITS) & of_frameworks


def test_a_run_made_in_code_is_checked_too() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        Run(seed=-1)


def test_fidelity_is_short_for_all_of_its_switches() -> None:
    run = build([parse_overrides(["fidelity=released"])])
    assert run.fidelity == FidelitySettings(*[Source.released] * len(dataclasses.fields(FidelitySettings)))
    assert str(run.fidelity) == "released"
    partly = build([{"fidelity": "released"}, {"fidelity": {"noise": "paper", "cap": "paper"}}]).fidelity
    assert str(partly) == "paper, released: saliency_map, hard_negative, counts, negative_count, single_patch"
    assert str(build([{"fidelity": "released"}, {"fidelity": "paper"}]).fidelity) == "paper"


def test_replacing_changes_a_copy_and_a_run_itself_never_changes() -> None:
    run = Run()
    changed = build([{"data.crop": 64, "machine.workers": 0}], base=run)
    assert (run.data.crop, changed.data.crop, changed.machine.workers) == (224, 64, 0)
    assert build([{"data.crop": 224, "machine.workers": 4}], base=changed) == run
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]
    with pytest.raises(UserError, match=r"unknown key 'data\.corp'"):
        build([{"data.corp": 1}], base=run)


def test_the_probes_protocol_names_every_departure() -> None:
    assert ProbeSettings().protocol().name == "linear-moco-v1"
    others = ProbeSettings(lr=1.5, batch=128, epochs=20)
    assert others.protocol().name == "linear-moco-v1[epochs=20,batch=128,lr=1.5]"  # in the order of the fields
    assert ProbeSettings(splits=1).protocol().name == "linear-moco-v1"  # data whose publisher split them


def test_settings_that_six_digits_cannot_tell_apart_are_protocols_of_their_own() -> None:
    """A probe at one rate used to be read as that of another, which was in the same folder."""
    rates = (0.3, 0.30000001, 0.3000001)
    assert [ProbeSettings(lr=lr).protocol().departures for lr in rates] == ["lr=0.3", "lr=0.30000001", "lr=0.3000001"]
    assert ProbeSettings(lr_grid=rates).metric_endings == ["@lr=0.3", "@lr=0.30000001", "@lr=0.3000001"]
    assert LogisticSettings(iterations=1234567).protocol("").departures == "iterations=1234567"
    assert LogisticSettings(l2_low=1e-7, iterations=1000000).protocol("").departures == "l2_low=1e-07,iterations=1e+06"


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


def test_a_run_with_another_seed_is_the_run_that_all_checks_would_let_pass() -> None:
    recipe = build([parse_overrides(["masking.strategy=mean_fill", "optimization.lr=1"])])
    for seed in (0, 3, 2**31 - 1):
        quick, checked = recipe.with_seed(seed), dataclasses.replace(recipe, seed=seed)
        assert quick == checked
        assert (quick.id, quick.recipe, quick.to_yaml()) == (checked.id, checked.recipe, checked.to_yaml())
        assert quick.with_seed(1).id == dataclasses.replace(checked, seed=1).id  # also of a run that was made so
    assert recipe.seed == 0
    for seed in (-1, 2**31):
        with pytest.raises(UserError, match="seed="):
            recipe.with_seed(seed)
