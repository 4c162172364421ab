"""A small sweep for a Slurm that tests stand in for, and its launch."""

from pathlib import Path
from typing import Any

from rich.console import Console
from training_samples import TINY

from baselines import resolve
from repro.jobs import PROGRAM
from slurm.planning.graph import Graph
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.handover import Outcome
from slurm.submission.launch import submit

CLUSTER = Cluster("test", resources=Resources(cpus=1, time=30, throttle=2))


def graph_for(place: Path, seeds: int = 4, settings: dict[str, Any] | None = None) -> Graph:
    part = Part(("mocov2",), tuple(range(seeds)), settings={**TINY, **(settings or {})})
    return expand(Sweep("s", (part,)), place / "s", resolve, {})


def launch(graph: Graph, **options: Any) -> Outcome:
    return submit(graph, CLUSTER, lambda: None, PROGRAM, Console(quiet=True), **options)
