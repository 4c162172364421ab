"""Every row of the paper's tables, ours included: a method is a name for settings of a Run, never a branch in code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baselines import mocov2
from repro.errors import UserError, nearest
from repro.run import Run
from repro.settings import build


@dataclass(frozen=True)
class Method:
    """One row: its title in the paper and how it differs from the default Run."""

    title: str
    settings: Mapping[str, Any]


METHODS: Mapping[str, Method] = {
    "mocov2": Method("MoCo v2", mocov2.PLAIN),
    "mocov2+ours-hp": Method("MoCo v2 + ours, high-pass", mocov2.HIGH_PASS),
    "mocov2+ours-blur": Method("MoCo v2 + ours, strong blur", mocov2.STRONG_BLUR),
    "mocov2+ours-mean": Method("MoCo v2 + ours, mean fill", mocov2.MEAN_FILL),
}


def resolve(method: str, *layers: Mapping[str, Any], origin: str = "settings") -> Run:
    """A run of a method: its settings, then `layers`, later ones winning.

    Raises:
        UserError: an unknown method, key or value.
    """
    if method not in METHODS:
        raise UserError(f"unknown method '{method}'{nearest(method, METHODS)}")
    return build([METHODS[method].settings, *layers, {"method": method}], origin=origin)
