"""Jobs to Slurm, through submitit: what is missing goes out at once, with dependencies, and nothing is done twice.

A launch is what is planned (`slurm.batches`), less what is done and what is queued or running.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import submitit
from rich.console import Console
from submitit.helpers import clean_env

from repro.errors import UserError, one_line
from repro.runs.lock import held
from slurm.batches import Batch, Parent, plan_batches
from slurm.graph import Graph
from slurm.handover import Outcome, ledger_entry, prepare_call
from slurm.ledger import Key, Ledger, Submission
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import PARENT_FAILED, QueueSnapshot, scancel, snapshot
from slurm.sbatch import SlurmExecutor, parameters
from slurm.snapshot import CodeSnapshot

LAUNCHING_SECONDS = 600.0
"""How long a launch waits for another one of the same sweep to be through; sbatch may take seconds for each batch."""
MAX_ARRAY = 1000
"""Jobs in an array where Slurm does not say."""


def submit(graph: Graph, cluster: Cluster, code: CodeSnapshot | None, program: Program, console: Console) -> Outcome:
    """Hands what is missing to Slurm and returns.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `slurm`.
        code: what the jobs import; None: what they find.
        program: the names of what the jobs carry out.
        console: for what is told.

    Raises:
        UserError: Slurm does not answer or refuses, or another launch does not end.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            f"cluster '{cluster.name}' needs Slurm, and there is no sbatch on this machine",
            mend="launch from a login node, or --local",
        )
    outcome = Outcome()
    ledger = Ledger(graph.sweep_folder)
    with _launch_lock(graph.sweep_folder):
        # All that is decided by is looked at under the lock: of two launchers, the second finds the jobs of the first.
        queue = snapshot()
        if queue.trouble:  # to take silence for an empty queue would submit everything twice
            raise UserError(
                f"cannot tell what is queued already ({queue.trouble})", mend="try again when Slurm answers"
            )
        adopt(ledger, queue)
        live = _live(ledger, queue, console)
        for batch in plan_batches(graph, cluster, _array_limit(cluster), live):
            ids = _hand_over(batch, graph, cluster, code, program, ledger, outcome.submitted)
            outcome.submitted |= ids
            console.print(f"submitted {batch.name}: {_listed(ids.values())}", soft_wrap=True, highlight=False)
    for job in graph.jobs:
        key = graph.key(job)
        if key in live:
            outcome.live.append(job)
        elif key not in outcome.submitted:
            outcome.skipped.append(job)
    return outcome


def scripts(graph: Graph, cluster: Cluster, code: Path) -> Iterator[tuple[str, str]]:
    """Yields what `submit` would hand to sbatch if nothing of the sweep were queued: (name, script) in order.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `slurm`.
        code: folder of the code that the jobs would import; it need not be there.
    """
    ids: dict[Key, str] = {}
    for batch in plan_batches(graph, cluster, cluster.max_array or MAX_ARRAY, {}):
        executor = _slurm_executor(batch, graph, cluster, code, ids)
        yield batch.name, executor.script(len(batch.keys))
        ids |= dict.fromkeys(batch.keys, f"<{batch.name}>")


def adopt(ledger: Ledger, queue: QueueSnapshot) -> None:
    """Completes what a killed launcher left half done: writes down the ids of jobs that went out nevertheless.

    A launcher first writes its intents, then calls sbatch, then gives submitit's pickles the names by which the jobs
    look for them, and last writes the ids down. Killed in between, it leaves jobs in the queue that no ledger knows and
    that may not find what they are to call. The queue knows them by the submission's name, which is Slurm's job name.

    Args:
        ledger: of the sweep; completed.
        queue: from `slurm.queue.snapshot`, taken under the launch lock: else a launch that is under way looks like a
            killed one.
    """
    by_submission: dict[str, list[Submission]] = {}
    for entry in ledger.submissions():
        if entry.executor == "slurm":
            by_submission.setdefault(entry.submission, []).append(entry)
    for name, entries in by_submission.items():
        queued = [job for job in queue.named(name) if job.live]
        if any(entry.job for entry in entries) or not queued:
            continue
        # The ledger keeps the order in which the jobs of an array are numbered. squeue may have forgotten some that
        # have ended already, so the ids are counted here and not taken from the queue.
        first = queued[0].job.partition("_")[0]
        ids = [first] if len(entries) == 1 else [f"{first}_{index}" for index in range(len(entries))]
        _name_pickles(ledger, name, dict(zip((entry.key for entry in entries), ids, strict=True)))
        ledger.submitted([replace(entry, job=job) for entry, job in zip(entries, ids, strict=True)])


