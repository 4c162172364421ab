"""The name of a run's folder, `SWEEP/METHOD/sSEED-ID`, and the words by which a person may name the run."""

from dataclasses import dataclass
from pathlib import Path

SHORTEST_ID = 4
"""Least digits of an id that may name a run; fewer would often match several, or be meant as something else."""


def folder_name(seed: int, run_id: str) -> str:
    """Returns `sSEED-ID`, the name of a run's folder in that of its method.

    Args:
        seed: The run's seed.
        run_id: The run's identity, a digest without a dash.
    """
    return f"s{seed}-{run_id}"


@dataclass(frozen=True)
class RunName:
    """The parts of a run's path."""

    sweep: str
    method: str
    folder: str
    """`sSEED-ID`, as `folder_name` makes it."""

    @classmethod
    def of(cls, path: Path) -> "RunName":
        """Returns the name of the run in a folder; a part that the path lacks is empty.

        Args:
            path: `SWEEP/METHOD/sSEED-ID`, or only its end, `METHOD/sSEED-ID`.
        """
        return cls(path.parent.parent.name, path.parent.name, path.name)

    @property
    def seed(self) -> str:
        """`sSEED`."""
        return self.folder.partition("-")[0]

    @property
    def id(self) -> str:
        """The run's identity."""
        return self.folder.partition("-")[2]

    def is_meant_by(self, word: str) -> bool:
        """Returns whether a word names this run, by its id or by its method and seed.

        Args:
            word: `sSEED-ID`, `METHOD/sSEED-ID` or `METHOD/sSEED`, the latter two also behind `SWEEP/`; or the beginning
                of an id.
        """
        in_sweep = [f"{self.method}/{self.folder}", f"{self.method}/{self.seed}"]
        names = [self.folder, *in_sweep, *(f"{self.sweep}/{name}" for name in in_sweep)]
        return word in names or (len(word) >= SHORTEST_ID and self.id.startswith(word))
