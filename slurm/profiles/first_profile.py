"""A first profile of a cluster, from what sinfo says of its partitions."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from repro.errors import UserError, nearest
from repro.quantities import counted
from slurm.ask import LOGIN_NODE, ask
from slurm.profiles.profile_values import gpu_type_of_gres, gpus_of_gres, minutes

SINFO = ["sinfo", "--noheader", "--exact", "--format=%P|%l|%c|%m|%G"]
"""A line for each kind of node of a partition: name, time limit, cores, MB, generic resources."""
MOST_CORES = 16
"""The most cores of a process: more than feed a GPU would only keep others waiting."""
MEMORY_SHARE = 0.9
"""Share of a node's memory that jobs get: the rest is the system's."""
LONGEST_MINUTES = 24 * 60
ENDLESS_DAYS = 100
"""A limit of this many days or more counts as none: some sites write 10000-00:00:00, more than a profile may hold."""


@dataclass(frozen=True)
class SlurmPartition:
    """Nodes of one kind in a partition."""

    name: str
    default: bool
    limit: int
    """Minutes; 0: none."""
    cores: int
    """Of a node."""
    memory: int
    """MB of a node."""
    gpus: int
    """Of a node."""
    gpu_type: str


def partitions() -> list[SlurmPartition]:
    """Asks sinfo for the partitions.

    Raises:
        UserError: There is no sinfo here, or it does not answer.
    """
    if not shutil.which("sinfo"):
        raise UserError("there is no sinfo on this machine", mend=LOGIN_NODE)
    reply = ask(SINFO)
    if reply.trouble:
        raise UserError(reply.trouble, mend=LOGIN_NODE if reply.not_here else "try again later")
    return parse_sinfo(reply.output)


def parse_sinfo(text: str) -> list[SlurmPartition]:
    """Returns the partitions of sinfo's lines; a line that is broken, or gives jobs less than a minute, is left out."""
    kinds = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 5:
            continue
        name, limit, cores, memory, gres = cells
        cores, memory = cores.rstrip("+"), memory.rstrip("+")  # `16+`: of the smallest of several nodes
        longest = _limit(limit)
        if cores.isdecimal() and memory.isdecimal() and longest is not None:
            kinds.append(
                SlurmPartition(
                    name.rstrip("*"),
                    name.endswith("*"),
                    longest,
                    int(cores),
                    int(memory),
                    gpus_of_gres(gres),
                    gpu_type_of_gres(gres),
                )
            )
    return kinds


def _limit(text: str) -> int | None:
    """Returns the minutes of a partition's time limit; 0: it has none; None: it is below a minute, or no time."""
    days, dash, _ = text.partition("-")
    if text in ("infinite", "n/a", "UNLIMITED") or (dash and days.isdecimal() and int(days) >= ENDLESS_DAYS):
        return 0
    try:
        return minutes("sinfo", "time", text)
    except UserError:
        return None


def first_profile(kinds: Sequence[SlurmPartition], name: str = "") -> str:
    """Returns a profile with one GPU for each job, as the text of its file.

    Args:
        kinds: From `partitions`.
        name: Of the partition; empty: the default one if it has GPUs, else the first that has some.

    Raises:
        UserError: There is no such partition, or none has GPUs.
    """
    if name and name not in {kind.name for kind in kinds}:
        raise UserError(f"no partition '{name}'", mend=nearest(name, dict.fromkeys(kind.name for kind in kinds)))
    candidates = [kind for kind in kinds if kind.gpus and name in ("", kind.name)]
    if not candidates:
        where = f"partition '{name}'" if name else "any partition"
        raise UserError(f"sinfo lists no GPUs in {where}", mend="write a profile by hand, see docs/cluster.md")
    chosen = min(candidates, key=lambda kind: not kind.default)
    cores = max(1, min(MOST_CORES, chosen.cores // chosen.gpus))
    memory = max(1, int(MEMORY_SHARE * chosen.memory / 1024 / chosen.gpus))
    limit = min(LONGEST_MINUTES, chosen.limit or LONGEST_MINUTES)
    types = sorted({kind.gpu_type for kind in kinds if kind.name == chosen.name and kind.gpu_type})
    of_types = f"; types: {', '.join(types)}, for example `gpus: {types[0]}:1`" if types else ""
    others = sorted({kind.name for kind in kinds if kind.gpus and kind.name != chosen.name})
    also = f"  # also with GPUs: {', '.join(others)}" if others else ""
    return (
        f"# From sinfo: a node has {counted(chosen.gpus, 'GPU')}, {counted(chosen.cores, 'core')}, "
        f"{chosen.memory / 1024:.0f} GB{of_types}.\n"
        "# All keys: docs/cluster.md. Many sites want an `account:` or a `qos:` too.\n"
        f"partition: {chosen.name}{also}\n"
        "gpus: 1\n"
        f"cpus: {cores}\n"
        f"memory: {memory}\n"
        f"time: {limit}\n"
        f"signal_seconds: {min(120, 30 * (limit - 1))}\n"
        "tasks:\n"
        f"  report: {{gpus: 0, cpus: {min(2, cores)}, memory: {min(8, memory)}, time: {min(30, limit)}}}\n"
    )
