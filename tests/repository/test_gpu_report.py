"""The report of a machine with a GPU, tested without one: its steps are stand-ins, and its device is a name."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from places import ROOT
from training_samples import salmask
from waiting import wait_until

from slurm.local.processes import KILL_SECONDS, POLL_SECONDS

TOOLS = ROOT / "tools"
PRINT = "import sys; print(sys.argv[1])"
ONCE = """
import pathlib, sys
tried = pathlib.Path(__file__).with_suffix(".tried")
first = not tried.exists()
tried.touch()
"""


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("gpu_report")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake H100")
    monkeypatch.setattr(module, "describe_commit", lambda: "0123456789ab, code 01234567")
    monkeypatch.setattr(module, "missing_packages", lambda _: {})
    monkeypatch.setattr(module, "fault_of_command", lambda _: "")
    monkeypatch.setattr("sessions.GRACE_SECONDS", 1.0)
    monkeypatch.setattr(module, "GRACE_SECONDS", 1.0)
    return module


@pytest.fixture
def call(report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Calls the tool as in a process of its own, with stand-ins for its steps."""

    def call(steps: list[Any], *arguments: str) -> int:
        monkeypatch.setattr(report, "steps", lambda *_: steps)
        return run(report, monkeypatch, "--out", str(tmp_path / "out"), *arguments)

    return call


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", *arguments])
    code: int = module.main()
    return code


def ends(folder: Path) -> dict[str, str]:
    """How each step ended, by the page."""
    lines = (folder / "report.md").read_text().partition("| goal")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    return {row[0]: re.split(r",| \d+ s", row[-1])[0] for row in rows}


def recorded(folder: Path) -> dict[str, Any]:
    """The recorded state of each step."""
    steps: dict[str, Any] = json.loads((folder / "state.json").read_text())["steps"]
    return steps


def test_each_step_is_told_with_its_end(report: ModuleType, call: Callable[..., int], tmp_path: Path) -> None:
    steps = [
        report.Step("good", ("-c", "print('{\"ms\": 1}')"), 0.3, "benches.jsonl"),
        report.Step("bad", ("-c", "import sys; print('half'); sys.exit('why')"), 0.3, "benches.jsonl"),
        report.Step("long", ("-c", "import time; print('begun', flush=True); time.sleep(60)"), 0.05, "tests.txt"),
        report.Step("late", ("-c", "print('never')"), 1, "tests.txt"),
        report.Step("table of it", ("-c", "print('of nothing')"), 0.05, "tests.txt", follows="late"),
        report.Step("short", ("-c", "print('still')"), 0.05, "tests.txt"),
    ]
    assert call(steps, "--minutes", "0.9") == 1
    folder = tmp_path / "out"
    text = (folder / "report.md").read_text()
    assert "- device: Fake H100; PyTorch " in text
    assert text.count("| not measured |") == 5
    assert ends(folder) == {
        "good": "exit 0",
        "bad": "exit 1",
        "long": "stopped after",
        "late": "not run yet",  # it begins only if all of its minute fits
        "table of it": "not run yet",
        "short": "exit 0",
    }
    assert (folder / "benches.jsonl").read_text() == '{"ms": 1}\nhalf\n'
    assert (folder / "tests.txt").read_text() == "begun\nstill\n"
    assert "why" in (folder / "errors.txt").read_text()
    steps_so_far = recorded(folder)
    assert steps_so_far["good"]["numbers"] == {"ms": 1}
    statuses = {name: record["status"] for name, record in steps_so_far.items()}
    assert statuses == {"good": 0, "bad": 1, "long": None, "short": 0}


def program(path: Path, text: str) -> str:
    """Writes a program to a file, so that its command fits into one line of the page."""
    path.write_text(text)
    return str(path)


def rows(**cells: Any) -> tuple[str, ...]:
    return ("-c", PRINT, json.dumps([cells]))


