"""Paths that the file system does not let us look at: one line, and no fault of salmask's own."""

import errno
import os
from pathlib import Path

import pytest
from training_samples import refused

from repro.data.roots import ROOT_VARIABLE
from repro.errors import UserError
from repro.filesystem.presence import exists, is_file, is_filled, is_folder, is_special
from repro.processes.distributed import await_file

TOO_LONG = "x" * 300
"""A name that no file system accepts. Unlike another user's closed folder, it works for root too."""


def test_what_stands_at_a_path_is_told(tmp_path: Path) -> None:
    file, pipe, circle = tmp_path / "file", tmp_path / "pipe", tmp_path / "circle"
    file.touch()
    os.mkfifo(pipe)
    circle.symlink_to(circle)
    nothing = (tmp_path / "none", file / "below", circle, tmp_path / "\0")
    assert [exists(path) for path in (file, pipe, tmp_path, *nothing)] == [True] * 3 + [False] * 4
    assert [is_file(path) for path in (file, pipe, tmp_path, *nothing)] == [True] + [False] * 6
    assert [is_folder(path) for path in (file, pipe, tmp_path, *nothing)] == [False, False, True] + [False] * 4
    assert [is_special(path) for path in (file, pipe, tmp_path, *nothing)] == [False, True] + [False] * 5
    assert [is_filled(path) for path in (file, pipe, tmp_path, *nothing)] == [False, True, True] + [False] * 4
    file.write_text("x")
    assert is_filled(file)


@pytest.mark.parametrize("ask", [exists, is_file, is_filled, is_folder, is_special])
@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG, errno.EIO])
def test_that_nobody_can_tell_is_one_line(ask: object, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError) as caught:
        ask(Path("a/b"))  # type: ignore[operator]
    assert str(caught.value) == (
        f"a/b cannot be accessed ({os.strerror(code)}); mend: check the name, and that its folders may be entered"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("eval", TOO_LONG, "--task", "knn"),
        ("eval", "--checkpoint", TOO_LONG, "--arch", "resnet18", "--name", "x"),
        ("pretrain", "mocov2", "data.dataset=scenes", "--out", TOO_LONG),
        ("status", TOO_LONG),
        ("cancel", TOO_LONG),
        ("table", "--runs", TOO_LONG),
        ("drill", "--in", TOO_LONG),
    ],
    ids=lambda words: f"{words[0]} {words[1][:12]}",
)
def test_commands_say_so(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cannot be accessed (File name too long); mend: check the name" in refused(*words)
    assert not list(tmp_path.iterdir())


def test_so_it_is_of_the_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / TOO_LONG))
    assert "cannot be accessed (File name too long)" in refused("pretrain", "mocov2", "--out", str(tmp_path / "runs"))
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_machine_is_awaited_also_where_the_server_forgot_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, True])
    stat = os.stat

    def forgetful(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).endswith("backbone.pth") and next(answers, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    (tmp_path / "backbone.pth").touch()
    monkeypatch.setattr(os, "stat", forgetful)
    await_file(tmp_path / "backbone.pth")
    assert next(answers, "all were given") == "all were given"
