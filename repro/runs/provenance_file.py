"""A run's `provenance.json`: what each attempt at it ran on."""

import logging
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.filesystem.presence import exists
from repro.runs.folder import RunFolder
from repro.runs.provenance import RECORDED_PACKAGES, now, package_version, source
from repro.runs.schemas import ATTEMPT
from repro.runs.step_files import checkpoints

UNREADABLE = ".unreadable"
"""Suffix of a record that could not be read, and that a new one replaced."""

log = logging.getLogger("salmask")


def record_attempt(
    folder: RunFolder, device: str, data: Mapping[str, str], command: str = "", /, **how: Mapping[str, Any]
) -> None:
    """Adds what this attempt runs on to the entries of earlier attempts.

    Args:
        folder: The run's, with its `run.yaml`.
        device: Name of the device.
        data: Fingerprints of the data set's splits, by their names.
        command: What makes this run again; empty: its pretraining by its own `run.yaml`.
        how: How it computes: `machine`, the settings of that section; on a GPU also `arithmetic`, torch's switches.

    Raises:
        UserError: An earlier attempt had other data, and something made from it is here; or the file cannot be written.
    """
    # Before the first checkpoint, the data may change: a user may have mended an image that could not be decoded.
    earlier, made = _earlier_attempts(folder), (folder.backbone, folder.results, *checkpoints(folder.checkpoints))
    if earlier and earlier[-1]["data"] != data and any(map(exists, made)):
        raise UserError(
            f"the data changed since {folder.path} was begun (fingerprint {earlier[-1]['data']}, now {data})",
            mend="restore it, or choose another --out",
        )
    attempt = {
        "started": now(),
        **asdict(source()),
        "command": command or _pretraining_command(folder),
        "process": shlex.join(sys.argv),
        "host": socket.gethostname(),
        "device": device,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in RECORDED_PACKAGES},
        "data": data,
        **how,
    }
    write_json(folder.provenance, [*earlier, attempt])


def _earlier_attempts(folder: RunFolder) -> list[dict[str, Any]]:
    """Returns the entries of `provenance.json`; a file that cannot be read is put aside, and a new one begins."""
    if not exists(folder.provenance):
        return []
    try:
        return ATTEMPT.read_list(folder.provenance)
    except UserError as error:
        aside = folder.provenance.with_name(f"{folder.provenance.name}{UNREADABLE}")
        folder.provenance.replace(aside)
        log.warning("%s; it is kept as %s, and a new one begins with this attempt", error.what, aside.name)
        return []


def _pretraining_command(folder: RunFolder) -> str:
    """Returns the command that trains a run again, even if a launcher's process trained it."""
    out = str(folder.path.parent.parent)
    return shlex.join(["salmask", "pretrain", folder.load().method, "--config", str(folder.run_yaml), "--out", out])
