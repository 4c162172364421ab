"""Why a job ended, from its log: the line that names the cause, and the mend.

That is seldom the last line of a log: after a kill, srun reports on its steps; after a traceback come those of other
processes, which lost the connection.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from repro.errors import MEND, with_mend

_NODE_FAILED = (
    r"NODE FAILURE|DUE TO NODE FAIL|Node failure on|launch failed.*node|lost (contact|connection) (to|with) node"
)
_EXCEPTION = re.compile(r"^(?:\[rank\d+\]: )?(?:[A-Za-z_][\w.]*)?(?:Error|Exception|Interrupt|Exit): .")

_LOST_PEER = re.compile(
    r"Connection (closed|reset|refused)|by peer|NCCL|DistBackend|Broken pipe|another process of this run"
)
_STEP_ENDED = re.compile(
    r"srun: error: (?P<node>[\w.-]+): tasks? (?P<rank>\d+)[\d,-]*: "
    r"(?P<how>(?!Terminated)[^\n]+?)(?: \(core dumped\))?$",
    re.MULTILINE,
)
"""What srun says of a task that ended badly; those that it ended itself after the first are `Terminated`."""


@dataclass(frozen=True)
class _Cause:
    """A cause for which jobs end, and how logs name it."""

    pattern: re.Pattern[str]
    words: str
    """What happened; `{line}` is the line itself."""
    mend: str | Callable[[float, int], str] = ""
    """The mend, or what makes it from the gigabytes and minutes that were asked for (0: the profile left them open)."""


def _more_memory(gigabytes: float, _: int) -> str:
    return f"memory: {ceil(1.5 * gigabytes)} in the profile, it had {gigabytes:g}" if gigabytes else "more memory"


def _more_time(_: float, minutes: int) -> str:
    return f"time: {2 * minutes} in the profile, it had {minutes} minutes" if minutes else "more time in the profile"


CAUSES = (
    _Cause(re.compile(r"salmask: the setup of the profile failed"), "{line}", "the profile's setup"),
    _Cause(
        re.compile(r"CUDA out of memory|CUDA error: out of memory|torch\.OutOfMemoryError"),
        "the GPU's memory was full",
        "a smaller batch for each GPU, or a GPU with more memory",
    ),
    _Cause(
        re.compile(
            r"oom[-_ ]kill|out[- ]of[- ]memory|Out Of Memory|\bOOM\b|Exceeded job memory limit|MemoryError", re.I
        ),
        "killed for lack of memory",
        _more_memory,
    ),
    _Cause(
        re.compile(r"Bus error|insufficient shared memory|unable to (open|mmap) shared memory"),
        "the node's shared memory was full",
        "machine.workers=0, or a larger /dev/shm",
    ),
    _Cause(re.compile(r"DUE TO TIME LIMIT"), "its time limit was reached", _more_time),
    _Cause(re.compile(_NODE_FAILED), "its node failed", "salmask retry, or exclude the node in the profile"),
    _Cause(
        re.compile(r"No module named '?[\w.]"),
        "{line}",
        "the profile's setup: it must make this Python's packages visible on the node",
    ),
    _Cause(
        re.compile(r"execve\(\): .+: (No such file or directory|Permission denied)"),
        "{line}",
        "the environment in a folder that the nodes see, or `python` in the profile",
    ),
    _Cause(re.compile(r"No space left on device|Disk quota exceeded"), "{line}", "free some space"),
)
"""From the most specific to the least; the first that matches any line counts."""


def cause_of(text: str, memory_gigabytes: float = 0.0, minutes: int = 0) -> str:
    """Returns in one line why a job ended, with the mend; empty where its log does not tell.

    Args:
        text: The end of its log.
        memory_gigabytes: The memory that it asked for; 0: none in particular.
        minutes: Its time limit; 0: none in particular.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for cause in CAUSES:
        for line in reversed(lines):
            if cause.pattern.search(line):
                words = cause.words.format(line=line[:300])
                mend = cause.mend if isinstance(cause.mend, str) else cause.mend(memory_gigabytes, minutes)
                return words if MEND in words else with_mend(words, mend)
    # Of several exceptions, the last that is not the loss of another process tells the cause.
    errors = [line for line in lines if _EXCEPTION.match(line)]
    own = [line for line in errors if not is_lost_peer(line) and "SystemExit" not in line]
    return (own or errors or [""])[-1][:300]


def is_lost_peer(error: str) -> bool:
    """Returns whether an error only says that another process is gone; that one's error is the cause."""
    return bool(_LOST_PEER.search(error))


def cause_of_ranks(texts: Mapping[int, str], memory_gigabytes: float = 0.0, minutes: int = 0) -> str:
    """Returns why a job of several processes ended, and which rank was the cause: `rank 1 on n7 was killed`.

    Args:
        texts: The end of each rank's log; with Slurm, that of rank 0 also holds what srun says of the others.
        memory_gigabytes: As of `cause_of`.
        minutes: As of `cause_of`.

    Returns:
        One line; empty if the logs tell no cause but the loss of a process.
    """
    if first := _STEP_ENDED.search(texts.get(0, "")):  # srun tells of a step's tasks in the order in which they ended
        rank, where = int(first["rank"]), f" on {first['node']}"
        cause = cause_of(texts.get(rank, ""), memory_gigabytes, minutes)
        if cause and not is_lost_peer(cause):
            return f"rank {rank}{where}: {cause}"
        how = first["how"]
        return f"rank {rank}{where} {'was killed' if how == 'Killed' else f'ended: {how}'}"
    for rank, text in texts.items():
        cause = cause_of(text, memory_gigabytes, minutes)
        if cause and not is_lost_peer(cause):
            return f"rank {rank}: {cause}"
    return ""
