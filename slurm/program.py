"""The program that a launcher hands to the scheduler, by dotted names.

A launcher reads runs and files and needs no torch; what its jobs do needs all of it. So whoever calls the launcher
tells it the names of what jobs carry out, and each name is kept in the call that submitit pickles: a pickle that Slurm
keeps for days holds text that means the same in the copy of the code that the job runs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """What jobs carry out, each as `MODULE:FUNCTION`."""

    task: str
    """`carry_out(run, path, task, *, wait)`: a task on a run's folder."""
    report: str
    """`render_report(place, tables)`: the tables of a sweep's folder."""
    examine: str
    """`examine_node(place, *, gpus, cpus)`: what is wrong with a node, as a list of dataclasses."""
