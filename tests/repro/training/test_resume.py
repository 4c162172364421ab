import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from json_rows import read_rows
from training_samples import (
    EPOCH,
    OURS,
    STEPS,
    assert_same,
    assert_same_training,
    copied,
    files_below,
    interrupt,
    make_training,
    newest,
    salmask,
    tiny,
    words,
)

from repro.backbones.checkpoint import read_checkpoint
from repro.errors import UserError
from repro.filesystem.files import write_atomically
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.runs.step_files import checkpoint_file, checkpoints
from repro.training.checkpoints.files import kept_checkpoint, refusing, save_checkpoint
from repro.training.checkpoints.generators import generators, set_generators
from repro.training.watching.hooks import Heartbeat, forget_after


def resume(folder: RunFolder, changes: dict[str, Any] | None = None) -> None:
    make_training(tiny(OURS, changes), folder).run()


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("step", "kept", "workers_before", "workers_after"),
    [pytest.param(2, 1, 2, 0, id="mid-epoch"), pytest.param(3, 2, 0, 1, id="end of an epoch")],
)
def test_interrupted_and_resumed_equals_undisturbed_whatever_the_workers(
    undisturbed: RunFolder, tmp_path: Path, step: int, kept: int, workers_before: int, workers_after: int
) -> None:
    folder = RunFolder(tmp_path)
    interrupt(tiny(OURS, {"machine.workers": workers_before}), folder, step)
    assert newest(folder.checkpoints)["step"] == kept
    interrupted = folder.status()
    resume(folder, {"machine.workers": workers_after})
    ended = folder.status()
    assert interrupted is not None
    assert ended is not None
    assert (interrupted.resumed_at, ended.resumed_at) == (0, kept)
    assert_same_training(folder.checkpoints, undisturbed.checkpoints)


def test_each_step_is_logged_once_after_a_resume_and_with_the_same_loss(
    undisturbed: RunFolder, interrupted: RunFolder, tmp_path: Path
) -> None:
    folder = copied(interrupted, tmp_path / "run")
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "loss": 1')  # a line torn by a kill
    resume(folder)
    rows, expected = (read_rows(f.metrics) for f in (folder, undisturbed))
    assert [(row["step"], row["loss"], row["lr"]) for row in rows] == [
        (row["step"], row["loss"], row["lr"]) for row in expected
    ]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_global_generators_go_on_where_the_checkpoint_left_them(interrupted: RunFolder, tmp_path: Path) -> None:
    """Our own steps draw nothing from them, but those of a user's learner may."""
    folder = copied(interrupted, tmp_path / "run")
    newest_path = checkpoints(folder.checkpoints)[0]
    random.gauss()  # draws two numbers and keeps one for the next call
    left = {"generators": [generators()]}
    write_atomically(newest_path, lambda file: torch.save(read_checkpoint(newest_path) | left, file))

    def drawn() -> list[float]:
        return [random.gauss(), random.random(), np.random.random(), torch.rand(()).item()]

    expected = drawn()
    set_generators(read_checkpoint(newest_path)["generators"][0])
    assert drawn() == expected
    resume(folder)
    assert drawn()[:-1] == expected[:-1]  # the loader draws from torch's generator


def test_a_gpus_generator_goes_on_too_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, restored = torch.arange(16, dtype=torch.uint8), []
    assert generators()["cuda"] is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: kept)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    state = generators()
    set_generators(state | {"cuda": None})  # saved on a CPU
    assert restored == []
    set_generators(state)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # resumed on a CPU
    set_generators(state)
    assert [value.tolist() for value in restored] == [kept.tolist()]


def test_a_torn_newest_checkpoint_gives_way_to_the_one_before_and_says_so(
    undisturbed: RunFolder, interrupted: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(interrupted, tmp_path / "run")
    torn = folder.checkpoints / "step_00000005.pth"
    content = torn.read_bytes()
    torn.unlink()
    torn.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.INFO, "salmask"):
        resume(folder)
    assert "step_00000005.pth cannot be read" in caplog.text
    assert "; falling back to step_00000004.pth" in caplog.text
    assert "resumed from step_00000004.pth at step 4" in caplog.text
    assert_same_training(folder.checkpoints, undisturbed.checkpoints)


