"""Checks before the first job of a sweep runs, of what its last one would otherwise fail by."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from repro.data.errors import PathError
from repro.data.roots import RootNotSetError, how_to_list_root, root_of
from repro.data.sizes import own_train_images
from repro.errors import UserError, nearest
from repro.filesystem.presence import exists, is_folder
from repro.runs.evaluation import task_and_dataset
from slurm.planning.graph import Graph
from slurm.sweep_folder.ledger import Key


def check_tables(graph: Graph, known: Iterable[str]) -> None:
    """Refuses a sweep whose report would render an unknown table.

    Args:
        graph: The sweep.
        known: Names of all tables.

    Raises:
        UserError: A table that the report renders is none of these.
    """
    known = list(known)
    for table in graph.tables:
        if table not in known:
            raise UserError(f"unknown table '{table}'", mend=nearest(table, known))


def check_neighbours(graph: Graph) -> None:
    """Refuses a sweep that asks for more nearest neighbours than its data set has images, as far as that is known.

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
    """Refuses a path that cannot be a folder, or that cannot stand in the options of a batch script.

    Args:
        folder: Of the sweep, or of a single job; it need not be there.
        other: What to choose instead, for the message.

    Raises:
        UserError: A part of its path is a file; or the path, or the one that its links lead to, holds a character that
            cannot be printed, or one by which Slurm marks patterns.
    """
    for part in (folder, *folder.parents):
        if exists(part):
            if not is_folder(part):
                raise UserError(f"cannot write to {folder}: {part} is not a folder", mend=f"choose {other}")
            break
    # Also the path that links lead to, since that stands in a script. (`Path.resolve` fails on links in a circle.)
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
    """Looks for the roots of all data sets before hours are spent on pretraining.

    Args:
        graph: The sweep.
        finished: Keys of the jobs that are done.
        on_nodes: Whether the jobs run on other machines, which may see folders that this one does not.

    Returns:
        With `on_nodes`, a line for each root that this machine does not see; else nothing.

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
