"""Bad input is one line, status 2, and nothing written: a run's folder exists only for a run that began."""

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from training_samples import files_below, refused, tiny, with_random_backbone, words

from repro import cli
from repro.errors import UserError
from repro.filesystem.writability import check_place

OURS = "mocov2+ours-hp"


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        (["optimization.precision=fp16"], "optimization.precision=fp16 needs a GPU"),
        (["data.dataset=imagenet100", "machine.data_root=nowhere"], "nowhere"),
        (["data.dataset=imagenet1000"], "imagenet1000"),
        (["encoder.arch=resnet19"], "resnet19"),
        (["localizer.network=resnet500"], "localizer.network=resnet500 is unknown"),
        (["localizer.weights=IMAGENET1K_V9"], "localizer.weights=IMAGENET1K_V9 is unknown"),
        (["data.scenes.train_count=1"], "1"),
        (["augmentation.crop_scale_min=0"], "augmentation.crop_scale_min=0 is out of range"),
        (["machine.workers=100000"], "machine.workers=100000 is out of range; mend: 0..1024"),
        (["optimization.epochs=99999999999"], "optimization.epochs=1e+11 is out of range; mend: 2147483647 or less"),
        (["encoder.dim=2147483648"], "encoder.dim=2.14748e+09 is out of range; mend: 2147483647 or less"),
        (["moco.queue=2000000000"], "GiB of memory, most of it for moco.queue, encoder.dim, but there are only"),
        (["encoder.dim=2000000000"], "GiB of memory, most of it for"),
        (["data.crop=2000000"], "GiB of memory, most of it for optimization.batch, data.crop"),
        (["method=../../evil"], "method='../../evil' cannot name a folder"),
        (["data.dataset=${method}"], "data.dataset=${method} refers to another value"),
        (["data.dataset=???"], "data.dataset=??? refers to another value"),
        (["knn.neighbours=[1,'${seed}']"], "refers to another value"),
        ([f"seed={'[' * 5000}"], "'seed': the value is nested too deeply"),
        (["method=simclr"], "method=simclr contradicts the row mocov2+ours-hp"),
    ],
)
def test_a_pretraining_that_cannot_begin_leaves_nothing(tmp_path: Path, settings: list[str], phrase: str) -> None:
    line = refused(
        "pretrain",
        OURS,
        *words({"localizer.network": "resnet50", "localizer.weights": "random"}),
        *settings,
        "--out",
        str(tmp_path / "o"),
    )
    assert phrase in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("task", ["knn", "linear@caltech101"])
def test_a_refused_evaluation_leaves_a_recorded_run_as_it_was(tmp_path: Path, task: str) -> None:
    folder = with_random_backbone(tiny(), tmp_path)
    folder.set_status("done", task="pretrain")
    folder.backbone.unlink()
    before = {path: (folder.path / path).read_bytes() for path in files_below(folder.path)}
    assert "its pretraining is done, but the file is not kept here" in refused(
        "eval", str(folder.path), "--task", task, "machine.device=cpu"
    )
    assert {path: (folder.path / path).read_bytes() for path in files_below(folder.path)} == before


@pytest.mark.parametrize(
    ("task", "changes", "phrase"),
    [
        ("knn", {"knn.neighbours": [200]}, "knn.neighbours=200, but scenes has only 20 training images"),
        ("logistic", {"data.scenes.classes": 1}, "logistic regression needs images of two classes or more"),
        ("coco", {"encoder.width": 8}, "no detector can be built on a "),
    ],
)
def test_an_evaluation_of_a_finished_run_that_cannot_begin_leaves_nothing(
    tmp_path: Path, task: str, changes: dict[str, object], phrase: str
) -> None:
    if task == "coco":
        pytest.importorskip("detectron2")
    folder = with_random_backbone(tiny(changes=changes), tmp_path)
    folder.set_status("done", task="pretrain")
    before = {path: (folder.path / path).read_bytes() for path in files_below(folder.path)}
    assert phrase in refused("eval", str(folder.path), "--task", task, "machine.device=cpu")
    assert {path: (folder.path / path).read_bytes() for path in files_below(folder.path)} == before


def test_ctrl_c_while_python_ends_the_process_is_no_traceback() -> None:
    """At that time Python waits for threads, such as those that write logs; everything is told and saved."""
    code = (
        "import threading, time; from repro import cli; cli.app = lambda **_: 0; cli.main(); "
        "threading.Thread(target=time.sleep, args=(60,)).start(); print('ending', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ending\n"
        time.sleep(0.2)  # gives the interpreter time to wait for the thread; an earlier signal would do, too
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")


@contextmanager
def interrupts_as_before() -> Iterator[None]:
    """Restores Ctrl-C for pytest, as a command takes it over when it ends."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def ended_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns the one line in which the command ends by an error, with status 1 if no other is expected."""

    def line_of(error: Exception, status: int = 1) -> str:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with interrupts_as_before(), pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return line_of


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "the GPU's memory was full (CUDA out"),
        (MemoryError(), "main memory was full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "main memory was full"),
    ],
)
def test_full_memory_is_no_fault_of_our_own(ended_by: Callable[..., str], error: Exception, what: str) -> None:
    line = ended_by(error)
    assert line.startswith(f"salmask: {what}")
    assert "mend: a smaller batch" in line
    assert "report" not in line


