"""The control groups (cgroups) of this process, by which a Slurm job or a container gets less than its whole machine.

The kernel kills a process that takes more memory than its groups allow, and throttles one that takes more CPU time. A
limit is often set on a group far above the process's own; the narrowest limit counts.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = Path("/proc/self/cgroup")
"""The groups of this process: a line `ID:CONTROLLERS:PATH` for each hierarchy; does not exist on macOS."""
HIERARCHIES = Path("/sys/fs/cgroup")
"""Where the hierarchies are mounted."""


def groups_around(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yields the folder of each group around this process, its own first.

    Args:
        controller: `memory` or `cpu`. In version 1 of control groups, each controller has a hierarchy of its own.

    Yields:
        The folder, which need not exist, and whether it is of version 2, which has one hierarchy for all controllers.
    """
    for line in kernel_text(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the path may be the host's, of which only the root is visible.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            yield HIERARCHIES / controllers / str(group).lstrip("/"), not controllers


def kernel_text(path: Path) -> str:
    """Returns the text of a file of the kernel; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")  # names in it may be any bytes
    except OSError:
        return ""


def kernel_numbers(path: Path) -> dict[str, int]:
    """Returns the numbers in a kernel's file with lines `NAME: NUMBER` or `NAME NUMBER`; none if it cannot be read."""
    words = (line.replace(":", " ").split() for line in kernel_text(path).splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
