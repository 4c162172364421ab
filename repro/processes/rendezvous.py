"""How the tasks of a Slurm step find each other: their ranks as `srun` tells them, and a store that only they share.

They meet at a port that is computed from the job's number, so that nobody has to announce it. If another program uses
that port, rank 0 takes one of a few others, computed likewise. The other ranks ask at each of these ports, where rank 0
tells them the port of its store.
"""

import contextlib
import errno
import re
import socket
import time
from collections.abc import Mapping, Sequence

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # of its C++ part

from repro.errors import UserError, one_line

LOOPBACK = "127.0.0.1"
PORTS = 8
"""Number of ports at which a job's tasks may meet."""
MEETING_SECONDS = 600.0
"""How long ranks wait for each other: some nodes start late, and Python is read from shared file systems."""
ANSWER_SECONDS = 5.0
"""How long a program at a port may take to show that it is rank 0."""
POLL_SECONDS = 0.2
MEND = "set MASTER_ADDR and MASTER_PORT in the profile's setup, to a name and a port by which nodes reach the first one"
LAST_PORT = 65535
"""The greatest number of a port; a bound on ranks, too, as no launcher starts so many processes."""
ALONE = "start all processes with torchrun or srun; for a single one, `unset RANK`"
AGAIN = "repeat; if you chose MASTER_PORT yourself, with another one"
_JOINED = "salmask/joined"
_FIRST, _COUNT, _STRIDE = 20000, 12768, 1597
# 20000 to 32767: below the ports that Linux gives to outgoing connections, 32768 and up. The stride and the number of
# ports have no common divisor, so that all candidates differ.


def slurm_to_env(slurm: Mapping[str, str]) -> dict[str, str]:
    """Returns torch's env:// variables, made of those that `srun` sets; empty unless a step has several tasks.

    Args:
        slurm: The environment of the process.

    Raises:
        UserError: SLURM_STEP_NODELIST names no node.
    """
    # SLURM_NTASKS is set in a batch script too, which is one process and must not wait for others.
    if int(slurm.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": _first_node(slurm),
        "MASTER_PORT": str(ports_of(slurm["SLURM_JOB_ID"])[0]),
    }


def check_launcher(environ: Mapping[str, str], mend: str) -> None:
    """Refuses variables of a launcher, perhaps set by hand, with which processes could not find each other.

    Args:
        environ: The environment of a process, with RANK in it.
        mend: What to do about them.

    Raises:
        UserError: A variable is missing, not a number or out of its range.
    """
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    numbers = {name: environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    odd = [name for name, value in numbers.items() if not re.fullmatch("[0-9]{1,5}", value) or int(value) > LAST_PORT]
    if missing:
        what = f"RANK={environ['RANK']} is set, and {missing[0]} is not"
    elif odd:
        what = f"{odd[0]}={numbers[odd[0]]} is not a number that a launcher sets"
    elif int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        what = f"RANK={numbers['RANK']} is not below WORLD_SIZE={numbers['WORLD_SIZE']}"
    else:
        return
    raise UserError(what, mend=mend)


def _first_node(slurm: Mapping[str, str]) -> str:
    """Returns the address of rank 0; if all run on one node, loopback, which needs no name resolution."""
    nodes = slurm.get("SLURM_STEP_NODELIST", "")
    # The first entry ends at a comma that is not within brackets. `scontrol show hostnames` would unfold the list, but
    # is not installed on every node.
    first_entry = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if slurm.get("SLURM_STEP_NUM_NODES") == "1":
        return LOOPBACK
    if not first_entry:
        raise UserError(f"SLURM_STEP_NODELIST='{nodes}' names no node", mend="set MASTER_ADDR")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first_entry.group())  # node[03-07] -> node03


def ports_of(job: str) -> list[int]:
    """Returns the ports that are computed from a job's number, the first choice first.

    Args:
        job: The job's number; consecutive numbers have different first choices.
    """
    return [_FIRST + (int(job) + _STRIDE * choice) % _COUNT for choice in range(PORTS)]


def meet(slurm: Mapping[str, str], *, seconds: float = MEETING_SECONDS) -> TCPStore:
    """Returns the store that a step's tasks share; rank 0 returns it once all others have found it.

    Args:
        slurm: The environment of the task, with what `slurm_to_env` returned.
        seconds: How long to wait for the others.

    Raises:
        UserError: Rank 0 has no free port, or ranks do not find each other.
    """
    # Names this attempt at this job, so that no other program, and no process of an earlier attempt, is taken for it.
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    token = " ".join(["salmask", *(slurm.get(name, "0") for name in names)])
    ports, world = ports_of(slurm["SLURM_JOB_ID"]), int(slurm["WORLD_SIZE"])
    deadline = time.monotonic() + seconds
    if slurm["RANK"] == "0":
        return _receive(ports, world, token, deadline)
    while True:
        trouble = ""
        for port in ports:
            store, refused = _ask(slurm["MASTER_ADDR"], port, world, token)
            if store is not None:
                return store
            trouble = trouble or refused
        if time.monotonic() > deadline:
            here = f"rank {slurm['RANK']} on {socket.gethostname()}"
            raise UserError(f"{here} does not find rank 0 at {slurm['MASTER_ADDR']}:{ports[0]} ({trouble})", mend=MEND)
        time.sleep(POLL_SECONDS)


def _receive(ports: Sequence[int], world: int, token: str, deadline: float) -> TCPStore:
    """Returns rank 0's store, once it has told the store's port to all other ranks."""
    # Port 0: Linux chooses a free one. The store listens on every address; this process itself uses loopback.
    store = TCPStore(LOOPBACK, 0, world, is_master=True, wait_for_workers=False)
    with _listener(ports) as listener:
        listener.settimeout(POLL_SECONDS)
        while (joined := store.add(_JOINED, 0)) < world - 1:
            if time.monotonic() > deadline:
                what = f"only {joined} of {world - 1} other ranks found rank 0 on {socket.gethostname()}:{ports[0]}"
                raise UserError(what, mend=MEND)
            with contextlib.suppress(OSError):  # nobody came, or the visitor is gone again
                visitor, _ = listener.accept()
                with visitor:
                    visitor.sendall(f"{token} {store.port}\n".encode())
    return store


def _listener(ports: Sequence[int]) -> socket.socket:
    """Returns a socket that listens at the first free port."""
    dual = socket.has_dualstack_ipv6()
    for port in ports:
        try:
            family = socket.AF_INET6 if dual else socket.AF_INET
            return socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=dual)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    what = f"rank 0 finds none of its ports free on {socket.gethostname()}: {', '.join(map(str, ports))}"
    raise UserError(what, mend="set MASTER_PORT in the profile's setup to a free one")


def _ask(address: str, port: int, world: int, token: str) -> tuple[TCPStore | None, str]:
    """Asks at a port for the store of our job; returns the store, or None and the reason."""
    try:
        with socket.create_connection((address, port), timeout=ANSWER_SECONDS) as connection:
            answer = connection.makefile(encoding="utf-8", errors="replace").readline(200)
        told = re.fullmatch(rf"{re.escape(token)} (\d+)\n", answer)
        if told is None:
            return None, "another program is there"
        store = TCPStore(address, int(told[1]), world, is_master=False, wait_for_workers=False)
        store.add(_JOINED, 1)
    except (OSError, RuntimeError) as error:  # torch's are RuntimeErrors
        return None, one_line(error)[:100]
    return store, ""
