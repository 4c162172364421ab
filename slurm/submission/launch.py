"""Jobs to Slurm: what is missing goes out at once, with dependencies, and nothing is done twice.

A launch is what is planned (`slurm.submission.batches`), less what is done and what is queued or running. What Slurm
has no room for stays planned; the next launch, or one with `--feed`, hands it over.
"""

import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from repro.errors import UserError
from repro.quantities import counted
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import LOGS
from repro.runs.task_results import ReadResults, rows_of
from repro.terminal import Console
from slurm.ask import ask
from slurm.jobs.calls import refuse_foreign_sweep
from slurm.jobs.orders import write_report_order
from slurm.jobs.program import Program
from slurm.monitoring.queue import PARENT_FAILED, QueueSnapshot, SilentSlurmError, scancel
from slurm.monitoring.states import just_completed
from slurm.monitoring.status import finished as is_finished
from slurm.monitoring.status import is_under_way
from slurm.planning.graph import Graph
from slurm.profiles.profile import Cluster
from slurm.submission.adoption import adopt, settled_queue
from slurm.submission.batches import Batch, Parent, plan_batches
from slurm.submission.handover import NO_PARENT, Outcome
from slurm.submission.lanes import behind, in_lanes, jobs_by_lane
from slurm.submission.outdated import outdated
from slurm.submission.sbatch import script_of
from slurm.submission.sender import Sender, TakeCode, listed
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import REPORT, Key, Ledger, Submission

MAX_ARRAY = 1000
"""Jobs in an array where Slurm does not say."""
OUTSIDE = "it runs outside of Slurm"
PARENT_OUTSIDE = "what it builds on runs outside of Slurm, which cannot wait for it"
Tell = Callable[[str], object]
"""Prints a line."""


def submit(
    graph: Graph,
    cluster: Cluster,
    take_code: TakeCode,
    program: Program,
    console: Console,
    *,
    replace_old: bool = False,
    again: Collection[Key] | None = None,
    cancels: int | None = None,
    report: bool = False,
) -> Outcome:
    """Hands what is missing to Slurm and returns.

    Args:
        graph: The sweep.
        cluster: A profile with the executor `slurm`.
        take_code: Copies the code for the jobs.
        program: The names of what the jobs carry out.
        console: For what is told.
        replace_old: Cancel what is queued or running with other settings than the sweep has now.
        again: Keys of what an earlier call had no room for; then nothing else goes out, whatever became of it since,
            and one job is tried before many are. None: all that is missing goes out.
        cancels: How many calls of `salmask cancel` the sweep had seen as the call began that this is part of; what is
            cancelled since does not go out. None: as many as now.
        report: Whether the report is asked for, also where it was rendered already.

    Returns:
        What is in, what Slurm did not take, and what failed since its run's folder is damaged.

    Raises:
        UserError: Slurm does not answer, or takes nothing at all since what is asked for is not there; another launch
            does not end; or the sweep is somebody else's.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            f"cluster '{cluster.name}' needs Slurm, and there is no sbatch on this machine",
            mend="launch from a login node, or --local",
        )
    ledger = Ledger(graph.sweep_folder)
    cancels = len(ledger.cancel_requests()) if cancels is None else cancels
    asked_again = frozenset(again or ())

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True)

    with launch_lock(graph.sweep_folder) as descriptor:
        refuse_foreign_sweep(graph.sweep_folder)
        write_report_order(graph.sweep_folder, graph.tables)
        read_results = cache(rows_of)
        found = _look(graph, ledger, tell, read_results, replace_old=replace_old)
        missing = found.missing if again is None else found.missing & asked_again
        cancelled = ledger.cancelled_since(cancels, missing)
        missing -= cancelled
        # What an earlier round had no room for, and now runs outside, is asked for until it is done: it may be killed.
        outcome = Outcome(outdated=found.outdated, unsent=dict.fromkeys(found.outside & asked_again, OUTSIDE))
        outcome.unsent |= _without_parent(graph, missing, found)
        report = report or bool(missing and graph.evaluates) or graph.report in asked_again
        report = report or _report_is_due(graph, ledger, found.there)
        sender = Sender(
            graph=graph,
            cluster=cluster,
            take_code=take_code,
            program=program,
            ledger=ledger,
            outcome=outcome,
            descriptor=descriptor,
            tell=tell,
            read_results=read_results,
            cancels=cancels,
            cancelled=cancelled,
            lanes=jobs_by_lane(found.live.values()),
            others_are_in=bool(found.live),
            at_once=0 if again is None else 1,
        )
        for batch in _batches(graph, cluster, found, missing - set(outcome.unsent), report=report):
            is_futile = outcome.failed or (outcome.unsent and not outcome.comes_later)
            if batch.task == REPORT and is_futile and not (outcome.submitted or found.there):
                break  # of damaged runs, or what builds on failed ones, alone there is nothing to tabulate
            sender.send(batch)
        _replace_report(graph, found, outcome, tell)
    if jobs := sender.cancelled - {graph.report}:
        tell(f"left out: {counted(len(jobs), 'job')}, cancelled before going out")
    if sender.refused:
        if not (outcome.submitted or found.live or found.outside):
            raise sender.refused
        tell(str(sender.refused))
    return _concluded(outcome, graph, found, is_full=bool(sender.stopped or sender.full))


@dataclass(frozen=True)
class _Found:
    """What there is of a sweep: all that a launch decides by, looked at under the launch lock.

    So of two launchers, the second finds the jobs of the first.
    """

    queue: QueueSnapshot
    live: Mapping[Key, Submission]
    """What Slurm has queued or running."""
    finished: frozenset[Key]
    just_over: Mapping[Key, Submission]
    """What ended well with Slurm a moment ago, and whose result does not show yet."""
    outside: frozenset[Key]
    """What runs and is not Slurm's."""
    missing: frozenset[Key]
    """What is none of these."""
    outdated: int
    """How many of the live jobs are of other settings."""

    @property
    def there(self) -> frozenset[Key]:
        """What is done, or comes by Slurm: all that a job may build on."""
        return self.finished.union(self.live, self.just_over)


