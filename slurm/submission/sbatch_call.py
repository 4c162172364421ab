"""One call of sbatch: tried again if Slurm is only slow or busy.

Nothing is submitted twice. A call that "timed out" may have been accepted, so before each new try, the queue is asked
for a job of the submission's unique name; while the queue does not answer, there is no new try. If an earlier try shows
only after a later one was accepted, it is cancelled; if after a later one was refused, it is the job. Nothing that was
accepted is lost either: if the answer holds no id, or that of another job, the id is looked up by the name.
"""

import re
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from slurm.ask import outside_of_any_job
from slurm.jobs.refusals import Refusal, classify
from slurm.monitoring.queue import QueueSnapshot, array_of, scancel, snapshot

SCRIPT = "submission.sh"
SBATCH_SECONDS = 240.0
"""How long one call may take; sbatch itself tries for two minutes where Slurm's queue is full."""
WAITS = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds before each new try at a Slurm that does not answer."""


_ID = re.compile(r"(\d+)(?:;\S+)?")
_SENTENCE = re.compile(r"Submitted batch job (\d+)")


class RefusedError(Exception):
    """Slurm did not take the job, for sure; the text holds its words."""

    def __init__(self, words: str, kind: Refusal) -> None:
        super().__init__(words)
        self.kind = kind


class UnclearError(Exception):
    """Nobody knows whether Slurm took the job; the text says why."""


def submit_script(script: Path, name: str, known_ids: Collection[str] = (), *, inherited: Sequence[int] = ()) -> str:
    """Submits a script by sbatch and returns the id that Slurm gave the job, or the array.

    Args:
        script: The script's path.
        name: Of the job, which no other one has.
        known_ids: Ids that cannot be this job's, since they are of earlier ones.
        inherited: File descriptors that sbatch keeps open: a lock, which then outlives a launcher that is killed.

    Raises:
        RefusedError: Slurm did not take it.
        UnclearError: It may have been taken, or not; the name tells it later.
    """
    complaint = ""
    for wait in (0.0, *WAITS):
        time.sleep(wait)
        if complaint:
            accepted, trouble = _id_in_queue(name)
            if accepted:
                return accepted
            if trouble:  # it may be in: to take silence for an empty queue would submit it twice
                continue
        is_first = not complaint
        output, complaint = _call(script, inherited)
        if not complaint:
            job = _id_of(output, name, known_ids)
            if not is_first:
                _end_others(snapshot(), name, job)
            return job
        kind = classify(complaint)
        if kind is None:
            continue
        # An earlier try may have been accepted late, and be why the limit is reached.
        accepted, trouble = ("", "") if is_first else _id_in_queue(name)
        if accepted:
            return accepted
        if not trouble:
            raise RefusedError(_short(complaint), kind)
    accepted, trouble = _id_in_queue(name)
    if accepted:
        return accepted
    raise UnclearError("; ".join(filter(None, (_short(complaint), trouble))))


def parse_id(output: str) -> str:
    """Returns the id in the answer of `sbatch --parsable`, whatever a site prints besides; empty where it has none.

    Args:
        output: What sbatch printed: `812`, `812;cluster`, or, of a wrapper that drops the option, its usual sentence.
    """
    lines = [line.strip() for line in output.splitlines()]
    ids = [match.group(1) for line in lines if (match := _ID.fullmatch(line) or _SENTENCE.search(line))]
    return ids[-1] if ids else ""


def _call(script: Path, inherited: Sequence[int]) -> tuple[str, str]:
    """Returns what sbatch printed, and its complaint where it failed."""
    try:
        process = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            env=outside_of_any_job(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=SBATCH_SECONDS,
            pass_fds=inherited,
        )
    except subprocess.TimeoutExpired as error:
        words = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        return "", f"{words}\nsbatch timed out after {SBATCH_SECONDS:.0f} s".strip()
    except OSError as error:
        return "", f"sbatch: {error.strerror}"
    words = process.stderr.strip()
    if process.returncode < 0:  # while it waited for an answer, maybe
        return "", f"{words}\nsbatch was ended by signal {-process.returncode}".strip()
    return process.stdout, "" if process.returncode == 0 else words or f"status {process.returncode}"


def _id_of(output: str, name: str, known_ids: Collection[str]) -> str:
    """Returns the id of a job that was accepted, from sbatch's answer or else from the queue."""
    job = parse_id(output)
    if job and job not in known_ids:
        return job
    for wait in (0.0, *WAITS[:3]):
        time.sleep(wait)
        if accepted := _id_in_queue(name)[0]:
            return accepted
    answer = " ".join(output.split()) or "nothing"
    raise UnclearError(f"sbatch accepted it, but its answer holds no id of a new job: {answer[:200]}")


def _id_in_queue(name: str) -> tuple[str, str]:
    """Returns the id of the job or array of this name (empty: the queue knows none), and the queue's trouble.

    After two tries that timed out, Slurm may have taken both: then one is cancelled.
    """
    queue = snapshot()
    accepted = queue.accepted(name)
    _end_others(queue, name, accepted)
    return accepted, queue.trouble


def _end_others(queue: QueueSnapshot, name: str, job: str) -> None:
    """Cancels what an earlier try has submitted after all, if a busy controller handled it after the queue was asked.

    Args:
        queue: The queue.
        name: Of the submission.
        job: The id that counts.
    """
    scancel(sorted({array_of(other.job) for other in queue.named(name) if other.live} - {job}))


def _short(complaint: str) -> str:
    """Returns Slurm's words in one line: the last ones, which name the reason, without the names of its programs."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in complaint.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines[-2:]))[:400]
