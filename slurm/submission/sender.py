"""Batches to Slurm, one sbatch for each: intents are written before, ids after; a refused array is tried in halves."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.files import is_of_a_full_disk, write_text
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import LOGS
from repro.runs.task_results import ReadResults
from slurm.jobs.calls import write_calls
from slurm.jobs.job import Call
from slurm.jobs.program import Program
from slurm.jobs.refusals import Refusal
from slurm.monitoring.queue import array_of
from slurm.planning.graph import Graph
from slurm.profiles.profile import Cluster
from slurm.submission.batches import Batch
from slurm.submission.handover import NO_PARENT, NOT_STARTED, Outcome, ledger_entry, prepare_call
from slurm.submission.lanes import behind
from slurm.submission.sbatch import script_of
from slurm.submission.sbatch_call import SCRIPT, RefusedError, UnclearError, submit_script
from slurm.sweep_folder.ledger import REPORT, Key, Ledger

TakeCode = Callable[[], Path | None]
"""Returns the folder of the code that jobs import (None: wherever Python finds it); called if anything is submitted."""

Pool = tuple[str, str, str]
"""(Partition, account, QOS): Slurm limits by these how many jobs may be queued, and tasks may have their own."""


@dataclass(kw_only=True)
class Sender:
    """Submits the batches of one launch, in parts if Slurm does not take them whole; what it refuses is unsent."""

    graph: Graph
    cluster: Cluster
    take_code: TakeCode
    program: Program
    ledger: Ledger
    outcome: Outcome
    descriptor: int
    """File descriptor of the lock that sbatch inherits."""
    tell: Callable[[str], object]
    read_results: ReadResults
    cancels: int
    """How many calls of `salmask cancel` there had been as the launch began."""
    cancelled: set[Key]
    """Jobs that are not submitted since they were cancelled meanwhile."""
    lanes: dict[str, list[str]]
    """Ids of the jobs of each lane, those of earlier launches first."""
    others_are_in: bool
    """Whether Slurm has jobs of the sweep, of this launch or an earlier one."""
    at_once: int
    """The most jobs of an array, doubled each time that one is taken; 0: no limit. It begins with 1 if Slurm was full a
    minute ago: each array that is refused, and each half of it, adds a line to the ledger for each of its jobs."""
    refused: UserError | None = None
    """The first refusal for which waiting does not help."""
    stopped: str = ""
    """Why nothing more is tried: Slurm is silent, or the disk is full."""
    hopeless: str = ""
    """Slurm's words if it refused a job of this batch for good: the others ask for the same, and are not tried."""
    full: dict[Pool, str] = field(default_factory=dict)
    """Slurm's words for each pool that has no room; nothing more of that pool is tried."""
    known_ids: set[str] = field(default_factory=set)
    """Slurm's ids of earlier jobs, which a new one cannot have."""
    prepared: dict[Key, Call] = field(default_factory=dict)
    """The calls of the jobs that are ready to be submitted: an array that is tried in parts is prepared once."""

    def __post_init__(self) -> None:
        self.known_ids = {array_of(entry.job) for entry in self.ledger.submissions() if entry.executor == "slurm"}

    @cached_property
    def code(self) -> Path | None:
        """What the jobs import, copied when the first of them is submitted."""
        return self.take_code()

    def send(self, batch: Batch) -> None:
        """Submits a batch, without the jobs whose parents were not submitted."""
        if self._is_cancelled(batch):
            return
        if batch.task == REPORT and (reason := self.outcome.comes_later):  # it comes with the last of the jobs
            self._keep(batch, reason)
            return
        parts = batch.resolved(self.outcome.submitted)
        sendable = {key for part in parts for key in part.keys}
        for key in batch.keys:
            if (key[0], PRETRAIN) in self.outcome.failed:
                self.outcome.failed[key] = NOT_STARTED
            elif key not in sendable:
                self.outcome.unsent[key] = NO_PARENT
        for part in parts:
            self.hopeless = ""
            self._send_part(part)

    def _send_part(self, batch: Batch) -> None:
        if self._is_cancelled(batch):
            return
        if reason := self.stopped or self.full.get(_pool(batch)) or self.hopeless:
            self._keep(batch, reason)
            return
        if 0 < self.at_once < len(batch.keys):
            self._send_parts(batch.split(self.at_once))
            return
        try:
            calls = {key: call for key in batch.keys if (call := self._prepared(key)) is not None}
            if len(calls) < len(batch.keys):
                self._send_parts([batch.only(calls)] if calls else [])
                return
            ids = self._submit(batch, [*calls.values()])
        except RefusedError as error:
            self._divide(batch, error)
        except UnclearError as error:
            # Nobody knows whether it is in. It stays an intent, which the next launch looks for before anything else.
            self.stopped = str(error)
            self._keep(batch, self.stopped)
            self.tell(f"{batch.name}: Slurm does not answer ({error}); the next launch will see whether Slurm took it")
        except UserError as error:
            if not is_of_a_full_disk(error):
                raise
            # Waiting may mend it. A job that is in, and whose id alone could not be written, is found by its intent.
            self.stopped = error.what
            self._keep(batch, self.stopped)
        else:
            self.outcome.submitted |= ids
            self.others_are_in = True
            self.at_once *= 2
            self.tell(f"submitted {batch.name}: {listed(ids.values())}")

    def _is_cancelled(self, batch: Batch) -> bool:
        """Returns whether all jobs of a batch were cancelled meanwhile, and leaves them out then.

        If only some were, the batch is submitted: `salmask cancel` waits for the launch to end, and then cancels them.
        """
        if len(self.ledger.cancelled_since(self.cancels, batch.keys)) < len(batch.keys):
            return False
        self.cancelled |= set(batch.keys)
        return True

    def _divide(self, batch: Batch, error: RefusedError) -> None:
        """Tries a refused array in halves, where fewer jobs may have room; else keeps it."""
        limited = error.kind is Refusal.limit or (error.kind is Refusal.policy and self.others_are_in)
        if len(batch.keys) > 1 and error.kind is not Refusal.request:
            self._send_parts(batch.split(len(batch.keys) // 2))
            return
        self._keep(batch, str(error))
        if limited:
            self.full[_pool(batch)] = str(error)
            return
        self.hopeless = str(error)
        if self.refused is None:
            mend = f"the profile of '{self.cluster.name}'"
            self.refused = UserError(f"sbatch refused {batch.name}: {error}", mend=mend)

    def _send_parts(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            for part in batch.resolved(self.outcome.submitted):
                self._send_part(part)

    def _keep(self, batch: Batch, reason: str) -> None:
        self.outcome.unsent |= dict.fromkeys(batch.keys, reason)

    def _prepared(self, key: Key) -> Call | None:
        """Returns the call of a job; None where its run's folder is damaged, which fails that job alone.

        Raises:
            UserError: The disk is full.
        """
        if key in self.prepared:
            return self.prepared[key]
        try:
            call = prepare_call(self.graph, key, self.cluster.attempts, self.program, self.read_results)
        except UserError as error:
            if is_of_a_full_disk(error):
                raise
            self.outcome.failed[key] = str(error)
            self.tell(f"failed {self.graph.by_key[key].name}: {error}")
            return None
        self.prepared[key] = call
        return call

    def _submit(self, batch: Batch, calls: Sequence[Call]) -> dict[Key, str]:
        """Submits one batch with the calls of its jobs; returns the id of each of these.

        Raises:
            RefusedError: Slurm did not take it.
            UnclearError: Nobody knows whether it did.
            UserError: A file cannot be written.
        """
        submitted = self.outcome.submitted
        dependency = batch.dependency(submitted, behind(batch, self.lanes))
        absolute = self.ledger.sweep.resolve() / LOGS / batch.name
        text = script_of(batch, self.cluster, absolute, dependency=dependency, code=self.code)
        after = batch.after(submitted)
        entries = [
            replace(
                ledger_entry(self.graph, self.cluster, batch.name, key, after.get(key, ())),
                lane=batch.lane,
                at_a_time=batch.at_a_time,
            )
            for key in batch.keys
        ]
        folder = self.ledger.logs / batch.name
        try:
            write_calls(folder, dict(zip(batch.indices or (0,), calls, strict=True)))
            write_text(folder / SCRIPT, text)
            # The intent comes before sbatch: a launcher that is killed between the two leaves a name to look for
            # (`slurm.submission.adoption`). The other way round it would leave jobs that nobody knows of, and the next
            # launch would submit them again.
            self.ledger.intend(entries)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)  # no line of the ledger names it
            raise
        try:
            job = submit_script(folder / SCRIPT, batch.name, self.known_ids, inherited=[self.descriptor])
        except RefusedError as error:
            self.ledger.refused(entries, str(error))
            shutil.rmtree(folder, ignore_errors=True)  # files that a network file system keeps do no harm
            raise
        self.known_ids.add(job)
        ids = {key: batch.job_id(key, job) for key in batch.keys}
        self.lanes.setdefault(batch.lane, []).append(job)
        self.ledger.submitted([replace(entry, job=ids[entry.key]) for entry in entries])
        return ids


def _pool(batch: Batch) -> Pool:
    asked = batch.resources
    return asked.partition, asked.account, asked.qos


def listed(ids: Iterable[str]) -> str:
    """Returns ids for a message: `812_0 … 812_44 (45 jobs)`, so that a long array does not fill the screen."""
    names = list(ids)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} jobs)"
