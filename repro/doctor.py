"""What is wrong with this machine, and the mend."""

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from repro.datasets import DATASETS, find_root
from repro.errors import UserError
from repro.saliency import build_localizer

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


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    verdict: str
    """`ok`, `note` (works, worth knowing) or `wrong`."""
    found: str
    mend: str = ""


def examine(dataset: str = "", root: Path | None = None) -> list[Finding]:
    """Check everything; nothing is changed and nothing downloaded.

    Args:
        dataset: also insist that this data set's root is there.
        root: of that data set.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_packages, _detectron2, _devices, _weights, _disk)
    findings = [finding for check in checks for finding in check()]
    names = [dataset] if dataset else list(DATASETS)
    return findings + [_data(name, root, needed=bool(dataset)) for name in names]


def _packages() -> Iterator[Finding]:
    for module, distribution in PACKAGES.items():
        try:
            importlib.import_module(module)
            yield Finding(module, "ok", metadata.version(distribution))
        except ImportError as error:
            yield Finding(module, "wrong", f"cannot be imported: {error}", "make setup")


def _detectron2() -> Iterator[Finding]:
    try:
        module = importlib.import_module("detectron2")
    except ImportError:
        yield Finding("detectron2", "note", "not installed; only detection and segmentation need it", "make setup")
        return
    compiled = importlib.util.find_spec("detectron2._C") is not None
    kind = "built from source" if compiled else "pure Python (no deformable convolution, no rotated boxes)"
    yield Finding("detectron2", "ok", f"{module.__version__}, {kind}")


def _devices() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0))
        mend = "for the paper's scale: a machine with an NVIDIA GPU and its driver"
        yield Finding("device", "note", f"no GPU; {cores} CPU cores, {torch.get_num_threads()} threads", mend)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"device {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _weights() -> Iterator[Finding]:
    try:
        build_localizer("efficientnet-lite0", "")
        yield Finding("weights of efficientnet-lite0", "ok", "installed with salmask")
    except (UserError, OSError) as error:
        yield Finding("weights of efficientnet-lite0", "wrong", str(error), "make setup")
    cached = list((Path(torch.hub.get_dir()) / "checkpoints").glob("resnet50-*.pth"))
    if cached:
        yield Finding("weights of resnet50", "ok", str(cached[0]))
    else:
        mend = "run once where there is a network, or localizer.network=efficientnet-lite0"
        yield Finding("weights of resnet50", "note", "not downloaded yet; torchvision fetches them at first use", mend)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    verdict, mend = (
        ("ok", "") if free >= FREE_GIB else ("wrong", f"free at least {FREE_GIB} GiB, or use --out elsewhere")
    )
    yield Finding("disk", verdict, f"{free:.0f} GiB free here", mend)


def _data(name: str, root: Path | None, *, needed: bool) -> Finding:
    try:
        found = find_root(name, root)
    except UserError as error:
        what, _, mend = str(error).partition(": give")
        return Finding(f"data {name}", "wrong" if needed else "note", what, f"give{mend}" if mend else "")
    return Finding(f"data {name}", "ok", str(found) if found else "built in")
