"""Jobs to Slurm: what is missing is submitted at once, with dependencies, and nothing is done twice.

A launch submits what is planned (`slurm.submission.batches`), without what is done, queued or running. Jobs for which
Slurm has no room stay planned; the next launch, or one with `--feed`, submits them.
"""

import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from repro.command_line.terminal import Console
from repro.errors import UserError
from repro.quantities import counted
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import LOGS
from repro.runs.task_results import ReadResults, rows_of
from slurm.ask import ask
from slurm.jobs.calls import refuse_foreign_sweep, shut_out_others
from slurm.jobs.orders import write_report_order
from slurm.jobs.program import Program
from slurm.monitoring.job_files import finished as is_finished
from slurm.monitoring.queue import PARENT_FAILED, QueueSnapshot, SilentSlurmError, scancel
from slurm.monitoring.states import just_completed
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
"""The most jobs in an array if Slurm does not say."""
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
    """Submits what is missing to Slurm and returns.

    Args:
        graph: The sweep.
        cluster: A profile with the executor `slurm`.
        take_code: Copies the code for the jobs.
        program: The names of what the jobs carry out.
        console: For what is told.
        replace_old: Cancel what is queued or running with other settings than the sweep has now.
        again: Keys of jobs for which an earlier round of this call had no room: only these are submitted, and a
            single job is tried before many are. None: all that is missing.
        cancels: How many calls of `salmask cancel` there had been when this call began; jobs that were cancelled since
            are not submitted. None: as many as now.
        report: Whether the report is asked for, even if it was rendered already.

    Returns:
        What Slurm took, what it did not take, and what failed since its run's folder is damaged.

    Raises:
        UserError: There is no Slurm, or it does not answer; it refuses a request for good, and no other job of the
            sweep is on its way; another launch does not end; or the sweep is somebody else's.
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

    shut_out_others()
    with launch_lock(graph.sweep_folder) as descriptor:
        refuse_foreign_sweep(graph.sweep_folder)
        read_results = cache(rows_of)
        found = _look(graph, ledger, tell, read_results, replace_old=replace_old)
        write_report_order(graph.sweep_folder, graph.tables)  # a launch that is refused changes nothing
        missing = found.missing if again is None else found.missing & asked_again
        cancelled = ledger.cancelled_since(cancels, missing)
        missing -= cancelled
        # A job that an earlier round could not submit, and that now runs outside of Slurm, may be killed: it stays
        # unsent until it is done.
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
                break  # all runs are damaged, or build on failed ones: there is nothing to tabulate
            sender.send(batch)
        _replace_report(graph, found, outcome, tell)
    if jobs := sender.cancelled - {graph.report}:
        tell(f"left out: {counted(len(jobs), 'job')}, cancelled before being submitted")
    if sender.refused:
        if not (outcome.submitted or found.live or found.outside):
            raise sender.refused
        tell(str(sender.refused))
    return _concluded(outcome, graph, found, is_full=bool(sender.stopped or sender.full))


@dataclass(frozen=True)
class _Found:
    """The state of a sweep by which a launch decides, seen under the launch lock.

    So the second of two launchers finds the jobs of the first.
    """

    queue: QueueSnapshot
    live: Mapping[Key, Submission]
    """What Slurm has queued or running."""
    finished: frozenset[Key]
    just_over: Mapping[Key, Submission]
    """Jobs that, according to Slurm, ended well a moment ago, and whose results do not show here yet."""
    outside: frozenset[Key]
    """Jobs that run outside of Slurm."""
    missing: frozenset[Key]
    """Jobs that are none of these."""
    outdated: int
    """How many of the live jobs have other settings."""

    @property
    def there(self) -> frozenset[Key]:
        """Jobs that are done, or will be by Slurm: all that a job may build on."""
        return self.finished.union(self.live, self.just_over)


def _look(graph: Graph, ledger: Ledger, tell: Tell, read_results: ReadResults, *, replace_old: bool) -> _Found:
    """Returns the state of a sweep, after cancelling what waits in vain and, with `replace_old`, what is outdated.

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
    # `queue` is from before: in it, the jobs that were just replaced still run.
    outside = _outside(ledger, queue, absent - replaced)
    return _Found(queue, live, finished, just_over, outside, absent - outside, len(old) - len(replaced))


def _batches(graph: Graph, cluster: Cluster, found: _Found, wanted: Collection[Key], *, report: bool) -> list[Batch]:
    """Returns what is submitted now, in order and in lanes."""
    parents = {key: Parent(entry.submission, entry.job) for key, entry in {**found.just_over, **found.live}.items()}
    batches = plan_batches(graph, cluster, _array_limit(cluster), parents, wanted, report=report)
    return in_lanes(batches, cluster.resources.throttle, found.live.values(), graph.planned)


