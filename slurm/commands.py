"""The commands that plan and launch: `salmask sweep`."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from repro.console import AsJson, completion
from repro.errors import UserError
from repro.runs.evaluation import PROTOCOLS
from repro.runs.reading import parse_overrides
from repro.runs.status import PRETRAIN
from slurm.graph import Graph
from slurm.profile import DEFAULT, Cluster, available
from slurm.profile import load as load_cluster
from slurm.program import Program
from slurm.sweep import Resolve, expand, known_sweeps, load, narrowed

Show = Callable[[Sequence[str], Path, Console], None]
"""`show(tables, sweep's folder, console)`: prints tables and writes them beside the runs."""


def choose_cluster(name: str, *, local: bool, debug: bool) -> Cluster | None:
    """The profile to launch on; None where nothing says which.

    Raises:
        UserError: more than one is asked for, or there is none of that name.
    """
    asked = [word for word, given in ((name, bool(name)), ("local", local), ("debug", debug)) if given]
    if len(asked) > 1:
        raise UserError(f"choose one of {', '.join(asked)} to run on")
    if asked:
        return load_cluster(asked[0])
    return load_cluster(DEFAULT) if DEFAULT in available() else None


def build(resolve: Resolve, show: Show, program: Program, method_names: Callable[[], Iterable[str]]) -> typer.Typer:
    """The commands.

    Args:
        resolve: Turns a method and layers of settings into a Run; a launcher does not know the methods.
        show: Renders the tables; a launcher does not know the results.
        program: What jobs carry out; a launcher needs no torch.
        method_names: For completion.
    """
    app = typer.Typer(add_completion=False)

    @app.command("sweep")
    def sweep_command(
        name: Annotated[
            str,
            typer.Argument(
                metavar="SWEEP",
                help="demo, table1, table2, all … or a YAML file.",
                autocompletion=completion(known_sweeps),
            ),
        ],
        settings: Annotated[
            list[str] | None,
            typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings, for example optimization.epochs=10."),
        ] = None,
        *,
        cluster: Annotated[
            str,
            typer.Option(
                "--cluster",
                metavar="NAME|FILE",
                help="Profile to submit by; see docs/cluster.md.",
                autocompletion=completion(available),
            ),
        ] = "",
        local: Annotated[bool, typer.Option("--local", help="Run here, in processes of their own, and wait.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Run in this process, one job after the other.")] = False,
        plan: Annotated[bool, typer.Option("--plan", help="Show jobs, cost and time, and run nothing.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the scripts that sbatch would get, and submit nothing.")
        ] = False,
        budget: Annotated[
            float, typer.Option("--budget-gpu-hours", min=0, help="Leave out what does not fit; 0: no limit.")
        ] = 0.0,
        methods: Annotated[
            str,
            typer.Option(
                metavar="A,B", help="Only these methods.", autocompletion=completion(method_names, several=True)
            ),
        ] = "",
        seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Only these seeds.")] = "",
        tasks: Annotated[
            str,
            typer.Option(
                metavar="A,B@DATA", help="Only these tasks.", autocompletion=completion(lambda: PROTOCOLS, several=True)
            ),
        ] = "",
        parallel: Annotated[int, typer.Option(min=1, help="Jobs at a time (--local, --plan).")] = 1,
        root: Annotated[
            str, typer.Option("--root", metavar="DIR", help="Root of the data set; short for machine.data_root=DIR.")
        ] = "",
        out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/SWEEP.")] = None,
        allow_dirty: Annotated[
            bool, typer.Option("--allow-dirty", help="Submit edited code, recording the difference.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Pretrain and evaluate a whole table; a second call does only what is missing.

        Example: salmask sweep table1 --cluster mycluster --plan --root /data/imagenet

        Here instead: salmask sweep table1 --local --methods mocov2,mocov2+ours-hp --seeds 0,1 --root /data/imagenet
        """
        chosen = choose_cluster(cluster, local=local, debug=debug)
        if chosen is None and not plan:
            raise UserError(
                "say where to run: --local runs here, --cluster NAME submits to Slurm; --plan only shows the jobs"
            )
        wanted = narrowed(load(name), _names(methods), _numbers(seeds), _names(tasks))
        overrides = parse_overrides([*([f"machine.data_root={root}"] if root else []), *(settings or [])])
        place = out or (chosen.place if chosen else Path("runs")) / wanted.name
        graph = expand(wanted, place, resolve, overrides)
        console = Console(stderr=as_json)
        if plan or budget:
            graph = _planned(graph, chosen, budget, parallel, console, show_it=plan, as_json=as_json)
        if plan:
            return
        assert chosen is not None
        if dry_run:
            _dry_run(graph, chosen)
        elif chosen.executor == "slurm":
            _submit(graph, chosen, program, console, show, allow_dirty=allow_dirty, as_json=as_json)
        else:
            _run_here(graph, chosen, program, parallel, console, show, as_json=as_json)

    return app


