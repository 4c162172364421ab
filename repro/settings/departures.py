"""Departures of a run, or of its evaluation, from the paper: one departure, and the text of several.

`repro.settings.comparison` computes a run's departures; a detector's evaluation adds its own. Texts are made of
departures at the end and never parsed, except in results of older versions
(`repro.settings.detection.recorded_sizes`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repro.quantities import counted


@dataclass(frozen=True)
class Departure:
    """One setting, or one size of an evaluation, that is not the paper's."""

    what: str
    """`section.key` of a setting, or a key of `FORMATS`."""
    here: Any
    """The value here, in YAML's own types."""
    paper: Any = None
    """The paper's value; None if the setting plays no part in the paper's run."""
    smaller: bool = True
    """Whether it makes the run *tiny*, rather than another run of the paper's size (*altered*)."""

    def __str__(self) -> str:
        """Returns the value here, as `64 px` or `optimization.lr=0.3`."""
        if self.what == EPOCHS:
            return counted(self.here, "epoch")
        return FORMATS.get(self.what, f"{self.what}={{}}").format(shown_value(self.here))

    @property
    def in_full(self) -> str:
        """The value here and the paper's, as `optimization.lr=0.3 (paper: 0.015)`."""
        return str(self) if self.paper is None else f"{self} (paper: {shown_value(self.paper)})"


DATA, EPOCHS, DETECTION = "data.dataset", "optimization.epochs", "detection"
FORMATS: Mapping[str, str] = {
    DATA: "{}",
    "encoder.arch": "{}",
    "encoder.width": "width {}",
    "data.crop": "{} px",
    EPOCHS: "{} epochs",  # and "1 epoch"
    "optimization.batch": "batch {}",
    "moco.queue": "queue {}",
    DETECTION: "detection of {}",
    "detection data": "{}",
}
"""How well-known departures are written, in the order in which they are listed; all others are `section.key=value`.

Never change an entry: recorded results hold these texts, and `repro.settings.detection.recorded_sizes` recognises a
detector's sizes by them.
"""
OF_A_FRAMEWORK = frozenset({"optimization.batch", "moco.queue"})
"""Sizes that differ between frameworks, and so between the rows of one sweep."""
_TOLD_BY_DATA = frozenset(
    f"data.scenes.{name}" for name in ("classes", "train_count", "grounds", "context", "members", "colour")
)
"""Settings that the text of a drawn data set's departure already includes (`ScenesSettings.description`)."""
_ORDER = {what: place for place, what in enumerate(FORMATS)}
_SEPARATOR = ", "
_HASH = re.compile(r"[0-9a-f]{64}")
_HASH_SHOWN = 12
"""Digits of a SHA-256 that are shown; `run.yaml` has all of them."""


def listed(departures: Iterable[Departure]) -> list[Departure]:
    """Returns departures in the order of a text: first those of `FORMATS`, in its order, then all others as given.

    Departures that another one's text already includes are left out.
    """
    given = list(departures)
    told = _TOLD_BY_DATA if any(departure.what == DATA for departure in given) else frozenset()
    kept = (departure for departure in given if departure.what not in told)
    return sorted(kept, key=lambda departure: _ORDER.get(departure.what, len(_ORDER)))


def scale_of(departures: Iterable[Departure]) -> str:
    """Returns departures as one text, for example `64 px, 2 epochs`; empty where there are none."""
    return _SEPARATOR.join(map(str, listed(departures)))


def common_sizes(departures: Iterable[Departure]) -> list[Departure]:
    """Returns a run's sizes in order, without those that differ between frameworks, so that rows share a column.

    Batch and queue are kept if the run is smaller than the paper's in nothing else; otherwise tables name them
    elsewhere. Rows of one method that differ in them are refused (`results.collection.collect.refuse_mixed`).

    Args:
        departures: The departures that make a run tiny.
    """
    sizes = listed(departures)
    return [size for size in sizes if size.what not in OF_A_FRAMEWORK] or sizes


def scale_of_both(of_pretraining: str, of_evaluation: str) -> str:
    """Returns the scale of a result: that of the pretraining, and that of the evaluation behind it.

    Args:
        of_pretraining: Text of its departures, as `scale_of` makes it.
        of_evaluation: As `repro.runs.records.Result.evaluation_scale`.
    """
    return _SEPARATOR.join(filter(None, (of_pretraining, of_evaluation)))


def value_text(value: Any) -> str:
    """Returns a setting's value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown_value(value: Any) -> str:
    """Returns a setting's value for people: as the command line takes it, and a hash shortened."""
    text = value_text(value)
    return text[:_HASH_SHOWN] if _HASH.fullmatch(text) else text
