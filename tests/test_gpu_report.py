"""The report of a GPU's machine, as far as it goes without one: its steps are stand-ins, its device a name."""

import importlib.util
import sys
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
    ends = [line.rsplit("|", 2)[1].strip() for line in text.splitlines() if line.startswith("| ")][2:]
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
    assert len(outputs | {"report.md", "errors.txt", "trace.txt"}) <= 8


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
