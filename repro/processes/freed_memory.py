"""Memory that a process frees is kept for its next step, which glibc would give back to the kernel."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of the two parameters in glibc's malloc.h."""
_LARGEST = 2**31 - 1
"""The most that `mallopt` takes, in bytes."""
_VARIABLES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""glibc's own for the two parameters; its newer one is GLIBC_TUNABLES, which holds others as well."""


def keep_freed_memory() -> None:
    """Has this process keep the memory that it frees; does nothing where the C library is not glibc.

    A step on a CPU allocates its activations anew each time. If they were given back to the kernel, faulting their
    pages in again takes up to half of the step. What a person has told glibc by the environment holds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    told = _VARIABLES & os.environ.keys() or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if mallopt is None or told:
        return
    for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(parameter, _LARGEST)
