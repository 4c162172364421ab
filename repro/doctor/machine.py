"""What is wrong with this machine."""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from repro.data.catalogue import DATASETS
from repro.data.roots import find_root
from repro.doctor.diagnosis import Diagnosis
from repro.errors import UserError
from repro.saliency.networks import build_localizer

PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "mmengine": "mmengine-lite",
    "timm": "timm",
    "submitit": "submitit",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}


FREE_GIB = 5


def examine(dataset: str = "", root: Path | None = None) -> list[Diagnosis]:
    """Check everything; nothing is changed and nothing downloaded.

    Args:
        dataset: also insist that this data set's root is there.
        root: of that data set.
    """
    checks: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
        check_packages,
        _detectron2,
        check_devices,
        _weights,
        _disk,
    )
    findings = [finding for check in checks for finding in check()]
    names = [dataset] if dataset else list(DATASETS)
    return findings + [check_data(name, root, needed=bool(dataset)) for name in names]


def check_packages() -> Iterator[Diagnosis]:
    """Whether what training needs can be imported, and in which version."""
    for module, distribution in PACKAGES.items():
        try:
            importlib.import_module(module)
            yield Diagnosis(module, "ok", metadata.version(distribution))
        except ImportError as error:
            yield Diagnosis(module, "wrong", f"cannot be imported: {error}", "make setup")


def _detectron2() -> Iterator[Diagnosis]:
    try:
        module = importlib.import_module("detectron2")
    except ImportError:
        yield Diagnosis("detectron2", "note", "not installed; only detection and segmentation need it", "make setup")
        return
    compiled = importlib.util.find_spec("detectron2._C") is not None
    kind = "built from source" if compiled else "pure Python (no deformable convolution, no rotated boxes)"
    yield Diagnosis("detectron2", "ok", f"{module.__version__}, {kind}")


def check_devices() -> Iterator[Diagnosis]:
    """The GPUs, or that there is none."""
    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0))
        mend = "for the paper's scale: a machine with an NVIDIA GPU and its driver"
        yield Diagnosis("device", "note", f"no GPU; {cores} CPU cores, {torch.get_num_threads()} threads", mend)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Diagnosis(f"device {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _weights() -> Iterator[Diagnosis]:
    try:
        build_localizer("efficientnet-lite0", "")
        yield Diagnosis("weights of efficientnet-lite0", "ok", "installed with salmask")
    except (UserError, OSError) as error:
        yield Diagnosis("weights of efficientnet-lite0", "wrong", str(error), "make setup")
    cached = list((Path(torch.hub.get_dir()) / "checkpoints").glob("resnet50-*.pth"))
    if cached:
        yield Diagnosis("weights of resnet50", "ok", str(cached[0]))
    else:
        mend = "run once where there is a network, or localizer.network=efficientnet-lite0"
        yield Diagnosis(
            "weights of resnet50", "note", "not downloaded yet; torchvision fetches them at first use", mend
        )


def _disk() -> Iterator[Diagnosis]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    verdict, mend = (
        ("ok", "") if free >= FREE_GIB else ("wrong", f"free at least {FREE_GIB} GiB, or use --out elsewhere")
    )
    yield Diagnosis("disk", verdict, f"{free:.0f} GiB free here", mend)


def check_data(name: str, root: Path | None, *, needed: bool) -> Diagnosis:
    """Whether the root of a data set is there; a missing one is wrong only where it is needed."""
    try:
        found = find_root(name, root)
    except UserError as error:
        return Diagnosis(f"data {name}", "wrong" if needed else "note", error.what, error.mend)
    return Diagnosis(f"data {name}", "ok", str(found) if found else "built in")
