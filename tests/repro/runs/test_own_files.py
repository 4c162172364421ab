"""Own files that come back empty, cut, changed, or as no file at all: a one-line refusal, or a warning and no stop."""

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from error_samples import message_of
from training_samples import OURS, STEPS, assert_same, copied, files_below, interrupt, make_training, tiny

from repro.backbones.checkpoint import read_checkpoint
from repro.errors import UserError
from repro.filesystem.files import read_regular, write_over
from repro.runs.folder import RunFolder
from repro.runs.metrics import parse_row, read_metrics, training_seconds
from repro.runs.provenance_file import record_attempt
from repro.runs.schemas import ATTEMPT, STATUS, read_json
from repro.runs.status import read_status
from repro.runs.step_files import checkpoints
from repro.training.watching.hooks import forget_after

GOOD = {"state": "done", "task": "pretrain", "step": 3, "heartbeat": 1.5, "of a later version": 1}
NO_STATUS: list[tuple[bytes, str]] = [
    (b"", "cannot be read (it is empty)"),
    (b'{"state": "do', "cannot be read (JSONDecodeError"),
    (b"\xff\xfe", "cannot be read (UnicodeDecodeError"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[]", "holds a list, not fields by name"),
    (b"{}", "has no field 'state'"),
    (json.dumps({**GOOD, "state": "finished"}).encode(), "its field 'state' is 'finished', none of running, done"),
    (json.dumps({**GOOD, "step": "3"}).encode(), "its field 'step' is str, not int"),
    (json.dumps({**GOOD, "step": -1}).encode(), "its field 'step' is -1, less than 0"),
    (json.dumps({**GOOD, "step": True}).encode(), "its field 'step' is bool, not int"),
    (json.dumps({**GOOD, "pid": 10**30}).encode(), "its field 'pid' is a number of more than 64 bits"),
    (json.dumps({**GOOD, "heartbeat": 10**400}).encode(), "its field 'heartbeat' is a number of more than 64 bits"),
    (json.dumps({**GOOD, "heartbeat": float("nan")}).encode(), "its field 'heartbeat' is nan, not a finite number"),
    (json.dumps({**GOOD, "host": None}).encode(), "its field 'host' is NoneType, not str"),
    (b'{"state": "done", "step": ' + b"9" * 10_000 + b"}", "cannot be read (ValueError"),
]


@pytest.mark.parametrize(("content", "phrase"), NO_STATUS)
def test_a_status_of_another_content_is_refused_by_file_and_field(tmp_path: Path, content: bytes, phrase: str) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    message = message_of(lambda: read_status(path))
    assert message.startswith(f"{path}")
    assert phrase in message
    assert message.endswith("; mend: remove it; the next attempt writes it anew")


def test_a_good_status_is_read_and_what_later_versions_add_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read_status(path) is None
    path.write_text(json.dumps(GOOD))
    status = read_status(path)
    assert status is not None
    assert (status.state, status.step, status.heartbeat, status.attempt) == ("done", 3, 1.5, 1)


@pytest.mark.parametrize(("content", "phrase"), NO_STATUS)
def test_the_next_attempt_writes_a_spoilt_status_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, phrase: str
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "status.json").write_bytes(content)
    with folder.attempt("pretrain"):
        status = folder.status("pretrain")
        assert status is not None
        assert (status.state, status.attempt) == ("running", 1)
    assert phrase in caplog.text
    assert "this attempt writes it anew" in caplog.text
    assert getattr(folder.status(), "state", "") == "done"


def test_pipes_devices_folders_and_giants_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "giant").write_bytes(b"x" * 1001)
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/zero")):
        assert f"{path} is not a regular file" in message_of(lambda path=path: read_regular(path, 1000))
        assert "is not a regular file" in message_of(lambda path=path: read_json(path, "remove it"))
    assert "has 1001 bytes; at most 1000 are allowed" in message_of(lambda: read_regular(tmp_path / "giant", 1000))
    assert len(read_regular(tmp_path / "giant", 1001)) == 1001


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"step": 3, "loss": 1.5, "note": "x", "huge": 1' + "0" * 30 + "}", {"step": 3, "loss": 1.5}),
        ('{"loss": 1.5}', None),
        ('{"step": "3"}', None),
        ('{"step": true}', None),
        ('{"step": -1}', None),
        ("[3]", None),
        ('{"step": 3', None),
        ("[" * 50_000, None),
    ],
)
def test_a_row_of_metrics_has_a_step_and_numbers(line: str, row: dict[str, Any] | None) -> None:
    assert parse_row(line) == row