def test_a_second_call_goes_on_and_judges_by_both(
    report: ModuleType, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_once = program(tmp_path / "once.py", ONCE + "if first: sys.exit(1)")
    steps = [
        report.Step("supervised", rows(flops=3.0, share_of_bound=0.9), 0.3, "benches.jsonl"),
        report.Step("once", (fail_once,), 0.3, "tests.txt"),
        report.Step("table", ("-c", "print('a table')"), 0.3, "study.txt", follows="once"),
        report.Step("mocov2", rows(flops=4.0, share_of_bound=0.8, seconds=0.08), 0.3, "benches.jsonl"),
        report.Step("real data", rows(**{"images/s": 1120, "without loading": 1600}), 0.3, "benches.jsonl"),
    ]
    first = [part for name in ("supervised", "once", "table") for part in ("--only", name)]
    assert call(steps, *first) == 1
    folder = tmp_path / "out"
    assert list(ends(folder).values()) == ["exit 0", "exit 1", "exit 0", "not run yet", "not run yet"]
    capsys.readouterr()
    assert call(steps) == 0
    assert set(ends(folder).values()) == {"exit 0"}
    told = [line.partition(", ")[0] for line in capsys.readouterr().out.splitlines()]
    # What never ran comes before what failed, and the failed table is made again.
    assert told == ["mocov2: exit 0", "real data: exit 0", "supervised: kept", "once: exit 0", "table: exit 0"]
    assert (folder / "study.txt").read_text() == "a table\n" * 2
    goals = [line.split(" | ")[2:] for line in (folder / "report.md").read_text().splitlines()[-5:]]
    # 4 / 0.8 to 3 / 0.9.
    assert goals[:3] == [["1.50", "met |"], ["0.80", "**missed** |"], ["0.70", "met |"]]


def test_other_commands_are_carried_out_anew(report: ModuleType, call: Callable[..., int], tmp_path: Path) -> None:
    def numbers(batch: int) -> Any:
        assert call([report.Step("masking", rows(batch=batch), 0.3, "benches.jsonl")]) == 0
        return recorded(tmp_path / "out")["masking"]["numbers"]

    assert [numbers(batch) for batch in (128, 64)] == [[{"batch": 128}], [{"batch": 64}]]


def test_numbers_outlive_a_second_try_without_any(report: ModuleType, call: Callable[..., int], tmp_path: Path) -> None:
    first_prints = program(tmp_path / "once.py", ONCE + "if first: print('[7]')\nsys.exit(1)")
    step = report.Step("masking", (first_prints,), 0.3, "benches.jsonl")
    for _ in range(2):
        assert call([step]) == 1
    assert recorded(tmp_path / "out")["masking"]["numbers"] == [7]


def test_the_report_of_another_commit_or_device_is_refused(
    report: ModuleType,
    call: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = [report.Step("good", ("-c", ""), 0.3, "tests.txt")]
    assert call(steps) == 0
    folder = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refusal() -> str:
        assert call(steps) == 2
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    mend = "; mend: another --out, or remove it and out-runs beside it"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda: "Fake H200")
        told = refusal()
        assert f"{folder} is the report of device Fake H100; PyTorch" in told
        assert told.endswith(mend)
    with monkeypatch.context() as patch:
        patch.setattr(report, "describe_commit", lambda: "another")
        expected = f"{folder} is the report of commit 0123456789ab, code 01234567, and this is another{mend}"
        assert refusal() == expected
    (folder / "state.json").write_text('{"commit": ')
    before["state.json"] = b'{"commit": '
    assert refusal() == f"{folder / 'state.json'} cannot be read (JSONDecodeError){mend}"


def test_the_code_is_told_apart_where_git_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("gpu_report")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "repro").mkdir()
    told = []
    for text in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "repro" / "a.py").write_text(text)
        told.append(module.describe_commit())
    assert told[0] == told[2] != told[1]
    assert re.fullmatch(r"unknown, no Git checkout, code [0-9a-f]{8}", told[0])


def test_every_command_of_the_report_is_one_of_ours(report: ModuleType, tmp_path: Path) -> None:
    steps = report.steps(tmp_path, 128, 15)
    for step in steps:
        words = step.line.split()
        if words[0] != "salmask":
            file, _, test = words[5].partition("::")
            assert re.search(rf"^def {test.partition('[')[0]}", (TOOLS.parent / file).read_text(), re.MULTILINE)
            continue
        told = salmask(*words[1:3], "--help")
        assert told.code == 0, step.line
        assert {word for word in words if word.startswith("--")} <= set(told.out.split()), step.line
    outputs = {step.output for step in steps}
    assert len(outputs | {"report.md", "state.json", "errors.txt", "trace.txt", "throughput.jsonl"}) <= 8
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert all(step.follows in {"", *names} for step in steps)
    # The longest step, with the time it may take to end, fits into a call of ten minutes.
    assert max(step.minutes for step in steps) + (KILL_SECONDS + 10) / 60 < 9


def test_real_data_are_timed_within_one_epoch(report: ModuleType, tmp_path: Path) -> None:
    (step,) = (step for step in report.steps(tmp_path, 64, 15) if step.name == "real data")
    words = dict(zip(step.arguments, step.arguments[1:], strict=False))
    settings = dict(word.split("=") for word in step.arguments if "=" in word)
    window = int(words["--warm-up"]) + int(words["--steps"])
    assert int(settings["data.scenes.train_count"]) // int(settings["optimization.batch"]) > window


