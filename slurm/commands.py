"""The command that plans and launches: `salmask sweep`."""

import shlex
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from repro.command_line.console import AsJson, comma_list
from repro.command_line.terminal import Console
from repro.data.catalogue import find_dataset
from repro.data.options import DataName, DataRoot, Settings
from repro.data.roots import refuse_idle_root
from repro.errors import UserError
from repro.quantities import whole_number
from repro.settings.reading import command_settings
from repro.settings.rows import Resolve
from slurm.jobs.program import Program
from slurm.local.devices import chosen_devices
from slurm.options import (
    AllowDirty,
    Budget,
    ClusterName,
    Debug,
    Feed,
    Gpus,
    Local,
    Out,
    Parallel,
    Plan,
    Replace,
    Seeds,
    ShowScripts,
    SweepName,
    Tasks,
    methods_option,
)
from slurm.planning.before_launch import check_folder, check_neighbours, check_tables
from slurm.planning.sweep import expand, load, narrowed
from slurm.profiles.profile import DEFAULT, RUNS, Cluster, available
from slurm.profiles.profile import load as load_cluster
from slurm.sweep_call import Show, SweepCall


def choose_cluster(name: str, *, local: bool, debug: bool) -> Cluster | None:
    """Returns the profile to launch on; None where neither the command line nor the user's own profiles say which.

    Args:
        name: Of a profile, or its file; empty: not named.
        local: Whether `--local` was given.
        debug: Whether `--debug` was given.

    Raises:
        UserError: More than one is asked for, or there is none of that name.
    """
    given = {f"--cluster {name}": name, "--local": "local" if local else "", "--debug": "debug" if debug else ""}
    named = {option: profile for option, profile in given.items() if profile}
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} exclude each other", mend="choose one to run on")
    if named:
        return load_cluster(*named.values())
    return load_cluster(DEFAULT) if DEFAULT in available() else None


def build(
    resolve: Resolve,
    show: Show,
    program: Program,
    method_names: Callable[[], Iterable[str]],
    table_names: Callable[[], Iterable[str]],
) -> typer.Typer:
    """Makes the command.

    Args:
        resolve: Turns a method and layers of settings into a Run; a launcher does not know the methods.
        show: Renders the tables; a launcher does not know the results.
        program: The names of what jobs carry out; a launcher needs no torch.
        method_names: For completion.
        table_names: Every table that can be rendered.
    """
    app = typer.Typer(add_completion=False)

    @app.command("sweep")
    def sweep_command(
        name: SweepName,
        settings: Settings = None,
        *,
        cluster: ClusterName = "",
        local: Local = False,
        debug: Debug = False,
        plan: Plan = False,
        dry_run: ShowScripts = False,
        budget: Budget = 0.0,
        methods: Annotated[str, methods_option(method_names)] = "",
        seeds: Seeds = "",
        tasks: Tasks = "",
        parallel: Parallel = 1,
        gpus: Gpus = "",
        data: DataName = "",
        root: DataRoot = "",
        out: Out = None,
        allow_dirty: AllowDirty = False,
        feed: Feed = False,
        replace: Replace = False,
        as_json: AsJson = False,
    ) -> None:
        """Pretrain and evaluate a whole table; a second call does only what is missing.

        Example: salmask sweep table1 --cluster mycluster --plan --root /data/imagenet

        Here instead: salmask sweep table1 --local --gpus 0,1,2,3 --seeds 0,1 --root /data/imagenet
        """
        profile = choose_cluster(cluster, local=local or bool(gpus and not cluster), debug=debug)
        shared = chosen_devices(gpus, profile, parallel)
        if profile is None and not plan:
            mend = "--local runs here, --cluster NAME submits to Slurm; --plan only shows the jobs"
            raise UserError("nothing says where to run", mend=mend)
        sweep = narrowed(load(name), comma_list("--methods", methods), _seeds(seeds), comma_list("--tasks", tasks))
        overrides = command_settings(settings, data=data, root=root)
        folder = out or (profile.sweeps_folder if profile else RUNS) / sweep.name
        check_folder(folder)
        graph = expand(sweep, folder, resolve, overrides)
        if not graph.jobs:
            chosen = " ".join(f"--{option} {text}" for option, text in (("methods", methods), ("tasks", tasks)) if text)
            mend = f"salmask sweep {shlex.quote(name)} --plan shows what it has"
            raise UserError(f"sweep {name} has no job{f' of {chosen}' if chosen else ''}", mend=mend)
        own = [job.run.data.dataset for job in graph.jobs]  # a root is used if any of them has one
        if not any(find_dataset(dataset).needs_root for dataset in own):
            refuse_idle_root(own[0], root)
        check_tables(graph, table_names())
        check_neighbours(graph)
        # With --json, standard output holds JSON alone; everything else goes to standard error.
        call = SweepCall(
            show,
            program,
            Console(stderr=as_json),
            len(shared) or parallel,
            gpus=shared,
            allow_dirty=allow_dirty,
            as_json=as_json,
            feed=feed,
            replace=replace,
        )
        if plan or budget:
            graph = call.plan(graph, profile, budget, print_it=plan)
        if not plan and profile is not None:
            call.carry_out(graph, profile, dry_run=dry_run)

    return app


def _seeds(text: str) -> list[int]:
    words = comma_list("--seeds", text)
    try:
        return [whole_number(word) for word in words]
    except ValueError:
        raise UserError(f"--seeds {text}: seeds are whole numbers", mend="for example --seeds 0,1,2") from None
