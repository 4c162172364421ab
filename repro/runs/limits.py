"""What no run may be: values out of range, and settings that exclude each other."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from repro.runs.detection import COCO_SCHEDULES, LEAST_SIDE

if TYPE_CHECKING:
    from repro.runs.run import Run


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is out."""

    def allows(self, value: float) -> bool:
        """Whether a value is finite and within."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high and value < math.inf

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{self.low:g}..{self.high:g}"
        return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"


SHARE, POSITIVE, NOT_NEGATIVE, COUNT = Limit(high=1.0), Limit(above=True), Limit(), Limit(low=1)

LIMITS: Mapping[str, Limit] = {
    "seed": NOT_NEGATIVE,
    "data.crop": COUNT,
    "augmentation.crop_scale_min": SHARE,
    "augmentation.brightness": NOT_NEGATIVE,
    "augmentation.contrast": NOT_NEGATIVE,
    "augmentation.saturation": NOT_NEGATIVE,
    "augmentation.hue": Limit(high=0.5),
    "augmentation.jitter_probability": SHARE,
    "augmentation.grey_probability": SHARE,
    "augmentation.blur_probability": SHARE,
    "augmentation.blur_sigma_min": NOT_NEGATIVE,
    "augmentation.flip_probability": SHARE,
    "localizer.relax": NOT_NEGATIVE,
    "masking.ratio_min": SHARE,
    "masking.ratio_max": SHARE,
    "masking.hard_ratio_min": SHARE,
    "masking.hard_ratio_max": SHARE,
    "masking.focal_probability": SHARE,
    "masking.spatial_share": SHARE,
    "masking.noise_std": NOT_NEGATIVE,
    "masking.hard_noise_std": NOT_NEGATIVE,
    "encoder.dim": COUNT,
    "moco.momentum": SHARE,
    "moco.queue": COUNT,
    "moco.temperature": POSITIVE,
    "moco.hard_negative_weight": NOT_NEGATIVE,
    "moco.bn_splits": COUNT,
    "simclr.temperature": POSITIVE,
    "simclr.hard_negative_weight": NOT_NEGATIVE,
    "adios.masks": Limit(low=2),
    "adios.base_filters": COUNT,
    "adios.lr": POSITIVE,
    "adios.momentum": SHARE,
    "adios.weight_decay": NOT_NEGATIVE,
    "adios.alpha_sparsity": NOT_NEGATIVE,
    "adios.alpha_entropy": NOT_NEGATIVE,
    "optimization.epochs": COUNT,
    "optimization.batch": Limit(low=2),
    "optimization.lr": POSITIVE,
    "optimization.momentum": SHARE,
    "optimization.weight_decay": NOT_NEGATIVE,
    "optimization.lars_eta": POSITIVE,
    "optimization.step_share": Limit(high=1.0, above=True),
    "optimization.warmup_share": SHARE,
    "probe.epochs": COUNT,
    "probe.batch": COUNT,
    "probe.lr": POSITIVE,
    "probe.momentum": SHARE,
    "probe.weight_decay": NOT_NEGATIVE,
    "probe.splits": COUNT,
    "logistic.l2_low": POSITIVE,
    "logistic.l2_high": POSITIVE,
    "logistic.values": COUNT,
    "logistic.iterations": COUNT,
    "logistic.splits": COUNT,
    "knn.temperature": POSITIVE,
    "finetune.epochs": NOT_NEGATIVE,
    "finetune.batch": Limit(low=2),
    "finetune.lr": POSITIVE,
    "finetune.momentum": SHARE,
    "finetune.weight_decay": NOT_NEGATIVE,
    "detection.trials": NOT_NEGATIVE,
    "detection.batch": NOT_NEGATIVE,
    "detection.iterations": NOT_NEGATIVE,
    "detection.base_lr": POSITIVE,
    "detection.min_size": NOT_NEGATIVE,
    "detection.rois": NOT_NEGATIVE,
    "detection.scene_objects": COUNT,
    "machine.workers": NOT_NEGATIVE,
    "machine.log_every": COUNT,
    "machine.checkpoint_every": COUNT,
}
ASCENDING = (
    ("masking.ratio_min", "masking.ratio_max"),
    ("masking.hard_ratio_min", "masking.hard_ratio_max"),
    ("augmentation.blur_sigma_min", "augmentation.blur_sigma_max"),
    ("logistic.l2_low", "logistic.l2_high"),
)
DEVICES = ("auto", "cpu", "cuda")


def problems(run: "Run") -> Iterator[str]:
    """One line for everything that is wrong with a run; the first is the one to tell."""

    def value(key: str) -> float:
        return reduce(getattr, key.split("."), run)  # type: ignore[return-value]

    for key, limit in LIMITS.items():
        if not limit.allows(value(key)):
            yield f"{key}={value(key):g} is out of range; mend: {limit}"
    for low, high in ASCENDING:
        if value(low) > value(high):
            yield f"{low}={value(low):g} is larger than {high}={value(high):g}; mend: exchange them"
    if run.machine.device not in DEVICES:
        yield f"machine.device={run.machine.device} is unknown; one of: {', '.join(DEVICES)}"
    if run.detection.coco_schedule not in COCO_SCHEDULES:
        schedules = ", ".join(COCO_SCHEDULES)
        yield f"detection.coco_schedule={run.detection.coco_schedule} is unknown; one of: {schedules}"
    if 0 < run.detection.min_size < LEAST_SIDE:
        yield f"detection.min_size={run.detection.min_size} is out of range; mend: 0, or {LEAST_SIDE} or more"
    if run.optimization.warmup_share == 1:
        yield "optimization.warmup_share=1 leaves no epoch to the schedule; mend: a smaller share"
    yield from _evaluation_problems(run)
    yield from _masking_problems(run)
    if run.framework.name == "mocov2":
        yield from _moco_problems(run)


def _evaluation_problems(run: "Run") -> Iterator[str]:
    for key, items, limit in (
        ("probe.lr_grid", run.probe.lr_grid, POSITIVE),
        ("knn.neighbours", run.knn.neighbours, COUNT),
    ):
        for item in items:
            if not limit.allows(item):
                yield f"{key} holds {item:g}, which is out of range; mend: {limit}"
    if not run.knn.neighbours:
        yield "knn.neighbours is empty; mend: knn.neighbours=[20,200]"
    if (run.framework.name == "external") is not bool(run.imported.weights):
        yield "framework=external and imported.weights go together; mend: salmask eval --checkpoint FILE sets both"


def _masking_problems(run: "Run") -> Iterator[str]:
    framework, masking, strategy = run.framework.name, run.masking, run.masking.strategy.name
    if run.localizer.sha256 and run.localizer.network != "checkpoint":
        yield (
            f"localizer.sha256 is a checkpoint's, and localizer.network={run.localizer.network} is none; "
            "mend: leave it out"
        )
    if framework == "supervised" and strategy != "none":
        yield (
            f"masking.strategy={strategy} has no place in supervised learning, which sees one whole view; "
            "mend: masking.strategy=none"
        )
    if strategy == "learned":
        if masking.branch.name != "query":
            yield (
                f"masking.branch={masking.branch.name} excludes learned masks: only the query's gradient reaches the "
                "occlusion network; mend: masking.branch=query"
            )
        if masking.hard_negative:
            yield (
                "masking.hard_negative=true excludes learned masks: they know no foreground to take from the key; "
                "mend: masking.hard_negative=false"
            )
    if framework == "simclr" and run.masks:
        if masking.branch.name == "key":
            yield (
                "masking.branch=key is masking.branch=query with the names exchanged: SimCLR has one encoder and a "
                "symmetric loss; mend: masking.branch=query or both"
            )
        if masking.hard_negative and run.fidelity.hard_negative.name == "released":
            yield (
                "fidelity.hard_negative=released follows a line of the released MoCo code, and no SimCLR was released; "
                "mend: fidelity.hard_negative=paper"
            )


def _moco_problems(run: "Run") -> Iterator[str]:
    batch, moco = run.optimization.batch, run.moco
    if batch % moco.bn_splits:
        yield (
            f"moco.bn_splits={moco.bn_splits} does not divide optimization.batch={batch}; "
            "mend: choose a batch that is a multiple of it"
        )
    if moco.queue % batch:
        yield f"moco.queue={moco.queue} is not a multiple of optimization.batch={batch}; mend: change one of them"
    one_negative = run.masks and run.masking.hard_negative and run.fidelity.hard_negative.name == "released"
    if run.data.crop <= 32 and (batch == moco.bn_splits or one_negative):  # the last stage of a ResNet is 1×1 there
        yield (
            f"data.crop={run.data.crop} with batch-norm groups of one image: a group of one value has no statistics; "
            "mend: data.crop=64, or moco.bn_splits and fidelity.hard_negative that leave no image alone"
        )
