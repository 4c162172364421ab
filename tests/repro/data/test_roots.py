"""Where a data set is looked up, and the message if it is not there."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from yaml_samples import write_yaml

from repro.data.catalogue import open_images
from repro.data.roots import ROOT_VARIABLE, config_file, find_root, new_root, read_roots
from repro.errors import UserError
from repro.settings.sections import ScenesSettings


def write_data_yaml(content: object) -> Path:
    return Path(write_yaml(config_file(), content))


def test_the_root_is_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explicit_root, listed_root, variable_root = tmp_path / "given", tmp_path / "listed", tmp_path / "named/folder"
    for folder in (explicit_root, listed_root, variable_root):
        (folder / "train").mkdir(parents=True)
    assert find_root("scenes", None) is None
    with pytest.raises(UserError, match=r"--root DIR, or make.*\$SALMASK_DATA/folder.*data\.yaml"):
        find_root("folder", None)
    write_data_yaml({"folder": str(listed_root)})
    assert find_root("folder", None) == listed_root
    monkeypatch.setenv(ROOT_VARIABLE, str(variable_root.parent))
    assert find_root("folder", None) == variable_root
    assert find_root("folder", explicit_root) == explicit_root
    variable_root.rename(variable_root.parent / "other")
    assert find_root("folder", None) == listed_root


def test_imagenet100_shares_the_root_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("store/imagenet/train", "store/imagenet100/train", "a/train", "b/train"):
        (tmp_path / name).mkdir(parents=True)
    write_data_yaml({"imagenet": str(tmp_path / "a")})
    assert find_root("imagenet100", None) == tmp_path / "a"
    write_data_yaml({"imagenet": str(tmp_path / "a"), "imagenet100": str(tmp_path / "b")})
    assert find_root("imagenet100", None) == tmp_path / "b"
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "store"))
    assert find_root("imagenet100", None) == tmp_path / "store/imagenet100"
    (tmp_path / "store/imagenet100/train").rmdir()
    (tmp_path / "store/imagenet100").rmdir()
    assert find_root("imagenet100", None) == tmp_path / "store/imagenet"


def test_a_missing_or_empty_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"nowhere: No such file.*root of folder, as given\); mend: name an existing folder"
    ):
        find_root("folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: the folder is empty .*; mend: put the images"):
        find_root("folder", tmp_path / "empty")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"\$SALMASK_DATA names .*nowhere, which is not a folder"):
        find_root("folder", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("imagenet: [", r"cannot be read \(ParserError: "),
        ("- imagenet", "must map the names"),
        ("folder: 3", "must map the names"),
        ("folder: ''", "must map the names"),
        ("folder: ~no-such-user/x", "~no-such-user is not a home folder on this machine"),
        ("imagnet100: /data", "unknown data set 'imagnet100'; mend: did you mean 'imagenet100'"),
    ],
)
def test_a_bad_list_of_roots_is_refused(content: str, words: str) -> None:
    path = write_data_yaml(content)
    with pytest.raises(UserError, match=words) as caught:
        find_root("folder", None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_comments_names_no_root() -> None:
    assert read_roots(write_data_yaml("# folder: /data\n")) == {}


def test_a_root_in_the_list_may_be_relative_to_it() -> None:
    path = write_data_yaml({"folder": "images"})
    (path.parent / "images/train").mkdir(parents=True)
    assert find_root("folder", None) == path.parent / "images"


def test_a_new_root_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"where to put .*; mend: give --root DIR"):
        new_root("imagenet100", None)
    write_data_yaml({"imagenet": str(tmp_path / "a")})
    assert new_root("imagenet100", None) == tmp_path / "a"
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert new_root("imagenet100", None) == tmp_path / "imagenet100"
    assert new_root("imagenet100", tmp_path / "b") == tmp_path / "b"


@pytest.mark.parametrize("closed", ["", "train"])
def test_a_folder_without_permission_is_to_be_made_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    (tmp_path / "train/ant").mkdir(parents=True)
    scan = os.scandir

    def scandir(path: Any = ".") -> object:  # as of a folder of mode 000, to anybody but root
        if str(path) == str(tmp_path / closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"Permission denied.*; mend: make it readable$"):
        open_images("folder", "train", find_root("folder", tmp_path), ScenesSettings())
    monkeypatch.undo()
