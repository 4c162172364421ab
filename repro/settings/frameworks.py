"""The frameworks, with one entry of `FRAMEWORKS` for each. CONTRIBUTING.md tells how to add one.

An entry refers to its model by a dotted name, which only the learner resolves: tables and launchers can read this table
without torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from repro.settings.choices import Branch, Source, Strategy
from repro.settings.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Limit, Problem
from repro.settings.sections import Framework, RunSettings

SINGLE_CELL_CROP = 32
"""Largest side of a view, in pixels, at which a ResNet's last stage is 1×1: then a batch-norm group of one image has a
single value per channel, and no statistics."""


@dataclass(frozen=True)
class FrameworkEntry:
    """Everything about a framework that is not its model."""

    title: str
    """The framework's name in the paper's tables."""
    model: str = ""
    """`MODULE:FUNCTION` that makes the contrastive model of a run; empty if the framework is not contrastive."""
    released: bool = False
    """Whether the paper's authors released code for it, which `fidelity` can follow."""
    hard_negative_weight: Callable[[RunSettings], float] | None = None
    """Returns the weight of a run's hard negative, the paper's rho; None if the framework has no hard negative.

    The recipe of a contrastive framework without a hard negative has `"masking": {"hard_negative": False}`.
    """
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How its rows differ from the default Run, apart from masking, as nested settings."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """Ranges of its own settings, by `section.key`."""
    batch_norm_groups: Callable[[RunSettings], int] = lambda _run: 1
    """Returns the number of equally large batch-norm groups in a run's global batch."""
    problems: Callable[[RunSettings], Iterator[Problem]] = lambda _run: iter(())
    """Yields what this framework alone finds wrong with a run; rules for every run are in `repro.settings.limits`."""

    def all_problems(self, run: RunSettings) -> Iterator[Problem]:
        """Yields what is wrong with a run of this framework: its own `problems`, and a hard negative that it ignores.

        Such a hard negative would be made of each image in vain.
        """
        if self.model and self.hard_negative_weight is None and run.masks and run.masking.hard_negative:
            yield Problem(
                f"masking.hard_negative=true, and {self.title} has no hard negative",
                mend='"masking": {"hard_negative": False} in the recipe of its entry of FRAMEWORKS',
            )
        yield from self.problems(run)

    def group_size(self, run: RunSettings) -> int:
        """Returns the number of images in one batch-norm group of a run's global batch.

        A group stands for one of the paper's GPUs, also where the released code does something once per GPU
        (`FidelitySettings`).
        """
        return run.optimization.batch // self.batch_norm_groups(run)


def _released_hard_negative(run: RunSettings) -> bool:
    """Returns whether one hard negative serves a whole group, as in the released code (`FidelitySettings`)."""
    return run.masks and run.masking.hard_negative and run.fidelity.hard_negative is Source.released


def _moco_problems(run: RunSettings) -> Iterator[Problem]:
    batch, moco = run.optimization.batch, run.moco
    if batch % moco.bn_splits:
        yield Problem(
            f"moco.bn_splits={moco.bn_splits} does not divide optimization.batch={batch}",
            mend="choose a batch that is a multiple of it",
        )
    if moco.queue % batch:
        yield Problem(
            f"moco.queue={moco.queue} is not a multiple of optimization.batch={batch}", mend="change one of them"
        )
    # Batch norm sees each of the released hard negatives alone.
    if run.data.crop <= SINGLE_CELL_CROP and (batch == moco.bn_splits or _released_hard_negative(run)):
        yield Problem(
            f"data.crop={run.data.crop} with batch-norm groups of one image: a group of one value has no statistics",
            mend="data.crop=64, or moco.bn_splits and fidelity.hard_negative that leave no image alone",
        )


def _simclr_problems(run: RunSettings) -> Iterator[Problem]:
    if run.masks and run.masking.branch is Branch.key:
        yield Problem(
            "masking.branch=key is masking.branch=query with the names exchanged: SimCLR has one encoder and a "
            "symmetric loss",
            mend="masking.branch=query or both",
        )
    if _released_hard_negative(run):
        yield Problem(
            "fidelity.hard_negative=released follows a line of the released MoCo code, and no SimCLR was released",
            mend="fidelity.hard_negative=paper",
        )


def _supervised_problems(run: RunSettings) -> Iterator[Problem]:
    if run.masking.strategy is not Strategy.none:
        yield Problem(
            f"masking.strategy={run.masking.strategy.name} has no place in supervised learning, which sees one whole "
            "view",
            mend="masking.strategy=none",
        )


FRAMEWORKS: Mapping[Framework, FrameworkEntry] = {
    Framework.mocov2: FrameworkEntry(
        title="MoCo v2",
        model="repro.contrastive.moco:build",
        released=True,
        hard_negative_weight=lambda run: run.moco.hard_negative_weight,
        batch_norm_groups=lambda run: run.moco.bn_splits,
        # MoCo v2's recipe is the default Run (released README and main_moco.py).
        limits={
            "moco.momentum": SHARE,
            "moco.queue": COUNT,
            "moco.temperature": POSITIVE,
            "moco.hard_negative_weight": NOT_NEGATIVE,
            "moco.bn_splits": COUNT,
        },
        problems=_moco_problems,
    ),
    Framework.simclr: FrameworkEntry(
        title="SimCLR",
        model="repro.contrastive.simclr:build",
        hard_negative_weight=lambda run: run.simclr.hard_negative_weight,
        # The paper states no recipe. The authors' imagenet100.sh descends from ADIOS, a fork of solo-learn. Where these
        # two differ, values are those of solo-learn's simclr.yaml and symmetric.yaml; projector 2048-2048-128 and
        # temperature 0.2 are those of ADIOS.
        recipe={
            "optimization": {
                "epochs": 200,
                "batch": 256,
                "lr": 0.3,  # 0.3 * batch / 256
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "optimizer": "lars",
                "lars_eta": 0.02,
                "warmup_share": 0.05,  # 10 of 200 epochs
                "schedule": "cosine",
                "interval": "step",
            },
            "augmentation": {
                "crop_scale_min": 0.08,
                "interpolation": "bicubic",
                "brightness": 0.8,
                "contrast": 0.8,
                "saturation": 0.8,
                "hue": 0.2,
            },
        },
        limits={"simclr.temperature": POSITIVE, "simclr.hard_negative_weight": NOT_NEGATIVE},
        problems=_simclr_problems,
    ),
    Framework.supervised: FrameworkEntry(
        title="Supervised",
        # torchvision's reference recipe: random crops and flips, a tenth of the rate every 30 epochs. It ends at 90;
        # the ten further epochs here are at a thousandth of the rate.
        recipe={
            "optimization": {
                "epochs": 100,
                "batch": 256,
                "lr": 0.1,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "schedule": "steps",
                "step_share": 0.3,
            },
            "augmentation": {
                "crop_scale_min": 0.08,
                "jitter_probability": 0.0,
                "grey_probability": 0.0,
                "blur_probability": 0.0,
            },
            # The probe's rate suits contrastive features; supervised ones may need another (the protocol's name tells
            # it).
            "probe": {"lr_grid": [30.0, 10.0, 1.0, 0.1]},
        },
        problems=_supervised_problems,
    ),
    Framework.external: FrameworkEntry(title="Imported weights"),
}
