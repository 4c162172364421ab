"""What is wrong with this machine: devices, weights, disk and data roots."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.data.catalogue import DATASETS, require_usable
from repro.data.roots import find_root
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.doctor.weights import check_weights
from repro.errors import UserError
from repro.processes.cores import usable_cores
from repro.quantities import counted
from repro.saliency.networks import build_localizer
from repro.settings.localizer_weights import PAPERS_WEIGHTS
from repro.training.steps.precision import bf16_is_slow

FREE_GIB = 5
"""Room for the checkpoints of a few runs, each of about 400 MiB at the paper's scale."""


def examine(needs: Needs | None = None) -> list[Diagnosis]:
    """Checks everything but the packages; nothing is changed and nothing downloaded.

    Args:
        needs: What must be there. None: all data sets and the paper's localizer are looked for, but none is required.

    Returns:
        One diagnosis for each check, in the order in which they are printed.
    """
    findings = [*check_devices(), _installed_weights(), _disk()]
    if needs is None:
        return [*findings, check_weights(PAPERS_WEIGHTS, needed=False), *check_needs(Needs(weights=()))]
    return [*findings, *check_needs(needs)]


def check_needs(needs: Needs) -> Iterator[Diagnosis]:
    """Yields a diagnosis for each of the weights and data sets; what is needed and cannot be had is `wrong`.

    Args:
        needs: Without data sets in it, all data sets are looked for, but none is required.
    """
    for weights in needs.weights:
        yield check_weights(weights, needed=True)
    for name, root in needs.data or ((name, "") for name in DATASETS):
        yield check_data(name, Path(root) if root else None, needed=bool(needs.data))


def check_devices() -> Iterator[Diagnosis]:
    """Yields a diagnosis for each GPU, or a note that there is none."""
    if not torch.cuda.is_available():
        cores, threads = usable_cores(), torch.get_num_threads()
        found, mends = f"no GPU; {counted(cores, 'CPU core')}, {counted(threads, 'thread')}", []
        if threads > cores:  # torch counts the machine's cores, even those that a container may not use
            mends.append(f"OMP_NUM_THREADS={cores} before each command, or threads wait for each other")
        if bf16_is_slow():
            found = f"{found}, slow in bf16"
            mends.append("optimization.precision=fp32 with sweeps that have bf16")
        mends.append("for the paper's scale: a machine with an NVIDIA GPU and its driver")
        yield Diagnosis("device", "note", found, "; ".join(mends))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Diagnosis(f"device {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _installed_weights() -> Diagnosis:
    """Returns whether the weights that come with the installation are whole."""
    check = "weights of efficientnet-lite0"
    try:
        build_localizer("efficientnet-lite0", "")
    except (UserError, OSError) as error:
        # Not the error's own mend: a damaged file of the installation is mended by installing again.
        return Diagnosis(check, "wrong", error.what if isinstance(error, UserError) else str(error), "make setup")
    return Diagnosis(check, "ok", "installed with salmask")


def _disk() -> Diagnosis:
    """Returns the free space where runs go unless `--out` says otherwise: below the current folder."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = f"{free:.0f} GiB free here"
    if free < FREE_GIB:
        return Diagnosis("disk", "wrong", found, f"free at least {FREE_GIB} GiB, or use --out elsewhere")
    return Diagnosis("disk", "ok", found)


def check_data(name: str, root: Path | None, *, needed: bool) -> Diagnosis:
    """Returns whether the root of a data set is there and, if it is needed, whether it is usable.

    Args:
        name: Name of the data set.
        root: Its root; None: the one that the environment or the user's list names.
        needed: Whether a missing root is wrong; otherwise it is only worth a note.
    """
    try:
        folder = find_root(name, root)
        if needed and folder:
            require_usable(name, folder)
    except UserError as error:
        return Diagnosis(f"data {name}", "wrong" if needed else "note", error.what, error.mend)
    return Diagnosis(f"data {name}", "ok", str(folder) if folder else "built in")
