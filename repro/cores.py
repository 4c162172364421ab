"""How many processor cores there are for this process."""

import os


def usable_cores() -> int:
    """Returns the number of cores that this process may use: what a job was given, rather than what its node has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
