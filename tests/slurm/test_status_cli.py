"""`salmask status`: several sweeps, watching, and the names of sweeps and runs."""

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from error_samples import message_of
from rich.console import Console
from sweep_samples import GONE, HERE, NOW, RUN, FakeSlurm, Sweep
from training_samples import refused, salmask, tiny

from slurm import targets
from slurm.monitoring.status_page import page
from slurm.profiles.profile import user_folder
from slurm.targets import SweepTarget, all_sweeps, find_target


def test_status_of_several_sweeps_takes_one_look_at_the_queue(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.submitted(job="812_0")
    sweep.says("running", step=30, steps=100)
    second = Sweep(runs / "table2", tiny(changes={"seed": 1}))
    second.submitted(job="700")
    second.folder.prepare(second.run)
    slurm.says("squeue", f"812_0|sweep-pretrain-812_0|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|")
    slurm.says("sacct", f"700|sweep-pretrain-700|TIMEOUT|0:0|1|{NOW - 9:.0f}|n1|gpu")
    reports = json.loads(salmask("status", "--json").out)
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]
    assert [report["sweep"] for report in reports] == ["table1", "table2"]
    assert [report["counts"] for report in reports] == [{"running": 1}, {"died": 1}]
    assert reports[0]["jobs"][0]["run"] == "mocov2 s0"
    report = json.loads(salmask("status", "table1", "--json").out)
    assert (report["folder"], report["trouble"]) == ("runs/table1", "")
    assert [call.split()[0] for call in slurm.calls[2:]] == ["squeue"]
    page = salmask("status", "table2").out
    assert "runs/table2: 1 died" in page
    assert "never wrote a heartbeat, Slurm says TIMEOUT" in page


def test_status_without_a_launcher_asks_no_scheduler(slurm: FakeSlurm, sweep: Sweep, runs: Path) -> None:
    sweep.says("running", step=25, steps=100)
    page = salmask("status").out
    assert "runs/table1: 1 running" in page
    assert "25 % (25/100)" in page
    assert slurm.calls == []


