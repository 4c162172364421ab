"""What is smaller than the paper's in a run, or in a measurement of it.

A departure is a pair of what departs and its value. Only `scale_of` makes text of them, for the field `scale` of a
result. That field is stored, and a table may know nothing else of a run whose folder is gone. So `common_scale` works
on the stored text, by the formats of this module.
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
"""How the value of each departure is written. Never change one: results that were recorded hold the text."""
OF_A_FRAMEWORK = ("batch", "queue")
"""The departures that frameworks have of their own, so that rows of one sweep differ in them."""
_SEPARATOR = ", "
_OF_A_FRAMEWORK = re.compile("|".join(FORMATS[what].format("[0-9]+") for what in OF_A_FRAMEWORK))


def scale_of(departures: Iterable[Departure]) -> str:
    """Returns the text of a result's `scale`, for example `64 px, 2 epochs`; empty at the paper's scale."""
    return _SEPARATOR.join(map(str, departures))


def common_scale(scale: str) -> str:
    """Returns a `scale` without what frameworks have of their own, so that one sweep's rows stand in one column.

    Batch and queue count where a run is smaller than the paper's in nothing else. Rows of one method that differ in
    them are refused (`results.collect.refuse_mixed`).

    Args:
        scale: The text of a result's `scale`.
    """
    # A value may hold the separator too, as a data set's does. Its pieces look like no batch or queue, and are put
    # together again as they were.
    pieces = [piece for piece in scale.split(_SEPARATOR) if not _OF_A_FRAMEWORK.fullmatch(piece)]
    return _SEPARATOR.join(pieces) or scale