def test_a_fault_of_our_own_is_one_line_and_a_file_with_the_traceback(ended_by: Callable[..., str]) -> None:
    line = ended_by(KeyError("weight"))
    assert line.startswith("salmask: a fault of salmask's own, KeyError: 'weight'; please report it with ")
    kept = Path(line.split("report it with ")[1].split(", its")[0])
    text = kept.read_text()
    kept.unlink()
    assert "in fail" in text
    assert "KeyError: 'weight'" in text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/shared/out\n2"),
            "/shared/out\\n2: Permission denied; mend: have it made accessible, or name another place",
        ),
        (OSError(errno.ENOSPC, "No room"), "No room; mend: free some space, and repeat"),
        (
            OSError(errno.ESTALE, "Stale file handle", "/nfs/a"),
            "/nfs/a: Stale file handle; mend: see whether the disk, or the network file system, is well, and repeat",
        ),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_ours(ended_by: Callable[..., str], error: OSError, line: str) -> None:
    assert ended_by(error, status=2) == f"salmask: {line}"


def test_a_file_that_is_missing_unforeseen_is_a_fault_of_our_own(ended_by: Callable[..., str]) -> None:
    line = ended_by(FileNotFoundError(errno.ENOENT, "No such file or directory", "tables.css"))
    Path(line.split("report it with ")[1].split(", its")[0]).unlink()
    assert "a fault of salmask's own, FileNotFoundError" in line


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (ImportError("libtorch_python.so: failed to map segment from shared object"), "a library cannot be imported"),
        (ModuleNotFoundError("No module named 'timm.x'", name="timm.x"), "a library cannot be imported"),
        (
            ImportError("cannot import name 'x' from 'repro.filesystem.files'", name="repro.filesystem.files"),
            "a fault of salmask's own, ",
        ),
    ],
)
def test_a_library_that_cannot_be_imported_is_the_environments(
    ended_by: Callable[..., str], error: ImportError, whose: str
) -> None:
    is_ours = "salmask" in whose
    line = ended_by(error, status=1 if is_ours else 2)
    assert line.startswith(f"salmask: {whose}")
    assert ("; mend: salmask doctor" in line) == (not is_ours)


def test_a_traceback_without_room_for_its_file_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The temporary file's own error used to be told instead, with a traceback of both."""

    def fail(**_: object) -> None:
        raise KeyError("weight")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr("repro.ending.tempfile.NamedTemporaryFile", full)
    with interrupts_as_before(), pytest.raises(SystemExit) as ended:
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert lines[-1] == (
        "salmask: a fault of salmask's own, KeyError: 'weight'; please report it with the traceback above, for which "
        "no temporary file could be written"
    )
    assert "KeyError: 'weight'" in lines[:-1]


@pytest.mark.parametrize(
    ("below", "reason"),
    [("file", "file is not a folder"), ("file/a/b", "file is not a folder"), ("link", "link is a link to nothing")],
)
def test_what_stands_in_a_folders_place_is_named(tmp_path: Path, below: str, reason: str) -> None:
    """`File exists` did not say that a folder was wanted there, nor which file was in its place."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    line = refused("data", "cache", "scenes", "data.scenes.train_count=20", "--to", str(tmp_path / below))
    assert line == (
        f"cannot write to {tmp_path / below}: {tmp_path}/{reason}; mend: name a folder that can be written with --to, "
        "or set $SALMASK_CACHE"
    )


def test_weights_whose_place_is_a_file_do_not_wait_for_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path / "file"))
    line = refused("data", "weights", "localizer.network=resnet50")
    assert line.startswith("the weights IMAGENET1K_V2 of resnet50 cannot be kept here (")
    assert f": {tmp_path}/file is not a folder); mend: SALMASK_CACHE=DIR before the command" in line


def test_a_link_to_nothing_is_no_place_to_write_into(tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(tmp_path / "gone")
    for place in (link, link / "below"):
        with pytest.raises(UserError, match=r"^cannot write .*: .*/link is a link to nothing; mend: elsewhere$"):
            check_place(place, mend="elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    check_place(tmp_path / "new" / "folder", mend="elsewhere")
    (file := tmp_path / "file").touch()
    check_place(file, mend="elsewhere")  # appending to it is possible
