"""What the scheduler says of jobs: one `squeue` call, and one `sacct` call for those that have left the queue.

Neither decides about a run; its folder does. The queue adds what a folder cannot know: why a job waits, and that a
process is gone which had no time to say so. Without accounting, there is only `squeue`; without Slurm, neither.
"""

import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import UserError
from slurm.ask import ANSWER_SECONDS, LOGIN_NODE, Reply, ask
from slurm.sweep_folder.ledger import Submission

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
        *("REVOKED", "TIMEOUT"),
    }
)
"""Slurm's states of a job that waits, and of one that ended. All others mean that it has nodes, or is getting them or
giving them back. States of later versions count as these: a job taken for ended would be submitted a second time."""
PARENT_FAILED = "DependencyNeverSatisfied"
"""Slurm's reason for a job that waits for one that has failed."""

SQUEUE_FIELDS = ("JobArrayID", "Name", "State", "Reason", "StartTime", "EndTime", "NodeList", "Partition")
SACCT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "Start", "End", "NodeList", "Partition")
SACCT_SECONDS = 30.0
"""How long to wait for sacct's answer: it asks a database that may be slow or gone."""
ROUNDING_SECONDS = 2.0
"""By how much Linux rounds the time of its own start, from which the start of each process is counted."""
IDS_A_CALL = 5000
"""The most ids of one call, since a command line holds no more; of more ids, the newest are asked for."""


class SilentSlurmError(UserError):
    """Slurm does not say what is queued, or does not cancel jobs; it may do so later."""


@dataclass(frozen=True)
class QueuedJob:
    """One job as Slurm sees it."""

    job: str
    """`812`, or `812_3` in an array."""
    name: str
    state: str
    """Slurm's word in capitals, for example `PENDING`, `RUNNING`, `CANCELLED`."""
    reason: str = ""
    """Why it waits, for example `Resources`; of a job that ended, what ended it: `by 1000`, `signal 9`, `exit 1`."""
    start: float | None = None
    """When it started or, while it waits, when Slurm expects it to; seconds since the epoch."""
    end: float | None = None
    """When it ended; seconds since the epoch."""
    nodes: str = ""
    partition: str = ""

    @property
    def waiting(self) -> bool:
        """Whether the job is in the queue and not on a node."""
        return self.state in WAITING

    @property
    def live(self) -> bool:
        """Whether the job runs, or will."""
        return self.state not in ENDED


@dataclass(frozen=True)
class QueueSnapshot:
    """The queue at one moment."""

    jobs: Mapping[str, QueuedJob] = field(default_factory=dict)
    """By id, those that ended lately among them."""
    trouble: str = ""
    """Why `squeue` did not answer; then a job that is not in `jobs` may well be alive."""
    absent: bool = False
    """Whether this machine has no `squeue`, or belongs to no cluster, so that there will be no answer later either."""

    @property
    def mend(self) -> str:
        """What helps if `squeue` did not answer."""
        return LOGIN_NODE if self.absent else "try again when Slurm answers"

    def named(self, name: str) -> list[QueuedJob]:
        """Returns the jobs of a name: what one submission became."""
        return [job for job in self.jobs.values() if job.name == name]

    def accepted(self, name: str) -> str:
        """Returns the id of the job or array that one submission became; empty if the queue knows none.

        After two tries that timed out, Slurm may have taken both: then the first one that is alive counts.
        """
        jobs = sorted(self.named(name), key=lambda job: (not job.live, int_or_0(array_of(job.job))))
        return array_of(jobs[0].job) if jobs else ""

    def find(self, entry: Submission) -> QueuedJob | None:
        """Returns what Slurm says of a job of a ledger; None if it does not know the job, or the job is not Slurm's.

        An intent whose id never got into the ledger is looked up by its submission's name. Any other job must have both
        its id and this name: another cluster, or one that was set up anew, gives the same ids again.
        """
        if entry.executor != "slurm":
            return None
        if not entry.job:
            return next(iter(self.named(entry.submission)), None)
        # An array that was cancelled before it began is listed as one job, under the array's id.
        found = (self.jobs.get(job) for job in (entry.job, array_of(entry.job)))
        return next((job for job in found if job is not None and job.name == entry.submission), None)

    def live(self, entry: Submission) -> bool | None:
        """Returns whether a job of a ledger runs or waits; None where that cannot be known from here."""
        if entry.executor != "slurm":
            return _process_lives(entry)
        job = self.find(entry)
        if job is None:  # an answer without the job means that it is over; no answer means nothing
            return None if self.trouble else False
        return job.live

    def arrays_as_one(self, ids: Sequence[str]) -> list[str]:
        """Returns ids for `scancel`; if all live jobs of an array are among them, the array's in their place.

        scancel sends a request for each id, and Slurm may slow down users who send many (`rl_enable`).

        Args:
            ids: Of jobs.
        """
        named = set(ids)
        alive: dict[str, set[str]] = {}
        for job in self.jobs.values():
            if job.live:
                alive.setdefault(array_of(job.job), set()).add(job.job)
        # Compared by id and not by number: a job that is over must not stand for one that is to live on.
        whole = {array for array, living in alive.items() if len(living) > 1 and living <= named}
        return [*dict.fromkeys(array if (array := array_of(job)) in whole else job for job in ids)]


