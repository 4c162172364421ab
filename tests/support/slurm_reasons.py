"""Why a test on a real Slurm failed, for its failure message: the doctor's findings, jobs and logs."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from repro.filesystem.files import tail
from repro.runs.folder import RunFolder
from slurm.monitoring.logs import last_line
from slurm.sweep_folder.ledger import Ledger, Submission

LOG_LINES = 12
"""How many lines from the end of each log are printed."""


def wrong_findings(findings: Iterable[Mapping[str, str]]) -> str:
    """A line for each check of the doctor that came out wrong, with its mend."""
    wrong = [row for row in findings if row["verdict"] == "wrong"]
    return "\n".join(f"{row['check']}: {row['found']}; mend: {row['mend']}" for row in wrong) or "nothing is wrong"


def state_of(runs: Path) -> str:
    """What each job of a sweep that is not done says of itself, the end of its log, and how full the disk is."""
    told = [_words(runs, entry) for entry in Ledger(runs).newest().values()]
    room = f"{shutil.disk_usage(runs if runs.exists() else runs.parent).free / 2**30:.1f} GiB free in {runs}"
    return "\n".join([*(words for words in told if words), room])


def _words(runs: Path, entry: Submission) -> str:
    status = RunFolder(runs / entry.folder).status(entry.task)
    if status is not None and status.state == "done":
        return ""
    said = f"{status.state}: {status.error or 'no error'}" if status else f"no status; {entry.refused or 'not begun'}"
    logs = [entry.log(runs, stream) for stream in ("err", "out")]
    log = next((path for path in logs if last_line(path)), logs[0])
    end = "\n".join(f"    {line}" for line in tail(log).splitlines()[-LOG_LINES:])
    return f"{entry.task} of {entry.folder}, job {entry.job or '–'}: {said}\n{end}".rstrip()


def findings_in(output: str) -> dict[str, dict[str, str]]:
    """What `salmask doctor --json` printed, by check."""
    return {finding["check"]: finding for finding in json.loads(output)}
