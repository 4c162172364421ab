"""The rows: what they are, how they differ, and which combinations are refused."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from training_samples import CPU, tiny

from baselines import ABLATIONS, DOSE, METHODS, TABLE1, TABLE3, resolve
from baselines.ablations import ABLATIONS as CHANGES
from repro.errors import UserError
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of
from repro.settings.identity import plain
from repro.settings.reading import nested, read_yaml
from repro.settings.run import Run
from repro.training.learner import build_learner as build_core_learner
from repro.training.pretraining import open_data
from results.paper.published import published
from slurm.planning.sweep import SWEEPS

IDS = {
    "supervised": "642db00c6f",
    "mocov2": "45df9c0eca",
    "mocov2+mscn": "a4de236cbd",
    "mocov2+adios": "f4c44f0373",
    "mocov2+ours-hp": "66ce901c5f",
    "mocov2+ours-blur": "c795c3a357",
    "mocov2+ours-mean": "9865b9454e",
    "simclr": "60cac13c13",
    "simclr+mscn": "9673d164c0",
    "simclr+adios": "a2c3388ae3",
    "simclr+ours-hp": "cd884e4ba8",
    "simclr+ours-blur": "20a2a8d9fb",
    "simclr+ours-mean": "3887a7e519",
    "mocov2+ours-hp@key": "f156072aba",
    "mocov2+ours-hp@both": "3f62e2b415",
    "mocov2+ours-blur@key": "f03ae591f4",
    "mocov2+ours-blur@both": "87bb1d67f6",
    "mocov2+ours-mean@key": "e8d2fb0f03",
    "mocov2+ours-mean@both": "71aa61c603",
    "mocov2+ours-blur-no-hard-negative": "ecfed20aa7",
    "mocov2+ours-mean-no-hard-negative": "e9173cac04",
    "mocov2+ours-hp@key-no-hard-negative": "c7beb2a915",
    "mocov2+ours-hp@both-no-hard-negative": "ac9df1ef6e",
    "mocov2+ours-blur@key-no-hard-negative": "ff5a8f0094",
    "mocov2+ours-blur@both-no-hard-negative": "4ba5e5f0a3",
    "mocov2+ours-mean@key-no-hard-negative": "603a77bfdb",
    "mocov2+ours-mean@both-no-hard-negative": "9780f2744e",
}
"""Ids of the tables' rows. Never change one: it names the folders of the runs made so far."""


row = cache(resolve)
"""The run of a row without changes, cached: resolving one takes a tenth of a second."""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A run as dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: v for name, item in value.items() for key, v in flat(item, f"{prefix}.{name}".strip(".")).items()}


def differences(first: Run, second: Run) -> dict[str, Any]:
    """The keys in which two runs differ, apart from names, with the second one's values."""
    before, after = flat(plain(first)), flat(plain(second))
    return {key: after[key] for key in before if before[key] != after[key] and key != "method"}


def test_the_rows_of_the_tables_keep_their_ids() -> None:
    assert {name: row(name).id for name in (*TABLE1, *TABLE3)} == IDS


def test_no_two_rows_are_the_same_experiment() -> None:
    ids = {name: row(name).id for name in METHODS}
    assert len(set(ids.values())) == len(METHODS) == len(TABLE1) + len(TABLE3) + len(ABLATIONS) + len(DOSE)


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_every_row_of_a_table_can_be_trained(table: str) -> None:
    assert set(published(table).every_row) <= set(METHODS)


@pytest.mark.parametrize("name", ["table1", "table3"])
def test_the_sweep_of_a_table_is_its_rows(name: str) -> None:
    assert read_yaml(SWEEPS / f"{name}.yaml")["methods"] == list(published(name).every_row)


def test_the_sweep_of_ablations_has_every_row_but_the_one_that_needs_a_path() -> None:
    methods = read_yaml(SWEEPS / "ablations.yaml")["methods"]
    assert set(ABLATIONS) - set(methods) == {"mocov2+ours-hp-localizer-checkpoint"}
    assert {ablation.row for ablation in CHANGES.values()} <= set(methods)
    assert len(set(methods)) == len(methods)


@pytest.mark.parametrize("name", [name for name in (*TABLE1, *TABLE3) if "+" in name])
def test_a_baseline_and_its_masked_variants_differ_in_masking_alone(name: str) -> None:
    baseline = row(name.partition("+")[0])
    changed = differences(baseline, row(name))
    assert "masking.strategy" in changed
    assert {key.partition(".")[0] for key in changed} == {"masking"}


