"""What a training said of itself while it went wrong: `health.json` in its folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repro.errors import UserError
from repro.files import write_json
from repro.runs.schemas import FINDING


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong in a training."""

    kind: str
    """`exploded weights`, `collapsed embeddings`, `collapsed features` or `loss of a guess`."""
    step: int
    """Steps made when it was noticed first."""
    detail: str
    """The numbers, in words."""
    mend: str
    """What to try."""

    def __str__(self) -> str:
        """Returns kind, step and numbers in one line."""
        return f"{self.kind} at step {self.step}: {self.detail}"


def read_findings(path: Path) -> list[Finding]:
    """Returns what a `health.json` holds: nothing where there is none; that it cannot be read where it is damaged."""
    if not path.exists():
        return []
    try:
        entries = FINDING.read_list(path)
    except UserError as error:
        return [Finding("unreadable record", 0, error.what, error.mend)]
    return [Finding(**{name: entry[name] for name in FINDING.fields}) for entry in entries]


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Writes a `health.json`.

    Raises:
        UserError: it cannot be written.
    """
    write_json(path, [asdict(finding) for finding in findings])
