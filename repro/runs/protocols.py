"""The protocols by which backbones are evaluated: their settings, and their names. No torch.

A protocol has a name and a version, and every departure from it is part of the name: `linear-moco-v1[epochs=20]`. The
defaults of the settings are the protocols. Those of detection stand in `repro.runs.detection`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


LINEAR_PROTOCOLS: Mapping[str, str] = {
    "caltech101": "linear-caltech-30-v1",
    "flowers102": "linear-flowers-80-10-10-v1",
}
"""The linear probe as the paper's numbers on a data set look made; `linear-moco-v1` on every other."""


DRAWN_SPLITS = frozenset({"caltech101"})
"""Data sets without a split of their own: numbers are means over several drawn ones."""


@dataclass(frozen=True)
class ProbeSettings:
    """Linear evaluation, protocol `linear-moco-v1` (MoCo main_lincls.py)."""

    epochs: int = 100
    batch: int = 256
    lr: float = 30.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_grid: tuple[float, ...] = ()  # a classifier for each, instead of `lr`; the best on the scored images counts
    splits: int = 3  # drawn splits that a number is the mean of, where the data set has none of its own

    def __post_init__(self) -> None:
        """YAML has lists only."""
        object.__setattr__(self, "lr_grid", tuple(float(lr) for lr in self.lr_grid))

    @property
    def protocol(self) -> str:
        """`linear-moco-v1`, with every departure from it named: `linear-moco-v1[epochs=20]`."""
        return self.protocol_on("")

    def protocol_on(self, dataset: str) -> str:
        """The name on a data set: `linear-caltech-30-v1`, `linear-flowers-80-10-10-v1`, else `linear-moco-v1`."""
        return LINEAR_PROTOCOLS.get(dataset, "linear-moco-v1") + _departures(self, *_unused_splits(dataset))


@dataclass(frozen=True)
class LogisticSettings:
    """L2 logistic regression on pooled features, protocol `logreg-v1` (Kornblith et al. 2019, appendix A.4)."""

    l2_low: float = 1e-6  # of the grid of regularisation weights, evenly spaced by their logarithms
    l2_high: float = 1e5
    values: int = 45
    iterations: int = 1000  # of L-BFGS for each value
    splits: int = 3  # as of `ProbeSettings`

    def protocol_on(self, dataset: str) -> str:
        """`logreg-v1` with its departures."""
        return "logreg-v1" + _departures(self, *_unused_splits(dataset))


@dataclass(frozen=True)
class KnnSettings:
    """Weighted nearest neighbours on pooled features, protocol `knn-v1` (Wu et al. 2018, section 3.4)."""

    neighbours: tuple[int, ...] = (20, 200)  # one protocol for each
    temperature: float = 0.07

    def __post_init__(self) -> None:
        """YAML has lists only."""
        object.__setattr__(self, "neighbours", tuple(int(k) for k in self.neighbours))

    def protocol(self, k: int) -> str:
        """`knn-v1[k=20]`; there is none without k."""
        changed = f",temperature={self.temperature:g}" if self.temperature != KnnSettings.temperature else ""
        return f"knn-v1[k={k}{changed}]"


FINE_TUNINGS: Mapping[str, tuple[str, float, int]] = {
    "finetune": ("finetune-v1", 1.0, 30),
    "semi-1": ("semi-1pct-v1", 0.01, 60),
    "semi-10": ("semi-10pct-v1", 0.1, 30),
}
"""Task -> name of the protocol, share of the labels, epochs (SimCLR, Chen et al. 2020, appendix B.5)."""


@dataclass(frozen=True)
class FinetuneSettings:
    """Training of the whole network from the backbone, SimCLR's semi-supervised recipe (appendix B.5)."""

    epochs: int = 0  # 0: 30, and 60 with one percent of the labels
    batch: int = 256
    lr: float = 0.05  # of a batch of 256; scaled to the batch
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 0.0

    def protocol(self, task: str) -> str:
        """`finetune-v1`, `semi-1pct-v1` or `semi-10pct-v1`, with departures."""
        name, _, epochs = FINE_TUNINGS[task]
        as_published = dataclasses.replace(self, epochs=0 if self.epochs == epochs else self.epochs)
        return name + _departures(as_published)

    def epochs_of(self, task: str) -> int:
        """How many epochs a task takes."""
        return self.epochs or FINE_TUNINGS[task][2]


def _unused_splits(dataset: str) -> tuple[str, ...]:
    return () if dataset in DRAWN_SPLITS else ("splits",)


def _departures(settings: Any, *without: str) -> str:
    changed = [
        f"{f.name}={_shown(getattr(settings, f.name))}"
        for f in dataclasses.fields(settings)
        if f.name not in without and getattr(settings, f.name) != f.default
    ]
    return f"[{','.join(changed)}]" if changed else ""


def _shown(value: Any) -> str:
    return "+".join(f"{item:g}" for item in value) if isinstance(value, tuple) else f"{value:g}"