def test_odd_lines_of_metrics_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\nnull\n\xff\xfe\n{"step": "2"}\n{"step": 2}\n{"step": 3}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert forget_after(path, 2) == 2
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert "3 lines left out that cannot be read as metrics" in caplog.text
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in message_of(lambda: forget_after(path, 2))
    assert "is not a regular file" in message_of(lambda: read_metrics(path))


def test_the_seconds_of_a_training_are_those_of_the_steps_that_its_rows_stand_for() -> None:
    rows = [{"step": 10, "time": 0.5}, {"step": 12, "epoch": 1, "top1": 9.0}, {"step": 15, "time": 2.0}, {"step": 16}]
    assert training_seconds(rows) == 10 * 0.5 + 5 * 2.0
    assert training_seconds(rows[1:2]) == training_seconds([]) == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"data": 3}]', b'[{"commit": 1, "data": {}}]'])
def test_a_spoilt_provenance_is_kept_beside_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    folder = RunFolder.of(tiny(), tmp_path)
    folder.prepare(tiny())
    folder.provenance.write_bytes(content)
    record_attempt(folder, "cpu", {"train": "1"})
    assert len(ATTEMPT.read_list(folder.provenance)) == 1
    assert folder.provenance.with_name("provenance.json.unreadable").read_bytes() == content
    assert "a new one begins with this attempt" in caplog.text


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda content: content.pop("epoch"), "has no field 'epoch'"),
    (lambda content: content.pop("generators"), "has no field 'generators'"),
    (lambda content: content.update(step="5"), "its field 'step' is str, not int"),
    (lambda content: content.update(format=2), "its field 'format' is 2, none of 1"),
    (lambda content: content.update(step=7), "its step 7 of epoch 2 does not exist in this training of 6 steps"),
    (lambda content: content.update(epoch=0), "its step 5 of epoch 0 does not exist in this training of 6 steps"),
    (lambda content: content.update(generators=[{}]), "cannot be read (KeyError"),
    (lambda content: content.update(window={"train/loss": "x"}), "cannot be read (ValueError"),
    (lambda content: content.update(schedulers=[1, 2]), "is of another architecture"),
    (lambda content: content.update(optimizer={"state": 1}), "is of another architecture"),
    (lambda content: content["model"]["encoder_q.conv1.weight"].view(-1)[3].fill_(torch.inf), "are not finite: 1"),
    (
        lambda content: content["model"].update(
            {"encoder_q.conv1.weight": content["model"]["encoder_q.conv1.weight"].int()}
        ),
        "weights of another type: 1 (encoder_q.conv1.weight)",
    ),
]


@pytest.mark.parametrize(("change", "phrase"), CHANGES)
def test_a_checkpoint_of_another_content_is_refused_by_its_field(
    interrupted: RunFolder, tmp_path: Path, change: Callable[[dict[str, Any]], object], phrase: str
) -> None:
    folder = copied(interrupted, tmp_path / "run")
    path = checkpoints(folder.checkpoints)[0]
    content = read_checkpoint(path)
    change(content)
    path.unlink()  # a link to other tests' own checkpoint
    torch.save(content, path)
    message = message_of(make_training(tiny(OURS), folder).run)
    assert phrase in message
    assert str(path) in message


def test_a_folder_in_a_checkpoints_place_is_refused_before_the_training(interrupted: RunFolder, tmp_path: Path) -> None:
    folder = copied(interrupted, tmp_path / "run")
    (folder.checkpoints / "step_00000006.pth").mkdir()
    message = message_of(make_training(tiny(OURS), folder).run)
    assert "step_00000006.pth has a checkpoint's name but is not a file; mend: move it away" in message


