"""One check of a machine, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """One check."""

    check: str
    """What was checked, for example `disk` or `data imagenet100`."""
    verdict: str
    """`ok`, `note` (works, worth knowing) or `wrong`."""
    found: str
    """What came of it."""
    mend: str = ""
    """What a person can do about it; empty where nothing needs to be done."""
