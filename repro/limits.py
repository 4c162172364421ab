"""What no run may be: values out of range, and settings that exclude each other."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repro.run import Run


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
    "optimization.epochs": COUNT,
    "optimization.batch": Limit(low=2),
    "optimization.lr": POSITIVE,
    "optimization.momentum": SHARE,
    "optimization.weight_decay": NOT_NEGATIVE,
    "probe.epochs": COUNT,
    "probe.batch": COUNT,
    "probe.lr": POSITIVE,
    "probe.momentum": SHARE,
    "probe.weight_decay": NOT_NEGATIVE,
    "machine.workers": NOT_NEGATIVE,
    "machine.log_every": COUNT,
    "machine.checkpoint_every": COUNT,
}
ASCENDING = (
    ("masking.ratio_min", "masking.ratio_max"),
    ("masking.hard_ratio_min", "masking.hard_ratio_max"),
    ("augmentation.blur_sigma_min", "augmentation.blur_sigma_max"),
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
    yield from _batch_problems(run)


def _batch_problems(run: "Run") -> Iterator[str]:
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