def test_a_colleagues_sweep_is_looked_up_among_the_colleagues_jobs(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted()
    slurm.says("squeue", "812|sweep-pretrain-812|PENDING|Priority|N/A|N/A||gpu|")
    slurm.is_a_colleagues(monkeypatch)
    assert json.loads(salmask("status", "table1", "--json").out)["counts"] == {"queued": 1}


def test_the_doctor_of_a_cluster_needs_one(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused("doctor", "--cluster", "slurm") == (
        "there is no squeue on this machine; mend: call this on a login node of the cluster"
    )
    assert refused("doctor", "--cluster", "local").endswith("mend: salmask doctor, without --cluster")


def test_watching_ends_when_nothing_is_under_way(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted()
    sweep.says("running", step=30, steps=100)
    slurm.says("squeue", f"812|sweep-pretrain-812|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|")
    waits = []
    sleep = time.sleep

    def finish(seconds: float) -> None:
        if seconds < 1:  # subprocess's own waiting
            sleep(seconds)
            return
        waits.append(seconds)
        if len(waits) == 2:
            sweep.folder.backbone.touch()

    monkeypatch.setattr(time, "sleep", finish)
    call = salmask("status", "table1", "--watch", "--every", "7")
    assert (call.code, waits) == (0, [7.0, 7.0])
    assert "1 done" in call.out
    assert refused("status", "table1", "--watch", "--json").startswith("--watch and --json exclude each other")


def test_watching_goes_on_while_slurm_does_not_say_what_became_of_a_job(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.submitted()
    slurm.fails("squeue", "Unable to contact slurm controller")
    looks: list[int] = []
    sleep = time.sleep

    def answer(seconds: float) -> None:
        if seconds < 1:  # subprocess's own waiting
            sleep(seconds)
            return
        looks.append(1)
        (slurm.place / "squeue.err").unlink(missing_ok=True)
        if len(looks) == 2:
            sweep.folder.prepare(RUN)
            sweep.folder.backbone.touch()
        slurm.says("squeue", f"812|sweep-pretrain-812|RUNNING|None|{time.time():.0f}|N/A|n1|gpu|")

    monkeypatch.setattr(time, "sleep", answer)
    call = salmask("status", "table1", "--watch")
    assert (call.code, len(looks)) == (0, 2)
    assert "1 done" in call.out


def test_watching_a_sweep_whose_folder_goes_ends_with_that(
    sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as `nothing yet`, with the status of a sweep that is done."""
    sweep.says("running", age=1 + NOW - time.time(), host=HERE, pid=os.getpid())
    monkeypatch.setattr(time, "sleep", lambda _: sweep.place.rename(runs / "moved"))
    line = refused("status", "table1", "--watch")
    assert line.endswith("runs/table1 is gone; mend: if it was moved, name the folder where it is now")


def test_without_a_squeue_nobody_waits_for_its_answer(
    sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that was carried away from its cluster used to be watched for ever."""
    sweep.submitted()
    monkeypatch.setattr("slurm.monitoring.queue.shutil.which", lambda name: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    call = salmask("status", "table1", "--watch")
    assert "unknown" in call.out
    assert "there is no squeue on this machine" in call.out


def test_watching_in_a_pipe_tells_each_change_in_a_line(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.status_commands.PATIENCE_SECONDS", 0.0)  # a slow answer of squeue changes nothing
    sweep.submitted()
    sweep.submitted("linear", job="813")
    running = f"812|sweep-pretrain-812|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|"
    sweep.says("running", age=NOW - time.time(), step=30, steps=100)
    slurm.says("squeue", running, "813|sweep-linear-813|PENDING|Dependency|N/A|N/A||gpu|")
    looks = []

    sleep = time.sleep

    def go_on(seconds: float) -> None:
        if seconds < 1:  # subprocess's own waiting
            sleep(seconds)
            return
        looks.append(1)
        sweep.says("running", age=NOW - time.time(), step=30 + len(looks), steps=100)  # no line: within the same tenth
        if len(looks) == 1:
            slurm.fails("squeue", "down")
        if len(looks) == 3:
            (slurm.place / "squeue.err").unlink()
            sweep.folder.backbone.touch()
            slurm.says("squeue", "813|sweep-linear-813|CANCELLED|None|1|1||gpu|")

    monkeypatch.setattr("slurm.status_commands.time.sleep", go_on)
    lines = [line.split(" ", 1)[1] for line in salmask("status", "table1", "--watch").out.splitlines()]
    assert lines == [
        "pretrain mocov2 s0: running, 812, 30 % (30/100)",
        "linear mocov2 s0: queued, 813, Dependency: waits for the job that it builds on",
        "runs/table1: 1 running, 1 queued",
        "Slurm does not answer: squeue: down",
        "pretrain mocov2 s0: done, 812",
        "linear mocov2 s0: cancelled, 813",
        "runs/table1: 1 done, 1 cancelled",
    ]


def test_a_narrow_terminal_cuts_no_name(sweep: Sweep) -> None:
    row = replace(
        sweep.row(GONE, entry=False),
        run="mocov2+ours-strong-blur-mean s12",
        task="logistic@caltech101",
        job="1234567_1234",
        note="waits for free resources",
    )
    paper = io.StringIO()
    console = Console(width=80, file=paper, force_terminal=True, color_system=None)
    console.print(page([SweepTarget(Path("table1"))], [[row]], GONE))
    lines = [line.strip() for line in paper.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    # Notes that do not fit beside it stand below, each line with its run.
    of_the_run = [line.removeprefix(row.run).split() for line in lines if line.startswith(row.run)]
    assert [word for words in of_the_run for word in words] == [row.task, row.job, row.state.value, "[1]"]
    assert lines[-1] == f"[1] {row.note}"


@pytest.mark.parametrize("word", ["table1", "runs/table1", "mocov2/s0", "RUN", "table1/mocov2/s0", "ID", "runs/RUN"])
def test_sweeps_and_runs_have_several_names(sweep: Sweep, runs: Path, word: str) -> None:
    word = word.replace("runs/RUN", f"runs/table1/{sweep.key}").replace("RUN", sweep.key).replace("ID", RUN.id[:5])
    target = find_target(word)
    assert target.sweep.resolve() == sweep.place
    assert target.folder == ("" if word.endswith("table1") else sweep.key)


def test_a_folder_that_is_called_like_a_sweep_hides_none(
    sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("table1").mkdir()  # such as a checkout's own
    assert find_target("table1").sweep.resolve() == sweep.place
    (runs.parent / "empty").mkdir()
    monkeypatch.chdir(runs.parent / "empty")
    monkeypatch.setattr(targets, "available", list)
    assert message_of(all_sweeps).startswith("there are no sweeps in runs; mend: ")


def test_names_that_mean_nothing_or_too_much_are_refused(sweep: Sweep, runs: Path) -> None:
    assert refused("status", "tabel1") == "no sweep or run 'tabel1'; mend: did you mean 'table1'? known: table1"
    second = Sweep(runs / "table2")
    second.folder.prepare(RUN)
    assert refused("logs", RUN.id[:6]).startswith(f"'{RUN.id[:6]}' names 2 runs; mend: one of runs/table1/mocov2/s0-")
    # A word with a slash means a run.
    assert refused("logs", "mocov2/s7") == (
        "no sweep or run 'mocov2/s7'; mend: did you mean 'mocov2/s0'? known: mocov2/s0"
    )
    assert refused("logs", "elsewhere/x9").endswith("mend: one of table1, table2")
    (runs.parent / "elsewhere").mkdir()
    assert "elsewhere holds neither jobs nor runs; mend: name runs/SWEEP or" in refused(
        "status", str(runs.parent / "elsewhere")
    )
    os.chdir(runs.parent / "elsewhere")
    assert refused("status", "table1") == (
        "there are no sweeps in runs; mend: salmask sweep first, or name the sweep's folder, for example "
        "/scratch/ME/salmask/table1, which the launch printed"
    )


def test_a_run_under_another_name_is_refused(sweep: Sweep, runs: Path) -> None:
    """Status printed a page without a job, and nothing said why."""
    sweep.says("done")
    kept = sweep.folder.path.rename(sweep.folder.path.with_name("kept"))
    told = "is a run's folder under another name, by which no sweep knows it; mend: rename it to sSEED-ID"
    for command in ("status", "logs", "cancel"):
        assert told in refused(command, str(kept))


def test_a_name_of_two_sweeps_is_refused_with_their_folders(runs: Path, tmp_path: Path, sweep: Sweep) -> None:
    sweep.submitted()
    scratch = tmp_path / "my scratch"
    Sweep(scratch / "table1").submitted()
    user_folder().mkdir(parents=True)
    (user_folder() / "mine.yaml").write_text(f"scratch: {scratch}\n")
    (user_folder() / "here.yaml").write_text(f"scratch: {runs}\n")  # another name of the same folder
    for command in ("status", "cancel", "retry", "clean"):
        said = refused(command, "table1")
        assert said == f"'table1' names 2 sweeps; mend: one of runs/table1, '{scratch}/table1'"


def test_a_sweep_in_the_scratch_of_a_profile_goes_by_its_name(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_folder().mkdir(parents=True)
    (user_folder() / "mine.yaml").write_text("scratch: $SOMEWHERE\n")
    monkeypatch.setenv("SOMEWHERE", str(runs))
    monkeypatch.chdir(tmp_path / "config")
    assert salmask("status", "table1").out.startswith(f"{runs / 'table1'}: ")
    assert salmask().out.startswith(f"Runs in {runs / 'table1'}: ")


def test_while_squeue_hangs_the_files_are_shown_and_its_answer_when_it_comes(
    slurm: FakeSlurm, sweep: Sweep, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.status_commands.PATIENCE_SECONDS", 0.05)
    sweep.submitted()
    sweep.says("running", step=30, steps=100)
    slurm.says("squeue", f"812|sweep-pretrain-812|RUNNING|None|{NOW - 60:.0f}|N/A|n1|gpu|")
    script = (slurm.place / "squeue").read_text(encoding="utf-8")
    (slurm.place / "squeue").write_text(script.replace("#!/bin/sh\n", "#!/bin/sh\nsleep 0.6\n"), encoding="utf-8")
    first, rest = salmask("status", "table1").out.split("Slurm does not answer: nothing within ")
    assert "30 % (30/100)" in first
    assert "this is what the files alone tell" in rest
    assert rest.count("30 % (30/100)") == 1
    assert len(slurm.calls) == 1
    report = json.loads(salmask("status", "table1", "--json").out)  # one document, with the answer
    assert (report["trouble"], report["counts"]) == ("", {"running": 1})