def _concluded(outcome: Outcome, graph: Graph, found: _Found, *, is_full: bool) -> Outcome:
    """Returns how a launch ended, with what was there before."""
    on_way = found.outside.union(found.live, found.just_over).difference(outcome.unsent)
    return replace(
        outcome,
        # Jobs outside of Slurm end some time, too.
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
    # With `kill-on-invalid-dep`, Slurm itself cancels jobs whose parent failed, but not at once. As long as one of them
    # is in the queue, it counts as on its way, and nothing would be submitted in its place. If a pretraining was
    # cancelled and is now submitted anew, its old child waits for the old one, and would be cancelled although the new
    # one succeeds.
    may_be_built_on = {entry.job for entry in (*live, *_just_over(graph, ledger, queue).values())}
    stuck = [entry for entry in live if _waits_in_vain(entry, graph, queue, may_be_built_on)]
    if stuck:
        _take_out(stuck, queue, "that wait in vain")
        tell(f"cancelled {listed(entry.job for entry in stuck)}: what they waited for has failed or was cancelled")
    return {entry.key: entry for entry in live if entry not in stuck}


def _replace(old: Sequence[Submission], queue: QueueSnapshot, ledger: Ledger, tell: Tell) -> None:
    """Takes jobs of other settings out of the queue, for good."""
    _take_out(old, queue, "with other settings")
    ledger.superseded(old)
    tell(f"cancelled {listed(entry.job for entry in old)}, which had other settings")


def _outside(ledger: Ledger, queue: QueueSnapshot, keys: Collection[Key]) -> frozenset[Key]:
    """Returns which of the jobs run outside of Slurm: on this machine, on another one, or started by hand.

    Their ids are those of processes, so that Slurm can neither wait for them nor cancel them.
    """
    here = {entry.key for entry in ledger.submissions() if entry.executor != "slurm" and queue.live(entry)}
    sent, now = ledger.newest_sent(), time.time()
    return frozenset(key for key in keys if key in here or is_under_way(ledger.sweep, key, sent.get(key), queue, now))


def _take_out(entries: Sequence[Submission], queue: QueueSnapshot, which: str) -> None:
    """Takes jobs out of the queue before others are submitted in their place.

    Raises:
        SilentSlurmError: Slurm objects, so that both might run.
    """
    if trouble := scancel(queue.arrays_as_one([entry.job for entry in entries])):
        what = f"cannot cancel {counted(len(entries), 'job')} {which} ({trouble})"
        raise SilentSlurmError(what, mend="the same command again when Slurm answers, or scancel by hand")


def _without_parent(graph: Graph, missing: Collection[Key], found: _Found) -> dict[Key, str]:
    """Returns which of the missing jobs cannot be submitted, and why: what they build on is not there or coming."""
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
    """Returns the jobs that ended well according to Slurm, but so lately that their files may not show here yet."""
    now = time.time()
    over = [entry for entry in ledger.submissions() if just_completed(queue.find(entry), now)]
    # A job that measured by other protocols than are asked for now does not count.
    return {e.key: e for e in over if (job := graph.by_key.get(e.key)) is None or job.protocols == e.protocols}


def _waits_in_vain(entry: Submission, graph: Graph, queue: QueueSnapshot, alive: Collection[str]) -> bool:
    """Returns whether a job waits in the queue for a parent that has ended without leaving what the job builds on.

    Args:
        entry: Of the job.
        graph: The sweep.
        queue: The queue.
        alive: Ids of the jobs that may still leave it, or may just have done so.
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
    """Cancels an older report that is still queued if a newer one was submitted, which waits for the older jobs too."""
    older = found.live.get(graph.report)
    queued = found.queue.find(older) if older else None
    if older is not None and queued is not None and queued.waiting and graph.report in outcome.submitted:
        if trouble := scancel([older.job]):
            tell(f"{older.job}, a report that the new one replaces, may still be in the queue: {trouble}")
        else:
            tell(f"cancelled {older.job}, a report that the new one replaces")


def _array_limit(cluster: Cluster) -> int:
    """Returns the most jobs of an array: the profile's limit, else Slurm's."""
    if cluster.max_array:
        return cluster.max_array
    words = ["scontrol", "show", "config"]
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(words).output, re.MULTILINE)
    if limit is None:
        return MAX_ARRAY  # an array that is too long for this Slurm is refused, and then split
    # The largest number that a job may have is one less than MaxArraySize. Numbers begin at 0, so one job more would
    # fit; it is not worth an array that is refused where a cluster counts otherwise.
    return max(1, int(limit.group(1)) - 1)
