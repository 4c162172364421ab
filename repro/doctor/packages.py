"""Whether the packages that salmask needs can be imported.

This module imports none of them at its top, since any of them may be missing.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from importlib import metadata

from repro.doctor.diagnosis import Diagnosis
from repro.errors import one_line

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


def check_packages_first(rest: Callable[[], list[Diagnosis]], *, mend: str = "make setup") -> list[Diagnosis]:
    """Checks the packages, then the rest; if a package cannot be imported, the rest is left out, as it needs them.

    Args:
        rest: The other checks.
        mend: The mend for a package that cannot be imported.
    """
    packages = [*_each_package(mend), _detectron2()]
    if all(diagnosis.verdict != "wrong" for diagnosis in packages):
        return [*packages, *rest()]
    again = "the same command again, once the packages can be imported"
    return [*packages, Diagnosis("all else", "note", "not checked: it needs these packages", again)]


def _each_package(mend: str) -> Iterator[Diagnosis]:
    """Yields whether each package that training needs can be imported, and in which version."""
    for module, distribution in PACKAGES.items():
        try:
            # Imported, not only looked for: a torch and a torchvision that do not fit each other fail here.
            importlib.import_module(module)
            yield Diagnosis(module, "ok", metadata.version(distribution))
        except Exception as error:  # a missing library is an OSError, versions that do not fit are a RuntimeError
            yield Diagnosis(module, "wrong", f"cannot be imported: {one_line(error)}", mend)


def _detectron2() -> Diagnosis:
    """Returns whether detectron2 is there, and whether its compiled operations are."""
    if importlib.util.find_spec("detectron2") is None:
        return Diagnosis("detectron2", "note", "not installed; only detection and segmentation need it", "make setup")
    try:
        module = importlib.import_module("detectron2")
    except Exception as error:  # as above
        found = f"cannot be imported: {one_line(error)}; only detection and segmentation need it"
        return Diagnosis("detectron2", "note", found, "make setup")
    compiled = importlib.util.find_spec("detectron2._C") is not None
    kind = "built from source" if compiled else "pure Python (no deformable convolution, no rotated boxes)"
    return Diagnosis("detectron2", "ok", f"{module.__version__}, {kind}")