def test_the_checkpoint_to_go_back_to_is_the_one_that_resuming_takes(tmp_path: Path) -> None:
    """A torn checkpoint among the newest stays in the folder, but nobody can go back to it."""
    assert kept_checkpoint(tmp_path) == "there is no checkpoint of an earlier step"
    (tmp_path / "step_00000005.pth").write_bytes(b"PK\x03\x04 half")
    assert kept_checkpoint(tmp_path) == "no checkpoint of an earlier step can be read"
    health = tmp_path / "health.json"
    tell_symptoms(health, [Symptom("exploded weights", step, "norm 9, 1 at the beginning", "") for step in (4, 5)])
    save_checkpoint(tmp_path, 4, {})
    told = kept_checkpoint(tmp_path, health)
    assert told.startswith("the checkpoint of step 4 is kept; the run already had exploded weights")
    assert told.count("exploded weights") == 1  # the one of step 5 is later than the checkpoint


def test_when_every_checkpoint_is_torn_one_line_says_what_to_do(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for name, content in (("step_00000006.pth", b"PK\x03\x04 half"), ("step_00000008.pth", b"")):
        (folder.checkpoints / name).write_bytes(content)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; mend: delete the folder") as caught:
        resume(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_where_every_checkpoint_is_torn_none_is_promised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step_00000006.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; mend: delete the folder to start anew"):
        resume(folder)
    assert "step_00000006.pth cannot be read" in caplog.text
    assert "falling back" not in caplog.text


def test_what_follows_the_removal_of_a_checkpoint_is_told_as_it_is(tmp_path: Path) -> None:
    """The checkpoint before used to be promised although there was none, or none that can be read."""

    def mend(step: int) -> str:
        with pytest.raises(UserError) as caught, refusing(checkpoint_file(tmp_path, step)):
            raise UserError("its field 'step' is missing", mend="remove it")
        assert caught.value.what == "its field 'step' is missing"
        return caught.value.mend

    save_checkpoint(tmp_path, 5, {})
    assert mend(5) == "remove it: the training begins anew"
    save_checkpoint(tmp_path, 6, {})
    assert mend(6) == "remove it: the training then resumes from step_00000005.pth"
    checkpoint_file(tmp_path, 6).write_bytes(b"")  # a newer one that is torn was skipped
    assert mend(5) == f"delete {tmp_path}: the training begins anew"


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("its field 'format' ", {"format": 2}),
        ("its step 5 of epoch 1 does not exist in this training of 6 steps", {"epoch": 1}),
        ("weights that are not finite: ", {"model": {"weight": torch.full((2,), torch.nan)}}),
        ("running statistics that are not finite", {"statistics": [torch.zeros(2), torch.full((2,), torch.inf)]}),
        ("cannot be read", {"generators": [{}]}),
        ("cannot be read", {"window": {"loss": "x"}}),
    ],
)
def test_a_checkpoint_that_is_refused_gives_way_once_it_is_removed(
    interrupted: RunFolder, tmp_path: Path, what: str, changes: dict[str, Any]
) -> None:
    folder = copied(interrupted, tmp_path / "run")
    path = checkpoint_file(folder.checkpoints, 5)
    save_checkpoint(folder.checkpoints, 5, {**read_checkpoint(path), **changes})
    mend = "remove it: the training then resumes from step_00000004.pth"
    with pytest.raises(UserError, match=f"{re.escape(what)}.*; mend: {mend}"):
        resume(folder)


def test_the_last_two_checkpoints_are_kept_and_no_temporary(
    undisturbed: RunFolder, interrupted: RunFolder, tmp_path: Path
) -> None:
    assert files_below(undisturbed.checkpoints) == {"step_00000005.pth", "step_00000006.pth"}
    folder = copied(interrupted, tmp_path / "run")
    (folder.checkpoints / ".step_00000006.pth.k1ll3d").write_bytes(b"half")
    resume(folder)
    assert files_below(folder.checkpoints) == {"step_00000005.pth", "step_00000006.pth"}


def test_only_names_of_checkpoints_are_checkpoints(tmp_path: Path) -> None:
    """A person's copy is neither the newest nor counted; steps are compared as numbers, not as text."""
    others = {"step_00001000-backup.pth", "step_1000.pth", "step_best.pth", "step_00000007.pth.pth"}
    for name in (*others, "step_00000007.pth", "step_99999999.pth", "step_100000000.pth"):
        (tmp_path / name).touch()
    newest_first = ["step_100000000.pth", "step_99999999.pth", "step_00000007.pth"]
    assert [path.name for path in checkpoints(tmp_path)] == newest_first
    save_checkpoint(tmp_path, 100_000_001, {})
    assert files_below(tmp_path) == others | {"step_100000001.pth", "step_100000000.pth"}


