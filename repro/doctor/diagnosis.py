"""One check of a machine, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """One check."""

    check: str
    verdict: str
    """`ok`, `note` (works, worth knowing) or `wrong`."""
    found: str
    mend: str = ""
