"""Memory that a process frees is kept for its next step, which glibc would give back to the kernel."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of the two parameters in glibc's malloc.h."""
_LARGEST = 2**31 - 1
"""The most that `mallopt` takes, in bytes."""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""By which a person sets the same; then theirs hold."""


def keep_freed_memory() -> None:
    """Has this process keep the memory that it frees; does nothing where the C library is not glibc.

    A step on a CPU allocates its activations anew each time. If they were given back to the kernel, faulting their
    pages in again takes up to half of the step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in VARIABLES):
        return
    for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(parameter, _LARGEST)
