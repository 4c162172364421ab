"""What runs need of a machine besides its packages: data sets, and weights that are downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.settings.localizer_weights import PAPERS_WEIGHTS, LocalizerWeights


@dataclass(frozen=True)
class Needs:
    """What must be there."""

    data: tuple[tuple[str, str], ...] = ()
    """Data sets, each with the root that the command line or a setting names. An empty root stands for the one that the
    environment or the user's list names. Without any data sets, all are looked for, but none is required."""
    weights: tuple[LocalizerWeights, ...] = (PAPERS_WEIGHTS,)
    """Weights of localizers that must be there, or that the machine must be able to download."""

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Needs":
        """Returns the needs in the content of a JSON file.

        Raises:
            TypeError, KeyError, ValueError: The content is not that of needs.
        """
        data = tuple((str(name), str(root)) for name, root in content["data"])
        return cls(data, tuple(LocalizerWeights(**weights) for weights in content["weights"]))
