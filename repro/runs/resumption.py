"""Where a task goes on when it is started again: at its last checkpoint, or anew."""

import glob
import time
from contextlib import suppress

from repro.errors import UserError
from repro.runs.evaluation import task_and_dataset
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.step_files import checkpoints
from repro.settings.protocols import FINE_TUNINGS


def goes_on(folder: RunFolder, task: str) -> str:
    """Returns what a task does when it is started again: `resumes from its last checkpoint` or `begins anew`.

    The number of its steps does not tell: it may have been killed before it saved the first checkpoint.

    Args:
        folder: The run's folder.
        task: `pretrain`, or an evaluation: `TASK` or `TASK@DATASET`.
    """
    return "resumes from its last checkpoint" if _has_checkpoint(folder, task) else "begins anew"


def require_pretrained(folder: RunFolder) -> None:
    """Refuses a run that has no backbone, with what to do about its pretraining.

    Args:
        folder: The run's folder.

    Raises:
        UserError: There is no backbone, or the status of the pretraining cannot be read.
    """
    if folder.pretrained:
        return
    status, why = folder.status(PRETRAIN), "its pretraining is not finished"
    if status is None:
        mend = "salmask pretrain first"
    elif status.alive(time.time()):
        mend = "wait for it"
    else:
        mend = f"repeat its command, which {goes_on(folder, PRETRAIN)}"
        if status.state == "done":  # as of recorded runs, and of an archive without --checkpoints
            why, mend = "its pretraining is done, but the file is not kept here", f"copy the file here, or {mend}"
    raise UserError(f"{folder.path} has no backbone.pth: {why}", mend=mend)


def _has_checkpoint(folder: RunFolder, task: str) -> bool:
    """Returns whether a task has a checkpoint; for a logistic regression, whether it has saved some fits."""
    name, dataset = task_and_dataset(task)
    own = glob.escape(dataset) or "*"  # none named: the run's own, which only its settings name
    with suppress(OSError):
        if task == PRETRAIN:
            return bool(checkpoints(folder.checkpoints))
        if name not in TASK_FOLDERS:
            return any(folder.path.glob(f"{name}/{own}-*.npz"))
        protocol = FINE_TUNINGS[name][0] if name in FINE_TUNINGS else ""  # those three share a folder
        return any(map(checkpoints, folder.path.glob(f"{TASK_FOLDERS[name]}/{own}-{protocol}*/*/")))
    return False
