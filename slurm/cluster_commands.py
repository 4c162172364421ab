"""`salmask cluster`: check a profile before anything is submitted by it, or write a first one from what sinfo says."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.console import completion
from repro.command_line.lazy_commands import CommandGroup
from repro.command_line.terminal import Console, say
from repro.command_line.text_tables import TextTable, print_table
from repro.errors import UserError
from repro.filesystem.files import write_text
from repro.quantities import counted
from slurm.profiles.profile import TASKS, Cluster, Resources, available, load, user_folder

app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    no_args_is_help=True,
    help="Check the profile of a cluster, or make a first one.\n\nExample: salmask cluster make mycluster",
)


@app.command("check")
def check(
    profile: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="The profile.", autocompletion=completion(available))
    ],
) -> None:
    """Check a profile whole, and ask Slurm whether it would take such jobs; nothing is submitted.

    Example: salmask cluster check mycluster
    """
    cluster = load(profile)
    folder = cluster.sweeps_folder
    console = Console()
    print_table(_table(cluster), console)
    often = counted(cluster.attempts, "time")
    warned = f"warned {cluster.signal_seconds} s before" if cluster.signal_seconds else "not warned of"
    limits = f"a job starts {often} at most, and is {warned} its time limit"
    console.print(f"sweeps go to {folder}; {limits}", soft_wrap=True)
    if cluster.executor != "slurm":
        console.print(f"no Slurm: jobs run here ({cluster.executor})")
        return
    from slurm.submission.trial import sbatch_says  # submitit takes a second, which a broken profile need not wait for

    refused = False
    for tasks, resources in _distinct(cluster):
        is_accepted, words = sbatch_says(resources, cluster)
        refused = refused or not is_accepted
        console.print(f"{'ok' if is_accepted else 'REFUSED'}: {tasks}: {words}", soft_wrap=True)
    if refused:
        raise UserError(
            f"sbatch would refuse jobs of '{cluster.name}'", mend="the profile; `sinfo` shows what there is"
        )


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new profile.")],
    *,
    partition: Annotated[
        str,
        typer.Option(metavar="NAME", help="Partition of the jobs; default: the cluster's default one, if it has GPUs."),
    ] = "",
) -> None:
    """Write a first profile from what sinfo says, for you to look through.

    Example: salmask cluster make mycluster
    """
    from slurm.profiles.first_profile import first_profile, partitions

    path = user_folder() / f"{name}.yaml"
    if Path(name).name != name or not name.isprintable() or not name.strip("."):
        raise UserError(f"{name!r} cannot be a profile's name", mend="letters and digits, for example mycluster")
    if path.exists():
        raise UserError(f"{path} is there already", mend="another name, or remove it first")
    text = first_profile(partitions(), partition)
    write_text(path, text)
    say(f"{path}\n{text}next: look through it, then salmask cluster check {shlex.quote(name)}")


def _distinct(cluster: Cluster) -> list[tuple[str, Resources]]:
    """Returns the different requests of a profile, each with the names of the tasks that make it."""
    by_resources: dict[Resources, list[str]] = {}
    for task in dict.fromkeys([*TASKS, *cluster.tasks]):
        by_resources.setdefault(cluster.resources_of(task), []).append(task)
    return [(" ".join(names), resources) for resources, names in by_resources.items()]


def _table(cluster: Cluster) -> TextTable:
    """Returns a table of what each task asks for; a dash is the cluster's default."""
    rows = [
        (
            tasks,
            asked.partition or "–",
            str(asked.nodes),
            str(asked.nodes * asked.tasks_per_node),
            f"{asked.gpu_type} {asked.nodes * asked.gpus}".strip(),
            str(asked.cpus or "–"),
            f"{asked.memory:g} GB" if asked.memory else "–",
            _clock(asked.time) if asked.time else "–",
        )
        for tasks, asked in _distinct(cluster)
    ]
    heads = ("tasks", "partition", "nodes", "processes", "GPUs", "cores each", "memory", "time")
    return TextTable(heads, rows, title=f"what a job of '{cluster.name}' asks for")


def _clock(minutes: int) -> str:
    """Returns minutes as `D-HH:MM:SS`, as Slurm shows a limit."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00" if days else f"{rest // 60:02}:{rest % 60:02}:00"
