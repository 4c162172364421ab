"""What is wrong with this machine: packages, devices, weights, disk and data roots."""

import importlib
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from repro.cores import usable_cores
from repro.data.catalogue import DATASETS
from repro.data.roots import find_root
from repro.doctor.diagnosis import Diagnosis
from repro.errors import UserError
from repro.saliency.networks import build_localizer, weights_cache

PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "mmengine": "mmengine-lite",
    "timm": "timm",
    "submitit": "submitit",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}
"""Module -> distribution that brings it."""
FREE_GIB = 5
"""Room for the checkpoints of a few runs, each of about 400 MiB at the paper's scale."""


def examine(dataset: str = "", root: Path | None = None) -> list[Diagnosis]:
    """Checks everything; nothing is changed and nothing downloaded.

    Args:
        dataset: A data set whose root must be there; empty: all are looked for, and none is missed.
        root: Root of that data set; None: where the environment or the user's list says.

    Returns:
        One diagnosis for each check, in the order in which they are printed.
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
    """Yields whether each package that training needs can be imported, and in which version."""
    for module, distribution in PACKAGES.items():
        try:
            # Imported, not only looked for: a torch and a torchvision that do not fit each other fail here.
            importlib.import_module(module)
            yield Diagnosis(module, "ok", metadata.version(distribution))
        except ImportError as error:
            yield Diagnosis(module, "wrong", f"cannot be imported: {error}", "make setup")


def _detectron2() -> Iterator[Diagnosis]:
    """Yields whether detectron2 is there, and whether its compiled operations are."""
    try:
        module = importlib.import_module("detectron2")
    except ImportError:
        yield Diagnosis("detectron2", "note", "not installed; only detection and segmentation need it", "make setup")
        return
    compiled = importlib.util.find_spec("detectron2._C") is not None
    kind = "built from source" if compiled else "pure Python (no deformable convolution, no rotated boxes)"
    yield Diagnosis("detectron2", "ok", f"{module.__version__}, {kind}")


def check_devices() -> Iterator[Diagnosis]:
    """Yields each GPU, or that there is none."""
    if not torch.cuda.is_available():
        cores = usable_cores()
        mend = "for the paper's scale: a machine with an NVIDIA GPU and its driver"
        yield Diagnosis("device", "note", f"no GPU; {cores} CPU cores, {torch.get_num_threads()} threads", mend)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Diagnosis(f"device {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _weights() -> Iterator[Diagnosis]:
    """Yields whether the weights of the localizers are there."""
    try:
        build_localizer("efficientnet-lite0", "")
        yield Diagnosis("weights of efficientnet-lite0", "ok", "installed with salmask")
    except (UserError, OSError) as error:
        # Whatever mend the error itself has, of a file that belongs to the installation it is to install again.
        what = error.what if isinstance(error, UserError) else str(error)
        yield Diagnosis("weights of efficientnet-lite0", "wrong", what, "make setup")
    # Only looked for: to load them would mean to download them.
    cached = list(((weights_cache() or Path(torch.hub.get_dir())) / "checkpoints").glob("resnet50-*.pth"))
    if cached:
        yield Diagnosis("weights of resnet50", "ok", str(cached[0]))
    else:
        mend = "run once where there is a network, or localizer.network=efficientnet-lite0"
        yield Diagnosis(
            "weights of resnet50", "note", "not downloaded yet; torchvision fetches them at first use", mend
        )


def _disk() -> Iterator[Diagnosis]:
    """Yields the free space where runs go unless `--out` says otherwise: below the current folder."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    verdict, mend = (
        ("ok", "") if free >= FREE_GIB else ("wrong", f"free at least {FREE_GIB} GiB, or use --out elsewhere")
    )
    yield Diagnosis("disk", verdict, f"{free:.0f} GiB free here", mend)


def check_data(name: str, root: Path | None, *, needed: bool) -> Diagnosis:
    """Returns whether the root of a data set is there.

    Args:
        name: Name of the data set.
        root: Its root; None: where the environment or the user's list says.
        needed: Whether a missing root is wrong, and not only worth a note.
    """
    try:
        folder = find_root(name, root)
    except UserError as error:
        return Diagnosis(f"data {name}", "wrong" if needed else "note", error.what, error.mend)
    return Diagnosis(f"data {name}", "ok", str(folder) if folder else "built in")
