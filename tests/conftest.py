"""Fixtures that several files share, and one thread for each process.

Each process uses one thread: tests are many small computations, on cores that others share. A fixture imports what it
needs inside its function, so that a test without torch does not wait for torch.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from repro.processes.freed_memory import keep_freed_memory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that a test starts inherit it
# A hundred processes would each compile every module again, half a second where torch is needed.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if TYPE_CHECKING:
    from sweep_samples import FakeSlurm, Sweep

    from repro.runs.folder import RunFolder
    from repro.saliency.localizer import Localizer

from slurm_cluster import cluster  # noqa: F401 (one fixture for every module: one cluster for a session)
from stand_in_slurm import stand_in  # noqa: F401

# Properties: a few examples, the same each time, so that `make test` is; `make fuzz` tries a thousand, drawn anew.
_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "default", max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile(
    "nightly", max_examples=1000, deadline=None, print_blob=True, suppress_health_check=_SLOW_MACHINES
)
settings.load_profile("default")
keep_freed_memory()  # as every command does; many tests compute without one


def pytest_collection_finish() -> None:
    """Freeze what was imported and collected so far, so that no garbage collection in a test walks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scenes that tests draw go to a cache of the session; the user's own cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Written files are not forced onto the disk, which takes a fortieth of the suite; no test cuts the power.

    Processes that a test starts do so, and tests of what is forced when put a function of their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(os, "sync", lambda: None)  # would wait for all that other programs have written, too
        yield


@pytest.fixture(scope="session", autouse=True)
def trained_localizer_is_read_once() -> Iterator[None]:
    """Networks of the installed localizer's weights are copies of one: reading and folding it takes a quarter second.

    Only where a collected module has imported it: a test without torch does not wait for torch.
    """
    networks = sys.modules.get("repro.saliency.networks")
    if networks is None:
        yield
        return
    build: Callable[[str], Any] = networks._efficientnet_lite0
    read: dict[str, Any] = {}

    def copied(weights: str) -> "Localizer":
        if weights == "random":  # drawn from the generator's state
            return build(weights)
        if weights not in read:
            read[weights] = build(weights)
        return deepcopy(read[weights])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_efficientnet_lite0", copied)
        yield


@pytest.fixture(autouse=True)
def nothing_of_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data root, cache or cluster profile but those that a test makes."""
    monkeypatch.delenv("SALMASK_DATA", raising=False)
    monkeypatch.delenv("SALMASK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def own_maps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of the test's own: it shares computed saliency maps with no other test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Restore signal handlers: a job that ends in the test's own process leaves signals ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> "RunFolder":
    """The paper's method trained from start to end without a disturbance; to be read only."""
    from training_samples import CPU, OURS, tiny

    from repro.runs.folder import RunFolder
    from repro.training.pretraining import pretrain

    run = tiny(OURS)
    folder = RunFolder.of(run, tmp_path_factory.mktemp("undisturbed"))
    with folder.attempt("pretrain"):
        pretrain(run, folder, CPU)
    return folder


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> "RunFolder":
    """The run of `undisturbed` stopped in the last epoch, with checkpoints of steps 4 and 5; to be copied."""
    from training_samples import OURS, STEPS, interrupt, tiny

    from repro.runs.folder import RunFolder

    folder = RunFolder(tmp_path_factory.mktemp("interrupted") / "run")
    interrupt(tiny(OURS), folder, STEPS)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step_00000004.pth", "step_00000005.pth"]
    return folder


@pytest.fixture
def small_encoder() -> Iterator[None]:
    """Every encoder that the test builds has two layers."""
    from contrastive_samples import small_encoders

    with small_encoders():
        yield


@pytest.fixture
def sweep(tmp_path: Path) -> "Sweep":
    """A sweep of one run that has not begun."""
    from sweep_samples import RUN, Sweep

    unstarted = Sweep(tmp_path / "runs" / "table1")
    unstarted.folder.prepare(RUN)
    return unstarted


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "FakeSlurm":
    """Fake squeue, sacct and scancel, first on PATH."""
    from sweep_samples import FakeSlurm

    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.place}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def runs(sweep: "Sweep", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder above the sweep. Its parent is the working directory, and the clock stands at `NOW`."""
    from sweep_samples import NOW

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: NOW)
    return tmp_path / "runs"


@pytest.fixture
def miniatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small copies of Caltech-101 and Flowers-102 pass for the real ones."""
    from transfer_samples import recognise_miniatures

    recognise_miniatures(monkeypatch)


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """A data set of class folders, to spoil."""
    from image_samples import make_folder_root

    return make_folder_root(tmp_path / "data")


@pytest.fixture
def imagenet_root(tmp_path: Path) -> Path:
    """An ImageNet-1k root in small, to spoil."""
    from image_samples import make_imagenet_root

    return make_imagenet_root(tmp_path / "imagenet")


@pytest.fixture(scope="session")
def voc_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 scenes to train on (4 of 2007, 9 of 2012) and 6 to test on, in VOC's layout; to be read only."""
    from scene_samples import scenes

    from repro.data.annotations.scenes_export import write_voc

    return write_voc(tmp_path_factory.mktemp("voc") / "VOCdevkit", scenes("train", 13), scenes("val", 6))


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 scenes to train on and 5 to test on, in COCO's layout; to be read only."""
    from scene_samples import scenes

    from repro.data.annotations.scenes_export import write_coco

    return write_coco(tmp_path_factory.mktemp("coco") / "coco", scenes("train", 8), scenes("val", 5))


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes for small detectors, in VOC's layout; to be read only."""
    from detection_samples import scenes_as

    return scenes_as("voc", tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes for small detectors, in COCO's layout; to be read only."""
    from detection_samples import scenes_as

    return scenes_as("coco", tmp_path_factory.mktemp("data") / "coco")
