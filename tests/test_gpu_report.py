"""The report of a GPU's machine, as far as it goes without one: its steps are stand-ins, its device a name."""

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from training_samples import salmask

TOOL = Path(__file__).parent.parent / "tools" / "gpu_report.py"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_report", module)  # its dataclass asks for it
    spec.loader.exec_module(module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake H100")
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", *arguments])
    code: int = module.main()
    return code


def test_each_step_is_told_with_its_end(report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps = [
        report.Step("good", ("-c", "print('{\"ms\": 1}')"), 1, "benches.jsonl"),
        report.Step("bad", ("-c", "import sys; print('half'); sys.exit('why')"), 1, "benches.jsonl"),
        report.Step("long", ("-c", "import time; print('begun', flush=True); time.sleep(60)"), 0.18, "tests.txt"),
        report.Step("late", ("-c", "print('never')"), 0.1, "tests.txt"),
    ]
    monkeypatch.setattr(report, "steps", lambda *_: steps)
    assert run(report, monkeypatch, "--out", str(tmp_path / "out")) == 1
    text = (tmp_path / "out" / "report.md").read_text()
    assert "- device: Fake H100; PyTorch " in text
    assert text.count("| not measured |") == 3
    ends = [line.rsplit("|", 2)[1].strip() for line in text.partition("| goal")[0].splitlines() if line[:2] == "| "][2:]
    assert [end.partition(",")[0] for end in ends] == ["exit 0", "exit 1", "stopped after 11 s", "left out: no time"]
    assert (tmp_path / "out" / "benches.jsonl").read_text() == '{"ms": 1}\nhalf\n'
    assert (tmp_path / "out" / "tests.txt").read_text() == "begun\n"
    assert "why" in (tmp_path / "out" / "errors.txt").read_text()
    assert len(list((tmp_path / "out").iterdir())) <= 8


def test_every_command_of_the_report_is_one_of_ours(report: ModuleType, tmp_path: Path) -> None:
    for step in report.steps(tmp_path, 128, 15):
        words = step.line.split()
        if words[0] != "salmask":
            assert (TOOL.parent.parent / words[3]).exists()
            continue
        told = salmask(*words[1:3], "--help")
        assert told.code == 0, step.line
        assert {word for word in words if word.startswith("--")} <= set(told.out.split()), step.line
    outputs = {step.output for step in report.steps(tmp_path, 128, 15)}
    assert len(outputs | {"report.md", "errors.txt", "trace.txt", "throughput.jsonl"}) <= 8


def test_each_goal_is_met_or_missed_by_what_was_measured(report: ModuleType) -> None:
    def verdicts(moco: float, share: float, images: float) -> list[list[str]]:
        costs = [
            {"method": "supervised", "seconds": 0.05},
            {"method": "mocov2", "seconds": moco, "share_of_bound": share},
        ]
        told = {"step": json.dumps(costs, indent=1), "real data": json.dumps([{"images/s": images}])}
        return [[cell.strip() for cell in line.split("|")[3:5]] for line in report.judge(told, 128)[3:]]

    # 128 images in .08 s are 1600 a second.
    assert verdicts(0.08, 0.85, 1120) == [["1.60", "met"], ["0.85", "met"], ["0.70", "met"]]
    assert verdicts(0.1, 0.8, 800) == [["2.00", "**missed**"], ["0.80", "**missed**"], ["0.62", "**missed**"]]
    cut = report.judge({"step": '[{"method": "moc'}, 128)
    assert [line.split("|")[4].strip() for line in cut[3:]] == ["not measured"] * 3


def test_every_package_that_the_project_needs_is_looked_for(report: ModuleType) -> None:
    project = tomllib.loads((TOOL.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    # It does without the one; the others come with any Python that has those that are looked for.
    assert needed - set(report.MODULES.values()) <= {"simplejpeg", "setuptools", "numpy", "pillow"}


def test_what_is_missing_is_said_at_once(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(report, monkeypatch, "--out", str(tmp_path / "out")) == 2
    assert "there is no GPU here; mend: " in capsys.readouterr().err
    monkeypatch.setitem(report.MODULES, "no_such_module", "such-package")
    assert run(report, monkeypatch, "--out", str(tmp_path / "out")) == 2
    assert "lacks such-package; mend: " in capsys.readouterr().err
    del report.MODULES["no_such_module"]
    assert run(report, monkeypatch, "--without-gpu", "--only", "nonsense", "--out", str(tmp_path / "out")) == 2
    assert "no step 'nonsense'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
