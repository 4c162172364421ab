"""A Slurm that does not answer in the middle of something: nothing goes out twice, and nothing is taken as done."""

from pathlib import Path

import pytest
from stand_in_slurm import StandInSlurm
from test_launch_faults import all_once, graph_for, launch

from slurm.ledger import Ledger

TIMED_OUT = "Socket timed out on send/recv operation"


def test_where_neither_sbatch_nor_squeue_answer_nothing_is_submitted_twice(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", f"accept:{TIMED_OUT}")
    stand_in.tell("squeue_troubles", "ok", TIMED_OUT, TIMED_OUT)
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)
    assert len(stand_in.calls("sbatch")) == 3


def test_where_squeue_stays_silent_it_is_unclear_whether_a_job_is_in(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", f"accept:{TIMED_OUT}")
    stand_in.tell("squeue_troubles", "ok", *[TIMED_OUT] * 5)
    outcome = launch(graph)
    assert outcome.submitted == {}
    assert "Socket timed out" in outcome.unsent_words
    assert len(stand_in.calls("sbatch")) == 1
    monkeypatch.setattr("slurm.adoption.SETTLING_SECONDS", 0.0)
    launch(graph)  # which finds what was accepted
    assert all_once(graph, stand_in)
    assert [entry.job for entry in Ledger(graph.sweep_folder).submissions()][:4] == [f"101_{n}" for n in range(4)]
