"""`--feed` submits jobs as there is room, never a job twice, and ends when Slurm refuses for good."""

import errno
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from launch_samples import CLUSTER, REFUSED, all_once, graph_for, launch
from rich.console import Console
from stand_in_slurm import StandInSlurm
from training_samples import salmask

from repro.errors import UserError
from repro.jobs import PROGRAM
from slurm.planning.graph import Graph
from slurm.submission.handover import NO_PARENT, Outcome
from slurm.submission.launch import submit
from slurm.submission.sender import TakeCode
from slurm.sweep_call import SweepCall
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import REPORT, Ledger

Round = Callable[[], object]


class Feeding:
    """A call with --feed, and what happens between its rounds of submission."""

    def __init__(self, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graph = graph
        self.between: list[Round] = []
        self.ledger_sizes: list[int] = []
        monkeypatch.setattr("slurm.sweep_call.time.sleep", self._wait)

    def _wait(self, seconds: float) -> None:
        if seconds < 60:  # other waits
            return
        assert self.between, "it would have ended"
        self.ledger_sizes.append(len(Ledger(self.graph.sweep_folder).path.read_text().splitlines()))
        self.between.pop(0)()

    def call(self, *between: Round, take_code: TakeCode = lambda: None) -> Outcome:
        self.between = list(between)
        call = SweepCall(lambda *_: None, PROGRAM, Console(quiet=True), 1, allow_dirty=False, as_json=False, feed=True)
        outcome = call.submit_all(self.graph, CLUSTER, take_code)
        assert not self.between
        return outcome


def nothing() -> None:
    """A round in which nothing changes."""


def test_what_ended_badly_since_is_not_submitted_again(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("room", "4")

    def fail_two() -> None:
        """Two of the pretrainings fail; there is room for two more jobs, which others take."""
        stand_in.change(lambda line: None if line.startswith(("101_0|", "101_1|")) else line)

    outcome = Feeding(graph, monkeypatch).call(fail_two, lambda: stand_in.tell("room", "5"))
    pretrainings = [entry for entry in Ledger(graph.sweep_folder).submissions() if entry.task == "pretrain"]
    assert len(pretrainings) == 4
    assert {task for _, task in outcome.submitted} == {"pretrain", "linear", REPORT}
    seeds = {folder.partition("/s")[2][0] for folder, task in outcome.submitted if task == "linear"}
    assert seeds == {"2", "3"}
    assert list(outcome.unsent.values()) == [NO_PARENT] * 2


def test_where_every_pretraining_failed_there_is_no_report(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of the sweep used to be submitted in vain, and its own failure hid the cause."""
    stand_in.tell("room", "4")
    outcome = Feeding(graph_for(tmp_path), monkeypatch).call(lambda: stand_in.change(lambda _: None))
    assert {task for _, task in outcome.submitted} == {"pretrain"}
    assert list(outcome.unsent.values()) == [NO_PARENT] * 4


def test_a_full_slurm_is_asked_for_one_job_first(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path, seeds=5)
    stand_in.tell("room", "1")
    feeding = Feeding(graph, monkeypatch)
    calls: list[int] = []

    def count() -> None:
        calls.append(len(stand_in.calls("sbatch")))

    feeding.call(count, count, count, lambda: (count(), stand_in.tell("room", "100")))
    assert [after - before for before, after in pairwise(calls)] == [1, 1, 1]
    sizes = feeding.ledger_sizes
    assert [after - before for before, after in pairwise(sizes)] == [2, 2, 2]
    assert all_once(graph, stand_in)


@pytest.mark.parametrize("remade", [False, True])
def test_a_sweep_whose_folder_was_removed_is_given_up(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, remade: bool
) -> None:
    """The folder used to be made anew and fed from there; without its ledger nobody knew what had been submitted."""
    graph = graph_for(tmp_path)
    stand_in.tell("room", "4")

    def remove() -> None:
        stand_in.tell("room", "100")
        shutil.rmtree(graph.sweep_folder)
        if remade:  # by a running job that writes its heartbeat
            graph.jobs[0].folder.path.mkdir(parents=True)

    with pytest.raises(UserError) as refusal:
        Feeding(graph, monkeypatch).call(remove)
    assert str(refusal.value) == (
        f"{graph.sweep_folder} is gone, so no more of its jobs are submitted; mend: scancel 101, unless it was moved"
    )
    assert (len(stand_in.ids), graph.sweep_folder.exists()) == (4, remade)


def test_a_removed_sweep_of_which_nothing_went_out_names_no_jobs(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("room", "0")
    graph.sweep_folder.mkdir()
    with pytest.raises(UserError, match="are submitted; mend: the same command makes it anew"):
        Feeding(graph, monkeypatch).call(lambda: shutil.rmtree(graph.sweep_folder))
    assert not graph.sweep_folder.exists()


SIZE_OR_NUMBER = "fail:Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("fault", "feeds", "calls"), [(SIZE_OR_NUMBER, False, 4), (SIZE_OR_NUMBER, True, 1), (REFUSED, True, 1)]
)
def test_what_one_job_is_refused_for_is_not_tried_with_each_of_its_batch(
    stand_in: StandInSlurm, tmp_path: Path, fault: str, *, feeds: bool, calls: int
) -> None:
    """An array of a thousand took two thousand calls of sbatch, and with --feed ended in a RecursionError."""
    graph = graph_for(tmp_path, seeds=8)
    stand_in.tell("faults", *[fault] * 20)
    with pytest.raises(UserError, match="sbatch refused s-pretrain"):
        launch(graph, again={*map(graph.key, graph.jobs), graph.report} if feeds else None)
    assert len(stand_in.calls("sbatch")) == calls


def test_what_runs_outside_meanwhile_is_asked_for_until_it_is_over(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run used to be left out of this round and all later ones, although it was killed soon after."""
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("room", "1")
    by_hand = next(job for job in graph.jobs if job.name == "pretrain mocov2 s1")

    def begin() -> None:
        by_hand.folder.prepare(by_hand.run)
        by_hand.folder.set_status("running", host="elsewhere")
        stand_in.tell("room", "100")

    outcome = Feeding(graph, monkeypatch).call(begin, nothing, lambda: by_hand.folder.set_status("failed"))
    assert graph.key(by_hand) in outcome.submitted
    assert outcome.unsent == {}
    assert all_once(graph, stand_in)


def test_what_runs_on_this_machine_meanwhile_is_asked_for_until_it_is_over(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("room", "1")
    key = graph.key(next(job for job in graph.jobs if job.name == "pretrain mocov2 s1"))
    ledger = Ledger(graph.sweep_folder)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "here"])

    def begin() -> None:
        entry = next(entry for entry in ledger.submissions() if entry.key == key)
        local = replace(entry, submission="here", executor="local", job=str(process.pid), refused="")
        ledger.submitted([local])
        stand_in.tell("room", "100")

    def end() -> None:
        process.kill()
        process.wait()

    try:
        outcome = Feeding(graph, monkeypatch).call(begin, nothing, end)
    finally:
        end()
    assert key in outcome.submitted
    assert all_once(graph, stand_in)


def cancelling(target: Path, said: str, stand_in: StandInSlurm) -> Round:
    """Gives Slurm room for two jobs; the round returned makes room for all others, and cancels."""
    stand_in.tell("room", "2")

    def cancel() -> None:
        stand_in.tell("room", "100")
        assert salmask("cancel", str(target)).out == said

    return cancel


def test_what_is_cancelled_before_it_went_never_goes(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `salmask cancel`, the rest of the sweep used to be submitted in the next round."""
    graph = graph_for(tmp_path)
    cancel = cancelling(graph.sweep_folder, "cancelled 2 jobs: 101_0, 101_1\n", stand_in)
    outcome = Feeding(graph, monkeypatch).call(cancel)
    assert (stand_in.queue, outcome.unsent) == ([], {})
    assert len(launch(graph).submitted) == 9  # a new call submits all of it


def test_a_cancelled_run_goes_no_more_and_the_others_do(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    cancel = cancelling(graph.jobs[-1].folder.path, "cancelled 0 jobs\n", stand_in)
    outcome = Feeding(graph, monkeypatch).call(cancel)
    assert {folder.partition("/s")[2][0] for folder, _ in outcome.submitted if "/s" in folder} == {"0", "1", "2"}
    assert (len(outcome.submitted), outcome.unsent) == (7, {})


def test_a_launch_under_way_ends_as_its_sweep_is_cancelled(stand_in: StandInSlurm, tmp_path: Path) -> None:
    graph = graph_for(tmp_path)

    def take_code() -> None:  # the first array is about to be submitted
        Ledger(graph.sweep_folder).request_cancel("")

    outcome = submit(graph, CLUSTER, take_code, PROGRAM, Console(quiet=True))
    assert len(outcome.submitted) == len(stand_in.queue) == 4
    assert outcome.unsent == {}


def test_refusals_that_no_waiting_mends_end_it(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("faults", "ok", REFUSED)
    outcome = Feeding(graph, monkeypatch).call()
    assert {task for _, task in outcome.submitted} == {"pretrain"}
    assert any("Invalid qos" in reason for reason in outcome.unsent.values())


def test_a_silent_queue_between_two_rounds_does_not_end_it(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("room", "4")

    def hiccup() -> None:
        stand_in.tell("room", "100")
        stand_in.tell("squeue_troubles", "Unable to contact slurm controller")

    assert not Feeding(graph, monkeypatch).call(hiccup, nothing).unsent
    assert all_once(graph, stand_in)


def test_a_full_disk_between_two_rounds_does_not_end_it(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path, seeds=2)
    stand_in.tell("room", "2")

    def write(*_: object) -> None:
        raise UserError("cannot write", mend="free some space") from OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as disk:

        def fill(writer: str) -> None:
            stand_in.tell("room", "100")
            disk.undo()
            disk.setattr(writer, write)

        fill_later = partial(fill, "slurm.submission.launch.write_report_order")
        assert (
            not Feeding(graph, monkeypatch)
            .call(partial(fill, "slurm.submission.sender.write_text"), fill_later, disk.undo)
            .unsent
        )
    assert all_once(graph, stand_in)
    ledger = Ledger(graph.sweep_folder)
    assert {path.name for path in ledger.logs.iterdir()} == {entry.submission for entry in ledger.newest().values()}


def test_on_a_full_disk_what_went_out_is_told(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id could not be written to the ledger; the next launch finds the job by asking Slurm."""
    graph = graph_for(tmp_path, seeds=1)

    def append(_: Ledger, entries: object) -> None:
        raise UserError("cannot write", mend="free some space") from OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(Ledger, "submitted", append)
        outcome = launch(graph)
    assert outcome.has_room_later
    reasons = "2: cannot write; 1: its pretraining is neither done nor on its way"
    assert outcome.unsent_words == f"3 jobs not submitted ({reasons})"
    assert stand_in.ids == ["101"]
    monkeypatch.setattr("slurm.submission.adoption.SETTLING_SECONDS", 0.0)
    launch(graph)
    assert all_once(graph, stand_in)


def test_a_slurm_that_does_not_cancel_between_two_rounds_does_not_end_it(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose pretraining is gone could not be cancelled; the report, which had no room, was never submitted."""
    graph = graph_for(tmp_path)
    stand_in.tell("room", "8")

    def hiccup() -> None:
        stand_in.tell("room", "100")
        stand_in.change(lambda line: None if line.startswith("101_2|") else line)
        stand_in.tell("scancel_troubles", "Socket timed out on send/recv operation")

    outcome = Feeding(graph, monkeypatch).call(hiccup, nothing)
    assert graph.report in outcome.submitted
    assert "102_2" not in stand_in.ids


def test_children_of_what_ended_a_moment_ago_wait_for_nothing_in_vain(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show a new backbone a minute late: meanwhile its children were cancelled for good."""
    graph = graph_for(tmp_path)
    stand_in.tell("room", "8")

    def ended(seconds_ago: float) -> None:
        stand_in.tell("room", "100")
        times = f"{time.time() - 99:.0f}|{time.time() - seconds_ago:.0f}"
        stand_in.change(lambda line: re.sub(r"^(101_2\|[^|]*)\|.*", rf"\1|COMPLETED|None|{times}|n1|low|", line))

    outcome = Feeding(graph, monkeypatch).call(lambda: ended(5))
    assert graph.report in outcome.submitted
    assert stand_in.calls("scancel") == []
    assert launch(graph).submitted == {}
    ended(200)  # still without a backbone
    assert {(folder.partition("/s")[2][:1], task) for folder, task in launch(graph).submitted} == {
        ("2", "pretrain"),
        ("2", "linear"),
        ("", REPORT),
    }


def test_all_rounds_run_the_code_of_the_first(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round used to take the code anew: an edit ended the call, and a commit changed the code of later jobs."""
    graph = graph_for(tmp_path)
    stand_in.tell("room", "4")
    taken: list[Path] = []

    def take() -> Path:
        taken.append(tmp_path / "code" / str(len(taken)))
        taken[-1].mkdir(parents=True)
        return taken[-1]

    feeding = Feeding(graph, monkeypatch)
    feeding.call(lambda: stand_in.tell("room", "8"), lambda: stand_in.tell("room", "100"), take_code=take)
    assert len(taken) == 1
    scripts = [path.read_text() for path in stand_in.place.glob("script-*.sh")]
    assert all(f"PYTHONPATH={taken[0]}$" in script for script in scripts)


def test_a_long_launch_of_somebody_else_between_two_rounds_does_not_end_it(
    stand_in: StandInSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_for(tmp_path)
    stand_in.tell("room", "4")
    monkeypatch.setattr("slurm.submission.launch.launch_lock", partial(launch_lock, wait=0.0))
    with ExitStack() as others:

        def begin() -> None:
            stand_in.tell("room", "100")
            others.enter_context(launch_lock(graph.sweep_folder))

        assert not Feeding(graph, monkeypatch).call(begin, others.close).unsent
    assert all_once(graph, stand_in)
