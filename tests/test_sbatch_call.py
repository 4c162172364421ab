"""Calls of sbatch that end without its word: whether the job is in, only the queue can tell."""

from pathlib import Path

from stand_in_slurm import StandInSlurm
from test_launch_faults import all_once, graph_for, launch

from slurm.ledger import Ledger


def test_a_job_that_was_accepted_as_its_sbatch_was_killed_is_not_submitted_again(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    stand_in.tell("faults", "accept:killed")
    graph = graph_for(tmp_path)
    launch(graph)
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3
    ledger = Ledger(graph.sweep_folder)
    assert all((ledger.logs / entry.submission).is_dir() for entry in ledger.newest().values())
