"""Paths mean the same however they are entered, and from wherever they are looked up later."""

import os
import pwd
from pathlib import Path

import pytest
import torch
from foreign_parts import network
from training_samples import TINY, refused, salmask, tiny, with_random_backbone, words

from repro.data.roots import ROOT_VARIABLE, find_root, root_of
from repro.errors import UserError
from repro.filesystem.paths import absolute, with_home
from repro.runs.folder import RunFolder
from repro.settings.reading import build, command_settings, parse_overrides, pinned


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / "data" / "train").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    return folder


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("~/x", "HOME/x"),
        ("~", "HOME"),
        ("--out=~/x y", "--out=HOME/x y"),
        ("--root=caltech101=~/x", "--root=caltech101=HOME/x"),
        ("caltech101=~/x", "caltech101=HOME/x"),
        ("machine.data_root=~/x", "machine.data_root=HOME/x"),
        ("--out=a/~/x", "--out=a/~/x"),  # a folder of that name
        ("~no-such-user/x", "~no-such-user/x"),
        ("--title=a ~ b", "--title=a ~ b"),
        ("--title=about ~5 % = ~/x", "--title=about ~5 % = ~/x"),
        ("runs/a~", "runs/a~"),
        ("seed=1", "seed=1"),
    ],
)
def test_the_home_folder_is_expanded_wherever_a_path_may_begin(word: str, expanded: str, home: Path) -> None:
    assert with_home(word) == expanded.replace("HOME", str(home))


def test_an_option_with_an_equals_sign_makes_no_folder_called_tilde(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = salmask("table", "table1", "--only=paper", "--out=~/tables")
    assert ended.code == 0, ended.err
    assert (home / "tables" / "table1.md").is_file()
    assert not (tmp_path / "~").exists()
    (home / "runs").mkdir()
    assert f"below {home}/runs" in refused("collect", "--runs=~/runs")
    assert f"checkpoint {home}/no.pth does not exist" in refused("eval", "--checkpoint=~/no.pth")


@pytest.mark.parametrize(
    "words",
    [
        "data verify folder --root ~no-such-user/x",
        "data prepare caltech101 --root ~no-such-user/x",
        "data prepare caltech101 --from ~no-such-user/x --root r",
        "data cache scenes --to ~no-such-user/x",
        "data weights localizer.network=resnet50 --from ~no-such-user/x",
        "cluster check ~no-such-user/x.yaml",
    ],
)
def test_the_home_of_nobody_is_told_in_one_line(words: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be a fault of salmask's own."""
    monkeypatch.chdir(home)
    assert "~no-such-user is not a home folder on this machine; mend: write the whole path" in refused(*words.split())
    assert [path.name for path in home.iterdir()] == ["data"]


def test_a_relative_root_is_recorded_as_an_absolute_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    expected = str(home / "data")
    for layer in (command_settings([], root="data"), parse_overrides(["machine.data_root=data"])):
        assert build([layer]).machine.data_root == expected
    assert build([parse_overrides(["machine.data_root=~/data"])]).machine.data_root == expected
    from_a_file = build([{"machine": {"data_root": "data"}}])  # a settings file is also read from elsewhere
    assert pinned(from_a_file).machine.data_root == expected
    assert pinned(from_a_file).id == from_a_file.id
    assert (absolute(""), command_settings(None)) == ("", {})


def test_a_localizer_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    run = build([{"localizer": {"network": "checkpoint", "weights": str(pipe)}}])
    with pytest.raises(UserError, match=rf"localizer\.weights={pipe} is not a regular file; mend: the backbone\.pth"):
        pinned(run)


def test_a_root_that_an_older_run_recorded_is_looked_up_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "imagenet100"
    (root / "train").mkdir(parents=True)
    run = build([{"data": {"dataset": "imagenet100"}, "machine": {"data_root": "data/imagenet100"}}])
    assert root_of(run, "imagenet100") == Path("data/imagenet100")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"data/imagenet100: .*\(root of imagenet100, as given\)"):
        root_of(run, "imagenet100")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "data"))
    assert root_of(run, "imagenet100") == root == find_root("imagenet100", None)
    # A root that is named now is used as it is; nothing replaces it.
    named = build([{"data": {"dataset": "imagenet100"}}, command_settings(None, root="data/imagenet100")])
    with pytest.raises(UserError, match="No such file"):
        root_of(named, "imagenet100")