def _look(graph: Graph, ledger: Ledger, tell: Tell, read_results: ReadResults, *, replace_old: bool) -> _Found:
    """Looks at what there is of a sweep, and takes out of the queue what others are to go out for.

    Raises:
        SilentSlurmError: Slurm does not answer.
    """
    queue = settled_queue(ledger, tell)
    adopt(ledger, queue)
    live = _live(graph, ledger, queue, tell)
    old = outdated(graph, live)
    replaced = {entry.key for entry in old} if replace_old else set()
    if replaced:
        _replace(old, queue, ledger, tell)
        live = {key: entry for key, entry in live.items() if key not in replaced}
    finished = graph.finished(read_results)
    just_over = {key: entry for key, entry in _just_over(graph, ledger, queue).items() if key not in finished}
    absent = frozenset(graph.by_key).difference(finished, live, just_over)
    # The queue was looked at before: by it, what was just replaced still runs.
    outside = _outside(ledger, queue, absent - replaced)
    return _Found(queue, live, finished, just_over, outside, absent - outside, len(old) - len(replaced))


def _batches(graph: Graph, cluster: Cluster, found: _Found, wanted: Collection[Key], *, report: bool) -> list[Batch]:
    """Returns what goes out now, in order and in lanes."""
    parents = {key: Parent(entry.submission, entry.job) for key, entry in {**found.just_over, **found.live}.items()}
    batches = plan_batches(graph, cluster, _array_limit(cluster), parents, wanted, report=report)
    return in_lanes(batches, cluster.resources.throttle, found.live.values(), graph.planned)


def _concluded(outcome: Outcome, graph: Graph, found: _Found, *, is_full: bool) -> Outcome:
    """Returns how a launch ended, with what was there before."""
    on_way = found.outside.union(found.live, found.just_over).difference(outcome.unsent)
    return replace(
        outcome,
        # Also what is not Slurm's ends some time.
        has_room_later=is_full or not {OUTSIDE, PARENT_OUTSIDE}.isdisjoint(outcome.unsent.values()),
        live=[job for job in graph.jobs if graph.key(job) in on_way],
        report_is_live=graph.report in on_way.difference(outcome.submitted),
        skipped=[job for job in graph.jobs if graph.key(job) in found.finished - on_way],
    )


def scripts(graph: Graph, cluster: Cluster, code: Path) -> Iterator[tuple[str, str]]:
    """Yields what `submit` would hand to sbatch if nothing of the sweep were queued: (name, script) in order.

    Args:
        graph: The sweep.
        cluster: A profile with the executor `slurm`.
        code: Folder of the code that the jobs would import; it need not be there.
    """
    ids: dict[Key, str] = {}
    lanes: dict[str, list[str]] = {}
    logs = graph.sweep_folder.resolve() / LOGS
    batches = plan_batches(graph, cluster, cluster.max_array or MAX_ARRAY, {})
    for batch in in_lanes(batches, cluster.resources.throttle, (), graph.planned):
        for part in batch.resolved(ids):
            dependency = part.dependency(ids, behind(part, lanes))
            yield part.name, script_of(part, cluster, logs / part.name, dependency=dependency, code=code)
            ids |= {key: part.job_id(key, f"<{part.name}>") for key in part.keys}
            lanes.setdefault(part.lane, []).append(f"<{part.name}>")


def _live(graph: Graph, ledger: Ledger, queue: QueueSnapshot, tell: Tell) -> dict[Key, Submission]:
    """Returns what is queued or running; what waits for something that never comes is taken out of the queue."""
    entries = ledger.submissions()
    live = [entry for entry in entries if entry.executor == "slurm" and queue.live(entry)]
    # `kill-on-invalid-dep` has Slurm cancel jobs whose parent failed by itself, but not at once; and as long as one of
    # them stands in the queue it counts as on its way, and nothing would go out in its place. A child of a pretraining
    # that was cancelled, and that goes out anew now, would be bound to the old one and be cancelled although the new
    # one succeeds.
    may_be_built_on = {entry.job for entry in (*live, *_just_over(graph, ledger, queue).values())}
    stuck = [entry for entry in live if _waits_in_vain(entry, graph, queue, may_be_built_on)]
    if stuck:
        _take_out(stuck, queue, "that wait in vain")
        tell(f"cancelled {listed(entry.job for entry in stuck)}: what they waited for has failed or was cancelled")
    return {entry.key: entry for entry in live if entry not in stuck}


