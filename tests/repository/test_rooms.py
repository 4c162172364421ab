"""The layout of the packages: unique names, imports without cycles, public names, and contracts that catch faults."""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from places import ROOT, TESTS

import repro.contrastive
import repro.masking
import repro.saliency

PACKAGES = ("repro", "baselines", "downstream", "results", "slurm")


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the packages, by the module's name."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {_name_of(path): ast.parse(path.read_text(), path) for path in paths}


def _name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Which module imports which others of the packages, by statements anywhere: in functions and for typing too."""
    return {
        name: {target for node in ast.walk(tree) for target in _imported(node, trees)} for name, tree in trees.items()
    }


def _imported(node: ast.AST, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in trees)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            # Either a module of a package, or a name within a module.
            if f"{node.module}.{alias.name}" in trees:
                yield f"{node.module}.{alias.name}"
            elif node.module in trees:
                yield node.module


def test_tests_stand_in_the_rooms_that_they_ask_for() -> None:
    folders = {str(path.parent.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")} - {".", "repository"}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []
    assert len(folders) > 15


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{name}:{node.lineno}")
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_there_is_no_circle_of_imports_lazy_and_typing_ones_included() -> None:
    trees = modules()
    graph = imports(trees)
    # The graph has each kind of import; without them the rest would prove nothing.
    assert "repro.training.pretraining" in graph["repro.jobs"]
    assert "repro.training.learner" in graph["baselines"]
    assert sum(len(targets) for targets in graph.values()) > 500
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the cycle


@pytest.mark.parametrize(
    ("room", "name"),
    [
        (repro.saliency, "foreground"),
        (repro.masking, "high_pass"),
        (repro.masking, "strong_blur"),
        (repro.contrastive, "info_nce"),
        (repro.contrastive, "nt_xent"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_papers_functions_stand_in_the_doors_of_their_rooms(room: ModuleType, name: str) -> None:
    assert isinstance(getattr(room, name), FunctionType)
    assert getattr(room, name).__name__ == name
    assert name in room.__all__


# The contracts of import-linter


def broken_contracts(folder: Path) -> set[str]:
    """The names of the contracts that the packages in a folder break, as import-linter finds them."""
    linter = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([linter, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)\b", ended.stdout, re.MULTILINE))
    broken = {contract for contract, verdict in verdicts.items() if verdict == "BROKEN"}
    assert len(verdicts) == 6, ended.stdout + ended.stderr
    assert ended.returncode == (1 if broken else 0), ended.stdout + ended.stderr
    return broken


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contracts, to plant a fault in."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


ORDER = "the order of the rooms: each knows those below it"
CIRCLE = "no circle anywhere"
PLACE = "every room of the core has its place in that order"
RESULTS, SLURM = "the order within results", "the order within slurm"
TORCH = "tables and launchers read runs and records, and need no torch"
LAZY = "\n\ndef _lazy() -> None:\n    import {}\n"
TYPING = "\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import {}\n"


def test_the_contracts_are_kept(copy: Path) -> None:
    assert broken_contracts(copy) == set()


@pytest.mark.parametrize(
    ("module", "fault", "contract"),
    [
        ("repro/masking/filters.py", LAZY.format("repro.training.runner"), ORDER),
        ("repro/masking/filters.py", TYPING.format("repro.training.runner"), ORDER),
        ("slurm/planning/graph.py", LAZY.format("results.formats.layout"), ORDER),
        ("repro/settings/choices.py", LAZY.format("repro.settings.run"), CIRCLE),
        ("repro/settings/choices.py", TYPING.format("repro.settings.run"), CIRCLE),
        ("repro/attic.py", "", PLACE),
        ("results/attic.py", "", RESULTS),
        ("slurm/jobs/orders.py", LAZY.format("slurm.monitoring.queue"), SLURM),
        ("results/formats/layout.py", LAZY.format("repro.masking.filters"), TORCH),
    ],
    ids=[
        "up, lazily",
        "up, for typing",
        "sideways",
        "circle, lazily",
        "circle, for typing",
        "new room",
        "new module",
        "up, within a room",
        "torch",
    ],
)
def test_a_planted_fault_breaks_its_contract(copy: Path, module: str, fault: str, contract: str) -> None:
    with (copy / module).open("a") as file:
        file.write(fault)
    assert contract in broken_contracts(copy)
