"""What runs need of a machine besides its packages: data sets, and weights that are downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.runs.localizer_weights import PAPERS_WEIGHTS, LocalizerWeights


@dataclass(frozen=True)
class Needs:
    """What must be there."""

    data: tuple[tuple[str, str], ...] = ()
    """Data sets, each with the root that the command line or a setting names; empty: where lists say. Without any, all
    data sets are looked for, and none is missed."""
    weights: tuple[LocalizerWeights, ...] = (PAPERS_WEIGHTS,)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Needs":
        """Returns the needs that were written as JSON.

        Raises:
            TypeError, KeyError, ValueError: They are none.
        """
        data = tuple((str(name), str(root)) for name, root in content["data"])
        return cls(data, tuple(LocalizerWeights(**weights) for weights in content["weights"]))
