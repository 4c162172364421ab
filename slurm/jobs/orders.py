"""A job's order: the file in a run's folder that says what the job is to do, `jobs/TASK.yaml`.

It holds all settings of the run, with those of its evaluations as they are now; `run.yaml` holds them as they were when
the pretraining was made. A launcher writes the order, and the job reads it. The report belongs to no run: its order,
`jobs/report.json` in the sweep's folder, names the tables that it renders, and the folder itself, so that a copy of the
folder can be recognised.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import reading, write_text
from repro.filesystem.presence import is_folder
from repro.runs.folder import RunFolder
from repro.settings.run import Run

REPORT_ORDER = Path("jobs", "report.json")
"""In a sweep's folder: which tables its report renders, and where the folder was when it was launched."""


def order_file(folder: RunFolder, task: str) -> Path:
    """Returns the path of a task's order."""
    return folder.path / "jobs" / f"{task}.yaml"


def write_order(run: Run, folder: RunFolder, task: str) -> None:
    """Writes what a job is to do into its run's folder.

    Raises:
        UserError: The folder cannot be written to.
    """
    write_text(order_file(folder, task), run.to_yaml())


def read_order(folder: RunFolder, task: str) -> Run:
    """Reads what a job is to do.

    Raises:
        UserError: The file is missing, broken, or was written by a version with other settings.
    """
    from repro.settings.reading import load  # needs omegaconf, which `salmask status` should not wait for

    return load(order_file(folder, task), "the same salmask sweep again, which writes it anew")


def ordered_run(folder: RunFolder, task: str) -> Run:
    """Reads what a job is to do; if no launcher wrote an order, the run as its pretraining was made (`run.yaml`).

    Raises:
        UserError: Neither file is there, or the file cannot be read.
    """
    order = order_file(folder, task)
    if order.is_file():
        return read_order(folder, task)
    if not folder.run_yaml.is_file():
        lost = f"{folder.path} has no run.yaml and no jobs/{order.name}, so nothing tells what its {task} is"
        raise UserError(lost, mend="the same salmask sweep again, which writes them anew")
    return folder.load()


def write_report_order(sweep: Path, tables: Sequence[str]) -> None:
    """Writes down which tables a sweep's report renders, before the first job is submitted.

    The call of the report's own job names them too, but is written last. If Slurm had no room for the report, or the
    sweep runs on this machine, there is no such call, and a retry would render no tables.

    Raises:
        UserError: The folder cannot be written to.
    """
    content = {"tables": list(tables), "sweep": str(sweep.resolve())}
    if content != _report_order(sweep):
        write_text(sweep / REPORT_ORDER, json.dumps(content) + "\n")


def ordered_tables(sweep: Path) -> tuple[str, ...]:
    """Returns the tables that a sweep's report renders; none where no launch said so."""
    names = _report_order(sweep).get("tables")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def copied_from(sweep: Path) -> Path | None:
    """Returns the folder of which a sweep's folder is a copy; None if it is not a copy, or was moved.

    Raises:
        UserError: The file system does not tell: the other folder is closed to this user, or its server is gone.
    """
    place = _report_order(sweep).get("sweep")
    try:
        if not isinstance(place, str) or not place or not is_folder(Path(place)):
            return None
    except UserError as error:
        what = f"whether {sweep} was moved or is a copy, with jobs of another, cannot be told: {error.what}"
        remove = f"rm {shlex.quote(str(sweep / REPORT_ORDER))}"
        raise UserError(what, mend=f"if it was moved: {remove}; a sweep writes it anew") from error
    # One folder may have several paths, as on a cluster's nodes.
    return None if Path(place).samefile(sweep) else Path(place)


def _report_order(sweep: Path) -> Mapping[str, Any]:
    path = sweep / REPORT_ORDER
    try:
        with reading(path, "the same salmask sweep again, which writes it anew"):
            return dict(json.loads(path.read_text(encoding="utf-8")))
    except UserError:
        return {}
