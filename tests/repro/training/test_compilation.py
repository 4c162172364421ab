"""Whether a machine can compile a step is seen before its run is begun."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from training_samples import refused


def test_a_machine_that_cannot_compile_is_refused_before_the_run_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("Failed to find C compiler.\nSet TORCHDYNAMO_VERBOSE=1 for more")

    monkeypatch.setattr(torch, "compile", fail)
    settings = ("data.dataset=scenes", "data.scenes.train_count=256", "optimization.batch=32", "moco.queue=64")
    line = refused("pretrain", "mocov2", "--out", str(tmp_path / "out"), *settings, "machine.compile=true")
    assert line == (
        "machine.compile=true, but torch.compile does not work here: Failed to find C compiler.; "
        "mend: machine.compile=false, or give it what it lacks: mostly g++, or Python's headers (python3-dev)"
    )
    assert not (tmp_path / "out").exists()


PROGRAM = """
import torch
from repro.errors import UserError
from repro.training.steps.compilation import require_compiler
try:
    require_compiler(torch.device("cpu"))
except UserError:
    exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "code"), [("g++", 0), ("no-such-compiler", 2)])
def test_torch_is_asked_for_a_kernel(compiler: str, code: int, tmp_path: Path) -> None:
    """In a process of its own, with nothing cached: torch looks for its compiler once."""
    environment = os.environ | {"CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=False).returncode == code
