"""Faults of machines and systems: full disks, files that systems leave, git that refuses another user's checkout."""

import ast
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from image_samples import write_image
from places import EXAMPLES, ROOT

from repro.data.folders import FolderImages, class_folders
from repro.data.roots import find_root
from repro.errors import UserError
from repro.filesystem.clutter import is_clutter
from repro.filesystem.files import append_lines, write_atomically, write_bytes
from repro.filesystem.new_folders import new_folder
from repro.runs import provenance
from results.collection.runs import RunRecord
from slurm.profiles import profile

CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", "a.yaml~", "a.png.bak", "#a.yaml#", ".a.yaml.swp")
USAGE = namedtuple("USAGE", "total used free")


@pytest.mark.parametrize("name", CLUTTER)
def test_what_systems_and_editors_leave_is_known_by_its_name(name: str) -> None:
    assert is_clutter(name)
    assert not is_clutter(name.strip(".#~_").removesuffix(".bak").removesuffix(".swp") + ".png")


def test_clutter_is_no_data_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    write_image(root / "train" / "owl" / "a.png", 0, size=(8, 8))
    clean = FolderImages(root, "train").fingerprint()
    for folder in (root, root / "train", root / "train" / "owl"):
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "b.png").write_bytes(b"x")
        for name in CLUTTER:
            (folder / name).write_bytes(b"x")
    assert FolderImages(root, "train").fingerprint() == clean
    assert class_folders(root / "train", mend="") == ["owl"]
    shutil.rmtree(root / "train")
    with pytest.raises(UserError, match="the folder is empty"):
        find_root("folder", root)

    gallery = tmp_path / "run" / "gallery"
    gallery.mkdir(parents=True)
    for name in ("masks.png", "._masks.png"):
        (gallery / name).write_bytes(b"x")
    assert RunRecord(tmp_path / "run").galleries == [gallery / "masks.png"]

    monkeypatch.setattr(profile, "user_folder", lambda: tmp_path / "profiles")
    (tmp_path / "profiles").mkdir()
    for name in ("mine.yaml", "._mine.yaml"):
        (tmp_path / "profiles" / name).write_text("")
    assert "mine" in profile.available()
    assert "._mine" not in profile.available()


def test_names_are_bytes_to_the_fingerprint(tmp_path: Path) -> None:
    fingerprints = set()
    for name in (b"caf\xe9", b"caf\xe8"):  # Latin-1, which is not valid UTF-8
        root = tmp_path / os.fsdecode(name)
        write_image(root / "train" / os.fsdecode(name) / "a.png", 0, size=(8, 8))
        fingerprints.add(FolderImages(root, "train").fingerprint())
    assert len(fingerprints) == 2


def test_every_suffix_of_a_jpeg_counts(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "owl" / "a.jpg", 0, size=(8, 8))
    for name in ("b.jfif", "c.JPE", "d.jpeg"):
        shutil.copy(tmp_path / "train" / "owl" / "a.jpg", tmp_path / "train" / "owl" / name)
    images = FolderImages(tmp_path, "train")
    assert images.files == ["owl/a.jpg", "owl/b.jfif", "owl/c.JPE", "owl/d.jpeg"]
    assert images[1][0].size == (8, 8)


