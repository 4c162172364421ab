"""Processes of this machine that carry a job out, one for each rank, in a process group of their own."""

import errno
import os
import pdb
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from repro.command_line.terminal import Console, say
from repro.errors import UserError
from repro.filesystem.files import mend_of_place
from repro.filesystem.paths import CODE_ROOT
from repro.quantities import counted
from repro.runs.stopping import GRACE_SECONDS, exits_on_term
from slurm.ask import outside_of_any_job
from slurm.jobs.calls import write_calls
from slurm.jobs.job import Call

KILL_SECONDS = GRACE_SECONDS + 10.0
"""How long processes that were asked to end may take to save, before they are killed."""
POLL_SECONDS = 0.5
"""How long it may take until the end of a process is seen."""
TORCHRUN = "TORCHELASTIC_"
"""Prefix of the variables by which ranks of torchrun meet at its agent, which knows nothing of our jobs."""


@dataclass
class LocalJob:
    """A job that was started here."""

    folder: Path
    """Of its submission."""
    ranks: Sequence["subprocess.Popen[bytes]"]
    gpus: tuple[str, ...] = ()
    """Devices that it holds, as CUDA_VISIBLE_DEVICES names them; none: it sees those of its launcher."""
    _ending_since: float | None = None
    _first_to_fail: int | None = None

    @property
    def id(self) -> str:
        """The process id of the first rank, which is that of the group too."""
        return str(self.ranks[0].pid)

    def ended(self) -> bool:
        """Returns whether all ranks are over; where one failed, the others are told to end."""
        codes = [process.poll() for process in self.ranks]
        if self._first_to_fail is None and self._ending_since is None:
            # Of several that failed since the last look, one that was killed counts as the first: the others lost it.
            failed = sorted((code > 0, rank) for rank, code in enumerate(codes) if code)
            self._first_to_fail = failed[0][1] if failed else None
        if None not in codes:
            return True
        if self._first_to_fail is not None:
            self.stop()
        if self._ending_since is not None and time.monotonic() - self._ending_since > KILL_SECONDS:
            self._signal(signal.SIGKILL)
        return False

    def stop(self) -> None:
        """Asks the processes to end, once; they save a checkpoint first."""
        if self._ending_since is None:
            self._ending_since = time.monotonic()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the processes at once."""
        self._signal(signal.SIGKILL)

    @property
    def killed(self) -> bool:
        """Whether a signal ended the rank that failed before the others did."""
        return self._first_to_fail is not None and self.ranks[self._first_to_fail].returncode < 0

    def log(self, rank: int, stream: str) -> Path:
        """Returns the file of what a rank printed, `out` or `err`."""
        return _log(self.folder, self.id, rank, stream)

    @property
    def failure(self) -> str:
        """Which rank failed before the others did, and how: `rank 1 was killed by SIGKILL`; empty where none did."""
        if self._first_to_fail is None:
            return ""
        code = self.ranks[self._first_to_fail].returncode
        name = f"rank {self._first_to_fail}" if len(self.ranks) > 1 else "the process"
        return f"{name} was killed by {_signal_name(-code)}" if code < 0 else f"{name} ended with status {code}"

    def _signal(self, number: int) -> None:
        # The group and not the rank alone: other ranks would wait in a collective for one that has ended.
        with suppress(ProcessLookupError):  # all have ended meanwhile
            os.killpg(self.ranks[0].pid, number)


def start(folder: Path, call: Call, processes: int = 1, gpus: Sequence[str] = ()) -> LocalJob:
    """Starts a job on this machine.

    Args:
        folder: Of its submission; made, private to its owner. `call` is written there, and what the job prints.
        call: What the job is to do.
        processes: How many ranks.
        gpus: The devices that it is to see, as CUDA_VISIBLE_DEVICES names them; none: those that the launcher sees.

    Raises:
        UserError: The folder cannot be written to, or no process can be started. No rank is left behind then, nor if a
            signal comes.
    """
    write_calls(folder, {0: call})
    environment = _environment(gpus)
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            of_rank = {**rendezvous, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            ranks.append(_start_rank(folder, rank, {**environment, **of_rank}, ranks[0].pid if ranks else 0))
            job = ranks[0].pid
            for stream in ("out", "err"):
                _log(folder, "starting", rank, stream).rename(_log(folder, str(job), rank, stream))
    except BaseException:
        if ranks:  # nobody would know of them, and those of several would wait for the others for ever
            LocalJob(folder, ranks).kill()
        raise
    return LocalJob(folder, ranks, tuple(gpus))


def call_and_look(call: Call) -> None:
    """Calls a job here; prints a UserError in one line, any other error whole, with a debugger at a terminal."""
    try:
        call()
    except UserError as error:
        say(f"Error: {error}", err=True)
    except Exception as error:
        traceback.print_exc()
        if sys.stdin.isatty():
            pdb.post_mortem(error.__traceback__)


@contextmanager
def ended_on_exit(running: Callable[[], Iterable[LocalJob]], console: Console) -> Iterator[None]:
    """Ends jobs when the block ends early, by Ctrl-C, TERM or HUP, and waits until they have saved a checkpoint.

    Args:
        running: Returns the jobs that run, asked when the block ends.
        console: Told that it waits.
    """
    with exits_on_term():
        try:
            yield
        except BaseException:
            left = [job for job in running() if not job.ended()]
            for job in left:
                job.stop()
            if left:
                jobs = counted(len(left), "job")
                console.print(f"ending {jobs}; trainings save a checkpoint first, and resume from it next time")
            deadline = time.monotonic() + KILL_SECONDS + POLL_SECONDS
            try:
                while not all(job.ended() for job in left) and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS / 5)
            finally:  # also where a second Ctrl-C cuts the wait short
                for job in left:
                    if not job.ended():
                        job.kill()
            raise


def _start_rank(folder: Path, rank: int, environment: dict[str, str], group: int) -> "subprocess.Popen[bytes]":
    """Starts one rank; its log files are renamed when the first rank's process id, which is the job's, is known."""
    words = [sys.executable, "-u", "-m", "slurm.start", str(folder.resolve())]
    try:
        with (
            _log(folder, "starting", rank, "out").open("wb") as out,
            _log(folder, "starting", rank, "err").open("wb") as err,
        ):
            # A group of its own: Ctrl-C reaches the launcher alone, which asks its jobs to end in good order.
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, process_group=group
            )
    except OSError as error:
        is_full = error.errno in (errno.EAGAIN, errno.ENOMEM)
        mend = "end other processes" if is_full else mend_of_place(error, "salmask doctor")
        raise UserError(f"cannot start a job in {folder}: {error.strerror or error}", mend=mend) from error


def _environment(gpus: Sequence[str]) -> dict[str, str]:
    # The launcher may run in a Slurm job or under torchrun; its processes must not wait for the ranks of that job.
    inherited = {name: value for name, value in outside_of_any_job().items() if not name.startswith(TORCHRUN)}
    # They run the launcher's code, wherever that is, and not what happens to lie in the current folder.
    path = os.pathsep.join(part for part in (str(CODE_ROOT), inherited.get("PYTHONPATH", "")) if part)
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    return {**inherited, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **visible}


def _signal_name(number: int) -> str:
    """Returns `SIGKILL` for 9; for a signal without a name of its own, `signal 40`."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _log(folder: Path, job: str, rank: int, stream: str) -> Path:
    return folder / f"{job}_{rank}_log.{stream}"


def _free_port() -> int:
    # Below the ports that Linux gives to connections: one of those could take it before rank 0 has imported torch.
    while True:
        port = random.randrange(20000, 32768)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
