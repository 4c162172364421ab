"""What jobs start from: `calls.json` in the folder of their submission, a text that the launcher wrote.

    {"kind": "task", "calls": {"0": {"folder": "/runs/table1/mocov2/s0-45df9c0eca", "task": "linear", ...}, "1": ...}}

A call stands under the job's number in its array, 0 for a single job. Nothing is pickled: a pickle runs whatever is in
it, and may come with a sweep's folder from elsewhere. The folder is private to its owner, and a job runs nothing that
anybody else could have written.
"""

import json
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import mend_of_place, reading, write_text
from repro.filesystem.presence import exists
from repro.runs.sweep_names import LEDGER
from slurm.jobs.job import Call
from slurm.jobs.node_bench import NodeBench
from slurm.jobs.node_probe import NodeProbe
from slurm.jobs.orders import copied_from

CALLS = "calls.json"
KINDS: Mapping[str, type[Call] | type[NodeProbe] | type[NodeBench]] = {
    "task": Call,
    "probe": NodeProbe,
    "bench": NodeBench,
}


def write_calls(folder: Path, calls: Mapping[int, Call | NodeProbe | NodeBench]) -> None:
    """Writes what the jobs of a submission are to do.

    Args:
        folder: Of the submission; made, private to its owner.
        calls: By the jobs' numbers in their array; 0 of a single job.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    (kind,) = {kind for kind, type_ in KINDS.items() for call in calls.values() if isinstance(call, type_)}
    content = {"kind": kind, "calls": {str(index): asdict(call) for index, call in calls.items()}}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror or error}", mend=mend_of_place(error)) from error
    write_text(folder / CALLS, json.dumps(content, indent=1, default=str))


def read_call(folder: Path, index: int) -> Call | NodeProbe | NodeBench:
    """Reads what a job is to do.

    Args:
        folder: Of the submission.
        index: The job's number in its array; 0 of a single job.

    Raises:
        UserError: The file cannot be read, does not hold the job, or may have been written by somebody else.
    """
    for path in (folder, folder / CALLS):
        _refuse_foreign(path)
    kind, calls = _read(folder)
    if str(index) not in calls or kind not in KINDS:
        raise UserError(f"{folder / CALLS} has no job {index}", mend="salmask retry")
    with reading(folder / CALLS, "salmask retry"):  # it may be of another version
        return KINDS[kind].parse(calls[str(index)])


def indices_of(folder: Path) -> list[int]:
    """Returns the numbers of the jobs of a submission in their array; none where its file cannot be read."""
    try:
        return [int(index) for index in _read(folder)[1]]
    except (UserError, ValueError):
        return []


def shut_out_others() -> None:
    """Takes the right of others to write from all that this process, and the jobs that it starts, will make.

    A umask of 000 would give it, and the next launch would refuse the sweep (`refuse_foreign_sweep`).
    """
    os.umask(os.umask(0) | stat.S_IWOTH)


def refuse_foreign_sweep(sweep: Path) -> None:
    """Refuses to launch jobs of a sweep that is another user's, that anybody may write to, or that is a copy.

    Raises:
        UserError: The sweep is one of these.
        OSError: Its folder cannot be looked at.
    """
    status = sweep.stat()
    if status.st_uid != os.geteuid():
        raise UserError(
            f"{sweep} is the sweep of another user, whose jobs are not yours to run",
            mend="salmask sweep NAME --out a folder of your own",
        )
    if status.st_mode & stat.S_IWOTH:
        what = f"anybody may write to {sweep}, so what its jobs run could be anybody's"
        raise UserError(what, mend=f"chmod o-w {shlex.quote(str(sweep))}")
    refuse_copied_sweep(sweep)


def refuse_copied_sweep(sweep: Path) -> None:
    """Refuses to act on the jobs in a copied sweep's ledger: they are the original's.

    Raises:
        UserError: The folder is a copy, or may be one.
    """
    if exists(sweep / LEDGER) and (original := copied_from(sweep)) is not None:
        what = f"{sweep} is a copy of {original}, whose jobs its {LEDGER} names"
        remove = f"rm {shlex.quote(str(sweep / LEDGER))}"
        raise UserError(what, mend=f"use {original}; or {remove}, and it is a sweep of its own")


def _refuse_foreign(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", mend="salmask retry") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path} may have been written by somebody else, and is not run", mend="salmask sweep again")


def _read(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    path = folder / CALLS
    with reading(path, "salmask retry"):
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["kind"]), {str(index): dict(call) for index, call in content["calls"].items()}
