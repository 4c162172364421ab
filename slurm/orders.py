"""A job's order: the file in a run's folder that says what the job is to do, `jobs/TASK.yaml`.

It holds the whole run with the settings of its evaluations, of which `run.yaml` holds those that the pretraining was
made with. A launcher writes it, the job reads it, and whoever wants to know what was asked for reads it too.
"""

from pathlib import Path

from repro.files import write_text
from repro.runs.folder import RunFolder
from repro.runs.run import Run


def order_file(folder: RunFolder, task: str) -> Path:
    """Returns the path of a task's order."""
    return folder.path / "jobs" / f"{task}.yaml"


def write_order(run: Run, folder: RunFolder, task: str) -> None:
    """Writes what a job is to do into its run's folder.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_text(order_file(folder, task), run.to_yaml())


def read_order(folder: RunFolder, task: str) -> Run:
    """Reads what a job is to do.

    Raises:
        UserError: the file is missing, broken, or was written by a version with other settings.
    """
    from repro.runs.reading import load  # needs omegaconf, which `salmask status` should not wait for

    return load(order_file(folder, task))


def ordered_run(folder: RunFolder, task: str) -> Run:
    """Reads what a job is to do; where no launcher ordered it, the run as its pretraining was made.

    Raises:
        UserError: neither file is there, or the file cannot be read.
    """
    return read_order(folder, task) if order_file(folder, task).is_file() else folder.load()
