"""How fast training steps are, as measured: what `salmask bench step` writes and plans read. No torch."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from repro.errors import UserError
from repro.files import append_lines
from repro.runs.provenance import now
from repro.runs.run import Run

Kind = tuple[str, ...]
"""What makes two runs equally fast: see `kind_of`."""


@dataclass(frozen=True)
class StepMeasurement:
    """What a method's steps took on a machine."""

    kind: Kind
    method: str
    images_per_second: float
    """Of pretraining, over all processes."""
    forward_images_per_second: float
    """Of the frozen backbone alone, as a probe uses it, over all processes."""
    checkpoint_bytes: int
    backbone_bytes: int
    device: str
    processes: int = 1
    time: str = field(default_factory=now)


def kind_of(run: Run) -> Kind:
    """The settings that a step's cost depends on; seed, schedule and data set are not among them."""
    masking = run.masking
    return (
        run.framework.name,
        masking.strategy.name,
        masking.guidance.name,
        masking.branch.name,
        str(masking.hard_negative),
        run.encoder.arch,
        run.localizer.network if run.needs_localizer else "",
        str(run.data.crop),
        str(run.optimization.batch),
        run.optimization.precision.name,
        run.augmentation.backend.name,
    )


def record_file() -> Path:
    """Where measurements of this user are kept."""
    return platformdirs.user_data_path("salmask") / "steps.jsonl"


def record(path: Path, measurements: Iterable[StepMeasurement]) -> None:
    """Add measurements to a file.

    Raises:
        UserError: it cannot be written to.
    """
    lines = "".join(json.dumps(asdict(measurement)) + "\n" for measurement in measurements)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, lines.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", mend="--out elsewhere") from error


def recorded(path: Path) -> dict[Kind, StepMeasurement]:
    """The newest measurement of each kind; lines that cannot be read are left out."""
    found: dict[Kind, StepMeasurement] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            content = json.loads(line)
            measurement = StepMeasurement(**{**content, "kind": tuple(content["kind"])})
        except (ValueError, TypeError, KeyError):
            continue  # torn, or of another version
        found[measurement.kind] = measurement
    return found