def verdicts(report: ModuleType, **changes: Any) -> list[list[str]]:
    """The measured value and the verdict of each goal."""
    cached, waits, on_gpu = changes.pop("cached", 1.3), changes.pop("waits", {"passed": 9}), changes.pop("on_gpu", True)
    measured = {"moco": 5.44e9, "share": 0.85, "images": 1120, "supervised": 0.5, **changes}
    numbers = {
        "supervised": [{"flops": 2e9, "seconds": 0.05, "share_of_bound": measured["supervised"]}],
        "mocov2": [{"flops": measured["moco"], "seconds": 0.08, "share_of_bound": measured["share"]}],
        "real data": [{"images/s": measured["images"], "without loading": 1600}],
        "maps cached": [{"relative": cached}],
        "waits": waits,
    }
    return [[cell.strip() for cell in line.split("|")[3:5]] for line in report.judge(numbers, on_gpu=on_gpu)[3:]]


def test_each_goal_is_met_or_missed_by_what_was_measured(report: ModuleType) -> None:
    # The supervised step takes 2e9 / .5 of the bound's time.
    met = [["1.60", "met"], ["0.85", "met"], ["0.70", "met"], ["1.30", "met"], ["1.00", "met"]]
    assert verdicts(report) == met
    missed = {"moco": 6.4e9, "share": 0.8, "images": 800, "cached": 1.4, "waits": {"passed": 9, "failed": 1}}
    measured = ["2.00", "0.80", "0.50", "1.40", "0.90"]
    assert verdicts(report, **missed) == [[value, "**missed**"] for value in measured]
    # A device that is slow for the supervised row and its bound alike changes no ratio.
    assert verdicts(report, moco=4e9, share=1)[0] == ["1.00", "met"]
    assert verdicts(report, moco=4e9, share=1, supervised=1)[0] == ["2.00", "**missed**"]
    cut = report.judge({"supervised": None, "mocov2": None, "waits": {"skipped": 24}})
    assert [line.split("|")[4].strip() for line in cut[3:]] == ["not measured"] * 5


def test_no_goal_is_met_without_a_gpu(report: ModuleType) -> None:
    assert {verdict for _, verdict in verdicts(report, on_gpu=False)} == {"not judged without a GPU"}


