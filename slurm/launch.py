"""Jobs to Slurm, through submitit: what is missing goes out at once, with dependencies, and nothing is done twice.

A launch is what is planned (`slurm.batches`), less what is done and what is queued or running.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import submitit
from rich.console import Console
from submitit.helpers import clean_env

from repro.errors import UserError
from repro.runs.lock import held
from slurm.batches import Batch, Parent, plan_batches
from slurm.graph import Graph, Key
from slurm.handover import Outcome, call_of, entry_of
from slurm.ledger import Ledger, Submission
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import QueueSnapshot, scancel, snapshot
from slurm.sbatch import SlurmExecutor, parameters
from slurm.snapshot import CodeSnapshot

LAUNCHING_SECONDS = 600.0
"""How long a launch waits for another one of the same sweep to be through."""
MAX_ARRAY = 1000
"""Jobs in an array where Slurm does not say."""


def submit(graph: Graph, cluster: Cluster, code: CodeSnapshot | None, program: Program, console: Console) -> Outcome:
    """Hand what is missing to Slurm and return.

    Args:
        graph: the sweep.
        cluster: a profile with the executor `slurm`.
        code: what the jobs import; None: what they find.
        program: what the jobs carry out.
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
    ledger = Ledger(graph.place)
    with _launching(graph.place):
        queue = snapshot()
        if queue.trouble:
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
    """What `submit` would hand to sbatch if nothing of the sweep were queued: (name, script) in order."""
    ids: dict[Key, str] = {}
    for batch in plan_batches(graph, cluster, cluster.max_array or MAX_ARRAY, {}):
        executor = _slurm_executor(batch, graph, cluster, code, ids)
        yield batch.name, executor.script(len(batch.keys))
        ids |= dict.fromkeys(batch.keys, f"<{batch.name}>")


def adopt(ledger: Ledger, queue: QueueSnapshot) -> None:
    """Complete what a killed launcher left half done: write down the ids of jobs that went out nevertheless.

    It may not have had the time to give submitit's pickles the names by which the jobs look for them.
    """
    pending: dict[str, list[Submission]] = {}
    for entry in ledger.submissions():
        if entry.executor == "slurm":
            pending.setdefault(entry.submission, []).append(entry)
    for name, entries in pending.items():
        found = [job for job in queue.named(name) if job.live]
        if any(entry.job for entry in entries) or not found:
            continue
        first = found[0].job.partition("_")[0]
        ids = [first] if len(entries) == 1 else [f"{first}_{index}" for index in range(len(entries))]
        known = {(str(ledger.sweep.resolve() / e.folder), e.task): job for e, job in zip(entries, ids, strict=True)}
        for pickle in (ledger.logs / name).glob("*.pkl"):
            if re.fullmatch(r"[0-9a-f]{32}", pickle.stem):
                call = submitit.helpers.DelayedSubmission.load(pickle).function
                pickle.rename(pickle.with_name(f"{known[str(call.folder.resolve()), call.task]}_submitted.pkl"))
        ledger.submitted([replace(entry, job=job) for entry, job in zip(entries, ids, strict=True)])


@contextmanager
def _launching(place: Path) -> Iterator[None]:
    """Only one launcher of a sweep looks and submits at a time; the next one then finds everything queued."""
    with held(
        place / ".launch.lock",
        taken=UserError(f"another launch of {place} is still submitting", mend="wait for it"),
        unwritable="choose another --out",
        wait=LAUNCHING_SECONDS,
    ):
        yield


def _live(ledger: Ledger, queue: QueueSnapshot, console: Console) -> dict[Key, Parent]:
    """What is queued or running; what waits for something that never comes is taken out of the queue."""
    entries = ledger.submissions()
    stuck = [e.job for e in entries if e.job in queue.jobs and queue.jobs[e.job].reason == "DependencyNeverSatisfied"]
    if stuck:
        scancel(stuck)
        console.print(f"cancelled {_listed(stuck)}: what they waited for has failed", soft_wrap=True, highlight=False)
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.submission] = sizes.get(entry.submission, 0) + 1
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
    """Submit one batch; returns the id of each of its jobs."""
    executor = _slurm_executor(batch, graph, cluster, code.path if code else None, submitted)
    after = batch.after(submitted)
    entries = [entry_of(graph, cluster, batch.name, key, after.get(key, ())) for key in batch.keys]
    calls = [call_of(graph, key, cluster.attempts, program) for key in batch.keys]
    ledger.intend(entries)
    try:
        with _outside_of_any_job(), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        shutil.rmtree(ledger.logs / batch.name)
        said = " ".join(str(error).split())
        raise UserError(f"sbatch refused {batch.name}: {said}", mend=f"the profile of '{cluster.name}'") from error
    ids = {key: job.job_id for key, job in zip(batch.keys, jobs, strict=True)}
    ledger.submitted([replace(entry, job=ids[entry.key]) for entry in entries])
    return ids


def _slurm_executor(
    batch: Batch, graph: Graph, cluster: Cluster, code: Path | None, submitted: Mapping[Key, str]
) -> SlurmExecutor:
    executor = SlurmExecutor(folder=graph.place.resolve() / "logs" / batch.name, max_num_timeout=cluster.attempts)
    executor.update_parameters(**parameters(batch, cluster, batch.dependency(submitted), code))
    return executor


@contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Submit from within a job as from a login node: sbatch would inherit that job's variables."""
    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def _array_limit(cluster: Cluster) -> int:
    if cluster.max_array:
        return cluster.max_array
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown.stdout, re.MULTILINE)
    return max(1, int(found.group(1)) - 1) if found else MAX_ARRAY


def _listed(ids: Iterable[str]) -> str:
    """`812_0 … 812_44`, so that a long array does not fill the screen."""
    names = list(ids)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} jobs)"
