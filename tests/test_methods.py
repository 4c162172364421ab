"""The rows: what they are, in what they differ, and that each can be trained."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from json_rows import read_rows
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn
from torch.utils.data import default_collate
from training_samples import CPU, STEPS, assert_same_training, fixed_batch, interrupt, make_training, newest, tiny

from baselines import ABLATIONS, DOSE, METHODS, TABLE1, TABLE3, build_learner, resolve
from baselines.ablations import ABLATIONS as CHANGES
from repro.contrastive.queue import Queue
from repro.errors import UserError
from repro.masking.filters import high_pass
from repro.runs.choices import FilterLibrary, Precision
from repro.runs.comparison import sizes_below_recipe
from repro.runs.departures import scale_of
from repro.runs.folder import RunFolder
from repro.runs.identity import plain
from repro.runs.reading import nested, read_yaml
from repro.runs.run import Run
from repro.training.learner import build_learner as build_core_learner
from repro.training.learner import build_view_maker
from repro.training.precision import wrap_optimizer
from repro.training.pretraining import open_data
from results.published import published
from slurm.sweep import SWEEPS

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
"""Of the tables' rows. Never change one: it names the folders of the runs made so far."""


row = cache(resolve)
"""The run of a row as it stands; reading one takes a tenth of a second."""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A run as dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: v for name, item in value.items() for key, v in flat(item, f"{prefix}.{name}".strip(".")).items()}


def differences(first: Run, second: Run) -> dict[str, Any]:
    """In which keys two runs differ, but for their names; the values are those of the second."""
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


@pytest.mark.parametrize("name", [name for name in TABLE1 if "+" in name])
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
    # The tables', not the script's.
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
    assert "mend: " in str(caught.value) or "none of" in str(caught.value)


def test_mocos_settings_bind_no_other_framework() -> None:
    odd = {"optimization.batch": 48, "moco.bn_splits": 5, "data.crop": 32}
    for name in ("simclr", "supervised", "simclr+ours-hp"):
        assert resolve(name, odd).optimization.batch == 48
    with pytest.raises(UserError, match=r"moco\.bn_splits=5 does not divide"):
        resolve("mocov2", odd)


def test_the_core_trains_no_competitor() -> None:
    for name in ("supervised", "mocov2+adios"):
        run = tiny(name)
        with pytest.raises(UserError, match=r"is no part of the core; mend: hand `baselines\.build_learner` in"):
            build_core_learner(run, open_data(run, "train"), CPU)


# What each row makes the network see.


def inputs_of(name: str, **changes: Any) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """The network's inputs of a row, and the same without masks, high-passed or not."""
    run = tiny(name, {"masking.guidance": "random", **changes})
    maker = build_view_maker(run, CPU)
    stages = maker.stages(fixed_batch(run))
    unmasked = {"query": maker.normalise(stages.query), "key": maker.normalise(stages.key)}
    if run.masking.strategy == "high_pass":
        unmasked = {view: high_pass(images) for view, images in unmasked.items()}
    views = stages.views
    return {"query": views.query, "key": views.key, "hard": views.hard_negative}, unmasked


@pytest.mark.parametrize(
    ("name", "masked", "hard"),
    [
        ("mocov2", set(), False),
        ("simclr", set(), False),
        ("mocov2+mscn", {"query", "key"}, False),
        ("simclr+mscn", {"query", "key"}, False),
        ("mocov2+mscn@query", {"query"}, False),
        ("mocov2+adios", set(), False),
        ("mocov2+ours-hp", {"query"}, True),
        ("simclr+ours-blur", {"query"}, True),
        ("simclr+ours-mean", {"query"}, True),
        ("mocov2+ours-hp@key", {"key"}, True),
        ("mocov2+ours-hp@key-no-hard-negative", {"key"}, False),
        ("mocov2+ours-blur@both-no-hard-negative", {"query", "key"}, False),
        ("mocov2+ours-mean@both", {"query", "key"}, True),
        ("simclr+ours-hp@both", {"query", "key"}, True),
        ("mocov2+ours-hp-no-hard-negative", {"query"}, False),
        ("mocov2+ours-hp-no-masks", set(), False),
    ],
)
def test_a_row_masks_the_views_that_it_should(name: str, masked: set[str], hard: bool) -> None:
    views, unmasked = inputs_of(name)
    differing = {view for view, images in unmasked.items() if not torch.equal(views[view], images)}  # type: ignore[arg-type]
    assert differing == masked
    assert (views["hard"] is not None) == hard
    if hard:
        assert not torch.equal(views["hard"], views["key"])  # type: ignore[arg-type]


def test_the_machine_says_who_filters() -> None:
    for library in FilterLibrary:
        views, unmasked = inputs_of("mocov2+ours-hp", **{"machine.filter_library": library.value})
        assert views["key"] is not None
        # The run's own library to the bit; the other one's rounding differs.
        assert torch.equal(views["key"], unmasked["key"]) is (library is FilterLibrary.torch)
        torch.testing.assert_close(views["key"], unmasked["key"], rtol=0, atol=2e-6)


