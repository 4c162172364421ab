"""Submitting jobs again, from a sweep's folder alone: it holds what each is to do and how it was launched."""

import os
from collections.abc import Collection
from dataclasses import replace

from repro.command_line.terminal import Console
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.settings.run import Run
from repro.settings.run_name import RunName
from slurm.jobs.calls import refuse_foreign_sweep
from slurm.jobs.orders import ordered_run, ordered_tables
from slurm.jobs.program import Program
from slurm.jobs.snapshot import take
from slurm.local.devices import chosen_devices
from slurm.local.launch import launch_here
from slurm.planning.before_launch import check_folder
from slurm.planning.graph import Graph, Job, make_graph
from slurm.planning.job_costs import with_plan
from slurm.profiles.profile import Cluster, load_named
from slurm.profiles.profile import load as load_cluster
from slurm.submission.handover import NOT_STARTED, Outcome, prepare_call
from slurm.submission.launch import submit
from slurm.sweep_folder.ledger import REPORT, Key, Ledger


def graph_of(ledger: Ledger, requested: Collection[Key]) -> tuple[Graph, dict[Key, str]]:
    """Returns the jobs of a sweep that are requested, with what they build on and what builds on them.

    Args:
        ledger: Of the sweep.
        requested: Keys of jobs.

    Returns:
        The jobs; and those that cannot be carried out, since their settings are damaged or gone, with why.
    """
    # A graph holds the pretraining of every task, done or not. When a pretraining fails, Slurm takes what waited for it
    # out of the queue. So that is submitted again with the pretraining, and one retry mends the whole run.
    retrained = {folder for folder, task in requested if task == PRETRAIN}
    keys = {*requested, *((folder, PRETRAIN) for folder, task in requested if task != REPORT)}
    keys |= {key for key in ledger.newest() if key[0] in retrained}
    jobs: list[Job] = []
    damaged: dict[Key, str] = {}
    for folder, task in sorted(keys, key=lambda key: (key[0], key[1] != PRETRAIN, key[1])):
        if task == REPORT:  # every launch has a report of its own
            continue
        if (folder, PRETRAIN) in damaged:
            damaged[folder, task] = NOT_STARTED
            continue
        run_folder = RunFolder(ledger.sweep / folder)
        try:
            jobs.append(Job(_run_of(run_folder, task, is_requested=(folder, task) in requested), run_folder, task))
        except UserError as error:
            damaged[folder, task] = str(error)
    return make_graph(ledger.sweep, jobs, ordered_tables(ledger.sweep)), damaged


def _run_of(folder: RunFolder, task: str, *, is_requested: bool) -> Run:
    """Returns what a job is to do; for a pretraining that only others build on, its `run.yaml` is enough.

    Raises:
        UserError: The files that say so are damaged or gone.
    """
    try:
        return ordered_run(folder, task)
    except UserError:
        if is_requested or task != PRETRAIN:
            raise
        return folder.load()


def relaunch(
    ledger: Ledger,
    requested: Collection[Key],
    cluster: str,
    program: Program,
    console: Console,
    *,
    allow_dirty: bool,
    gpus: str = "",
) -> Outcome:
    """Submits jobs again; what is done, queued or running is left alone.

    Args:
        ledger: Of the sweep.
        requested: Keys of jobs.
        cluster: Name of the profile; empty: that of the last launch.
        program: The names of what the jobs carry out.
        console: For what is told.
        allow_dirty: Whether code that was edited since its commit may be submitted, as of `slurm.jobs.snapshot.take`.
        gpus: To share out on this machine, as of `--gpus`; empty: none in particular.

    Raises:
        UserError: The profile is unknown, the code was edited, the folder's name cannot stand in a script, or the
            scheduler refuses.
    """
    refuse_foreign_sweep(ledger.sweep)
    check_folder(ledger.sweep, "give it another name")  # it may have been moved since
    profile = _profile(ledger, cluster)
    shared = chosen_devices(gpus, profile, 1)
    graph, damaged = graph_of(ledger, requested)
    for (folder, task), reason in damaged.items():
        if reason != NOT_STARTED:
            name = RunName.of(ledger.sweep / folder)
            console.print(f"failed {task} {name.method} {name.seed}: {reason}", soft_wrap=True)
    if not graph.jobs and graph.report not in requested:
        return Outcome(failed=damaged)
    graph = with_plan(graph, profile)
    if profile.executor != "slurm":
        outcome = launch_here(graph, profile, program, parallel=1, console=console, gpus=shared)
        if graph.report in requested or any(job.task != PRETRAIN for job in outcome.done):
            prepare_call(graph, graph.report, profile.attempts, program)()
            outcome.submitted[graph.report] = str(os.getpid())
    else:
        outcome = submit(
            graph,
            profile,
            lambda: take(ledger.sweep, allow_dirty=allow_dirty),
            program,
            console,
            report=graph.report in requested,
        )
    return replace(outcome, failed={**damaged, **outcome.failed})


def _profile(ledger: Ledger, cluster: str) -> Cluster:
    """Returns the profile of a name, else that of the last launch, else the one for this machine."""
    if cluster:
        return load_cluster(cluster)
    entries = ledger.submissions()
    if not entries:
        return load_cluster("local")
    try:
        return load_named(entries[-1].cluster)
    except UserError as error:
        # The ledger holds a profile's name and not its path: one that was given as a file is not found again.
        mend = f"{error.mend}; or name the profile that the sweep was launched by: --cluster FILE"
        raise UserError(error.what, mend=mend) from error
