"""What is wrong with this machine: packages, devices, weights, disk and data roots."""

import importlib
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from repro.cores import usable_cores
from repro.data.catalogue import DATASETS, require_usable
from repro.data.roots import find_root
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.doctor.weights import check_weights
from repro.errors import UserError
from repro.runs.localizer_weights import PAPERS_WEIGHTS
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
"""Module -> distribution that brings it."""
FREE_GIB = 5
"""Room for the checkpoints of a few runs, each of about 400 MiB at the paper's scale."""


def examine(needs: Needs | None = None) -> list[Diagnosis]:
    """Checks everything; nothing is changed and nothing downloaded.

    Args:
        needs: What must be there; None: all data sets and the paper's localizer are looked for, and none is missed.

    Returns:
        One diagnosis for each check, in the order in which they are printed.
    """
    checks: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
        check_packages,
        _detectron2,
        check_devices,
        _installed_weights,
        _disk,
    )
    findings = [finding for check in checks for finding in check()]
    if needs is None:
        return [*findings, check_weights(PAPERS_WEIGHTS, needed=False), *check_needs(Needs(weights=()))]
    return [*findings, *check_needs(needs)]


def check_needs(needs: Needs) -> Iterator[Diagnosis]:
    """Yields whether weights and data sets are there; what must be and is not, is wrong.

    Args:
        needs: Without data sets, all of them are looked for, and none is missed.
    """
    for weights in needs.weights:
        yield check_weights(weights, needed=True)
    for name, root in needs.data or ((name, "") for name in DATASETS):
        yield check_data(name, Path(root) if root else None, needed=bool(needs.data))


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


def _installed_weights() -> Iterator[Diagnosis]:
    """Yields whether the weights are whole that come with the installation."""
    try:
        build_localizer("efficientnet-lite0", "")
        yield Diagnosis("weights of efficientnet-lite0", "ok", "installed with salmask")
    except (UserError, OSError) as error:
        # Whatever mend the error itself has, of a file that belongs to the installation it is to install again.
        what = error.what if isinstance(error, UserError) else str(error)
        yield Diagnosis("weights of efficientnet-lite0", "wrong", what, "make setup")


def _disk() -> Iterator[Diagnosis]:
    """Yields the free space where runs go unless `--out` says otherwise: below the current folder."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    verdict, mend = (
        ("ok", "") if free >= FREE_GIB else ("wrong", f"free at least {FREE_GIB} GiB, or use --out elsewhere")
    )
    yield Diagnosis("disk", verdict, f"{free:.0f} GiB free here", mend)


def check_data(name: str, root: Path | None, *, needed: bool) -> Diagnosis:
    """Returns whether the root of a data set is there and, where it is needed, whether it can serve.

    Args:
        name: Name of the data set.
        root: Its root; None: where the environment or the user's list says.
        needed: Whether a missing root is wrong, and not only worth a note.
    """
    try:
        folder = find_root(name, root)
        if needed and folder:
            require_usable(name, folder)
    except UserError as error:
        return Diagnosis(f"data {name}", "wrong" if needed else "note", error.what, error.mend)
    return Diagnosis(f"data {name}", "ok", str(folder) if folder else "built in")
