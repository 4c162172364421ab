"""What a new user meets first: version, help, the next steps, and files such as the licence."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from places import ROOT
from presence_samples import close
from record_samples import record, write_records
from sweep_samples import GONE, HERE, Sweep, iso
from sweep_samples import NOW as NOW_HERE
from training_samples import salmask

import repro
from repro import cli
from repro.command_line.lazy_commands import LazyGroup
from slurm.monitoring.states import State
from slurm.next_steps import standing

NOW = 1_000_000.0


def test_the_version_stands_in_one_place() -> None:
    ended = salmask("--version")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(rf"salmask {re.escape(repro.__version__)} \(commit ([0-9a-f]{{7}}|unknown)\)\n", ended.out)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "repro.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (repro.__version__, project["project"]["license"])
    assert f"## {repro.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_short_help_is_help() -> None:
    for words in ([], ["table"], ["methods", "diff"]):
        assert salmask(*words, "-h").out == salmask(*words, "--help").out != ""


def test_every_command_stands_under_a_heading() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, LazyGroup)
    panels = [entry.panel for entry in group.table.values()]
    assert None not in panels
    assert len([panel for i, panel in enumerate(panels) if panel not in panels[:i]]) == 5
    # Typer orders headings by their first command: commands of one heading must be adjacent.
    assert panels == sorted(panels, key=panels.index)


def in_an_empty_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes to a folder that is also the user's home, where no profile names another place of sweeps."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))


def write_runs(states: Iterable[str]) -> None:
    """Makes runs/mine/mocov2/sSEED-abcdefSEED, one in each state, each newer than the one before."""
    for seed, state in enumerate(states):
        folder = Path("runs/mine/mocov2") / f"s{seed}-abcdef{seed}"
        write_run(folder, state=state)
        os.utime(folder, (NOW + seed, NOW + seed))


def write_run(folder: Path, **status: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("method: mocov2\n")
    (folder / "status.json").write_text(json.dumps({"task": "pretrain", "heartbeat": NOW, **status}))


@pytest.mark.parametrize(
    ("states", "sentence", "first"),
    [
        ([], "There are no runs yet.", "salmask sweep demo --local"),
        (
            ["done"],
            "Runs in runs/mine: 1 done.",
            "salmask eval runs/mine/mocov2/s0-abcdef0 --task knn",  # there is no table without a number
        ),
        (["done", "failed"], "Runs in runs/mine: 1 stopped, 1 done.", "salmask status runs/mine"),
        (
            ["running", "failed", "done"],
            "Runs in runs/mine: 1 in progress, 1 stopped, 1 done.",
            "salmask status runs/mine --watch",
        ),
    ],
)
def test_the_next_steps_follow_from_the_folders(
    states: list[str], sentence: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_an_empty_home(tmp_path, monkeypatch)
    write_runs(states)
    here = standing(NOW + 10)
    assert (here.sentence, here.steps[0].command, len(here.steps)) == (sentence, first, 5)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_the_log_that_is_suggested_is_of_a_run_in_question(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was that of the sweep's newest run, which may be done and have nothing to tell."""
    in_an_empty_home(tmp_path, monkeypatch)
    write_runs((state, state, "done"))
    logs = [step.command for step in standing(NOW + 10).steps if " logs " in step.command]
    assert logs == [f"salmask logs runs/mine/mocov2/s1-abcdef1{' -f' if state == 'running' else ''}"]


def test_where_something_was_evaluated_the_table_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_runs(("done", "done"))
    results = Path("runs/mine/mocov2/s0-abcdef0/results.jsonl")
    results.touch()  # an empty file, as a full disk may leave it, for which a table would be refused
    assert standing(NOW + 10).steps[0].command == "salmask eval runs/mine/mocov2/s0-abcdef0 --task knn"
    write_records(results, record())
    first, *others = [step.command for step in standing(NOW + 10).steps]
    assert first == "salmask table table1 --runs runs/mine"
    assert not [step for step in others if " export " in step]  # no library takes a narrow backbone such as the demo's


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_table_is_promised_only_where_something_was_evaluated(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_an_empty_home(tmp_path, monkeypatch)
    write_run(Path("runs/mine/mocov2/s0-abcdef0"), state=state)
    for purpose in ("the table, once a run has been evaluated", "the table so far"):
        steps = {step.command: step.purpose for step in standing(NOW + 10).steps}
        assert steps["salmask table table1 --runs runs/mine"] == purpose
        write_records(Path("runs/mine/mocov2/s0-abcdef0/results.jsonl"), record())


def test_another_task_is_one_that_the_newest_run_was_not_evaluated_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 0):
        write_run(Path("runs/mine/mocov2") / f"s{seed}-abcdef{seed}", state="done")
    write_records(Path("runs/mine/mocov2/s1-abcdef1/results.jsonl"), record(task="linear"))
    results = Path("runs/mine/mocov2/s0-abcdef0/results.jsonl")
    write_records(results, record())
    assert not any(" eval " in step.command for step in standing(NOW + 10).steps)  # there is no backbone
    results.with_name("backbone.pth").touch()
    for measured, following in (([], "knn"), (["knn"], "logistic"), (["knn", "linear", "logistic"], "finetune")):
        write_records(results, *(record(task=task) for task in measured))
        (step,) = [step.command for step in standing(NOW + 10).steps if " eval " in step.command]
        assert step == f"salmask eval runs/mine/mocov2/s0-abcdef0 --task {following}"


def test_a_run_that_fell_silent_is_not_in_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/mine/mocov2/s0-abcdef0"), state="running")
    assert standing(NOW + 119).sentence == "Runs in runs/mine: 1 in progress."
    assert standing(NOW + 121).sentence == "Runs in runs/mine: 1 stopped."