def test_mscn_differs_from_ours_in_saliency_branch_and_hard_negative() -> None:
    for framework in ("mocov2", "simclr"):
        assert differences(row(f"{framework}+ours-hp"), row(f"{framework}+mscn")) == {
            "masking.guidance": "random",
            "masking.branch": "both",
            "masking.hard_negative": False,
        }


def test_the_frameworks_mask_alike() -> None:
    for name in (name for name in TABLE1 if name.startswith("mocov2+")):
        assert row(name).masking == row(name.replace("mocov2", "simclr")).masking


def test_table_3_is_two_readings_of_nine_rows_that_differ_in_the_hard_negative_alone() -> None:
    paper = published("table3")
    assert len(paper.unpublished_rows) == 9
    for with_it, without in zip(paper.unpublished_rows, list(paper.rows)[1:], strict=True):
        assert differences(row(with_it), row(without)) == {"masking.hard_negative": False}
        query, _, branch = with_it.partition("@")
        assert differences(row(query), row(with_it)) == ({"masking.branch": branch} if branch else {})


def test_the_row_of_adios_own_script_has_the_scripts_values() -> None:
    """YugeTen/adios, bash_files/training/imagenet100/resnet18/simclr_adios_s.sh, and the defaults of its flags."""
    run = row("simclr+adios-script")
    optimization, views = run.optimization, run.augmentation
    assert (optimization.batch, optimization.lr, optimization.weight_decay) == (128, 0.18955780763100336, 0.0001)
    assert (optimization.momentum, optimization.optimizer, optimization.lars_eta) == (0.9, "lars", 0.02)
    assert (optimization.schedule, optimization.interval) == ("cosine", "epoch")
    assert optimization.warmup_share * optimization.epochs == 10
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.7, 0.6, 0.8, 0.15)
    assert (views.crop_scale_min, views.interpolation, views.grey_probability) == (0.08, "bicubic", 0.2)
    assert (views.jitter_probability, views.blur_probability, views.flip_probability) == (0.8, 0.5, 0.5)
    adios = run.adios
    assert (adios.masks, adios.single, adios.base_filters, adios.norm) == (4, True, 8, "group")
    assert (adios.lr, adios.alpha_sparsity, adios.alpha_entropy) == (0.4987622134866454, 0.75, 0)
    assert (run.simclr.temperature, run.encoder.dim) == (0.2, 128)
    # values of the tables, not of the script
    assert (run.encoder.arch, optimization.epochs) == ("resnet50", 200)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_states_and_nothing_else(name: str) -> None:
    ablation = CHANGES[name]
    assert name.startswith(ablation.row)
    assert differences(row(ablation.row), row(name)) == flat(nested(ablation.settings))


@pytest.mark.parametrize("name", DOSE)
def test_a_dose_changes_the_foreground_of_the_headline_row_alone(name: str) -> None:
    changed = differences(row("mocov2+ours-hp"), row(name))
    assert changed.keys() <= {"localizer.source", "localizer.hard_negative_source"}
    role, _, source = name.removeprefix("mocov2+ours-hp-").partition("by-")
    both = {"": source, "hard-": "truth", "query-": source}[role]
    assert changed == {
        "localizer.source": both,
        **({} if role == "" else {"localizer.hard_negative_source": source if role == "hard-" else "truth"}),
    }


def test_the_sweep_of_doses_has_every_dose_beside_the_network_and_rows_without_foreground() -> None:
    methods = read_yaml(SWEEPS / "saliency-dose.yaml")["methods"]
    assert methods == ["mocov2", "mocov2+ours-hp-random", "mocov2+ours-hp", *DOSE]


def test_simclr_and_the_supervised_row_follow_their_recipes() -> None:
    run = row("simclr")
    settings, views = run.optimization, run.augmentation
    assert (settings.batch, settings.epochs, settings.lr, settings.weight_decay) == (256, 200, 0.3, 1e-4)
    assert (settings.optimizer, settings.lars_eta, settings.warmup_share * settings.epochs) == ("lars", 0.02, 10)
    assert (run.simclr.temperature, run.simclr.hard_negative_weight, run.encoder.dim) == (0.2, 2.0, 128)
    assert (views.crop_scale_min, views.interpolation, views.brightness, views.hue) == (0.08, "bicubic", 0.8, 0.2)
    supervised = row("supervised").optimization
    assert (supervised.lr, supervised.batch, supervised.epochs, supervised.schedule) == (0.1, 256, 100, "steps")