@pytest.mark.parametrize("command", [("table", "--runs"), ("claims", "--runs")])
def test_a_terminal_in_latin_1_is_shown_what_it_can_show(command: tuple[str, str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(EXAMPLES / "demo", runs)
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    out = ["--out", str(runs / "tables")] if command[0] == "table" else []
    words = [sys.executable, "-m", "repro.cli", *command, str(runs), *out]
    ended = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b" ? " in ended.stdout  # instead of a dash
    if command[0] == "table":
        written = (runs / "tables" / "table1.md").read_text(encoding="utf-8")
        assert ended.stdout.startswith(written.splitlines()[0].encode("latin-1", errors="replace"))
        assert "–" in written


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    """Root's `--out /dev/null` used to replace the device for everybody, and `/dev/stdout`, a link, too."""
    pipe, link, own, output = (tmp_path / name for name in ("pipe", "link", "own", "output"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    output.write_bytes(b"")
    with output.open("rb") as file:
        own.symlink_to(f"/proc/self/fd/{file.fileno()}")
        before = sorted(tmp_path.iterdir())
        for path in (pipe, link, own):
            with pytest.raises(UserError, match=f"cannot write {path}: it is not a regular file; mend: name a file"):
                write_atomically(path, lambda file: file.write(b"x"))
    assert sorted(tmp_path.iterdir()) == before
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert own.is_symlink()
    file_link = tmp_path / "to a file"
    file_link.symlink_to(output)
    write_atomically(file_link, lambda file: file.write(b"x"))
    assert file_link.read_bytes() == b"x"


def _save(file: IO[bytes]) -> None:
    torch.save({"weight": torch.zeros(750_000)}, file)


def _write(file: IO[bytes]) -> None:
    file.write(b"x" * 3_000_000)


@pytest.mark.parametrize("write", [_save, _write])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, code: int
) -> None:
    class Full:
        """A file on a disk without space."""

        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: object) -> int:
            raise OSError(code, os.strerror(code))

        def flush(self) -> None: ...

    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Full(fdopen(descriptor, mode)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**9, 999 * 10**6, 10**6))
    with pytest.raises(UserError) as full:
        write_atomically(tmp_path / "x.pth", write)
    assert full.value.what == (
        f"cannot write {tmp_path}/x.pth: the disk of {tmp_path} is full, or its quota (3.0 MB are to be written, "
        "1.0 MB are free)"
    )
    assert full.value.mend == "free 2.0 MB there"
    assert not list(tmp_path.iterdir())


def have_no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_has_no_room_for_a_folder_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of inodes, the missing folder was asked for its free space, which ended in a fault of salmask's own."""
    monkeypatch.setattr(Path, "mkdir", have_no_room)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/a/b/x: the disk of {tmp_path}/a/b is full"):
        write_bytes(tmp_path / "a" / "b" / "x", b"x")


def test_a_full_disk_is_said_of_lines_that_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.jsonl"
    append_lines(path, b"old\n")
    monkeypatch.setattr(os, "fsync", have_no_room)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**9, 10**9, 0))
    with pytest.raises(OSError, match="is full") as full:
        append_lines(path, b"x" * 5_000 + b"\n")
    assert full.value.errno == errno.ENOSPC
    sizes = "(5.0 kB are to be written, 0 bytes are free)"
    assert full.value.strerror == f"the disk of {tmp_path} is full, or its quota {sizes}"
    assert path.read_bytes() == b"old\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**9, 10**9, 200_000))

    def fill() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_bytes(b"x" * 3_000_000)
            raise OSError(code, os.strerror(code))

    with pytest.raises(UserError) as full:
        fill()
    sizes = "(3.0 MB of it were written, 200.0 kB are free)"
    assert full.value.what == f"cannot write {tmp_path}/out: the disk of {tmp_path} is full, or its quota {sizes}"
    assert full.value.mend == "free some space there"
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_blamed_for_what_it_was_to_be_made_from(tmp_path: Path) -> None:
    """The folder could be written to, but the message used to say that it could not."""

    def fill() -> None:
        with new_folder(tmp_path / "place/out"):
            (tmp_path / "weights.pth").read_bytes()

    with pytest.raises(UserError) as gone:
        fill()
    reason = "No such file or directory, so that"
    assert gone.value.what == f"{tmp_path}/weights.pth: {reason} {tmp_path}/place/out was not written"
    assert not list((tmp_path / "place").iterdir())


def test_a_folder_whose_place_is_a_file_is_blamed_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as refused, new_folder(tmp_path / "file/out"):
        raise AssertionError("it is to be refused before it is filled")
    assert refused.value.what == f"cannot write {tmp_path}/file/out: {tmp_path}/file is not a folder"


def test_a_file_that_cannot_be_written_is_named_once_and_not_by_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as refused:
        write_atomically(tmp_path / "file/x/a.html", lambda file: file.write(b""))
    assert refused.value.what == f"cannot write {tmp_path}/file/x/a.html: {tmp_path}/file is not a folder"


def test_what_a_killed_process_left_of_a_folder_goes_and_what_another_fills_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    if (child := os.fork()) == 0:
        with new_folder(target) as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    with new_folder(target) as filled:
        assert not left.exists()
        with new_folder(target) as other:
            assert other != filled
            (other / "whole").touch()
        assert filled.exists()
        (target / "whole").unlink()
    assert list(tmp_path.iterdir()) == [target]


