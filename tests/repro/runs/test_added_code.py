"""Whose an error is: one in a module that a user added names the line there, and asks for no report."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from places import ROOT
from torch.utils.data import DataLoader, Dataset

from repro.runs import added_code
from repro.runs.added_code import added_place, added_traceback, stand_in

OWN = "def apply(work):\n    return work()\n"
"""A module of salmask's that calls what is added."""
TASK = "def measure():\n    return means\n"


def git(tree: Path, *words: str) -> None:
    names = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *names, *words], cwd=tree, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with one module of salmask's."""
    tree = tmp_path.resolve() / "salmask"
    for name, text in {"repro/__init__.py": "", "downstream/tasks.py": OWN}.items():
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text(text)
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "salmask")
    monkeypatch.setattr(added_code, "CODE_ROOT", tree)
    caches = (added_code.is_added, added_code._base)
    for each in caches:
        each.cache_clear()
    yield tree
    for each in caches:
        each.cache_clear()


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def raised(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("state", ["unknown to git", "committed since the clone", "outside of the checkout"])
def test_an_error_in_an_added_module_names_its_line(tree: Path, tmp_path: Path, state: str) -> None:
    path = (tmp_path if state.startswith("outside") else tree / "downstream") / "means.py"
    if state.startswith("committed"):
        git(tree, "update-ref", "refs/remotes/origin/HEAD", "HEAD")
    path.write_text(TASK)
    if state.startswith("committed"):
        git(tree, "add", ".")
        git(tree, "commit", "-m", "own task")
    tasks = module(tree / "downstream" / "tasks.py")
    error = raised(lambda: tasks.apply(module(path).measure))
    shown = path if state.startswith("outside") else "downstream/means.py"
    assert str(added_place(error)) == f"{shown}, line 2"
    text = added_traceback(error)
    assert text.endswith("NameError: name 'means' is not defined\n")
    assert "return means" in text


def test_an_error_in_what_added_code_calls_is_told_at_the_call(tree: Path) -> None:
    (tree / "downstream" / "means.py").write_text("import json\n\ndef measure():\n    return json.loads('{')\n")
    error = raised(module(tree / "downstream" / "means.py").measure)
    assert str(added_place(error)) == "downstream/means.py, line 4"


def test_a_module_that_cannot_be_compiled_names_the_line(tree: Path) -> None:
    path = tree / "downstream" / "means.py"
    path.write_text("import torch\nmeans = (\n")
    assert str(added_place(raised(lambda: module(path)))) == "downstream/means.py, line 2"


def test_an_error_of_salmasks_own_lines_has_no_added_place(tree: Path) -> None:
    tasks = module(tree / "downstream" / "tasks.py")
    lines = (tree / "downstream" / "tasks.py").read_text()
    error = raised(lambda: tasks.apply(None))
    trace = error.__traceback__
    assert trace is not None
    error = error.with_traceback(trace.tb_next and trace.tb_next.tb_next)  # without this test's own frames
    assert added_place(error) is None
    # The same if a person added another line to the file, such as a task's name.
    (tree / "downstream" / "tasks.py").write_text(lines + "TASKS = {'means': 'downstream.means'}\n")
    added_code.is_added.cache_clear()
    assert added_place(error) is None


def test_an_edited_line_of_salmasks_own_module_is_its_editors(tree: Path) -> None:
    path = tree / "downstream" / "tasks.py"
    path.write_text(OWN.replace("work()", "wrok()"))
    assert str(added_place(raised(lambda: module(path).apply(None)))) == "downstream/tasks.py, line 2"


def test_of_a_file_that_git_does_not_answer_about_in_time_no_line_is_added(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, a fault of salmask's own used to be told as one of added code."""
    assert added_code._base()

    def late(*words: object, **_: object) -> str:
        raise subprocess.TimeoutExpired("git", 10)

    monkeypatch.setattr(added_code, "git", late)
    assert not added_code.is_added(added_code.Place(tree / "downstream" / "tasks.py", 2))


def test_without_a_checkout_what_lies_in_the_packages_is_salmasks_own(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    path = tree / "downstream" / "means.py"
    path.write_text(TASK)
    error = raised(module(path).measure)
    trace = error.__traceback__
    assert trace is not None
    assert added_place(error.with_traceback(trace.tb_next)) is None


def test_a_library_in_a_folder_of_any_name_is_nobodys_added_code(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target` makes such folders for `PYTHONPATH`; their errors used to count as added code's."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = tmp_path / "site" / "means.py"
    (tmp_path / "site" / "means-1.0.dist-info").mkdir(parents=True)
    path.write_text(TASK)
    assert not added_code.is_added(added_code.Place(path, 2))
    (tmp_path / "own.py").write_text(TASK)
    assert added_code.is_added(added_code.Place(tmp_path / "own.py", 2))


def test_libraries_are_nobodys_added_code() -> None:
    assert not added_code.is_added(added_code.Place(Path(torch.__file__), 1))
    assert not added_code.is_added(added_code.Place(Path(json.__file__), 1))
    assert not added_code.is_added(added_code.Place(Path("<frozen importlib._bootstrap>"), 1))
    assert not added_code.is_added(added_code.Place(Path(sys.executable), 1))


class _Broken(Dataset[int]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        value: int = module(self.path).measure()
        return value


def test_an_error_in_a_worker_of_a_loader_names_the_line_there(tree: Path) -> None:
    path = tree / "downstream" / "means.py"
    path.write_text(TASK)
    error = raised(lambda: list(DataLoader(_Broken(path), num_workers=1)))
    assert str(added_place(error)) == "downstream/means.py, line 2"


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("colorsys", "from colorsys import rgb_to_hls"),
        ("colorsys", "import colorsys; colorsys.rgb_to_hls"),
        ("wsgiref", "import wsgiref.util"),
    ],
)
def test_a_file_named_like_a_library_is_told_to_stand_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, use: str
) -> None:
    """`timm.py` beside a user's runs used to be told as a fault of salmask's own, to be reported."""
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(name)  # so that the name is the library's again after this test
    monkeypatch.delitem(sys.modules, name)
    (tmp_path / f"{name}.py").write_text("MINE = 1\n")
    error = raised(lambda: exec(use, {}))
    assert stand_in(error) == tmp_path / f"{name}.py"


def test_an_error_of_a_module_that_hides_no_other_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_averages.py").write_text("MINE = 1\n")
    assert stand_in(raised(lambda: exec("from own_averages import means", {}))) is None
    assert stand_in(raised(lambda: exec("import colorsys; colorsys.own", {}))) is None
    assert stand_in(raised(lambda: exec("{}['own_averages']", {}))) is None
    monkeypatch.delitem(sys.modules, "own_averages")


def test_the_command_names_the_file_that_stands_in_a_librarys_place(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("MINE = 1\n")
    command = [sys.executable, "-m", "repro.cli", "data", "list"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"salmask: {tmp_path}/statistics.py is imported in place of a library (ImportError: cannot import name "
        f"'median' from 'statistics' ({tmp_path}/statistics.py)); mend: rename it, or call salmask from another "
        "folder\n"
    )