def test_no_row_is_tiny_but_those_that_are_about_a_size() -> None:
    assert {name: scale_of(sizes_below_recipe(row(name))) for name in METHODS if sizes_below_recipe(row(name))} == {
        "mocov2+queue16k": "queue 16384",
        "simclr+adios-script": "batch 128",
    }


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("mocov2", "100 px, 50 epochs, batch 64, queue 1024"),
        ("simclr", "100 px, 50 epochs, batch 64"),
        ("supervised", "100 px, 50 epochs, batch 64"),
    ],
)
def test_a_smaller_row_says_in_what(name: str, scale: str) -> None:
    changes = {"data.crop": 100, "optimization.epochs": 50, "optimization.batch": 64, "moco.queue": 1024}
    assert scale_of(sizes_below_recipe(resolve(name, changes))) == scale
    half = sizes_below_recipe(resolve(name, {"optimization.epochs": 100}))
    assert scale_of(half) == ("" if name == "supervised" else "100 epochs")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("supervised", {"masking.strategy": "high_pass"}, "masking.strategy=high_pass has no place in supervised"),
        ("supervised", {"masking.strategy": "learned"}, "masking.strategy=learned has no place in supervised"),
        ("mocov2+adios", {"masking.branch": "both"}, "masking.branch=both excludes learned masks"),
        ("simclr+adios", {"masking.branch": "key"}, "masking.branch=key excludes learned masks"),
        ("simclr+adios", {"masking.hard_negative": True}, "masking.hard_negative=true excludes learned masks"),
        ("simclr+ours-hp", {"masking.branch": "key"}, "masking.branch=key is masking.branch=query with the names"),
        ("simclr+ours-hp", {"fidelity": "released"}, "fidelity.hard_negative=released follows a line of the released"),
        ("simclr", {"optimization.warmup_share": 1.0}, "optimization.warmup_share=1 leaves no epoch"),
        ("simclr", {"optimization.warmup_share": 1.5}, "optimization.warmup_share=1.5 is out of range"),
        ("mocov2+adios", {"adios.masks": 1}, "adios.masks=1 is out of range; mend: 2 or more"),
        (
            "simclr",
            {"framework": "byol"},
            "settings: framework=byol is unknown; mend: one of mocov2, simclr, supervised",
        ),
    ],
)
def test_combinations_that_mean_nothing_are_refused_with_a_reason(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve(name, settings)
    assert str(caught.value).startswith(message)
    assert "; mend: " in str(caught.value)


def test_mocos_settings_bind_no_other_framework() -> None:
    odd = {"optimization.batch": 48, "moco.bn_splits": 5, "data.crop": 32}
    for name in ("simclr", "supervised", "simclr+ours-hp"):
        assert resolve(name, odd).optimization.batch == 48
    with pytest.raises(UserError, match=r"moco\.bn_splits=5 does not divide"):
        resolve("mocov2", odd)


def test_the_core_trains_no_competitor() -> None:
    for name in ("supervised", "mocov2+adios"):
        run = tiny(name)
        with pytest.raises(UserError, match=r"is not part of the core; mend: `baselines\.build_learner`, with a"):
            build_core_learner(run, open_data(run, "train"), CPU)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("mocov2+ours-hp-rho1", "moco.hard_negative_weight", 1.0),
        ("mocov2+ours-hp-rho4", "moco.hard_negative_weight", 4.0),
        ("simclr+ours-hp-rho1", "simclr.hard_negative_weight", 1.0),
        ("mocov2+ours-hp-no-focal", "masking.focal_probability", 0.0),
        ("mocov2+ours-hp-no-hard-negative", "masking.hard_negative", False),
        ("simclr+adios-all-masks", "adios.single", False),
        ("mocov2+queue16k", "moco.queue", 2**14),
        ("mocov2+ours-hp-random", "masking.guidance", "random"),
        ("mocov2+ours-hp-by-network-shuffled", "localizer.source", "network-shuffled"),
        ("mocov2+ours-hp-localizer-efficientnet", "localizer.network", "efficientnet-lite0"),
        ("mocov2+ours-hp-localizer-random", "localizer.weights", "random"),
        ("mocov2+mscn@query", "masking.branch", "query"),
        ("simclr+ours-hp@both", "masking.branch", "both"),
        ("simclr+ours-hp-anchor-both", "simclr.hard_negative_anchor", "both"),
        ("simclr+ours-hp-stopgrad", "simclr.hard_negative_stopgrad", True),
    ],
)
def test_an_ablation_changes_what_its_name_says(name: str, setting: str, value: object) -> None:
    assert differences(row(CHANGES[name].row), row(name)) == {setting: value}


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.45), (0.45, 0.65)])
def test_an_ablation_of_the_masked_share_has_the_bounds_of_its_name(low: float, high: float) -> None:
    changed = differences(row("mocov2+ours-hp"), row(f"mocov2+ours-hp-ratio{low}-{high}"))
    assert changed == {"masking.ratio_min": low, "masking.ratio_max": high}
