"""The program that a launcher hands to the scheduler: the names of what its jobs carry out.

A launcher reads runs and files and needs no torch; what its jobs do needs all of it. So the launcher imports none of
that, and whoever calls it (the command line) tells it the dotted names instead, which stand in the text file that a
job starts from. Slurm may keep a job for days: a name means the same in the copy of the code that the job will run.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """What jobs carry out, each function named as `MODULE:FUNCTION`."""

    task: str
    """`carry_out(run, path, task, *, wait)` carries a task out on a run's folder."""
    report: str
    """`render_report(sweep_folder, tables)` renders the tables of a sweep's folder."""
    examine: str
    """`examine_node(sweeps_folder, *, gpus, cpus, needs)` returns what is wrong with a node, as dataclasses."""
    measure: str
    """`measure_step(run, *, warm_up, steps)` times a row's steps; returns a `StepMeasurement`."""