def test_a_percent_sign_in_a_sweeps_folder_is_refused_before_any_job(tmp_path: Path) -> None:
    line = refused("sweep", "demo", "--local", "--out", str(tmp_path / "50%a"), *words(TINY))
    assert "50%a holds '%', by which Slurm marks patterns in names of files; mend: another --out" in line
    assert not list(tmp_path.iterdir())


def test_where_a_sweeps_folder_leads_to_is_looked_at_as_its_name(tmp_path: Path) -> None:
    """Slurm gets the folder with links resolved, and wrote the logs of such a sweep elsewhere."""
    behind, link = tmp_path / "50%a", tmp_path / "link"
    behind.mkdir()
    link.symlink_to(behind)
    for folder in (link, link / "sweep"):
        line = refused("sweep", "demo", "--local", "--out", str(folder), *words(TINY))
        assert f"{folder} leads to {behind}" in line
        assert " holds '%', by which Slurm marks patterns in names of files; mend: another --out" in line
    assert not list(behind.iterdir())


@pytest.mark.parametrize(
    ("file", "method"),
    [("epoch=9-step=100.ckpt", "epoch-9-step-100"), ("moco v2 (best).pth", "moco-v2-best-"), ("_x.pt", "x")],
)
def test_a_file_of_any_name_can_be_adopted(file: str, method: str, tmp_path: Path) -> None:
    torch.save(network(1).state_dict(), tmp_path / file)
    scenes = ("data.dataset=scenes", "data.crop=32", "data.scenes.size=64", "data.scenes.train_count=20")
    counts = ("data.scenes.val_count=24", "knn.neighbours=[5]", "machine.workers=0", "machine.device=cpu")
    options = ("--checkpoint", str(tmp_path / file), "--arch", "resnet18", "--out", str(tmp_path / "runs"))
    ended = salmask("eval", *scenes, *counts, *options, "--task", "knn")
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "runs").glob("*/*")
    assert RunFolder(folder).load().method == folder.parent.name == method


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "data cache folder --to {}",
            "`salmask data cache`: --to has an empty value; mend: is a variable of the shell not",
        ),
        ("data cache folder --to=", "`salmask data cache`: --to has an empty value"),
        ("table table1 --only paper --runs runs --out {}", "`salmask table`: --out has an empty value"),
        ("eval --task knn --root {} --checkpoint x.pth", "`salmask eval`: --root has an empty value"),
        ("pretrain mocov2 --out= seed=1", "`salmask pretrain`: --out has an empty value"),
        ("sweep demo --cluster {}", "`salmask sweep`: --cluster has an empty value"),
        ("cancel {}", "`salmask cancel`: a word is empty"),
        ("collect --json {}", "`salmask collect`: a word is empty"),
        ("data {} list", "`salmask data`: a word is empty"),
    ],
)
def test_an_empty_word_is_not_the_folder_that_one_stands_in(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(*(word.replace("{}", "") for word in words.split())).startswith(line)
    assert not list(tmp_path.iterdir())


def test_an_option_that_takes_no_path_may_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = salmask("table", "table1", "--only", "paper", "--sweep", "", "--task=", "--metric", "")
    assert ended.code == 0, ended.err


def test_without_a_home_folder_a_command_ends_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as in a container whose user is a bare number
    assert refused("status") == (
        f"no home folder: $HOME is not set, and this machine knows no user {os.getuid()}; "
        "mend: export HOME=DIR, a folder that this user may write to"
    )


def test_in_a_folder_that_was_removed_a_command_ends_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert refused("pretrain", "mocov2") == "the working folder is gone; mend: cd to one that exists"


def test_a_folder_whose_name_is_no_utf_8_is_refused_where_it_is_recorded(tmp_path: Path) -> None:
    """They used to be faults of salmask's own, a library's error, or a message after everything was computed."""
    odd = tmp_path / os.fsdecode(b"\xff.x")
    mend = "rename that folder, or name another place"
    told = f"{tmp_path}/\\xff.x is not UTF-8; mend: {mend}"
    assert refused("pretrain", "mocov2", "--out", str(odd), *words()) == told
    assert not odd.exists()
    folder = with_random_backbone(tiny(), tmp_path / "fine").path.relative_to(tmp_path / "fine")
    (tmp_path / "fine").rename(odd)
    for asked in (("eval", str(odd / folder), "--task", "knn"), ("table", "table1", "--runs", str(odd))):
        assert refused(*asked) == f"{tmp_path}/\\xff.x/{folder} is not UTF-8; mend: {mend}"
    assert not (odd / folder / "status-knn.json").exists()
