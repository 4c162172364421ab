"""In what a run, or a measurement of it, is smaller than the paper's.

A departure is a pair of what departs and its value. Only `scale_of` makes text of them, for the field `scale` of a
result; that text is all that a table knows of a run whose folder is gone.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Departure(NamedTuple):
    """One thing that is smaller than the paper's."""

    what: str
    """A key of `FORMATS`."""
    value: object
    """The value here."""

    def __str__(self) -> str:
        return FORMATS[self.what].format(self.value)


FORMATS: Mapping[str, str] = {
    "data": "{}",
    "encoder": "{}",
    "crop": "{} px",
    "epochs": "{} epochs",
    "batch": "batch {}",
    "queue": "queue {}",
    "detection": "detection of {}",
    "detection data": "{}",
}
"""How each is shown."""
OF_A_FRAMEWORK = ("batch", "queue")
"""What frameworks have of their own, so that rows of one sweep differ in it."""
_OF_A_FRAMEWORK = re.compile("|".join(rf"(?:^|, ){FORMATS[what].format('[0-9]+')}" for what in OF_A_FRAMEWORK))


def scale_of(departures: Iterable[Departure]) -> str:
    """The text of a result's `scale`; empty at the paper's."""
    return ", ".join(map(str, departures))


def common_scale(scale: str) -> str:
    """A `scale` without what frameworks have of their own, so that one sweep's rows stand in one column.

    Batch and queue count where a run is smaller than the paper's in nothing else. Rows of one method that differ in
    them are refused (`results.collect.refuse_mixed`).
    """
    return _OF_A_FRAMEWORK.sub("", scale).removeprefix(", ") or scale