def test_lines_that_another_node_added_meanwhile_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without file locks they may be added between our write and its failure."""
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"old\n")

    def fail(_: int) -> None:
        with path.open("ab") as other:
            other.write(b"another node's\n")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        append_lines(path, b"ours\n")
    assert path.read_bytes() == b"old\nours\nanother node's\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOTEMPTY, "not empty"), KeyboardInterrupt()])
@pytest.mark.parametrize("broken", ["rmtree", "rename"])
def test_of_a_folder_that_is_replaced_the_old_one_or_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, broken: str
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "of").write_text("old")
    rmtree, rename = shutil.rmtree, os.rename
    renamed: list[object] = []

    def remove(path: object, ignore_errors: bool = False) -> None:
        """Fails as for a file that is open on a network file system, or by Ctrl-C meanwhile."""
        (Path(str(path)) / "of").unlink(missing_ok=True)
        if not (ignore_errors and isinstance(error, OSError)):
            raise error

    def name_anew(source: object, place: object) -> None:
        renamed.append(place)
        if len(renamed) == 2:  # the new folder, after the old one was moved away
            raise error
        rename(str(source), str(place))

    monkeypatch.setattr(*((shutil, "rmtree", remove) if broken == "rmtree" else (os, "rename", name_anew)))
    with contextlib.suppress(UserError, KeyboardInterrupt), new_folder(target, force=True) as folder:
        (folder / "of").write_text("new")
    monkeypatch.undo()
    assert (target / "of").read_text() == ("new" if broken == "rmtree" else "old")
    if broken == "rename":
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    rmtree(target)


@pytest.mark.parametrize("killed_in", ["rmtree", "rename"])
def test_what_a_killed_process_was_about_to_replace_comes_back_or_goes(tmp_path: Path, killed_in: str) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "of").write_text("old")
    if (child := os.fork()) == 0:
        renames, honest = iter(range(9)), Path.rename

        def rename(source: Path, place: Path) -> None:
            if killed_in == "rename" and next(renames) == 1:  # the new folder, after the old one was moved away
                os.kill(os.getpid(), signal.SIGKILL)
            honest(source, place)

        Path.rename = rename  # type: ignore[assignment, method-assign]  # as it is called here
        shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]  # likewise
        with new_folder(target, force=True) as folder:
            (folder / "of").write_text("new")
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UserError, match="exists already"), new_folder(target):
        pytest.fail("it was begun")
    assert (target / "of").read_text() == ("new" if killed_in == "rmtree" else "old")
    with new_folder(target, force=True):
        pass
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_replaced_by_no_folder(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "place")
    with (
        pytest.raises(UserError, match="is a link; mend: name the folder that it leads to"),
        new_folder(tmp_path / "out", force=True),
    ):
        pytest.fail("it was begun")


def test_a_checkout_that_git_refuses_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(words: list[str], **_: object) -> None:
        trouble = "fatal: detected dubious ownership in repository at '/x'"
        raise subprocess.CalledProcessError(128, words, stderr=trouble)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert provenance.source().commit == "unknown"
    assert "mend: git config --global --add safe.directory" in caplog.text


def test_no_text_is_read_or_written_in_the_encoding_of_a_locale() -> None:
    """A file from a machine with one locale is read on another: each call that takes an encoding is given one."""
    calls = [
        (path, node)
        for room in ("repro", "baselines", "downstream", "results", "slurm", "tools")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 10_000
    assert [f"{path}:{node.lineno}" for path, node in calls if has_the_encoding_of_a_locale(node)] == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("open(path, mode='w')", True),
        ("path.open('rb')", False),
        ("os.fdopen(descriptor, 'wb')", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("tempfile.NamedTemporaryFile(dir=folder)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, encoding='utf-8')", False),
    ],
)
def test_calls_in_the_encoding_of_a_locale_are_told(call: str, expected: bool) -> None:
    assert has_the_encoding_of_a_locale(ast.parse(call, mode="eval").body) is expected


def has_the_encoding_of_a_locale(call: ast.expr) -> bool:
    assert isinstance(call, ast.Call)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "encoding" in keywords:
        return False
    if isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text"):
        return True
    if name in ("open", "fdopen", "NamedTemporaryFile"):
        # A mode is a short text; calls that open archives and images have other arguments, or a file.
        texts = [value.value for value in (*call.args, keywords.get("mode")) if isinstance(value, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwaxbt+")]
        return (name == "open" and not call.args and not keywords) or any("b" not in mode for mode in modes)
    return "text" in keywords or "universal_newlines" in keywords
