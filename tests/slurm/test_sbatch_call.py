"""How a call of sbatch ended: told by its output or, without any, by whether the queue has the job."""

from pathlib import Path

import pytest
from launch_samples import all_once, graph_for, launch
from stand_in_slurm import StandInSlurm

from slurm.jobs.refusals import Refusal, classify
from slurm.submission import sbatch_call
from slurm.submission.sbatch_call import parse_id
from slurm.sweep_folder.ledger import Ledger

LATE = "late:Batch job submission failed: Socket timed out on send/recv operation"


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


def test_of_two_tries_that_slurm_took_both_one_is_ended(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """A busy controller may carry out a request that timed out only after it has answered the next one."""
    stand_in.tell("faults", LATE)
    graph = graph_for(tmp_path)
    launch(graph)
    assert all_once(graph, stand_in)
    assert stand_in.calls("scancel") == ["scancel 101"]


def test_of_two_tries_that_timed_out_and_that_slurm_took_both_one_is_ended(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    stand_in.tell("faults", LATE, LATE.replace("late", "accept"))
    graph = graph_for(tmp_path)
    launch(graph)
    assert all_once(graph, stand_in)
    assert stand_in.calls("scancel") == ["scancel 102"]


@pytest.mark.parametrize("killed", [False, True])
def test_what_slurm_took_twice_is_ended_by_the_next_launch(
    stand_in: StandInSlurm, tmp_path: Path, *, killed: bool
) -> None:
    """The second one was in no ledger: it ran beside the first, and `salmask cancel` did not find it."""
    graph = graph_for(tmp_path)
    launch(graph)
    twice = [line.replace("101_", "105_") for line in stand_in.queue if line.startswith("101_")]
    stand_in.tell("queue", *twice, *stand_in.queue)
    if killed:  # before it recorded the ids
        ledger = Ledger(graph.sweep_folder)
        ledger.intend([entry for entry in ledger.submissions() if entry.task == "pretrain"])
    launch(graph)
    assert all_once(graph, stand_in)
    stand_in.tell("queue", *(line.replace("PENDING", "CANCELLED") for line in twice), *stand_in.queue)
    launch(graph)  # Slurm shows what it has ended for minutes more
    assert stand_in.calls("scancel") == ["scancel 105"]


def test_a_try_that_is_refused_since_the_one_before_it_was_taken_is_no_refusal(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    """The limit is reached by the very job that the first try submitted without an answer."""
    stand_in.tell("faults", LATE, "fail:QOSMaxSubmitJobPerUserLimit")
    graph = graph_for(tmp_path)
    outcome = launch(graph)
    assert not outcome.unsent
    assert all_once(graph, stand_in)
    ledger = Ledger(graph.sweep_folder)
    assert all((ledger.logs / entry.submission).is_dir() for entry in ledger.newest().values())


def test_a_try_that_is_refused_after_one_that_nobody_heard_of_is_unclear_without_the_queues_word(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.tell("faults", LATE, "fail:QOSMaxSubmitJobPerUserLimit")
    # squeue answers as the launch begins and before the second try, but not after the refusal.
    stand_in.tell("squeue_troubles", "ok", "ok", *["Unable to contact slurm controller (connect failure)"] * 5)
    graph = graph_for(tmp_path)
    assert len(launch(graph).unsent) == len(graph.jobs) + 1
    assert not any(entry.refused for entry in Ledger(graph.sweep_folder).submissions())
    monkeypatch.setattr("slurm.submission.adoption.SETTLING_SECONDS", 0.0)
    launch(graph)
    assert all_once(graph, stand_in)


def test_a_limit_that_may_be_one_of_size_is_one_of_number_once_such_jobs_are_in(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    policy = "fail:Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    graph = graph_for(tmp_path)
    stand_in.tell("faults", "ok", *[policy] * 20)
    outcome = launch(graph)
    assert (len(outcome.submitted), outcome.has_room_later) == (4, True)
    assert launch(graph).has_room_later  # jobs of the earlier launch count too
    stand_in.tell("faults")
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)


def test_what_the_last_try_brought_in_is_found(stand_in: StandInSlurm, tmp_path: Path) -> None:
    stand_in.tell("faults", *[LATE.replace("late", "fail")] * 4, LATE.replace("late", "accept"))
    graph = graph_for(tmp_path)
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)


def test_an_accepted_job_whose_id_nobody_tells_is_for_the_next_launch_to_find(
    stand_in: StandInSlurm, tmp_path: Path
) -> None:
    stand_in.tell("faults", "print:it went well")
    stand_in.tell("squeue_troubles", "ok", *["Unable to contact slurm controller (connect failure)"] * 4)
    graph = graph_for(tmp_path)
    outcome = launch(graph)
    assert not outcome.submitted
    assert outcome.has_room_later
    assert "its answer holds no id of a new job: it went well" in outcome.unsent_words
    assert not launch(graph).unsent
    assert all_once(graph, stand_in)


def test_answers_and_refusals_are_read_by_slurms_own_words() -> None:
    assert [parse_id(text) for text in ("812\n", "812;west\n", "the site's job 3\n812\n", "job 3", "")] == [
        *["812"] * 3,
        "",
        "",
    ]
    trying = "Slurm temporarily unable to accept job, sleeping and retrying"
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    for words, kind in {
        f"AssocMaxSubmitJobLimit\n{policy}": Refusal.limit,
        trying: Refusal.limit,
        f"{trying}\nBatch job submission failed: Resource temporarily unavailable": Refusal.limit,
        f"{trying}\nBatch job submission failed: Socket timed out on send/recv operation": None,  # Slurm may have it
        f"{trying}\nsbatch timed out after 240 s": None,
        policy: Refusal.policy,
        "Batch job submission failed: Invalid job array specification": Refusal.array,
        "Batch job submission failed: Invalid partition name specified": Refusal.request,
        "Requested time limit is invalid (missing or exceeds some limit)": Refusal.request,
        "Slurm backup controller in standby mode": None,
    }.items():
        assert classify(words) is kind, words


def test_an_sbatch_that_hangs_or_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sbatch_call._call(tmp_path / "job.sh", ()) == ("", "sbatch: No such file or directory")
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\necho 'a warning of the site' >&2; exec /bin/sleep 60\n")
    assert sbatch_call._call(tmp_path / "job.sh", ()) == ("", "sbatch: Permission denied")
    program.chmod(0o755)
    monkeypatch.setattr(sbatch_call, "SBATCH_SECONDS", 0.5)
    output, trouble = sbatch_call._call(tmp_path / "job.sh", ())
    assert (output, trouble.split("\n")) == ("", ["a warning of the site", "", "sbatch timed out after 0 s"])
