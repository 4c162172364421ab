"""Entries of a long task's progress in its run's status."""

import logging

from repro.errors import UserError
from repro.files import is_of_a_full_disk
from repro.runs.folder import RunFolder

log = logging.getLogger("salmask")


def tell_progress(folder: RunFolder, task: str, step: int, steps: int, unit: str, *, work: str = "training") -> None:
    """Writes how many steps of a task are made; of what keeps it from being written only a full disk is an error.

    Args:
        folder: Of the run.
        task: Whose status it is.
        step: How many steps are made.
        steps: Of how many.
        unit: What a step is, in the plural.
        work: What goes on, for the log.

    Raises:
        UserError: The disk is full.
    """
    try:
        folder.set_status("running", task=task, step=step, steps=steps, unit=unit)
    except UserError as error:
        if is_of_a_full_disk(error):
            raise
        # A server that is away for a moment: that is no reason to lose the steps since the last checkpoint.
        log.warning("%s; the %s goes on", error.what, work)
