"""The environment: the lock is the stack of the recorded results, setup installs it, and containers use setup."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from places import ROOT

LOCK = ROOT / "requirements" / "lock.txt"
RECORDED = ROOT / "examples" / "reproduced" / "cpu-112px"
STUB = """#!/bin/sh
echo "{name} $*" >> "{log}"
case "{name} $*" in {failing}) echo "{name}: no route" >&2; exit 1;; esac
"""


def locked() -> dict[str, Requirement]:
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(entry.name): entry for entry in map(Requirement, lines)}


def version_of(entry: Requirement) -> Version:
    (pin,) = entry.specifier
    assert pin.operator == "=="
    return Version(pin.version)


def test_the_lock_has_all_that_the_project_names_within_its_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    lock = locked()
    wrong = []
    for requirement in map(Requirement, named):
        entry = lock.get(canonicalize_name(requirement.name))
        if entry is None or not requirement.specifier.contains(version_of(entry)):
            wrong.append(str(requirement))
    assert wrong == [], "mend: make lock"


def test_the_lock_is_the_stack_of_the_recorded_results() -> None:
    lock = locked()
    recorded = set()
    for file in RECORDED.rglob("provenance.json"):
        for attempt in json.loads(file.read_text()):
            recorded |= set(attempt["packages"].items())
    assert {name for name, _ in recorded} >= {"torch", "torchvision", "timm", "numpy", "pillow"}
    assert {name: Version(version) for name, version in recorded} == {
        name: version_of(lock[name]) for name, _ in recorded
    }
    assert len(recorded) == len(dict(recorded))  # one version of each package


def test_what_set_up_installed_by_the_lock_is_what_the_lock_says() -> None:
    used = Path(sys.prefix) / "salmask-lock.txt"
    if not used.exists() or used.read_text() != LOCK.read_text():
        pytest.skip("this environment was not made by `make setup` from this lock")
    installed: dict[str, Version] = {}
    # The first of a name counts: whoever has imported setuptools finds its own copies, too, behind ours.
    for entry in metadata.distributions():
        installed.setdefault(canonicalize_name(entry.name), Version(entry.version))
    of_here = {name: entry for name, entry in locked().items() if entry.marker is None or entry.marker.evaluate()}
    other = {
        name: (str(installed[name]), str(entry))
        for name, entry in of_here.items()
        # A local build of a version, such as 2.14.1+cpu, counts as that version.
        if name in installed and installed[name].public != version_of(entry).public
    }
    assert other == {}
    assert {"torch", "torchvision", "timm", "numpy", "mmengine-lite", "pytest"} <= installed.keys() & of_here.keys()


def set_up(place: Path, *, gpu: bool = False, failing: str = "never", **environment: str) -> tuple[int, str, list[str]]:
    """Runs tools/setup.sh with programs that only report their call; returns the status, the output, and the calls."""
    log, programs, venv = place / "calls.txt", place / "bin", place / "venv"
    (venv / "bin").mkdir(parents=True)
    programs.mkdir()
    lacks_torch = "python\\ -c*find_spec*"
    for path, name in (
        (venv / "bin" / "python", "python"),
        (programs / "uv", "uv"),
        (programs / "nvidia-smi", "nvidia-smi"),
    ):
        path.write_text(STUB.format(name=name, log=log, failing=f"{failing} | {lacks_torch}"))
        if name == "nvidia-smi" and gpu:
            path.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
        path.chmod(0o755)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("SALMASK_")}
    ended = subprocess.run(
        ["bash", str(ROOT / "tools" / "setup.sh")],
        env={
            **surroundings,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "VENV": str(venv),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    calls = log.read_text().splitlines() if log.exists() else []
    return ended.returncode, ended.stdout + ended.stderr, [call for call in calls if "install" in call.split()]


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one build of torch")


def test_an_installed_copy_has_every_file_that_the_packages_read() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [
        f"{name.replace('.', '/')}/{file}" for name, files in settings["package-data"].items() for file in files
    ]
    packages = [name.rstrip("*") for name in settings["packages"]["find"]["include"]]
    files = [path.relative_to(ROOT) for name in packages for path in (ROOT / name).rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in {".py", ".pyc", ".md"}]
    assert len(data) > 30
    assert [str(path) for path in data if not any(path.match(pattern) for pattern in patterns)] == []


@on_linux
def test_without_a_gpu_the_small_build_of_torch_is_installed_first(tmp_path: Path) -> None:
    code, _, (torch, salmask) = set_up(tmp_path)
    assert code == 0
    assert torch.startswith("uv pip install -q --python ")
    assert torch.endswith(" --torch-backend cpu -c requirements/lock.txt torch torchvision")
    assert salmask.endswith(" -c requirements/lock.txt -e .[detection,dev]")
    assert (tmp_path / "venv" / "salmask-lock.txt").read_text() == LOCK.read_text()


@on_linux
def test_where_the_small_build_cannot_be_had_the_other_one_is_installed(tmp_path: Path) -> None:
    code, text, calls = set_up(tmp_path, failing="uv*")
    assert (code, len(calls)) == (0, 2)
    assert "setup: it cannot be had here; the build with CUDA serves as well" in text
    assert "uv: no route" not in text


@pytest.mark.parametrize("surroundings", [{"gpu": True}, {"SALMASK_TORCH": "default"}], ids=str)
def test_with_a_gpu_the_build_is_the_indexs_own(tmp_path: Path, surroundings: dict[str, str]) -> None:
    code, _, (salmask,) = set_up(tmp_path, **surroundings)  # type: ignore[arg-type]
    assert code == 0
    assert salmask.startswith("python -m pip install")


def test_a_build_that_was_asked_for_is_had_or_refused(tmp_path: Path) -> None:
    code, _, calls = set_up(tmp_path / "had", gpu=True, SALMASK_TORCH="cu128", SALMASK_LOCK="")
    assert code == 0
    assert calls[0].endswith(" --torch-backend cu128 torch torchvision")
    assert " -c " not in calls[1]
    assert not (tmp_path / "had" / "venv" / "salmask-lock.txt").exists()
    code, text, calls = set_up(tmp_path / "not", failing="uv*", SALMASK_TORCH="cu128")
    assert (code, len(calls)) == (2, 1)
    assert text.splitlines()[-1].startswith("setup: torch's build 'cu128' cannot be had")
    assert text.splitlines()[-1].endswith("mend: SALMASK_TORCH=default")


def test_containers_and_actions_are_what_they_were_when_they_were_chosen() -> None:
    """They are pinned by digest and commit, as a tag can be moved to other code."""
    base = re.findall(r"^(?:FROM|From:) (\S+)$", (ROOT / "containers" / "Dockerfile").read_text(), re.MULTILINE)
    assert len(base) == 1
    assert re.fullmatch(r"python@sha256:[0-9a-f]{64}", base[0])
    workflows = list((ROOT / ".github" / "workflows").glob("*.y*ml"))
    used = [action for path in workflows for action in re.findall(r"uses: (\S+)", path.read_text())]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_containers_are_made_by_the_set_up_of_everybody() -> None:
    docker = (ROOT / "containers" / "Dockerfile").read_text()
    apptainer = (ROOT / "containers" / "salmask.def").read_text()
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", apptainer, re.MULTILINE | re.DOTALL))
    assert set(sections) == {"files", "post", "environment", "runscript", "test", "help"}
    base = re.search(r"^FROM (\S+)$", docker, re.MULTILINE)
    assert base
    assert f"\nBootstrap: docker\nFrom: {base[1]}\n" in apptainer
    for text in (docker, sections["post"]):
        assert "bash /opt/salmask/tools/setup.sh" in text
        assert "SALMASK_LOCK" not in text  # the default, the lock's file, is used
        assert "safe.directory /opt/salmask" in text
    post = subprocess.run(["sh", "-n"], input=sections["post"], text=True, capture_output=True, check=False)
    assert (post.returncode, post.stderr) == (0, "")


def test_the_pages_blocks_name_files_and_builds_that_there_are() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    files = set(re.findall(r"\b(?:requirements|containers|tools)/[\w.]+", text))
    assert {"requirements/lock.txt", "containers/Dockerfile", "containers/salmask.def"} <= files
    assert [file for file in files if not (ROOT / file).exists()] == []
    environment = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0])
    assert environment["dependencies"][0] == "python=3.11"