def snapshot(ended: Collection[str] = (), *, user: str = "") -> QueueSnapshot:
    """Asks Slurm: `squeue` once, and `sacct` once where `ended` names jobs that squeue no longer lists.

    Args:
        ended: Ids of jobs to ask the accounting about if squeue does not list them.
        user: Whose jobs, several names with commas between; empty: this user's.
    """
    if not shutil.which("squeue"):
        return QueueSnapshot(trouble="there is no squeue on this machine", absent=True)
    reply = _squeue(f"--user={user}" if user else "--me")
    jobs = _jobs_of(reply)
    unlisted = newest_arrays(job for job in ended if job not in jobs)
    if unlisted and not reply.trouble:
        # squeue has the last word on what both know: the database lags behind, above all after a requeue.
        jobs = _outside_of_the_queue(unlisted) | jobs
    return QueueSnapshot(jobs, reply.trouble, absent=reply.not_here)


def _squeue(whose: str) -> Reply:
    """Asks the controller for jobs.

    Args:
        whose: The option of squeue that says which jobs.
    """
    # Fields of unlimited width (`:`) with a separator of our own: names of jobs are longer than squeue's columns.
    columns = ",".join(f"{name}:|" for name in SQUEUE_FIELDS)
    # `--all`: also jobs of hidden partitions, which would look gone, and be submitted once more.
    return _ask(["squeue", "--noheader", "--all", "--array", "--states=all", whose, "-O", columns], ANSWER_SECONDS)


def _jobs_of(reply: Reply) -> dict[str, QueuedJob]:
    return {job.job: job for line in reply.output.splitlines() for job in parse_squeue(line)}


def _outside_of_the_queue(arrays: Sequence[str]) -> dict[str, QueuedJob]:
    """Returns what the accounting knows of jobs that squeue did not list, by id.

    The accounting may have missed the end of a job, and call it running for ever. But such a job may also be a
    colleague's, whom squeue was not asked about. So the controller is asked for these by id; what it does not know is
    left out.

    Args:
        arrays: Ids of jobs and of whole arrays.
    """
    lines = sacct(SACCT_FIELDS, "--allusers", "--allocations", f"--jobs={','.join(arrays)}")
    recorded = {job.job: job for line in lines for job in parse_sacct(line)}
    doubtful = newest_arrays(job.job for job in recorded.values() if job.live)
    if not doubtful:
        return recorded
    reply = _squeue(f"--jobs={','.join(doubtful)}")
    # Of several ids, squeue lists those that it knows; a single one that it does not know is an error.
    if reply.trouble and "Invalid job id" not in reply.trouble:
        return recorded
    return {name: job for name, job in recorded.items() if not job.live} | _jobs_of(reply)


def named_in_accounting(names: Sequence[str]) -> dict[str, QueuedJob]:
    """Returns the jobs of these names that the accounting knows, by id; none where there is no accounting.

    Args:
        names: Of submissions; of many the newest 500 are asked for.
    """
    if not names:
        return {}
    lines = sacct(SACCT_FIELDS, "--allocations", "--starttime=now-30days", f"--name={','.join(names[-500:])}")
    return {job.job: job for line in lines for job in parse_sacct(line) if job.name in names}


def parse_squeue(line: str) -> Iterator[QueuedJob]:
    """Yields the jobs of a line of `squeue`; none in a broken line.

    Args:
        line: The fields `SQUEUE_FIELDS`, each followed by `|`.
    """
    cells = cells_of(line.strip().removesuffix("|"), len(SQUEUE_FIELDS))
    if not cells:
        return
    ids, name, state, reason, start, end, nodes, partition = cells
    reason = "" if reason == "None" else reason
    for job in expand(ids):
        yield QueuedJob(job, name, state, reason, _seconds(start), _seconds(end), nodes, partition)


def parse_sacct(line: str) -> Iterator[QueuedJob]:
    """Yields the jobs of a line of `sacct`; none in a broken line.

    Args:
        line: The fields `SACCT_FIELDS`, separated by `|`.
    """
    cells = cells_of(line.strip(), len(SACCT_FIELDS))
    if not cells:
        return
    ids, name, state, code, start, end, nodes, partition = cells
    word, _, detail = state.partition(" ")  # "CANCELLED by 0"
    status, _, signal = code.partition(":")  # "0:9": status 0, ended by signal 9
    reason = detail or (f"signal {signal}" if signal not in ("", "0") else f"exit {status}" if status != "0" else "")
    for job in expand(ids):
        yield QueuedJob(job, name, word, reason, _seconds(start), _seconds(end), nodes, partition)


def cells_of(line: str, number: int) -> list[str]:
    """Returns the cells of a line; none of a line with too few. The second is the name, which may itself hold a `|`."""
    cells = line.split("|")
    surplus = len(cells) - number
    return [cells[0], "|".join(cells[1 : 2 + surplus]), *cells[2 + surplus :]] if surplus >= 0 else []


