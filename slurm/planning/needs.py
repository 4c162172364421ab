"""What the jobs of a sweep need where they run: roots of data sets, and weights of localizers."""

from collections.abc import Collection

from repro.doctor.needs import Needs
from repro.errors import UserError
from repro.runs.status import PRETRAIN
from repro.settings.localizer_weights import LocalizerWeights, weights_of
from repro.settings.reading import command_settings
from repro.settings.rows import Resolve
from slurm.planning.graph import Graph
from slurm.planning.sweep import expand, load
from slurm.profiles.profile import RUNS
from slurm.sweep_folder.ledger import Key


def needs_of(graph: Graph, finished: Collection[Key] = ()) -> Needs:
    """Returns what the jobs of a sweep read besides their own files.

    Args:
        graph: The sweep.
        finished: Keys of jobs that are done, and need nothing.
    """
    data: dict[tuple[str, str], None] = {}
    weights: dict[LocalizerWeights, None] = {}
    for job in graph.jobs:
        if graph.key(job) in finished:
            continue
        own = job.run.data.dataset
        dataset = job.reads
        data[dataset, job.run.machine.data_root if dataset == own else ""] = None
        if job.task == PRETRAIN and (needed := weights_of(job.run)) is not None:
            weights[needed] = None
    return Needs(tuple(data), tuple(weights))


def needs_of_sweep(name: str, resolve: Resolve, *, data: str = "", root: str = "") -> Needs:
    """Returns what a sweep needs, by its name.

    Args:
        name: Of the sweep, or its file.
        resolve: Turns a method and layers of settings into a Run.
        data: The data set of its pretrainings; empty: as the sweep says.
        root: Root of that data set; empty: as the lists of roots say.

    Raises:
        UserError: There is no such sweep, or it cannot be carried out.
    """
    sweep = load(name)
    return needs_of(expand(sweep, RUNS / sweep.name, resolve, command_settings(None, data=data, root=root)))


def missing_weights(graph: Graph, finished: Collection[Key]) -> list[str]:
    """Returns a line for each localizer whose weights this machine does not see.

    That is no error: nodes may see another cache, or have a network and download them.

    Args:
        graph: The sweep.
        finished: Keys of the jobs that are done.

    Raises:
        UserError: A job is to read the checkpoint of a run of ours, which is not there.
    """
    lines = []
    for weights in needs_of(graph, finished).weights:
        if weights.file() is not None:
            continue
        if not weights.fetched_by:
            raise UserError(f"{weights} does not exist", mend="localizer.weights=RUN/backbone.pth of a finished run")
        lines.append(
            f"the {weights} are not here, and jobs fail at their start where they cannot be downloaded either; "
            f"to fetch them before: {weights.fetched_by}"
        )
    return lines
