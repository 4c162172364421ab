"""Symptoms of a training that goes wrong, recorded as `health.json` in its folder."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from repro.errors import UserError, with_mend
from repro.filesystem.files import write_json
from repro.filesystem.presence import exists
from repro.runs.schemas import SYMPTOM

log = logging.getLogger("salmask")
AT_CHANCE = "loss at chance level"
"""The kind of a training whose loss is hardly below that of embeddings that tell nothing apart."""
_RENAMED = {"loss of a guess": AT_CHANCE}
"""Kind that older versions recorded -> its name today."""


@dataclass(frozen=True)
class Symptom:
    """One thing that went wrong in a training."""

    kind: str
    """`blind localizer`, `exploded weights`, `collapsed embeddings`, `collapsed features` or `AT_CHANCE`."""
    step: int
    """Steps done when it was first noticed."""
    detail: str
    """The numbers, in words."""
    mend: str
    """What to try."""

    def __str__(self) -> str:
        """Returns kind, step and numbers in one line."""
        return f"{self.kind} at step {self.step}: {self.detail}"


def read_symptoms(path: Path) -> list[Symptom]:
    """Returns the symptoms in a `health.json`: none if there is no file; one that says so if it cannot be read."""
    if not exists(path):
        return []
    try:
        entries = SYMPTOM.read_list(path)
    except UserError as error:
        return [Symptom("unreadable record", 0, error.what, error.mend)]
    symptoms = [Symptom(**{name: entry[name] for name in SYMPTOM.fields}) for entry in entries]
    return [replace(symptom, kind=_RENAMED.get(symptom.kind, symptom.kind)) for symptom in symptoms]


def tell_symptoms(path: Path, symptoms: Sequence[Symptom]) -> None:
    """Logs symptoms, and records them in a `health.json` in place of earlier ones of the same kinds.

    Raises:
        UserError: The file cannot be written.
    """
    for symptom in symptoms:
        log.warning("%s", with_mend(str(symptom), symptom.mend))
    kinds = {symptom.kind for symptom in symptoms}
    earlier = [symptom for symptom in read_symptoms(path) if symptom.kind not in kinds]
    write_json(path, [asdict(symptom) for symptom in (*earlier, *symptoms)])
