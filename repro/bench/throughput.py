"""The file of measured training rates: `salmask bench step` appends to it, and plans read it.

No torch is imported, as `salmask sweep --plan` must answer at once.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from repro.errors import UserError
from repro.filesystem.files import append_lines, read_regular, reading
from repro.filesystem.presence import exists
from repro.runs.provenance import now
from repro.runs.schemas import LARGEST_BYTES, Field, Schema
from repro.settings.choices import MapOf, Resizer
from repro.settings.run import Run

Kind = tuple[str, ...]
"""The settings that make two runs equally fast, in the order of `kind_of`."""


@dataclass(frozen=True)
class StepMeasurement:
    """How fast a method trains on a machine, and how large its saved files are; one line of the file."""

    kind: Kind
    method: str
    images_per_second: float
    """Images per second of pretraining, over all processes."""
    forward_images_per_second: float
    """Images per second of the frozen backbone alone, as a probe uses it, over all processes."""
    checkpoint_bytes: int
    """Size of the model's and optimizer's tensors."""
    backbone_bytes: int
    device: str
    """Name of the GPU, or the number of the CPU's threads."""
    processes: int = 1
    time: str = field(default_factory=now)
    """When it was measured."""
    repeated_images_per_second: float | None = None
    """Images per second of pretraining on one batch again and again, so that none is loaded, over all processes; None
    in lines of older versions."""


def kind_of(run: Run) -> Kind:
    """Returns the settings that a step's cost depends on; seed, schedule and data set are not among them."""
    masking = run.masking
    # Text only, which JSON returns unchanged: a kind read from the file equals one computed from a run.
    return (
        run.framework.name,
        masking.strategy.name,
        masking.guidance.name,
        masking.branch.name,
        str(masking.hard_negative),
        run.encoder.network,
        run.localizer.network if run.needs_localizer and run.localizer.map is MapOf.view else "",
        str(run.data.crop),
        str(run.optimization.batch),
        run.optimization.precision.name,
        run.augmentation.backend.name,
        # How images are read, if not in the way of the earliest measurements.
        *(("resizer=torch",) if run.augmentation.resizer is Resizer.torch else ()),
        *(("cached",) if run.data.cached_side else ()),
        # How the step is carried out, which does not change its results.
        *(name for name in ("channels_last", "compile", "graphs", "resident") if getattr(run.machine, name)),
    )


_RATE = Field(float, low=0.001)  # plans divide by it
_LINE = Schema(
    {
        "kind": Field(list),
        **dict.fromkeys(("method", "device"), Field(str)),
        **dict.fromkeys(("images_per_second", "forward_images_per_second"), _RATE),
        **dict.fromkeys(("checkpoint_bytes", "backbone_bytes"), Field(int, low=0)),
        "processes": Field(int, low=1, required=False),
        "repeated_images_per_second": Field(float, low=0.001, required=False, or_none=True),
    },
    mend="remove it; `salmask bench step` measures again",
)
"""What plans need of a line of the file."""
RECORDED_ELSEWHERE = "--out FILE elsewhere"
"""The mend where a file of measurements cannot be written."""


def record_file() -> Path:
    """Returns the path of this user's file of measurements, which plans read by default; it may not exist."""
    return platformdirs.user_data_path("salmask") / "steps.jsonl"


def record(path: Path, measurements: Iterable[StepMeasurement]) -> None:
    """Appends measurements to a file, which is made where there is none.

    Args:
        path: The file, which holds JSON lines.
        measurements: New measurements; each replaces earlier ones of its kind.

    Raises:
        UserError: The file cannot be written to.
    """
    lines = "".join(json.dumps(asdict(measurement)) + "\n" for measurement in measurements)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, lines.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", mend=RECORDED_ELSEWHERE) from error


def newest_measurements(path: Path) -> dict[Kind, StepMeasurement]:
    """Returns the newest measurement of each kind in a file; empty if there is no file.

    Lines that cannot be read are left out.

    Raises:
        UserError: The file cannot be read.
    """
    newest: dict[Kind, StepMeasurement] = {}
    if not exists(path):
        return newest
    with reading(path, _LINE.mend):
        text = read_regular(path, LARGEST_BYTES).decode(errors="replace")
    for line in text.splitlines():
        try:
            content = _LINE.verify(json.loads(line), path)
            measurement = StepMeasurement(**{**content, "kind": tuple(map(str, content["kind"]))})
        except (ValueError, TypeError, RecursionError, UserError):
            continue  # torn by a crash, or written by another version with other fields
        newest[measurement.kind] = measurement
    return newest