def _replace(old: Sequence[Submission], queue: QueueSnapshot, ledger: Ledger, tell: Tell) -> None:
    """Takes jobs of other settings out of the queue, for good."""
    _take_out(old, queue, "of other settings")
    ledger.superseded(old)
    tell(f"cancelled {listed(entry.job for entry in old)}, of other settings")


def _outside(ledger: Ledger, queue: QueueSnapshot, keys: Collection[Key]) -> frozenset[Key]:
    """Returns which of the jobs run outside of Slurm: on this machine, on another one, or started by hand.

    Numbers of processes are none of Slurm's, so that it can neither wait for them nor cancel them.
    """
    here = {entry.key for entry in ledger.submissions() if entry.executor != "slurm" and queue.live(entry)}
    sent, now = ledger.newest_sent(), time.time()
    return frozenset(key for key in keys if key in here or is_under_way(ledger.sweep, key, sent.get(key), queue, now))


def _take_out(entries: Sequence[Submission], queue: QueueSnapshot, which: str) -> None:
    """Takes jobs out of the queue before others go out in their place.

    Raises:
        SilentSlurmError: Slurm objects, so that both might run.
    """
    if trouble := scancel(queue.arrays_as_one([entry.job for entry in entries])):
        what = f"cannot cancel {counted(len(entries), 'job')} {which} ({trouble})"
        raise SilentSlurmError(what, mend="the same again when Slurm answers, or scancel by hand")


def _without_parent(graph: Graph, missing: Collection[Key], found: _Found) -> dict[Key, str]:
    """Returns which of the missing jobs cannot go out, and why: what they build on neither is there nor comes."""
    held: dict[Key, str] = {}
    there_or_coming = found.there.union(missing)
    for key in missing:
        parent = graph.parent(graph.by_key[key])
        if parent is not None and graph.key(parent) not in there_or_coming:
            held[key] = PARENT_OUTSIDE if graph.key(parent) in found.outside else NO_PARENT
    return held


def _report_is_due(graph: Graph, ledger: Ledger, there: Collection[Key]) -> bool:
    """Returns whether the report alone is missing: it is not on its way, and was not rendered since the last job."""
    entries = ledger.submissions()
    if not entries or graph.report in there or not any(task != PRETRAIN for _, task in there if task != REPORT):
        return False
    return not is_finished(graph.sweep_folder, *graph.report, entries[-1])


def _just_over(graph: Graph, ledger: Ledger, queue: QueueSnapshot) -> dict[Key, Submission]:
    """Returns the jobs that ended well by Slurm's word, but so lately that their files may not show here yet."""
    now = time.time()
    over = [entry for entry in ledger.submissions() if just_completed(queue.find(entry), now)]
    # What measured by other protocols than are asked for now is none of the sweep's jobs any more.
    return {e.key: e for e in over if (job := graph.by_key.get(e.key)) is None or job.protocols == e.protocols}


def _waits_in_vain(entry: Submission, graph: Graph, queue: QueueSnapshot, alive: Collection[str]) -> bool:
    """Returns whether a job stands in the queue for a parent that has ended without what the job builds on.

    Args:
        entry: Of the job.
        graph: The sweep.
        queue: The queue.
        alive: Ids of the jobs of which what is built on comes, or may be there.
    """
    job = queue.find(entry)
    if job is None or not job.waiting or not entry.job:
        return False
    if job.reason == PARENT_FAILED:
        return True
    if entry.task in (PRETRAIN, REPORT) or not entry.after or any(parent in alive for parent in entry.after):
        return False
    try:
        return not RunFolder(graph.sweep_folder / entry.folder).pretrained
    except UserError:  # of a folder that cannot be looked at: the job itself will tell
        return False


def _replace_report(graph: Graph, found: _Found, outcome: Outcome, tell: Tell) -> None:
    """Takes an older report out of the queue where a newer one is in, which waits for the older jobs too."""
    older = found.live.get(graph.report)
    queued = found.queue.find(older) if older else None
    if older is not None and queued is not None and queued.waiting and graph.report in outcome.submitted:
        if trouble := scancel([older.job]):
            tell(f"{older.job}, a report that the new one replaces, may still be in the queue: {trouble}")
        else:
            tell(f"cancelled {older.job}, a report that the new one replaces")


def _array_limit(cluster: Cluster) -> int:
    """Returns the most jobs of an array: the profile's word, else Slurm's."""
    if cluster.max_array:
        return cluster.max_array
    words = ["scontrol", "show", "config"]
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(words).output, re.MULTILINE)
    if limit is None:
        return MAX_ARRAY  # an array that is too long for this Slurm is refused, and then split
    # The largest number that a job may have is one less than MaxArraySize. Numbers begin at 0, so one job more would
    # fit; it is not worth an array that is refused where a cluster counts otherwise.
    return max(1, int(limit.group(1)) - 1)
