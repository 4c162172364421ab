"""Checks between the nodes of one job: whether their clocks agree, and whether they see each other's files and locks.

The checks are collectives: all processes of the job call them at the same point, even if one of them met an error.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from repro.doctor.diagnosis import Diagnosis
from repro.processes.distributed import barrier, gather_objects, rank
from repro.runs.lock import CLOCKS_SECONDS

SKEW_ROUNDS = 5
SEEN_SECONDS = 20.0
"""How long to wait until another node sees a change of a file; the job of the doctor has five minutes in all."""
SLOW_SECONDS = 3.0
"""A rename that another node sees later than this is worth a note: statuses lag, and ranks wait for files."""

LOCKS_BETWEEN_NODES = "mount it with locks that hold between nodes (NFSv4; Lustre: flock, not localflock)"
"""The mend of a file system whose locks cannot be relied upon."""


def node_name() -> str:
    """Returns Slurm's name of the node, else the host name, which nodes of a test on one machine share."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def check_between_nodes(place: Path) -> Iterator[Diagnosis]:
    """Yields a diagnosis for each check between the nodes of a job; nothing if it has only one node.

    Args:
        place: Folder of the sweeps, which all nodes should share.
    """
    nodes = gather_objects(node_name())
    if len(set(nodes)) < 2:
        return
    yield Diagnosis("nodes", "ok", f"{len(set(nodes))}: {', '.join(dict.fromkeys(nodes))}")
    yield _clocks(nodes)
    watcher = nodes.index(next(node for node in nodes if node != nodes[0]))  # the first process of another node
    file = place / f".doctor-nodes-{os.environ.get('SLURM_JOB_ID', 'here')}"
    try:
        yield _rename(file, watcher, nodes[watcher])
        yield _lock(file, watcher, nodes)
    finally:
        if rank() == 0:
            file.unlink(missing_ok=True)


def _clocks(nodes: Sequence[str]) -> Diagnosis:
    """Compares the nodes' clocks with rank 0's, to within the milliseconds that a barrier takes to release all."""
    rounds = []
    for _ in range(SKEW_ROUNDS):
        barrier()
        rounds.append(gather_objects(time.time()))
    ahead = [median(said[number] - said[0] for said in rounds) for number in range(len(nodes))]
    furthest = max(range(len(nodes)), key=lambda number: abs(ahead[number]))
    found = f"{abs(ahead[furthest]):.2f} s apart at most ({nodes[0]} and {nodes[furthest]})"
    if abs(ahead[furthest]) > CLOCKS_SECONDS:
        return Diagnosis("clocks of nodes", "wrong", found, "tell the administrators (NTP)")
    return Diagnosis("clocks of nodes", "ok", found)


def _rename(file: Path, watcher: int, node: str) -> Diagnosis:
    """Measures how soon another node sees a file that a rename made or replaced, as checkpoints and statuses are."""
    check = "rename seen by a node"
    mend = "the profile's scratch: a folder that all nodes share, not one of each node's own"
    waits = []
    for text, what in (("old", "a new file"), ("new", "a renamed file")):
        if trouble := _on(0, partial(_put, file, text)):
            return Diagnosis(check, "wrong", f"{file.parent}: {trouble}", mend)
        seconds = _on(watcher, partial(_seconds_until, file, text))
        if seconds is None:
            found = f"{node} does not see {what} in {file.parent} within {SEEN_SECONDS:.0f} s"
            return Diagnosis(check, "wrong", found, mend)
        waits.append(seconds)
    found = f"{node} sees a renamed file in {file.parent} after {max(waits):.1f} s"
    if max(waits) > SLOW_SECONDS:
        mend = "mount it with a shorter attribute cache (NFS: actimeo), or be patient with `salmask status`"
        return Diagnosis(check, "note", found, mend)
    return Diagnosis(check, "ok", found)


def _lock(file: Path, watcher: int, nodes: Sequence[str]) -> Diagnosis:
    """Checks that a lock held by one node is refused to another, and is free once it is given back."""
    check = "lock seen by a node"
    held: list[int] = []
    taken = _on(0, lambda: held.append(_locked(file)))
    while_held = _on(watcher, lambda: _can_lock(file))
    _on(0, lambda: _close(held))
    afterwards = _on(watcher, lambda: _can_lock(file))
    holder, other = nodes[0], nodes[watcher]
    # Of each try: whether the lock was had, or the text of an error.
    errors = [answer for answer in (while_held, afterwards) if isinstance(answer, str)]
    if isinstance(taken, str):
        found = f"none on {file.parent} ({taken}): only heartbeats keep two jobs apart"
    elif while_held is True:
        found = f"{other} gets a lock that {holder} holds: only heartbeats keep two jobs apart"
    elif errors:
        found = f"{other} cannot try a lock on {file.parent} ({errors[0]}): only heartbeats keep two jobs apart"
    elif not afterwards:
        found = f"{other} does not get a lock on {file.parent} that {holder} has given back"
    else:
        return Diagnosis(check, "ok", f"a lock on {file.parent} holds between {holder} and {other}")
    return Diagnosis(check, "note", found, LOCKS_BETWEEN_NODES)


def _on(number: int, act: Callable[[], Any]) -> Any:
    """Calls `act` on the rank `number` alone; returns its result, or the text of its OSError, on every rank."""
    result: Any = None
    if rank() == number:
        try:
            result = act()
        except OSError as error:
            result = error.strerror or str(error)
    return gather_objects(result)[number]


def _put(file: Path, text: str) -> None:
    """Writes a file as salmask writes all its files: under a temporary name, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def _seconds_until(file: Path, text: str) -> float | None:
    """Returns after how many seconds a file held a text; None if it did not within `SEEN_SECONDS`."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < SEEN_SECONDS:
        try:
            if file.read_text(encoding="utf-8") == text:
                return waited
        except OSError:
            pass  # not there yet, or a stale NFS handle during the rename
        time.sleep(0.05)
    return None


def _locked(file: Path) -> int:
    """Locks a file as runs lock theirs, and returns its descriptor.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _can_lock(file: Path) -> bool:
    """Returns whether this process can lock a file at once."""
    try:
        os.close(_locked(file))
    except BlockingIOError:
        return False
    return True
