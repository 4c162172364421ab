"""The protocols by which backbones are evaluated: their settings, and their names. No torch.

A protocol has a name and a version, and every departure from it is part of the name: `linear-moco-v1[epochs=20]`. The
defaults of the settings are the protocols. Those of detection stand in `repro.settings.detection`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repro.errors import UserError

LINEAR_PROTOCOL = "linear-moco-v1"
LINEAR_PROTOCOLS: Mapping[str, str] = {
    "caltech101": "linear-caltech-30-v1",
    "flowers102": "linear-flowers-80-10-10-v1",
}
"""Data set -> linear protocol that the paper's numbers on it seem to follow; any other has `LINEAR_PROTOCOL`."""
DRAWN_SPLITS = frozenset({"caltech101"})
"""Data sets without a split of their own: it is drawn.

Numbers of linear probes and logistic regression are means over several draws; nearest neighbours and fine-tuning are
measured on the first one (seed 0) alone.
"""


@dataclass(frozen=True)
class EvaluationProtocol:
    """How something is measured: a protocol, and the settings that depart from it."""

    version: str
    """Name and version of the protocol, `linear-moco-v1`."""
    departures: str = ""
    """The departures from it, `epochs=20,batch=16`; empty if there are none."""

    @classmethod
    def departing(cls, version: str, departures: Iterable[tuple[str, Any]]) -> "EvaluationProtocol":
        """Returns a protocol with some settings changed.

        Args:
            version: Name and version of the protocol.
            departures: Each setting that departs from it, with its value: a number, a tuple of numbers, or text.
        """
        return cls(version, ",".join(f"{setting}={_value_text(value)}" for setting, value in departures))

    @property
    def name(self) -> str:
        """The name with the departures: `linear-moco-v1`, `linear-moco-v1[epochs=20,batch=16]`.

        Results are found by this text, so neither the order of the departures nor the format of a value may change. It
        is never parsed.
        """
        return f"{self.version}[{self.departures}]" if self.departures else self.version


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_value_text, value))  # no comma, which stands between departures
    if isinstance(value, str):
        return value
    text = f"{value:g}"
    # With six digits, two values might share one text, and so a protocol, rows and checkpoints.
    return text if float(text) == value else repr(value)


def _departures(settings: Any, *without: str) -> Iterator[tuple[str, Any]]:
    """Yields the fields of a protocol's settings that differ from their defaults, in the order of the fields.

    Args:
        settings: An instance of one of the dataclasses below, whose defaults are the protocol.
        without: Names of fields that play no part in this measurement.
    """
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if f.name not in without and value != f.default:
            yield f.name, value


def _unused_fields(dataset: str) -> tuple[str, ...]:
    """Returns the fields without effect on a data set: `splits`, unless its splits are drawn."""
    return () if dataset in DRAWN_SPLITS else ("splits",)


@dataclass(frozen=True)
class ProbeSettings:
    """Linear evaluation, protocol `linear-moco-v1` (MoCo main_lincls.py)."""

    epochs: int = 100  # passes over the training images
    batch: int = 256  # images a step
    lr: float = 30.0  # at the start; a tenth of it from 60 % of the epochs on, a hundredth from 80 %
    momentum: float = 0.9  # momentum of SGD
    weight_decay: float = 0.0  # L2 penalty
    lr_grid: tuple[float, ...] = ()  # a classifier for each rate instead of `lr`; the best on the scored images counts
    splits: int = 3  # drawn splits to average over, if the data set has no split of its own
    channels_last: bool = False  # the frozen backbone computes with NHWC in memory: faster, and rounds differently

    def __post_init__(self) -> None:
        """Turns `lr_grid` into a tuple of floats; YAML has only lists, which may hold whole numbers."""
        object.__setattr__(self, "lr_grid", tuple(float(lr) for lr in self.lr_grid))

    def protocol(self, dataset: str = "") -> EvaluationProtocol:
        """Returns the protocol on a data set, with its departures.

        Args:
            dataset: Name of the data set; one of `LINEAR_PROTOCOLS` has a protocol of its own. Empty: any other.
        """
        version = LINEAR_PROTOCOLS.get(dataset, LINEAR_PROTOCOL)
        return EvaluationProtocol.departing(version, _departures(self, *_unused_fields(dataset)))

    @property
    def metric_endings(self) -> list[str]:
        """Suffix of the metrics' names of each classifier: empty for a single one, `@lr=10` in a grid."""
        return [f"{_RATE_MARK}{_value_text(lr)}" for lr in self.lr_grid] or [""]