def expand(ids: str) -> list[str]:
    """Returns the jobs that Slurm writes as one: `812_[0-2,7%2]` is `812_0`, `812_1`, `812_2` and `812_7`."""
    array, bracket, numbers = ids.partition("_[")
    if not bracket:
        return [ids]
    jobs = []
    for span in re.sub(r"%\d+", "", numbers.rstrip("]")).split(","):  # without the throttle, %2
        first, _, last = span.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return [ids]  # "812_[0-9...]": squeue cuts long lists where it is not told --array
        jobs += [f"{array}_{number}" for number in range(int(first), int(last or first) + 1)]
    return jobs


def scancel(jobs: Sequence[str], *, name: str = "") -> str:
    """Cancels jobs, in one call; returns what Slurm objected to, empty where it did not.

    Args:
        jobs: Their ids; none: nothing is called.
        name: The name that a job must have to be cancelled, for ids that squeue did not list; empty: any.
    """
    filters = [f"--name={name}"] if name else []
    return _ask(["scancel", *filters, *jobs], ANSWER_SECONDS).trouble if jobs else ""


def sacct(fields: Sequence[str], *options: str) -> list[str]:
    """Returns lines of the accounting, fields separated by `|`; none where there is none, or it does not answer."""
    words = ["sacct", *options, "--noheader", "--parsable2", f"--format={','.join(fields)}"]
    return _ask(words, SACCT_SECONDS).output.splitlines()


def _ask(words: Sequence[str], seconds: float) -> Reply:
    # Times as seconds since the epoch, so that no time zone of the cluster comes between.
    return ask(words, seconds=seconds, environment={**os.environ, "SLURM_TIME_FORMAT": "%s"})


def process_of(submission: str) -> str:
    """Returns the id of the process here that carries out a submission; empty where there is none, or no Linux.

    Args:
        submission: Its name, which is that of the folder that the process was started with.
    """
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        process = command.parent.name
        try:
            words = command.read_bytes().split(b"\0")
            is_first = os.getpgid(int(process)) == int(process)  # of the ranks, which are a process group
        except OSError:  # it has ended meanwhile
            continue
        # Other processes may have the name among their words too, such as one that reads the logs.
        if is_first and b"slurm.start" in words and any(Path(os.fsdecode(word)).name == submission for word in words):
            return process
    return ""


def _process_lives(entry: Submission) -> bool | None:
    """Returns whether the process of a local job runs; None where only another machine can tell."""
    if not entry.job.isdecimal():
        return False  # a local job gets its id as its process begins
    if entry.host != socket.gethostname():
        return None
    of_another_user = False
    try:
        os.kill(int(entry.job), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        of_another_user = True
    command = Path(f"/proc/{entry.job}/cmdline")
    try:
        words = command.read_bytes()
    except OSError:
        # It has ended since; or this machine hides other users' processes, or has no /proc: then only the id tells.
        return of_another_user or not Path("/proc/self").exists()
    if not words:
        return _has_program(entry.job)
    # Linux gives the ids of ended processes to new ones. The command lines of ours name their submission's folder; that
    # of a launcher, in which the debug executor runs jobs, may be anything.
    return entry.submission.encode() in words or (entry.executor == "debug" and _is_as_old(entry))


def _has_program(process: str) -> bool:
    """Returns whether a process without a command line is one whose program is being loaded, which takes a moment.

    Zombies and threads of the kernel have no command line either, and no program.
    """
    try:
        Path(f"/proc/{process}/exe").readlink()
    except OSError:
        return False
    return True


def _is_as_old(entry: Submission) -> bool:
    """Returns whether the process with a job's id began before the job was handed to it, as a launcher's did."""
    try:
        # The fields behind the name in brackets (which may hold anything) begin with the 3rd; the 22nd is the start.
        ticks = Path(f"/proc/{entry.job}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        system = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
        booted = next(int(line.split()[1]) for line in system if line.startswith("btime "))
        began = booted + int(ticks[22 - 3]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return True  # no Linux as we know it: the id is all there is
    return began <= entry.written_at + ROUNDING_SECONDS


def newest_arrays(jobs: Iterable[str]) -> list[str]:
    """Returns the ids to ask sacct for: arrays in place of their jobs, and the newest `IDS_A_CALL` of all.

    Args:
        jobs: Ids, `812` or `812_3`.
    """
    return sorted({array_of(job) for job in jobs}, key=int_or_0)[-IDS_A_CALL:]


def array_of(job: str) -> str:
    """Returns the id of the array that a job is of, `812` of `812_3`; its own id where it is of none."""
    return job.partition("_")[0]


def int_or_0(text: str) -> int:
    """Returns a whole number; 0 if the text is none."""
    return int(text) if text.isdecimal() else 0


def _seconds(text: str) -> float | None:
    """Returns a time in seconds since the epoch; None for `N/A`, `Unknown` and the like."""
    return float(text) if text.isdecimal() else None
