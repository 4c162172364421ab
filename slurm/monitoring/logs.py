"""What jobs print: the end of it, and all of it as it comes, across requeues and resubmissions."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.files import tail
from repro.filesystem.presence import is_folder
from repro.runs.folder import RunFolder
from slurm.sweep_folder.ledger import Ledger, Submission

POLL_SECONDS = 0.5


def last_line(log: Path) -> str:
    """Returns the last line that is neither blank nor submitit's own; empty if there is none."""
    lines = [line.strip() for line in tail(log).splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("submitit ")), "")[:300]


def error_tails(folder: Path, job: str) -> dict[int, str]:
    """Returns the end of each process's standard error, by the number of the process (its rank), ascending.

    Args:
        folder: Of the job's submission; there submitit writes `JOB_PROCESS_log.err`, with `812_3` for JOB in an array.
        job: Its id.
    """
    tails = {_process_of(path): tail(path) for path in folder.glob(f"{job}_*_log.err")}
    return dict(sorted(tails.items()))


def _process_of(log: Path) -> int:
    """Returns the number of the process whose log a file is, `JOB_PROCESS_log.err`."""
    return int(log.name.split("_")[-2])


def log_files(ledger: Ledger, folder: str, task: str = "") -> list[Path]:
    """Returns the log files of the newest attempt at a run.

    Args:
        ledger: Of the sweep.
        folder: Of the run, relative to the sweep's.
        task: Only of this one; empty: of the submission made last.

    Returns:
        Submitit's files: each process's standard error (where trainings log), then each one's output. If no launcher
        started the run, the newest log in its own folder; nothing if `task` never began there.

    Raises:
        UserError: Another user launched it: what was submitted is its owner's alone.
    """
    entry = _newest_submission(ledger, folder, task)
    if entry is not None:
        logs = ledger.logs / entry.submission
        if is_folder(logs) and not os.access(logs, os.R_OK | os.X_OK):
            mend = f"ask its owner; a training's own log is below {ledger.sweep / folder / 'logs'}"
            raise UserError(f"{logs} is open to its owner alone", mend=mend)
        files = (*logs.glob(f"{entry.job}_*_log.err"), *logs.glob(f"{entry.job}_*_log.out"))
        return sorted(files, key=lambda path: (path.suffix != ".err", _process_of(path)))
    run_folder = RunFolder(ledger.sweep / folder)
    if task and task not in run_folder.tasks_begun():
        return []
    own_logs = sorted(run_folder.logs.rglob("*.log"), key=lambda path: path.stat().st_mtime)
    return own_logs[-1:]


def _newest_submission(ledger: Ledger, folder: str, task: str) -> Submission | None:
    """Returns the newest submission of a run that has printed something; if none has, the newest one."""
    entries = [e for e in ledger.submissions() if e.folder == folder and task in ("", e.task) and e.job]
    with_logs = [entry for entry in entries if any((ledger.logs / entry.submission).glob(f"{entry.job}_*_log.*"))]
    return next(reversed(with_logs or entries), None)


def follow(
    files: Callable[[], Sequence[Path]], lines: int, *, ended: Callable[[], bool] | None = None
) -> Iterator[tuple[Path, str]]:
    """Yields the end of log files, and then what is added to them.

    Slurm appends to the same files when a job is put back in the queue; a job that is submitted again has others.

    Args:
        files: Returns the files; called in each round.
        lines: How many last lines of each file that is there at the start; later files are shown whole.
        ended: Returns whether nothing more will come; None: do not wait at all.

    Yields:
        Files, each with a piece of text that ends with a line.
    """
    offsets: dict[Path, int] = {}
    first_round = True
    while True:
        # Asked before the files are read, so that what is written between the two is read in one more, the last, round.
        last_round = ended is None or ended()
        for path in files():
            try:
                # A file that is shorter than what was read of it has begun anew.
                offset = offsets.get(path, 0) if path.stat().st_size >= offsets.get(path, 0) else 0
                content = _from(path, offset)
            except OSError:
                continue
            # Half a line is left for the next round, when its rest has come; in the last round it is all there is.
            length = len(content) if last_round else content.rfind(b"\n") + 1
            text = content[:length].decode(errors="replace")
            offsets[path] = offset + length
            if first_round:
                text = "".join(text.splitlines(keepends=True)[-lines:] if lines else [])
            if text:
                yield path, text if text.endswith("\n") else text + "\n"
        if last_round:
            return
        first_round = False
        time.sleep(POLL_SECONDS)


def _from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()
