"""The schemas of a run's JSON files, and one way to read them all.

Rows of results are checked in `repro.runs.records`, which reads a million of them. A file that is empty, cut off, of
another content or no file at all ends in one line that names the file, the field and the mend.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import read_regular, reading
from repro.settings.choices import InputFilter

LARGEST_BYTES = 64 * 2**20
"""Most bytes of a small file such as a status; a larger file is something else, and is not read."""
LARGEST_WHOLE = 2**63 - 1
"""Whole numbers have 64 bits."""


@dataclass(frozen=True)
class Field:
    """What a field of a file must hold."""

    kind: type
    """Its type; for `float`, whole numbers count too, but booleans never do."""
    low: float = -math.inf
    """Least value of a number."""
    one_of: tuple[str | int, ...] = ()
    """All values that it may have; empty: any."""
    required: bool = True
    or_none: bool = False
    """Whether null is allowed, for what could not be determined."""
    items: type | None = None
    """Type of a list's items; None: any."""

    def fault(self, value: Any) -> str:
        """Returns what is wrong with a value, as `is str, not int`; empty where nothing is."""
        if value is None and self.or_none:
            return ""
        kinds = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind is not bool):
            return f"is {type(value).__name__}, not {self.kind.__name__}"
        if isinstance(value, list) and self.items is not None:
            strange = [type(item).__name__ for item in value if not isinstance(item, self.items)]
            return f"lists a {strange[0]}, not {self.items.__name__}" if strange else ""
        if self.one_of and value not in self.one_of:
            return f"is {value!r}, none of {', '.join(map(str, self.one_of))}"
        return self._number_fault(value) if isinstance(value, int | float) else ""

    def _number_fault(self, value: float) -> str:
        """Returns what is wrong with a number."""
        if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
            return "is a number of more than 64 bits"  # perhaps more than a float can hold
        if not math.isfinite(value):
            return f"is {value}, not a finite number"
        return f"is {value}, less than {self.low:g}" if value < self.low else ""


@dataclass(frozen=True)
class Schema:
    """The fields of a kind of file, and what a person can do about one that does not have them."""

    fields: Mapping[str, Field]
    mend: str

    def verify(self, content: Any, path: Path) -> dict[str, Any]:
        """Returns the content of a file if it has this schema; it may have further fields, of later versions.

        Args:
            content: What the file holds, or one of several such contents.
            path: The file, for the message.

        Raises:
            UserError: Names the file and its first wrong field.
        """
        if not isinstance(content, dict):
            raise UserError(f"{path} holds a {type(content).__name__}, not fields by name", mend=self.mend)
        for name, field in self.fields.items():
            if name not in content:
                if field.required:
                    raise UserError(f"{path} has no field '{name}'", mend=self.mend)
            elif fault := field.fault(content[name]):
                raise UserError(f"{path}: its field '{name}' {fault}", mend=self.mend)
        return content

    def read(self, path: Path) -> dict[str, Any]:
        """Reads a JSON file of this schema.

        Raises:
            UserError: It cannot be read, or its content is another.
        """
        return self.verify(read_json(path, self.mend), path)

    def read_list(self, path: Path) -> list[dict[str, Any]]:
        """Reads a JSON file that holds a list of contents of this schema.

        Raises:
            UserError: It cannot be read, or its content is another.
        """
        entries = read_json(path, self.mend)
        if not isinstance(entries, list):
            raise UserError(f"{path} holds a {type(entries).__name__}, not a list", mend=self.mend)
        return [self.verify(entry, path) for entry in entries]


def read_json(path: Path, mend: str) -> Any:
    """Reads a small JSON file of ours.

    Args:
        path: The file.
        mend: What a person can do where it cannot be read.

    Raises:
        UserError: It is missing, not a regular file, too large, or not JSON.
    """
    with reading(path, mend):
        return json.loads(read_regular(path, LARGEST_BYTES).decode())


_TEXT, _COUNT, _NAMES = Field(str), Field(int, low=0), Field(dict)

STATUS = Schema(
    {
        "state": Field(str, one_of=("running", "done", "failed", "interrupted")),
        "task": Field(str, required=False),
        "step": Field(int, low=0, required=False),
        "steps": Field(int, low=0, required=False),
        "unit": Field(str, required=False),
        "attempt": Field(int, low=0, required=False),
        "resumed_at": Field(int, low=0, required=False),
        "heartbeat": Field(float, required=False),
        "host": Field(str, required=False),
        "error": Field(str, required=False),
        "pid": Field(int, low=0, required=False),
        "job": Field(str, required=False),
        "warnings": Field(list, required=False, items=str),
    },
    mend="remove it; the next attempt writes it anew",
)
"""`status.json` and `status-TASK.json`."""
ATTEMPT = Schema(
    {
        "started": _TEXT,
        "commit": _TEXT,
        "dirty": Field(bool),
        "device": _TEXT,
        "packages": _NAMES,
        "data": _NAMES,
        # Attempts by early versions and those of imported weights lack these.
        "machine": Field(dict, required=False),
        "arithmetic": Field(dict, required=False),
    },
    mend="put it back, or remove it; the next attempt begins it anew",
)
"""An entry of `provenance.json`, which is a list of them."""
USAGE = Schema(
    {
        **dict.fromkeys(("begun", "seconds", "cpu_seconds"), Field(float, low=0)),
        **dict.fromkeys(("memory", "cores"), _COUNT),
        "gpu_memory": Field(int, low=0, required=False),
        "gpu_busy": Field(float, low=0, required=False, or_none=True),
        **dict.fromkeys(("host", "job"), Field(str, required=False)),
    },
    mend="remove it; it tells what a task used, and no result depends on it",
)
"""An entry of `usage/TASK.RANK.json`, which is a list of them."""
SYMPTOM = Schema(
    {"kind": _TEXT, "step": _COUNT, "detail": _TEXT, "mend": _TEXT},
    mend="put it back, or remove it; then its symptoms of the training are lost",
)
"""An entry of `health.json`, which is a list of them."""
CHECKPOINT = Schema(
    {
        "format": Field(int, one_of=(1,)),
        "run_id": _TEXT,
        "step": _COUNT,
        "epoch": _COUNT,
        "world_size": Field(int, low=1),
        "model": _NAMES,
        "optimizer": _NAMES,
        "schedulers": Field(list),
        "generators": Field(list),
        "window": Field(dict, required=False),  # the earliest checkpoints lack it
        "data": Field(str, required=False),  # of a pretraining, provenance.json holds it
        "statistics": Field(list, required=False),  # where several processes have running statistics of their own
    },
    mend="remove it",
)
"""A checkpoint that a pretraining or a probe goes on from; what follows `repro.training.checkpoints.files` says."""
BACKBONE = Schema(
    {
        "format": Field(int, one_of=(1,)),
        "arch": _TEXT,
        "input_filter": Field(str, one_of=tuple(InputFilter)),
        "run_id": _TEXT,
        "state_dict": _NAMES,
        "width": Field(int, low=1, required=False),
    },
    mend="give the backbone.pth of a finished run",
)
"""`backbone.pth`, which may also serve as a localizer."""
EXPORT = Schema(
    {"sha256": _TEXT, "input_filter": Field(str, one_of=tuple(InputFilter))},
    mend="put back what `salmask export` wrote, or remove it; then --high-pass must tell whether images were filtered",
)
"""The facts beside exported weights that are needed to evaluate these."""