def test_the_checkpoint_of_another_run_is_refused(interrupted: RunFolder, tmp_path: Path) -> None:
    folder = copied(interrupted, tmp_path / "run")
    other = tiny(OURS, {"seed": 1})
    with pytest.raises(UserError, match=f"belongs to run {tiny(OURS).id}, not {other.id}; mend: "):
        make_training(other, folder).run()


def test_a_checkpoint_of_another_architecture_is_refused(interrupted: RunFolder, tmp_path: Path) -> None:
    run = tiny(OURS, {"encoder.dim": 8})
    content = read_checkpoint(checkpoints(interrupted.checkpoints)[0])
    target = tmp_path / "checkpoints" / "step_00000008.pth"
    write_atomically(target, lambda file: torch.save(content | {"run_id": run.id}, file))
    with pytest.raises(UserError, match=r"is of another architecture: .*size mismatch.* mend: ") as caught:
        make_training(run, RunFolder(tmp_path)).run()
    assert len(str(caught.value).splitlines()) == 1


def test_a_training_killed_between_its_last_step_and_its_backbone_only_writes_the_backbone(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    folder = copied(undisturbed, out / tiny(OURS).folder)
    folder.backbone.unlink()
    assert salmask("pretrain", OURS, "--out", str(out), *words()).code == 0
    assert_same(read_checkpoint(folder.backbone), read_checkpoint(undisturbed.backbone))
    assert folder.metrics.read_text() == undisturbed.metrics.read_text()


def test_metrics_are_forgotten_after_the_step_that_is_resumed_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    before = tmp_path / "before"
    before.hardlink_to(path)
    forget_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert before.read_text().endswith('{"st')  # replaced as a whole: a kill leaves the old or the new file
    before.unlink()
    assert forget_after(path, 0) == 0
    assert path.read_text() == ""  # of a training that begins anew
    forget_after(tmp_path / "none", 2)
    assert files_below(tmp_path) == {"metrics.jsonl"}


KILLED_WHILE_SAVING = """
import os, signal, sys

def kill(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("step_00000004.pth"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
from repro.cli import main
main()
"""


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run killed by SIGKILL while saving within an epoch, then ended by SIGTERM, and finally completed."""
    out = tmp_path_factory.mktemp("survivor")
    command = ["pretrain", OURS, "--out", str(out), *words()]
    folder = RunFolder.of(tiny(OURS), out)

    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, *command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert newest(folder.checkpoints)["step"] == 3
    assert newest(folder.checkpoints)["step"] % EPOCH  # within an epoch
    assert len(files_below(folder.checkpoints)) == 3  # the half-written one has another name
    status = folder.status()
    assert status is not None
    assert (status.state, status.task, status.steps, status.attempt) == ("running", "pretrain", STEPS, 1)
    (folder.gallery / "masks.png").write_bytes(b"as it was")

    def terminate(hook: Heartbeat, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter + 1 == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Heartbeat, "after_train_iter", terminate)
        terminated = salmask(*command)
    assert terminated.code == 128 + signal.SIGTERM
    last = terminated.err.splitlines()[-1]
    assert last == "salmask: ended by SIGTERM; the same command resumes from its last checkpoint"
    status = folder.status()
    assert status is not None
    assert (status.state, status.attempt, status.error) == ("interrupted", 2, "")

    assert salmask(*command).code == 0
    return folder


@pytest.mark.end_to_end
def test_killed_and_terminated_and_resumed_equals_undisturbed(survivor: RunFolder, undisturbed: RunFolder) -> None:
    assert_same_training(survivor.checkpoints, undisturbed.checkpoints)
    assert_same(read_checkpoint(survivor.backbone), read_checkpoint(undisturbed.backbone))


@pytest.mark.end_to_end
def test_a_killed_process_leaves_nothing_half_written(survivor: RunFolder) -> None:
    assert files_below(survivor.checkpoints) == {"step_00000005.pth", "step_00000006.pth"}
    assert {path.name for path in survivor.path.iterdir()} == {
        *("run.yaml", "provenance.json", "status.json", "metrics.jsonl", "backbone.pth"),
        *("checkpoints", "gallery", "logs", "usage", ".lock"),
    }


@pytest.mark.end_to_end
def test_every_attempt_is_on_record(survivor: RunFolder) -> None:
    status = survivor.status()
    assert status is not None
    assert (status.state, status.attempt, status.step) == ("done", 3, STEPS)
    assert len(json.loads(survivor.provenance.read_text())) == 3
    rows = read_rows(survivor.metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


@pytest.mark.end_to_end
def test_the_gallery_is_drawn_once(survivor: RunFolder) -> None:
    assert (survivor.gallery / "masks.png").read_bytes() == b"as it was"
