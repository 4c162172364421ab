"""How detectron2 is installed: which source is used, and that a failed build leaves the old installation."""

import importlib.util
import subprocess
from types import ModuleType

import pytest
from places import ROOT


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("get_detectron2", ROOT / "tools" / "get_detectron2.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("installed", "asked", "taken"),
    [
        ((), "wheel", "wheel"),
        ((), "source", "source"),
        (("detectron2",), "wheel", ""),
        (("detectron2",), "source", "source"),
        (("detectron2", "detectron2._C"), "source", ""),
        (("detectron2", "detectron2._C"), "wheel", ""),
    ],
)
def test_the_way_that_is_asked_for_is_taken_once(
    tool: ModuleType, installed: tuple[str, ...], asked: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setenv("SALMASK_DETECTRON2", asked)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.setattr(tool, "install_wheel", lambda: done.append("wheel"))
    monkeypatch.setattr(tool, "install_source", lambda: done.append("source"))
    tool.main()
    assert done == ([taken] if taken else [])


def test_a_build_that_fails_removes_nothing(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def fail(command: list[str], check: bool) -> None:
        commands.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setenv("SALMASK_DETECTRON2", "source")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit, match="check GitHub and the compiler, or unset SALMASK_DETECTRON2"):
        tool.main()
    assert len(commands) == 1
    assert "uninstall" not in commands[0]