def test_what_is_no_run_or_cannot_be_read_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine/mocov2").mkdir(parents=True)
    Path("runs/mine/jobs.jsonl").touch()
    assert standing(NOW).sentence == "There are no runs yet."
    write_run(Path("runs/mine/mocov2/s0-abcdef0"), state="done")
    Path("runs/mine/mocov2/s0-abcdef0/status-linear.json").write_text("torn")
    assert standing(NOW).sentence == "Runs in runs/mine: 1 stopped."


def test_imported_weights_without_results_are_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no pretraining here, so `salmask retry` has nothing to submit."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/imported/random/s0-abcdef0")
    folder.mkdir(parents=True)
    for name in ("run.yaml", "backbone.pth"):
        (folder / name).touch()
    assert standing(NOW).sentence == "Runs in runs/imported: 1 done."


def test_a_run_that_is_closed_to_this_user_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        write_run(Path(f"runs/mine/mocov2/s{seed}-abcdef{seed}"), state="done")
    close(Path("runs/mine/mocov2/s0-abcdef0"), monkeypatch)
    assert standing(NOW).sentence == "Runs in runs/mine: 1 done."


@pytest.mark.parametrize(("cancelled", "state"), [(False, "submitted"), (True, "stopped")])
def test_what_was_submitted_and_has_not_begun_is_not_stopped(
    sweep: Sweep, runs: Path, cancelled: bool, state: str
) -> None:
    entry = sweep.submitted()
    sweep.says("failed", age=4000)
    if cancelled:
        sweep.ledger.cancelled([entry])
    here = standing(NOW_HERE)
    assert here.sentence == f"Runs in runs/table1: 1 {state}."
    assert here.steps[0].command == f"salmask status runs/table1{'' if cancelled else ' --watch'}"
    sweep.says("done", age=5)
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 done."


def test_what_slurm_refused_has_not_started(sweep: Sweep, runs: Path) -> None:
    """It was told as stopped, and its log, of which there is none, as the next thing to read."""
    sweep.folder.prepare(sweep.run)
    sweep.ledger.refused([sweep.submitted(job="")], "Invalid qos specification")
    here = standing(NOW_HERE)
    assert here.sentence == "Runs in runs/table1: 1 not started."
    assert [step.command for step in here.steps] == [
        "salmask status runs/table1",
        "salmask doctor",
        "salmask retry runs/table1",
        "salmask table table1 --runs runs/table1",
    ]
    sweep.submitted(job="99999999", executor="local")  # a process that died before its first word has a log
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 stopped."


def test_what_builds_on_a_failed_pretraining_is_not_submitted(sweep: Sweep, runs: Path) -> None:
    sweep.submitted(time=iso(NOW_HERE - 3600))
    sweep.submitted("linear", "813")
    sweep.says("failed", age=3000)
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 stopped."
    sweep.submitted(job="814", time=iso(NOW_HERE - 60))
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 submitted."


@pytest.mark.parametrize(("age", "changes"), [(-300.0, {}), (5.0, {"host": HERE, "pid": 2**22 + 1})])
def test_what_status_calls_dead_is_not_in_progress(
    sweep: Sweep, runs: Path, age: float, changes: dict[str, Any]
) -> None:
    """A clock that jumped, and a process of this machine that no longer exists."""
    sweep.says("running", age=age, **changes)
    assert sweep.row(GONE).state is State.died
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 stopped."


@pytest.mark.parametrize(("age", "silence"), [(600.0, "10 min"), (-300.0, "0 s")])
def test_what_status_calls_silent_is_in_progress(sweep: Sweep, runs: Path, age: float, silence: str) -> None:
    """It used to be told as to be retried, for which `salmask retry` had nothing. A jumped clock gave -300 s."""
    sweep.says("running", age=age, host=HERE, pid=os.getpid())
    with (sweep.folder.path / ".lock").open("w"):
        row = sweep.row(GONE)
        assert (row.state, row.note.split(" from ")[0]) == (State.silent, f"no heartbeat for {silence}")
        here = standing(NOW_HERE)
    assert (here.sentence, here.steps[0].command) == (
        "Runs in runs/table1: 1 in progress.",
        "salmask status runs/table1 --watch",
    )
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 stopped."


def test_what_is_done_is_not_to_come_where_the_clock_of_its_node_is_slow(sweep: Sweep, runs: Path) -> None:
    sweep.submitted()
    sweep.says("done", age=3630)  # half a minute before its submission
    sweep.folder.backbone.write_bytes(b"x")
    assert standing(NOW_HERE).sentence == "Runs in runs/table1: 1 done."


@pytest.mark.parametrize("state", ["running", "failed", "done"])
def test_steps_can_be_copied_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("runs/my sweep")
    run = place / "mocov2" / "s0-abcdef0"
    write_run(run, state=state)
    for step in standing(NOW + 10).steps:
        words = shlex.split(step.command)
        assert not {"runs/my", "sweep"} & set(words)
        assert "runs" not in step.command or {str(place), str(run)} & set(words)


def test_salmask_alone_shows_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = salmask()
    assert ended.code == 0
    assert ended.out.startswith("There are no runs yet. Next:\n\n  salmask sweep demo --local ")
    assert len(re.findall(r"^  salmask ", ended.out, re.MULTILINE)) == 5


def test_hooks_before_a_commit_are_the_linters_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in hooks]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    in_make = [line.removeprefix("\t@$(BIN)/") for line in lint.splitlines()[1:]]
    assert [tool.split()[:2] for tool in tools] == [
        [word for word in line.split() if word not in (".", "--check")] for line in in_make
    ]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