def test_emptied_metrics_are_told_of_on_resume(
    interrupted: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(interrupted, tmp_path / "run")
    folder.metrics.write_text("")
    with caplog.at_level(logging.WARNING, "salmask"):
        make_training(tiny(OURS), folder).run()
    assert f"{folder.metrics} has no metrics of earlier steps: its curves begin at step 5" in caplog.text
    assert [row["step"] for row in read_metrics(folder.metrics)] == [STEPS]


@pytest.mark.end_to_end
def test_the_first_line_after_a_resume_is_the_mean_of_the_undisturbed_run(tmp_path: Path) -> None:
    """It includes the steps before the interruption, which the checkpoint carries: an epoch has 4 steps, a line 3."""
    few = {"data.scenes.train_count": 16, "optimization.batch": 4, "optimization.epochs": 2}
    run = tiny(changes={"machine.log_every": 3, **few})
    rows = {}
    for interrupted_at in (0, 2, 4, 5):
        folder = RunFolder(tmp_path / str(interrupted_at))
        if interrupted_at:
            interrupt(run, folder, interrupted_at)
        make_training(run, folder).run()
        clocks = ("time", "data_time", "images_per_second", "data_wait")
        rows[interrupted_at] = [
            {k: v for k, v in row.items() if k not in clocks} for row in read_metrics(folder.metrics)
        ]
    undisturbed = rows.pop(0)
    assert [row["step"] for row in undisturbed] == [3, 4, 7, 8]
    for step, resumed in rows.items():
        assert_same(resumed, undisturbed, f"interrupted at step {step}")


def full(path: Path, content: Any) -> None:
    raise UserError(f"cannot write {path}: the disk is full") from OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_the_first_error_is_told_and_the_status_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is written into its existing blocks: a new file, as otherwise, would have no room."""
    folder = RunFolder(tmp_path)
    first = UserError("cannot write step_00000004.pth: the disk is full " + "x" * 5000)

    def fill_the_disk_and_fail() -> None:
        with folder.attempt("pretrain"):
            monkeypatch.setattr("repro.runs.status.write_json", full)
            raise first

    with pytest.raises(UserError) as caught:
        fill_the_disk_and_fail()
    assert caught.value is first
    status = folder.status()
    assert status is not None
    assert status.state == "failed"
    assert status.error.startswith("cannot write step_00000004.pth")
    assert files_below(tmp_path) == {"status.json", ".lock"}


def test_a_status_that_cannot_be_written_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_the_disk_and_fail() -> None:
        with folder.attempt("pretrain"):
            monkeypatch.setattr("repro.runs.status.write_json", full)
            monkeypatch.setattr("repro.runs.status.write_over", refuse)
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        fill_the_disk_and_fail()
    assert "its status is still `running`" in caplog.text
    status = folder.status()
    assert status is not None
    assert status.state == "running"
    assert not status.silent(status.heartbeat + 1)  # this process is alive
    (tmp_path / "status.json").write_text(json.dumps({**vars(status), "pid": 2**22 + 1}))  # above any process id
    gone = read_status(tmp_path / "status.json")
    assert gone is not None
    assert gone.silent(gone.heartbeat + 1)


def test_a_file_is_written_over_within_its_blocks_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("a" * 200 + "\n")
    write_over(path, b"short\n")
    assert path.read_text() == "short".ljust(200) + "\n"
    write_over(path, b"b" * 3000 + b"\n")
    assert path.read_text() == "b" * 3000 + "\n"
    with pytest.raises(OSError, match="No space left"):
        write_over(path, b"c" * 100_000)
    assert path.read_text() == "b" * 3000 + "\n"


def test_an_attempt_removes_what_killed_ones_left(tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path), RunFolder(tmp_path)
    leftovers = {".status.json.abcd1234", ".metrics.jsonl.abcd1234", "features/.val.npy.abcd1234"}
    own = {".status-linear.json.abcd1234"}
    kept = {"checkpoints/step_00000004.pth", "gallery/masks.png", "status.json", ".lock", "status-linear.json"}
    persons = {".notes.markdown"}  # its last part is as long as the suffix of mkstemp
    kept |= {".lock-linear"} | persons
    with other.attempt("pretrain"):  # it may be writing at this moment
        for name in leftovers | own | persons | {"checkpoints/step_00000004.pth", "gallery/masks.png"}:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("half")
        with folder.attempt("linear"):
            assert files_below(tmp_path) == leftovers | kept
        old = tmp_path / ".metrics.jsonl.abcd1234"
        os.utime(old, (0, 0))
        with folder.attempt("linear"):
            assert files_below(tmp_path) == (leftovers | kept) - {old.name}
    with folder.attempt("linear"):
        assert files_below(tmp_path) == kept


def test_schemas_name_the_types_that_are_meant() -> None:
    assert STATUS.fields["heartbeat"].fault(3) == ""  # a whole number is a number
    assert STATUS.fields["step"].fault(3.0) == "is float, not int"
    assert ATTEMPT.fields["dirty"].fault(1) == "is int, not bool"
