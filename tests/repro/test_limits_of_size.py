"""The message for a file that grows beyond the system's limit."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from repro.data.archives import blaming
from repro.errors import UserError, system_mend, system_refusal
from repro.filesystem.files import write_atomically
from repro.filesystem.new_folders import new_folder
from repro.processes.workers import deaths_told
from repro.runs.lock import held

MEND = "raise `ulimit -f`, or name a place whose file system takes larger files"


@pytest.fixture
def limited() -> Iterator[None]:
    """Files that this process writes may not exceed a megabyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[IO[bytes]], object]] = {
    "bytes": lambda file: file.write(bytes(3_000_000)),
    "torch": lambda file: torch.save(torch.zeros(750_000), file),
    "array": lambda file: np.save(file, np.zeros(750_000, np.float32)),
    "arrays": lambda file: np.savez(file, a=np.zeros(750_000, np.float32)),
}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_may_not_grow_is_told_with_the_limit(tmp_path: Path, kind: str) -> None:
    """The message used to blame the folder; torch's had positions in an archive, and numpy's two numbers."""
    with pytest.raises(UserError) as large:
        write_atomically(tmp_path / "x.pth", WRITERS[kind])
    assert (large.value.what, large.value.mend) == (f"cannot write {tmp_path}/x.pth: File too large", MEND)
    assert not list(tmp_path.iterdir())


def test_numpy_tells_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy writes into a plain file by itself, and its error was `1000000 requested and 51168 written`.

    A full disk must be recognised as one, as it fails no job and no run for good.
    """
    opened: list[IO[bytes]] = []
    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *words: opened.append(fdopen(*words)) or opened[-1])
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_atomically(tmp_path / "x.npy", lambda file: np.save(file, features))
    assert np.array_equal(np.load(tmp_path / "x.npy"), features)
    with (tmp_path / "plain.npy").open("wb") as plain:
        np.save(plain, features)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
    # The types for which numpy bypasses the file's `write` (numpy._core._internal or npyio's `isfileobj`).
    assert not any(isinstance(file, type(plain)) for file in opened)


@pytest.mark.usefixtures("limited")
def test_a_folder_and_what_is_unpacked_into_one_have_the_same_mend(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_bytes(bytes(3_000_000))

    def unpack() -> None:
        with blaming("a.tar", tmp_path):
            (tmp_path / "a").write_bytes(bytes(3_000_000))

    for write in (fill, unpack):
        with pytest.raises(UserError, match="File too large") as large:
            write()
        assert large.value.mend == MEND
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_what_is_the_machines_has_its_mend() -> None:
    for code, mend in (
        (errno.EFBIG, MEND),
        (errno.EIO, "see whether the disk, or the network file system, is well, and repeat"),
        (errno.EMFILE, "raise `ulimit -n`, and repeat"),
        *((code, "otherwise") for code in (errno.EACCES, errno.ENOSPC, errno.ENOENT)),
    ):
        assert system_mend(OSError(code, os.strerror(code)), "otherwise") == mend
    assert system_mend(ValueError("no number"), "otherwise") == "otherwise"
    assert system_refusal(OSError(errno.EFBIG, "File too large", "a")) == f"a: File too large; mend: {MEND}"


def test_a_lock_that_no_file_can_be_opened_for_is_not_blamed_on_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    lock = held(tmp_path / ".lock", taken=lambda: UserError("taken"), unwritable="name another folder")
    with pytest.raises(UserError, match="Too many open files; mend: raise `ulimit -n`, and repeat"), lock:
        raise AssertionError("it cannot be held")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "unable to resize file </torch_7_8_0> to the right size: File too large (27)",
            f"File too large; mend: {MEND}; then the same command continues",
        ),
        (
            "unable to allocate shared memory(shm) for file </torch_7_8_0>: No space left on device (28)",
            "No space left on device; mend: enlarge it, or fewer machine.workers; then the same command continues",
        ),
    ],
)
def test_a_batch_that_does_not_go_into_shared_memory_is_one_line(said: str, line: str) -> None:
    """It used to be a fault of salmask's own."""
    with pytest.raises(UserError) as refused, deaths_told():
        raise RuntimeError(f"Caught RuntimeError in worker.\n\nOriginal Traceback (most …)\nRuntimeError: {said}\n")
    assert str(refused.value) == f"a decoding process cannot put a batch into shared memory (/dev/shm): {line}"