def _planned(
    graph: Graph,
    cluster: Cluster | None,
    budget: float,
    parallel: int,
    console: Console,
    *,
    show_it: bool,
    as_json: bool,
) -> Graph:
    from slurm.plan import estimate, print_plan, within_budget

    costs = estimate(graph, cluster)
    if budget:
        graph, left_out = within_budget(graph, costs, budget)
        if left_out:
            console.print(
                f"left out for the budget of {budget:g} GPU-hours: {', '.join(left_out)}",
                markup=False,
                soft_wrap=True,
                highlight=False,
            )
    if show_it:
        print_plan(graph, costs, cluster, parallel, console, as_json=as_json)
    return graph


def _dry_run(graph: Graph, cluster: Cluster) -> None:
    if cluster.executor != "slurm":
        raise UserError(f"--dry-run shows what sbatch would get; '{cluster.name}' has no sbatch", mend="--plan")
    from slurm.launch import scripts
    from slurm.snapshot import CODE

    for name, script in scripts(graph, cluster, graph.place.resolve() / CODE / "COMMIT"):
        typer.echo(f"# ---- {name}\n{script}")


def _submit(
    graph: Graph,
    cluster: Cluster,
    program: Program,
    console: Console,
    show: Show,
    *,
    allow_dirty: bool,
    as_json: bool,
) -> None:
    from slurm.launch import submit
    from slurm.snapshot import take

    if all(job.done for job in graph.jobs):
        console.print(f"all {len(graph.jobs)} jobs are done")
        show(graph.tables, graph.place, console)
        outcome_ids: dict[str, str] = {}
        counts = {"done": len(graph.jobs), "live": 0}
    else:
        code = take(graph.place, allow_dirty=allow_dirty)
        outcome = submit(graph, cluster, code, program, console)
        outcome_ids = {f"{folder} {task}": job for (folder, task), job in outcome.submitted.items()}
        counts = {"done": len(outcome.skipped), "live": len(outcome.live)}
        console.print(
            f"{len(outcome.submitted)} jobs submitted, {counts['done']} done before, {counts['live']} queued or "
            f"running; mind them with: salmask status {graph.place}",
            soft_wrap=True,
            highlight=False,
        )
    if as_json:
        typer.echo(json.dumps({"submitted": outcome_ids, **counts}, indent=1))


def _run_here(
    graph: Graph,
    cluster: Cluster,
    program: Program,
    parallel: int,
    console: Console,
    show: Show,
    *,
    as_json: bool,
) -> None:
    from slurm.local import launch_here

    outcome = launch_here(graph, cluster, program, parallel=parallel, console=console)
    console.print(f"{len(outcome.done)} jobs done, {len(outcome.skipped)} had been, {len(outcome.failed)} failed")
    if any(job.done for job in graph.jobs if job.task != PRETRAIN):
        show(graph.tables, graph.place, console)
    if as_json:
        typer.echo(json.dumps({"done": [j.name for j in outcome.done], "failed": outcome.failed}, indent=1))
    if outcome.failed:
        raise typer.Exit(1)


def _names(text: str) -> Sequence[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> Sequence[int]:
    try:
        return [int(word) for word in _names(text)]
    except ValueError:
        raise UserError(f"--seeds {text}: seeds are whole numbers, for example --seeds 0,1,2") from None