def test_without_focal_masks_every_image_loses_patches() -> None:
    grid, side = 4, 8  # 32 px on the smallest grid
    for name, focal in (("mocov2+ours-hp", True), ("mocov2+ours-hp-no-focal", False)):
        views, unmasked = inputs_of(name, **{"masking.focal_probability": 1.0} if focal else {})
        differs = (views["query"] != unmasked["query"]).unflatten(3, (grid, side)).unflatten(2, (grid, side))
        share = differs.float().mean((3, 5))
        assert bool(((share > 0) & (share < 1)).any()) == focal  # a window's edge cuts cells, patches fill them


def test_simclrs_crops_are_bicubic_at_the_same_places() -> None:
    bilinear, bicubic = (
        fixed_batch(tiny("simclr", {"augmentation.interpolation": kind})) for kind in ("bilinear", "bicubic")
    )
    assert resolve("simclr").augmentation.interpolation == "bicubic"
    for name in ("query", "key"):
        assert torch.equal(bilinear[f"{name}_draw"], bicubic[f"{name}_draw"])
        assert not torch.equal(bilinear[name], bicubic[name])
        assert (bilinear[name].float() - bicubic[name].float()).abs().mean() < 3  # of 255: sharper, and no other crop


# That each can be trained.


def train(run: Run, folder: RunFolder) -> None:
    make_training(run, folder).run()


@pytest.mark.parametrize("name", [*TABLE1, "mocov2+ours-hp@key", "mocov2+ours-hp-random"])
def test_each_row_trains_and_leaves_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    train(tiny(name, {"optimization.epochs": 1, "masking.guidance": "random"}), folder)
    content = newest(folder.checkpoints)
    assert (content["step"], content["epoch"]) == (2, 1)


@pytest.mark.parametrize("name", ["simclr+ours-hp", "simclr"])
def test_simclr_trains_in_mixed_precision_and_channels_last(name: str, tmp_path: Path) -> None:
    changes = {"optimization.epochs": 1, "masking.guidance": "random"}
    half = {**changes, "optimization.precision": "bf16", "machine.channels_last": True}
    losses, dtypes = [], set()
    for precision, settings in (("half", half), ("exact", changes)):
        folder = RunFolder(tmp_path / precision)
        train(tiny(name, settings), folder)
        dtypes |= {x.dtype for x in newest(folder.checkpoints)["model"].values()}
        losses.append(read_rows(folder.metrics)[0]["loss"])
    assert dtypes == {torch.float32, torch.int64}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.2)


FAST = "simclr+ours-hp"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == FAST else pytest.mark.slow)
        for name in METHODS
        if not name.endswith("-checkpoint")  # needs a path
    ],
)
def test_each_row_resumes_bit_by_bit(name: str, tmp_path: Path) -> None:
    # The default localizer would be downloaded. Released code leaves an image alone, which needs larger views.
    run = tiny(name, {"localizer.weights": "random", "data.crop": 64 if "released" in name else 32})
    undisturbed, interrupted = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "interrupted")
    train(run, undisturbed)
    interrupt(run, interrupted, STEPS)
    train(run, interrupted)
    assert_same_training(interrupted.checkpoints, undisturbed.checkpoints)


class Fixed(nn.Module):
    """A data preprocessor that gives the same batch whatever it is given."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self.data = data

    def forward(self, data: object, training: bool = False) -> dict[str, Any]:
        return self.data


@pytest.mark.parametrize("name", TABLE1)
def test_each_row_lowers_its_loss_on_a_fixed_batch(name: str) -> None:
    # One group of batch norm: no shuffling, which is noise here.
    run = tiny(name, {"moco.queue": 256, "moco.bn_splits": 1, "optimization.batch": 16})
    learner = build_learner(run, open_data(run, "train"), CPU)
    model: Any = learner.model
    batch = default_collate([learner.dataset[0, index] for index in range(16)])
    model.data_preprocessor = Fixed(model.data_preprocessor(batch, True))
    wrappers = {
        player: wrap_optimizer(optimizer, Precision.fp32, CPU) for player, optimizer in learner.optimizers.items()
    }
    wrapper = OptimWrapperDict(**wrappers) if len(wrappers) > 1 else wrappers["main"]
    queues = {queue: copy.deepcopy(queue.state_dict()) for queue in model.modules() if isinstance(queue, Queue)}
    losses: list[float] = []
    while len(losses) < 30 and not (len(losses) > 3 and max(losses[-3:]) < 0.85 * losses[0]):
        losses.append(model.train_step(batch, wrapper)["loss"].item())
        for queue, state in queues.items():
            queue.load_state_dict(state)  # else the batch meets itself as negatives
    assert max(losses[-3:]) < 0.85 * losses[0], losses
