"""What a training said of itself while it went wrong: `health.json` in its folder."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repro.errors import UserError, with_mend
from repro.files import write_json
from repro.presence import exists
from repro.runs.schemas import SYMPTOM

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class Symptom:
    """One thing that went wrong in a training."""

    kind: str
    """`blind localizer`, `exploded weights`, `collapsed embeddings`, `collapsed features` or `loss of a guess`."""
    step: int
    """Steps made when it was noticed first."""
    detail: str
    """The numbers, in words."""
    mend: str
    """What to try."""

    def __str__(self) -> str:
        """Returns kind, step and numbers in one line."""
        return f"{self.kind} at step {self.step}: {self.detail}"


def read_symptoms(path: Path) -> list[Symptom]:
    """Returns what a `health.json` holds: nothing where there is none; that it cannot be read where it is damaged."""
    if not exists(path):
        return []
    try:
        entries = SYMPTOM.read_list(path)
    except UserError as error:
        return [Symptom("unreadable record", 0, error.what, error.mend)]
    return [Symptom(**{name: entry[name] for name in SYMPTOM.fields}) for entry in entries]


def tell_symptoms(path: Path, symptoms: Sequence[Symptom]) -> None:
    """Says symptoms, and records them in a `health.json`, in the place of earlier ones of their kinds.

    Raises:
        UserError: It cannot be written.
    """
    for symptom in symptoms:
        log.warning("%s", with_mend(str(symptom), symptom.mend))
    kinds = {symptom.kind for symptom in symptoms}
    earlier = [symptom for symptom in read_symptoms(path) if symptom.kind not in kinds]
    write_json(path, [asdict(symptom) for symptom in (*earlier, *symptoms)])