def test_how_many_tests_passed_is_told(
    report: ModuleType, call: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = "x.py::a PASSED\n===== 2 failed, 22 passed, 1 skipped in 71.20s (0:01:11) ====="
    assert call([report.Step("waits", ("-c", PRINT, closing), 0.3, "tests.txt")]) == 0
    assert recorded(tmp_path / "out")["waits"]["numbers"] == {"failed": 2, "passed": 22, "skipped": 1}
    assert re.search(r"exit 0, \d+ s, 2 failed, 22 passed, 1 skipped \|", (tmp_path / "out" / "report.md").read_text())
    # Of a step that is stopped, the tests that ended count, unless an earlier try has told of all.
    cut, told = "x.py::a[b] PASSED [ 9%]\nx.py::b FAILED [18%]\nx.py::c ", {"failed": 2, "passed": 22, "skipped": 1}
    for text, status, numbers in ((cut, None, {"passed": 1, "failed": 1}), (closing, 1, told), (cut, None, told)):
        monkeypatch.setattr(report, "run_in_session", lambda *_, stdout, t=text, s=status, **__: stdout.write(t) and s)
        assert call([report.Step("tests", ("-c", PRINT), 0.3, "tests.txt")]) == 1
        assert recorded(tmp_path / "out")["tests"]["numbers"] == numbers


def test_a_call_of_ten_minutes_judges_the_first_goals(report: ModuleType, tmp_path: Path) -> None:
    steps = report.steps(tmp_path, 128, 15)
    assert [step.name for step in steps[:3]] == ["supervised", "mocov2", "real data"]
    assert not any("--trace" in step.arguments for step in steps[:5])  # a trace would delay the next goal
    # The third step begins even if the two before it took two thirds of their time.
    most = 2 / 3 * sum(60 * step.minutes for step in steps[:2]) + 60 * steps[2].minutes
    assert most + importlib.import_module("sessions").GRACE_SECONDS < 60 * 9.5


# A launcher whose training has its own process group and ignores signals.
LAUNCHER = """
import signal, subprocess, sys, time
heeds = sys.argv[2] == "heeds"
signal.signal(signal.SIGTERM, (lambda *_: sys.exit("ended in good order")) if heeds else signal.SIG_IGN)
training = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], process_group=0)
open(sys.argv[1], "w").write(str(training.pid) + "\\n")
time.sleep(0 if sys.argv[2] == "ends" else 300)
"""


def gone(number: int) -> bool:
    """Whether a process has ended, maybe as a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.end_to_end
@pytest.mark.parametrize("launcher", ["heeds", pytest.param("does not", marks=pytest.mark.slow), "ends"])
def test_no_job_of_a_step_outlives_it(
    launcher: str, report: ModuleType, call: Callable[..., int], tmp_path: Path
) -> None:
    words = (program(tmp_path / "launcher.py", LAUNCHER), str(tmp_path / "pid"), launcher)
    assert call([report.Step("study", words, 0.08, "study.txt")]) == (0 if launcher == "ends" else 1)
    end, seconds = re.fullmatch(r"(.+) (\d+) s", recorded(tmp_path / "out")["study"]["end"]).groups()  # type: ignore[union-attr]
    assert end == ("exit 0," if launcher == "ends" else "stopped after")
    assert int(seconds) < 30
    assert ("good order" in (tmp_path / "out" / "errors.txt").read_text()) == (launcher == "heeds")
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_report_that_is_stopped_takes_its_step_along(number: signal.Signals, tmp_path: Path) -> None:
    launcher, pid = program(tmp_path / "launcher.py", LAUNCHER), tmp_path / "pid"
    call = (
        "import signal, sys, gpu_report as report\n"
        # In a shell's background SIGINT is ignored, and child processes inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "report.missing_packages = lambda _: {}\n"
        "report.fault_of_command = lambda _: ''\n"
        f"report.steps = lambda *_: [report.Step('study', {(launcher, str(pid), 'heeds')}, 1, 'study.txt')]\n"
        "sys.exit(report.main())"
    )
    words = [sys.executable, "-c", call, "--without-gpu", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(TOOLS)})
    wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "a step", every=0.05)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert gone(int(pid.read_text()))
    assert recorded(tmp_path / "out")["study"]["end"].startswith("interrupted after")
    assert "good order" in (tmp_path / "out" / "errors.txt").read_text()


def test_a_launcher_has_the_time_that_it_gives_its_own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    assert importlib.import_module("sessions").GRACE_SECONDS > KILL_SECONDS + POLL_SECONDS


def test_every_package_that_the_project_needs_is_looked_for(report: ModuleType) -> None:
    project = tomllib.loads((TOOLS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    # One of them is optional; the others come with any Python that has the packages that are looked for.
    packages = set(importlib.import_module("gpu_steps").MODULES.values())
    assert needed - packages <= {"simplejpeg", "setuptools", "numpy", "pillow"}
    assert {"antlr4-python3-runtime", "cloudpickle", "hypothesis", "pytest", "pytest-timeout"} <= packages


def test_packages_are_imported_and_not_only_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    module = importlib.import_module("gpu_steps")
    texts = {"sound": "print('hello')", "halved": "import its_other_half", "foreign": "import os; os._exit(3)"}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(module, "MODULES", {name: f"{name}-package" for name in (*texts, "unseen")})
    assert module.missing_packages({**os.environ, "PYTHONPATH": str(tmp_path)}) == {
        "halved-package": "ModuleNotFoundError: No module named 'its_other_half'",
        "foreign-package": "importing it ended Python with status 3",
    }


def test_the_command_is_called_and_not_only_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    fault_of_command = importlib.import_module("gpu_steps").fault_of_command
    environment = importlib.import_module("gpu_report").environment()
    assert fault_of_command(environment) == ""
    (tmp_path / "typer.py").write_text("import its_other_half")
    told = fault_of_command({**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])})
    assert "No module named 'its_other_half'" in told


def test_what_is_missing_is_said_at_once(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "out"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(report, monkeypatch, *out) == 2
    assert "there is no GPU here; mend: " in capsys.readouterr().err
    monkeypatch.setattr(report, "fault_of_command", lambda _: "No module named 'half'")
    assert run(report, monkeypatch, "--without-gpu", *out) == 2
    assert "cannot run salmask (No module named 'half'); mend: " in capsys.readouterr().err
    monkeypatch.setattr(report, "missing_packages", lambda _: {"such-package": "ImportError: no"})
    assert run(report, monkeypatch, *out) == 2
    assert "cannot import such-package (ImportError: no); mend: " in capsys.readouterr().err
    assert run(report, monkeypatch, "--without-gpu", "--only", "nonsense", *out) == 2
    assert "no step 'nonsense'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
