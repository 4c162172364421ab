"""The control groups around this process, by which a Slurm job or a container has less than its machine.

The kernel kills a process that takes more memory than its groups may have, and makes one wait that takes more of the
cores' time. A limit often stands at a group far above the process's own; the narrowest counts.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = Path("/proc/self/cgroup")
"""The groups that this process is in: a line `ID:CONTROLLERS:PATH` for each hierarchy; not there on macOS."""
HIERARCHIES = Path("/sys/fs/cgroup")
"""Where the hierarchies are mounted."""


def groups_around(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yields the folder of each group around this process, its own first.

    Args:
        controller: Of the first version of control groups, `memory` or `cpu`, which has a hierarchy for each.

    Yields:
        The folder, which need not be there, and whether it is of the second version, with one hierarchy for all.
    """
    for line in kernel_text(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Within a container the path may be the host's, of which nothing but the root is to be seen.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            yield HIERARCHIES / controllers / str(group).lstrip("/"), not controllers


def kernel_text(path: Path) -> str:
    """Returns the text of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")  # names in it may be any bytes
    except OSError:
        return ""


def kernel_numbers(path: Path) -> dict[str, int]:
    """Returns the numbers of a file of the kernel, by lines `NAME: NUMBER` or `NAME NUMBER`; none without a file."""
    words = (line.replace(":", " ").split() for line in kernel_text(path).splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
