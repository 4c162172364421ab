"""What can be known before the first job of a sweep runs, and would else be found out by its last one."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from repro.data.errors import PathError
from repro.data.roots import RootNotSetError, how_to_list_root, root_of
from repro.data.sizes import own_train_images
from repro.errors import UserError, nearest
from repro.presence import exists, is_folder
from repro.runs.evaluation import task_and_dataset
from slurm.planning.graph import Graph
from slurm.sweep_folder.ledger import Key


def check_tables(graph: Graph, known: Iterable[str]) -> None:
    """Finds a table that there is not.

    Args:
        graph: The sweep.
        known: Names of all tables.

    Raises:
        UserError: The sweep's report would render one of another name.
    """
    known = list(known)
    for table in graph.tables:
        if table not in known:
            raise UserError(f"unknown table '{table}'", mend=nearest(table, known))


def check_neighbours(graph: Graph) -> None:
    """Finds a sweep that asks for more nearest neighbours than its data set has images, as far as that is known.

    Args:
        graph: The sweep.

    Raises:
        UserError: A job would be refused once its pretraining is over.
    """
    for job in graph.jobs:
        if task_and_dataset(job.task)[0] != "knn" or (images := own_train_images(job.run, job.dataset)) is None:
            continue
        try:
            job.run.knn.refuse_fewer(job.dataset, images)
        except UserError as error:
            raise UserError(f"{job.name}: {error.what}", mend=error.mend) from error


def check_folder(folder: Path, other: str = "another --out") -> None:
    """Finds a place that can be no folder, or a name that no batch script can hold: it stands in options of sbatch.

    Args:
        folder: Of the sweep, or of a single job; it need not be there.
        other: What to choose in its place.

    Raises:
        UserError: A part of its path is a file, holds a line's end or such, or what Slurm takes for a pattern; or a
            part of the path that links lead to.
    """
    for part in (folder, *folder.parents):
        if exists(part):
            if not is_folder(part):
                raise UserError(f"cannot write to {folder}: {part} is no folder", mend=f"choose {other}")
            break
    # Also where links lead to: that is what stands in a script. (`Path.resolve` fails where they go in a circle.)
    named, real = str(folder.absolute()), os.path.realpath(folder)
    for place in dict.fromkeys((named, real)):
        what = repr(place) if not place.isprintable() else place
        if place != named:
            what = f"{folder} leads to {what}, which"
        if not place.isprintable():
            mend = "a name in one line, by --out or the sweep's file"
            raise UserError(f"{what} holds a line's end or another character that cannot be printed", mend=mend)
        for character in "%\\":
            if character in place:
                words = f"{what} holds '{character}', by which Slurm marks patterns in names of files"
                raise UserError(words, mend=other)


def check_roots(graph: Graph, finished: Collection[Key], *, on_nodes: bool = False) -> list[str]:
    """Finds a missing root before hours are spent on the pretraining.

    Args:
        graph: The sweep.
        finished: Keys of the jobs that are done.
        on_nodes: Whether the jobs run on other machines, which may see folders that this one does not.

    Returns:
        With `on_nodes` a line for each root that is not to be seen from here; else nothing.

    Raises:
        UserError: Nothing says where a data set is; or it is missing or empty, and the jobs run here.
    """
    looked_for: set[tuple[str, str]] = set()
    unseen = []
    for job in graph.jobs:
        if graph.key(job) in finished:
            continue
        own = job.run.data.dataset
        dataset = job.reads
        if (dataset, job.run.machine.data_root) in looked_for:
            continue
        looked_for.add((dataset, job.run.machine.data_root))
        try:
            root_of(job.run, dataset)
        except RootNotSetError as error:
            if dataset == own:
                raise UserError(f"{job.name} needs {dataset}: {error.what}", mend=error.mend) from error
            how = how_to_list_root(dataset)  # --root is the pretraining's
            raise UserError(f"{job.name} needs {dataset}", mend=f"{how}, or leave it out by --tasks") from error
        except PathError as error:
            if not on_nodes:
                raise
            unseen.append(f"{error.what} on this machine; see that the nodes have it: salmask doctor --cluster NAME")
    return unseen
