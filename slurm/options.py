"""Arguments and options of the commands that launch jobs and look after them, as annotations for typer.

They stand here and not in the commands' signatures, so that a command shows what it does and an option that several
commands have is worded once.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from repro.command_line.console import completion
from repro.runs.evaluation import PROTOCOLS
from slurm.profiles.profile import available

FASTEST_SECONDS = 5.0
"""The least time between two questions to Slurm, which serves everybody."""
SLOWEST_SECONDS = 86400.0
"""The most, a day: `time.sleep` takes neither `inf` nor numbers that are far larger."""


def _sweeps() -> Iterable[str]:
    from slurm.planning.sweep import known_sweeps  # needs omegaconf, which `salmask status` should not wait for

    return known_sweeps()


def methods_option(method_names: Callable[[], Iterable[str]]) -> Any:
    """Returns the `--methods` option of `salmask sweep`.

    Args:
        method_names: What a shell completes; a launcher does not know the methods.
    """
    return typer.Option(
        metavar="A,B", help="Only these methods.", autocompletion=completion(method_names, several=True)
    )


# ---------------------------------------------------------------------------------------------------------- of a launch

SweepName = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="demo, table1, table2, table3, ablations, all … or a YAML file.",
        autocompletion=completion(_sweeps),
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Profile of the cluster to submit to; see docs/cluster.md.",
        autocompletion=completion(available),
    ),
]
Local = Annotated[
    bool, typer.Option("--local", help="Run the jobs on this machine, each in a process of its own, and wait.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Run in this process, one job after the other.")]
Plan = Annotated[bool, typer.Option("--plan", help="Show jobs, cost and time, and run nothing.")]
ShowScripts = Annotated[
    bool, typer.Option("--dry-run", help="Show the scripts that sbatch would get, and submit nothing.")
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget-gpu-hours",
        min=0,
        help="Leave out the runs that would exceed it; an hour without a GPU counts as one, 0: no limit.",
    ),
]
Seeds = Annotated[str, typer.Option(metavar="0,1,2", help="Only these seeds.")]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="A,B@DATA", help="Only these tasks.", autocompletion=completion(lambda: PROTOCOLS, several=True)
    ),
]
Parallel = Annotated[int, typer.Option(min=1, help="Jobs at a time (--local, --plan).")]
Gpus = Annotated[
    str, typer.Option(metavar="0,1,2,3", help="Run on these GPUs of this machine, one run on each at a time.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Folder of the sweep; default: SWEEP below runs/ or the profile's scratch."
    ),
]
Feed = Annotated[bool, typer.Option("--feed", help="Stay, and submit what Slurm has no room for as soon as it has.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Cancel what is queued or running with other settings, and submit it anew.")
]
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Submit code with uncommitted changes; they are recorded.")
]

# ---------------------------------------------------------------------------------------- of what looks after the jobs

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
AnySweep = Annotated[
    str,
    typer.Argument(metavar="[SWEEP]", help="Name or folder; default: all below runs/ and where profiles put sweeps."),
]
OneSweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name or folder.")]
SweepOrRun = Annotated[
    str, typer.Argument(metavar="SWEEP|RUN", help="Name or folder of a sweep; a run's folder, METHOD/sSEED or id.")
]
OneRun = Annotated[str, typer.Argument(metavar="RUN", help="Its folder, METHOD/sSEED, or the beginning of its id.")]
Watch = Annotated[bool, typer.Option("--watch", help="Look again and again until no job is queued or running.")]
Every = Annotated[float, typer.Option(min=FASTEST_SECONDS, max=SLOWEST_SECONDS, help="Seconds between two looks.")]
Cost = Annotated[
    bool,
    typer.Option("--cost", help="Show what the jobs cost, beside what was asked for and planned, summed by method."),
]
Task = Annotated[str, typer.Option(help="The log of this task; default: of the one submitted last.")]
Following = Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what is added, across requeues too.")]
Lines = Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end of each file.")]
Failed = Annotated[
    bool, typer.Option("--failed", help="Only what failed or died, not what was cancelled or interrupted.")
]
SameCluster = Annotated[str, typer.Option(metavar="NAME|FILE", help="Profile; default: the one of the last launch.")]