_RATE_MARK = "@lr="


def metric_without_rate(name: str) -> str:
    """Returns a metric's name without what `ProbeSettings.metric_endings` puts behind it: `top1` for `top1@lr=10`."""
    return name.partition(_RATE_MARK)[0]


@dataclass(frozen=True)
class LogisticSettings:
    """L2 logistic regression on pooled features, protocol `logreg-v2` (Kornblith et al. 2019, appendix A.4)."""

    l2_low: float = 1e-6  # smallest regularisation weight of the grid, which is evenly spaced by logarithms
    l2_high: float = 1e5  # largest regularisation weight of the grid
    values: int = 45  # how many weights the grid has
    iterations: int = 1000  # iterations of L-BFGS for each value
    splits: int = 3  # random splits, as in `probe.splits`
    channels_last: bool = False  # as in `probe.channels_last`

    def protocol(self, dataset: str) -> EvaluationProtocol:
        """Returns the protocol on a data set, with its departures."""
        return EvaluationProtocol.departing("logreg-v2", _departures(self, *_unused_fields(dataset)))


@dataclass(frozen=True)
class KnnSettings:
    """Weighted nearest neighbours on pooled features, protocol `knn-v1` (Wu et al. 2018, section 3.4)."""

    neighbours: tuple[int, ...] = (20, 200)  # numbers of neighbours; each has a protocol of its own
    temperature: float = 0.07  # similarities are divided by it, and then weigh the votes
    channels_last: bool = False  # as in `probe.channels_last`

    def __post_init__(self) -> None:
        """Turns `neighbours` into a tuple of whole numbers; YAML has only lists."""
        object.__setattr__(self, "neighbours", tuple(int(k) for k in self.neighbours))

    def protocol(self, k: int) -> EvaluationProtocol:
        """Returns the protocol for one number of neighbours: `knn-v1[k=20]`, always with its k."""
        # k is always named, and as text: as a number, a large one would be written as 1e+06.
        return EvaluationProtocol.departing("knn-v1", [("k", str(k)), *_departures(self, "neighbours")])

    def refuse_fewer(self, dataset: str, images: int) -> None:
        """Refuses a data set with fewer training images than neighbours.

        Args:
            dataset: Name of the data set.
            images: How many training images it has.

        Raises:
            UserError: There are too few training images.
        """
        largest = max(self.neighbours)
        if largest > images:
            raise UserError(
                f"knn.neighbours={largest}, but {dataset} has only {images} training images",
                mend=f"knn.neighbours=[{min(20, images)}]",
            )


FINE_TUNINGS: Mapping[str, tuple[str, float, int]] = {
    "finetune": ("finetune-v1", 1.0, 30),
    "semi-1": ("semi-1pct-v1", 0.01, 60),
    "semi-10": ("semi-10pct-v1", 0.1, 30),
}
"""Task -> name of the protocol, share of the labels, epochs (SimCLR, Chen et al. 2020, appendix B.5)."""


@dataclass(frozen=True)
class FinetuneSettings:
    """Training of the whole network from the backbone, SimCLR's semi-supervised recipe (appendix B.5)."""

    epochs: int = 0  # 0: 30, or 60 with one percent of the labels
    batch: int = 256  # images a step
    lr: float = 0.05  # learning rate of a batch of 256; scaled to the batch
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 0.0  # L2 penalty

    def protocol(self, task: str) -> EvaluationProtocol:
        """Returns the protocol of a task, a key of `FINE_TUNINGS`, with its departures."""
        version, _, epochs = FINE_TUNINGS[task]
        # Epochs that are given but equal the protocol's are no departure, although they differ from the field's 0.
        unused = ("epochs",) if self.epochs == epochs else ()
        return EvaluationProtocol.departing(version, _departures(self, *unused))

    def epochs_of(self, task: str) -> int:
        """Returns how many epochs a task, a key of `FINE_TUNINGS`, takes."""
        return self.epochs or FINE_TUNINGS[task][2]
