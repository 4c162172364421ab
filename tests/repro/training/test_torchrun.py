"""`torchrun` with two processes: they train one run, and two processes resume it bit by bit."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from json_rows import read_rows
from training_samples import (
    OURS,
    STEPS,
    assert_same,
    assert_same_training,
    copied,
    files_below,
    newest,
    on_two_processes,
    salmask,
    tiny,
    words,
)

from repro.backbones.checkpoint import read_checkpoint
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints

pytestmark = pytest.mark.end_to_end


def torchrun(out: Path, settings: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "repro.cli", "pretrain", OURS, "--out", str(out), *settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


SHARED = {"masking.guidance": "random"}


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    out = tmp_path_factory.mktemp("torchrun")
    process = torchrun(out, words(SHARED))
    assert process.returncode == 0, process.stderr
    folder = RunFolder.of(tiny(OURS, SHARED), out)
    # Once, and nothing else: some versions of gloo print there, too.
    assert re.findall(r"^\S+", process.stdout, re.MULTILINE) == ["run:", "folder:", "backbone:"]
    return folder, process.stderr


def test_two_processes_make_one_run(shared_run: tuple[RunFolder, str]) -> None:
    folder, log = shared_run
    below = files_below(folder.path)
    assert {name for name in below if not name.startswith("logs")} == {
        *("run.yaml", "provenance.json", "status.json", "metrics.jsonl", "backbone.pth", ".lock", "gallery/masks.png"),
        *("checkpoints/step_00000005.pth", "checkpoints/step_00000006.pth"),
        *("usage/pretrain.0.json", "usage/pretrain.1.json"),
    }
    assert len([name for name in below if name.endswith(".log")]) == 1
    rows = read_rows(folder.metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert log.count(f"pretrain: {STEPS} steps, ") == 1
    content = newest(folder.checkpoints)
    assert (content["world_size"], len(content["generators"])) == (2, 2)
    status = folder.status()
    assert status is not None
    assert (status.state, status.attempt) == ("done", 1)


def resumed(rank: int, place: Path) -> dict[str, Any]:
    return asdict(salmask("pretrain", OURS, "--out", str(place), *words(SHARED)))


def test_a_run_of_two_processes_resumes_bit_by_bit(shared_run: tuple[RunFolder, str], tmp_path: Path) -> None:
    whole, _ = shared_run
    folder = copied(whole, RunFolder.of(tiny(OURS, SHARED), tmp_path).path)
    folder.backbone.unlink()
    checkpoints(folder.checkpoints)[0].unlink()
    assert newest(folder.checkpoints)["step"] == 5  # within the last epoch
    first, second = on_two_processes(resumed, tmp_path)
    assert (first["code"], second["code"]) == (0, 0), (first, second)
    assert (first["out"].count("backbone: "), second["out"]) == (1, "")
    assert_same_training(folder.checkpoints, whole.checkpoints)
    assert_same(read_checkpoint(folder.backbone), read_checkpoint(whole.backbone))
    rows = read_rows(folder.metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
