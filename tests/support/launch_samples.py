"""A small sweep for the stand-in Slurm, and its launch."""

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from stand_in_slurm import StandInSlurm
from tiny_runs import TINY

from baselines import resolve
from repro.jobs import PROGRAM
from slurm.planning.graph import Graph
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.handover import Outcome
from slurm.submission.launch import submit
from slurm.sweep_folder.ledger import Ledger

CLUSTER = Cluster("test", resources=Resources(cpus=1, time=30, throttle=2))
REFUSED = "fail:Batch job submission failed: Invalid qos specification"
"""A fault for `StandInSlurm.tell`: sbatch refuses the job with these words."""


def graph_for(place: Path, seeds: int = 4, settings: dict[str, Any] | None = None) -> Graph:
    part = Part(("mocov2",), tuple(range(seeds)), settings={**TINY, **(settings or {})})
    return expand(Sweep("s", (part,)), place / "s", resolve, {})


def launch(graph: Graph, **options: Any) -> Outcome:
    return submit(graph, CLUSTER, lambda: None, PROGRAM, Console(quiet=True), **options)


def all_once(graph: Graph, stand_in: StandInSlurm) -> bool:
    """Whether each job, and the report, is queued once, by the ledger's ids and names."""
    newest = Ledger(graph.sweep_folder).newest()
    names = {line.split("|")[0]: line.split("|")[1] for line in stand_in.queue}
    expected = {*map(graph.key, graph.jobs), graph.report}
    return (
        set(newest) == expected
        and Counter(entry.job for entry in newest.values()) == Counter(stand_in.ids)
        and all(names[entry.job] == entry.submission for entry in newest.values())
    )