def _name_pickles(ledger: Ledger, submission: str, ids: Mapping[Key, str]) -> None:
    """Gives submitit's pickles of a submission their final names, where the launcher did not come to it.

    Until sbatch has answered a pickle's name is random, and only its content tells which job it is for.
    """
    id_of_call = {(str(ledger.sweep.resolve() / folder), task): job for (folder, task), job in ids.items()}
    for pickle in (ledger.logs / submission).glob("*.pkl"):
        if re.fullmatch(r"[0-9a-f]{32}", pickle.stem):
            call = submitit.helpers.DelayedSubmission.load(pickle).function
            job = id_of_call[str(call.folder.resolve()), call.task]
            pickle.rename(pickle.with_name(f"{job}_submitted.pkl"))


@contextmanager
def _launch_lock(sweep_folder: Path) -> Iterator[None]:
    """Lets only one launcher of a sweep look and submit at a time; the next one then finds everything queued.

    The lock goes with the process, so that a killed launcher keeps nobody out; what it left is `adopt`'s.
    """
    with held(
        sweep_folder / ".launch.lock",
        taken=UserError(f"another launch of {sweep_folder} is still submitting", mend="wait for it"),
        unwritable="choose another --out",
        wait=LAUNCHING_SECONDS,
    ):
        yield


def _live(ledger: Ledger, queue: QueueSnapshot, console: Console) -> dict[Key, Parent]:
    """Returns what is queued or running; what waits for something that never comes is taken out of the queue."""
    entries = ledger.submissions()
    # `kill-on-invalid-dep` has Slurm cancel such jobs by itself, but not at once; and as long as one of them stands in
    # the queue it counts as on its way, and nothing would go out in its place.
    stuck = [e.job for e in entries if e.job in queue.jobs and queue.jobs[e.job].reason == PARENT_FAILED]
    if stuck:
        scancel(stuck)
        console.print(f"cancelled {_listed(stuck)}: what they waited for has failed", soft_wrap=True, highlight=False)
    sizes = Counter(entry.submission for entry in entries)
    return {
        entry.key: Parent(entry.submission, entry.job, sizes[entry.submission])
        for entry in entries
        if entry.job not in stuck and queue.live(entry)
    }


def _hand_over(
    batch: Batch,
    graph: Graph,
    cluster: Cluster,
    code: CodeSnapshot | None,
    program: Program,
    ledger: Ledger,
    submitted: Mapping[Key, str],
) -> dict[Key, str]:
    """Submits one batch; returns the id of each of its jobs."""
    executor = _slurm_executor(batch, graph, cluster, code.path if code else None, submitted)
    after = batch.after(submitted)
    entries = [ledger_entry(graph, cluster, batch.name, key, after.get(key, ())) for key in batch.keys]
    calls = [prepare_call(graph, key, cluster.attempts, program) for key in batch.keys]
    # The intent comes before sbatch: a launcher that is killed between the two leaves a name to look for (`adopt`).
    # The other way round it would leave jobs that nobody knows of, and the next launch would submit them again.
    ledger.intend(entries)
    try:
        with _outside_of_any_job(), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        shutil.rmtree(ledger.logs / batch.name)
        refusal = one_line(error)
        raise UserError(f"sbatch refused {batch.name}: {refusal}", mend=f"the profile of '{cluster.name}'") from error
    ids = {key: job.job_id for key, job in zip(batch.keys, jobs, strict=True)}
    ledger.submitted([replace(entry, job=ids[entry.key]) for entry in entries])
    return ids


def _slurm_executor(
    batch: Batch, graph: Graph, cluster: Cluster, code: Path | None, submitted: Mapping[Key, str]
) -> SlurmExecutor:
    logs = Ledger(graph.sweep_folder.resolve()).logs  # absolute: the job may begin in another folder
    python = batch.resources.python or None
    executor = SlurmExecutor(folder=logs / batch.name, max_num_timeout=cluster.attempts, python=python)
    executor.update_parameters(**parameters(batch, cluster, batch.dependency(submitted), code))
    return executor


@contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Submits from within a job as from a login node: sbatch would inherit that job's variables."""
    # submitit's `clean_env` takes every SLURM_ variable away, also the one that says which cluster to talk to.
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def _array_limit(cluster: Cluster) -> int:
    """Returns the most jobs of an array: the profile's word, else Slurm's."""
    if cluster.max_array:
        return cluster.max_array
    words = ["scontrol", "show", "config"]
    configuration = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).stdout
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", configuration, re.MULTILINE)
    # The largest number that a job may have is one less than MaxArraySize. Numbers begin at 0, so one job more would
    # fit; it is not worth an array that is refused where a cluster counts otherwise.
    return max(1, int(limit.group(1)) - 1) if limit else MAX_ARRAY


def _listed(ids: Iterable[str]) -> str:
    """Returns ids for a message: `812_0 … 812_44 (45 jobs)`, so that a long array does not fill the screen."""
    names = list(ids)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} jobs)"
