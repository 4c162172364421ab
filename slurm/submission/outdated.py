"""Jobs that are queued or running with other settings than the sweep has now."""

from collections.abc import Mapping
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.presence import is_file
from repro.runs.status import PRETRAIN
from repro.settings.run_name import RunName
from slurm.jobs.orders import order_file, read_order
from slurm.planning.graph import Graph, Job
from slurm.sweep_folder.ledger import REPORT, Key, Submission


def outdated(graph: Graph, live: Mapping[Key, Submission]) -> list[Submission]:
    """Returns the jobs on their way that have other settings than the sweep has now.

    These are jobs of the sweep whose order differs, and jobs of a method and seed of the sweep in a folder other than
    that of its present settings.

    Args:
        graph: The sweep.
        live: What is queued or running, by the job's key.
    """
    of_seeds = {_method_and_seed(folder): folder for folder, _ in graph.by_key}
    old = []
    for key, entry in live.items():
        job = graph.by_key.get(key)
        if job is not None:
            if _differs(job):
                old.append(entry)
        elif key[1] != REPORT and of_seeds.get(_method_and_seed(key[0]), key[0]) != key[0]:
            old.append(entry)
    return old


def _method_and_seed(folder: str) -> tuple[str, str]:
    """Returns the method and `sSEED` of a run's folder, `METHOD/sSEED-ID`."""
    name = RunName.of(Path(folder))
    return name.method, name.seed


def _differs(job: Job) -> bool:
    """Returns whether the order that a job was given differs from the one that it would get now."""
    try:
        if not is_file(order_file(job.folder, job.task)):
            return False
        order = read_order(job.folder, job.task)
    except UserError:  # damaged, or of a version with other settings: what it would do now cannot be told
        return True
    # The folder's name is the pretraining's identity; of all other settings, only those of the machine concern it.
    return order.machine != job.run.machine if job.task == PRETRAIN else order != job.run
