"""What jobs warn of in their logs is told where people look: by `salmask status`, and by a launch on this machine."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from local_samples import HERE_CLUSTER, graph_of, launched
from rich.console import Console
from sweep_samples import GONE, NOW, Sweep
from training_samples import salmask

from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import State
from slurm.monitoring.status import JobRow, warning_lines
from slurm.monitoring.status_page import Changes
from slurm.targets import SweepTarget

WAITS = "steps wait for data 24% of the time; mend: more machine.workers"
DIVERGES = "exploded weights at step 64"


@pytest.mark.usefixtures("slurm", "runs")
def test_status_tells_what_a_job_without_a_result_warns_of(sweep: Sweep) -> None:
    sweep.submitted()
    sweep.says("running", age=NOW - time.time(), warnings=[WAITS, DIVERGES])
    page = salmask("status", "table1").out.splitlines()
    assert page[-2:] == [f"pretrain mocov2 s0 warned: {WAITS}", f"pretrain mocov2 s0 warned: {DIVERGES}"]
    sweep.folder.backbone.touch()
    assert "warned" not in salmask("status", "table1").out
    (job,) = json.loads(salmask("status", "table1", "--json").out)["jobs"]
    assert (job["state"], job["warnings"]) == ("done", [WAITS, DIVERGES])


def test_a_row_has_the_warnings_of_the_last_attempt(sweep: Sweep) -> None:
    sweep.submitted()
    assert sweep.row(GONE).warnings == ()
    sweep.says("failed", warnings=[WAITS])
    assert (sweep.row(GONE).state, sweep.row(GONE).warnings) == (State.failed, (WAITS,))


def test_a_warning_of_many_jobs_is_one_line(tmp_path: Path) -> None:
    def row(seed: int, state: State, *warnings: str) -> JobRow:
        return JobRow(f"mocov2 s{seed}", "pretrain", state, f"mocov2/s{seed}", warnings=warnings)

    table = [row(0, State.done, WAITS), row(1, State.running, WAITS), row(2, State.died, WAITS, DIVERGES)]
    changes, target = Changes(), [SweepTarget(tmp_path)]
    lines = changes.lines(target, [table], QueueSnapshot())
    told = [line.split(" ", 1)[1] for line in lines if "warned" in line]
    assert told == [
        f"pretrain mocov2 s1 and 1 more warned: {WAITS}",
        f"pretrain mocov2 s2 warned: {DIVERGES}",
    ]
    table.append(row(3, State.running, DIVERGES))
    assert not any("warned" in line for line in changes.lines(target, [table], QueueSnapshot()))


def test_a_warning_of_many_jobs_in_as_many_numbers_is_one_line() -> None:
    """Each job of a sweep on slow storage waits for data, none for the same share of its time."""

    def row(seed: int, *warnings: str) -> JobRow:
        return JobRow(f"mocov2 s{seed}", "pretrain", State.running, f"mocov2/s{seed}", warnings=warnings)

    table = [row(seed, WAITS.replace("24", str(24 + seed))) for seed in range(3)]
    table.append(row(3, DIVERGES, DIVERGES.replace("64", "128"), "collapsed at step 64"))  # one job, two kinds
    assert list(warning_lines(table).values()) == [
        f"pretrain mocov2 s0 and 2 more, alike, warned: {WAITS}",
        f"pretrain mocov2 s3 warned: {DIVERGES}",
        "pretrain mocov2 s3 warned: collapsed at step 64",
    ]


def test_in_a_pipe_a_further_job_that_warns_in_other_numbers_is_told(tmp_path: Path) -> None:
    table = [JobRow("mocov2 s0", "pretrain", State.running, "mocov2/s0", warnings=(DIVERGES,))]
    changes, target = Changes(), [SweepTarget(tmp_path)]
    changes.lines(target, [table], QueueSnapshot())
    later = DIVERGES.replace("64", "128")
    table.append(JobRow("mocov2 s1", "pretrain", State.running, "mocov2/s1", warnings=(later,)))
    told = [line for line in changes.lines(target, [table], QueueSnapshot()) if "warned" in line]
    assert [line.split(" ", 1)[1] for line in told] == [f"pretrain mocov2 s0 and 1 more, alike, warned: {DIVERGES}"]
    assert not any("warned" in line for line in changes.lines(target, [table], QueueSnapshot()))


def told_lines(console: Console) -> list[str]:
    return [" ".join(line.split("  (")[0].split()) for line in console.export_text().splitlines() if line]


@pytest.mark.parametrize("seconds", ["0", "1.5"])
def test_a_launch_here_tells_each_warning_once(
    seconds: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both that of a job that ends between two looks, and that of one that runs on."""
    monkeypatch.setenv("WARNED_FOR", seconds)
    graph, console = graph_of(tmp_path / "sweep", 2), Console(record=True, width=500)
    launched(graph, "warn", parallel=2, console=console)
    lines = told_lines(console)
    heads = [line.split()[0] for line in lines]
    assert [line.split(": ", 1)[1] for line in lines if line.startswith("warned")] == [WAITS]
    if seconds != "0":  # not only when the job has ended
        assert heads.index("warned") < heads.index("done")


def test_a_launch_here_tells_no_warning_of_an_earlier_one(programs: Path, tmp_path: Path) -> None:
    graph, console = graph_of(tmp_path / "sweep", 1), Console(record=True, width=500)
    launched(graph, "warn")
    graph.jobs[0].folder.backbone.unlink()
    launched(graph, "record", console=console)
    assert not [line for line in told_lines(console) if line.startswith("warned")]


def test_what_this_process_carries_out_warns_by_itself(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(programs))
    graph, console = graph_of(tmp_path / "sweep", 1), Console(record=True, width=500)
    outcome = launched(graph, "warn", replace(HERE_CLUSTER, executor="debug"), console=console)
    assert len(outcome.done) == 1
    assert not [line for line in told_lines(console) if line.startswith("warned")]
