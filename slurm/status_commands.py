"""The commands that look after jobs: `salmask status`, `logs`, `cancel`, `retry`, `clean`."""

import math
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import typer
from rich.live import Live

from repro.command_line.console import AsJson
from repro.command_line.terminal import Console, say, say_json
from repro.errors import UserError
from repro.filesystem.presence import exists
from repro.quantities import counted, size_text
from repro.runs.status import PRETRAIN
from slurm.cancel import cancel as cancel_jobs
from slurm.clean import leftovers, remove
from slurm.jobs.calls import refuse_copied_sweep
from slurm.jobs.program import Program
from slurm.monitoring.cost_page import cost_page
from slurm.monitoring.logs import follow, log_files
from slurm.monitoring.queue import QueueSnapshot, snapshot
from slurm.monitoring.spending import as_json_of_costs, spendings
from slurm.monitoring.states import ENDED_BADLY, LIVE, State
from slurm.monitoring.status import JobRow, as_json_of, counts, ids_to_ask, may_change, rows
from slurm.monitoring.status_page import Changes, page
from slurm.options import (
    FASTEST_SECONDS,
    AllowDirty,
    AnySweep,
    Cost,
    DryRun,
    Every,
    Failed,
    Following,
    Gpus,
    Lines,
    OneRun,
    OneSweep,
    SameCluster,
    SweepOrRun,
    Task,
    Watch,
)
from slurm.submission.adoption import adopt, adopt_local, found_again
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import LOCAL_START_LOCK, Ledger
from slurm.sweep_folder.local_lock import local_start_lock
from slurm.targets import SweepTarget, all_sweeps, find_target

CLEANING_SECONDS = 10.0
"""How long `clean` waits for a launch of the sweep to end."""
CANCELLING_SECONDS = 30.0
"""How long `cancel` waits for that; a launch of a cancelled sweep ends before its next sbatch."""
PATIENCE_SECONDS = 2.0
"""How long to wait for Slurm's answer before the state by the files alone is shown."""


def status(
    sweep: AnySweep = "", *, watch: Watch = False, every: Every = 10.0, cost: Cost = False, as_json: AsJson = False
) -> None:
    """Show what every job is doing: how far it is, why it waits, how it ended, or the number that it found.

    Example: salmask status table1 --watch

    What it cost: salmask status table1 --cost
    """
    for other, given in (("--json", as_json), ("--cost", cost)):
        if watch and given:
            raise UserError(f"--watch and {other} exclude each other", mend=f"call {other} again and again")
    targets = [find_target(sweep)] if sweep else [SweepTarget(path) for path in all_sweeps()]
    if cost:
        _show_costs(targets, as_json=as_json, alone=bool(sweep))
        return
    if as_json:
        tables, queue = look(targets)
        content = [as_json_of(table, target.sweep, queue) for target, table in zip(targets, tables, strict=True)]
        say_json(content[0] if sweep else content)
        return
    console = Console()
    if not watch:
        for tables, queue in views(targets):
            console.print(page(targets, tables, queue), soft_wrap=not console.is_terminal)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for tables, queue in _looks(targets, every, at_once=True):
                live.update(page(targets, tables, queue), refresh=True)
    else:
        # A pipe cannot redraw a page: it gets a line for each change, flushed at once.
        changes = Changes()
        for tables, queue in _looks(targets, every, at_once=False):
            for line in changes.lines(targets, tables, queue):
                say(line)


def _show_costs(targets: Sequence[SweepTarget], *, as_json: bool, alone: bool) -> None:
    """Shows what jobs used; as JSON, the object of one sweep if it is `alone`, else a list of them."""
    tables, _ = look(targets)
    ledgers = [Ledger(target.sweep) for target in targets]
    costs = [spendings(ledger, table) for ledger, table in zip(ledgers, tables, strict=True)]
    if as_json:
        content = [as_json_of_costs(ledger, jobs) for ledger, jobs in zip(ledgers, costs, strict=True)]
        say_json(content[0] if alone else content)
        return
    console = Console()
    console.print(cost_page(targets, costs), soft_wrap=not console.is_terminal)


def _looks(
    targets: Sequence[SweepTarget], every: float, *, at_once: bool
) -> Iterator[tuple[list[list[JobRow]], QueueSnapshot]]:
    """Yields what `look` finds, again and again, until nothing is under way.

    With `at_once`, the first look shows the state by the files alone if Slurm is slow. Later looks do not: a job of
    which only Slurm can tell would change to unknown and back each time.

    Raises:
        UserError: The folders of all targets are gone.
    """
    while True:
        if not any(exists(target.sweep) for target in targets):
            raise UserError(f"{targets[0].sweep} is gone", mend="if it was moved, name the folder where it is now")
        for tables, queue in views(targets) if at_once else [look(targets)]:
            yield tables, queue
        at_once = False
        if not any(may_change(table, queue) for table in tables):
            return
        time.sleep(every)


def logs(run: OneRun, *, task: Task = "", following: Following = False, lines: Lines = 50) -> None:
    """Show what the newest attempt at a run printed.

    Example: salmask logs mocov2+ours-hp/s0 -f
    """
    target = find_target(run)
    ledger = Ledger(target.sweep)
    folder = target.folder or "."  # for a whole sweep, the log of its report
    if not following and not log_files(ledger, folder, task):
        what = f"{run} has printed nothing{f' of {task}' if task else ''} yet"
        raise UserError(what, mend=f"salmask status {shlex.quote(str(target.sweep))}")

    # The files are read twice a second, but Slurm is asked no faster than it can bear.
    asked_at, over = -math.inf, False

    def ended() -> bool:
        nonlocal asked_at, over
        if time.monotonic() - asked_at >= FASTEST_SECONDS:
            asked_at = time.monotonic()
            (table,), queue = look([SweepTarget(target.sweep, folder)])
            over = not may_change([row for row in table if task in ("", row.task)], queue)
        return over

    printed_last: Path | None = None
    for path, text in follow(lambda: log_files(ledger, folder, task), lines, ended=ended if following else None):
        if path != printed_last:
            Console().print(f"==> {path} <==", style="bold", soft_wrap=True)
            printed_last = path
        say(text, end="")


def cancel(target: SweepOrRun, *, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End the jobs of a sweep or a run; each saves a checkpoint, and `salmask retry` resumes from it.

    Example: salmask cancel table1 --dry-run
    """
    selection = find_target(target)
    refuse_copied_sweep(selection.sweep)
    ledger = Ledger(selection.sweep)
    with nullcontext() if dry_run else _launches_kept_away(ledger, selection.folder):
        queue = snapshot(user=_owners([ledger]))
        # The ids of an array that a killed launcher submitted: by its name alone, it would be cancelled as a whole.
        with_ids = {(entry.submission, entry.key): entry for entry in found_again(ledger, queue)}
        if not dry_run:
            adopt(ledger, queue)
            adopt_local(ledger)
        submissions = (with_ids.get((entry.submission, entry.key), entry) for entry in ledger.submissions())
        entries = [entry for entry in submissions if selection.covers(entry.folder)]
        may_live = LIVE | {State.unknown}
        states = {row.key: row.state for row in rows(ledger, queue, time.time())}
        over = {key for key, state in states.items() if state not in may_live}
        done = {key for key in over if states[key] is State.done}
        outcome = cancel_jobs(entries, queue, over=over, done=done, dry_run=dry_run)
        if outcome.entries and not outcome.trouble:
            ledger.cancelled(outcome.entries)
    if as_json:
        content = {"cancelled": outcome.jobs, "elsewhere": outcome.elsewhere, "trouble": outcome.trouble}
        say_json(content)
    else:
        verb = "would cancel" if dry_run else "cancelled"
        say(f"{verb} {counted(len(outcome.jobs), 'job')}{': ' if outcome.jobs else ''}{', '.join(outcome.jobs)}")
        for process in outcome.elsewhere:
            say(f"started on another machine, end it there: {process}")
    if outcome.trouble:
        raise UserError(outcome.trouble, mend="try again, or scancel by hand")
    if outcome.of_others:
        what = f"cannot end jobs of another user here: process {', '.join(outcome.of_others)}"
        raise UserError(what, mend="ask whoever launched it to cancel")


@contextmanager
def _launches_kept_away(ledger: Ledger, folder: str) -> Iterator[None]:
    """Makes launches of a sweep end, and keeps new ones out: they would submit what is being cancelled.

    If that is not possible (the disk is full, or an sbatch hangs), this is said, and the block runs all the same.

    Args:
        ledger: Of the sweep.
        folder: Of the run that is cancelled, relative to the sweep's; empty: the whole sweep.
    """
    with ExitStack() as stack:
        try:
            ledger.request_cancel(folder)  # before the lock: a launch that has the lock ends when it sees the request
            stack.enter_context(launch_lock(ledger.sweep, CANCELLING_SECONDS))
            if (ledger.sweep / LOCAL_START_LOCK).exists():
                stack.enter_context(local_start_lock(ledger.sweep, CANCELLING_SECONDS))
        except UserError as error:
            say(f"{error.what}; to end what it may still submit, call `salmask cancel` again", err=True)
        yield


def clean(sweep: OneSweep, *, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove what nobody needs any more: checkpoints of what is done, files of old submissions, unused code.

    Results, backbones, metrics, pictures and settings stay. Look with --dry-run first.

    Example: salmask clean table1 --dry-run
    """
    ledger = Ledger(find_target(sweep).sweep)
    # A launch writes a folder and an intent before Slurm has the job: without the lock, they would look left over.
    with nullcontext() if dry_run else launch_lock(ledger.sweep, CLEANING_SECONDS):
        queue = snapshot(ids_to_ask(ledger), user=_owners([ledger]))
        unneeded = leftovers(ledger, queue)
        if not dry_run:
            remove(unneeded)
    if as_json:
        content = [{"path": str(item.path), "why": item.why, "bytes": item.size} for item in unneeded]
        say_json({"removed": not dry_run, "found": content})
        return
    for item in unneeded:
        say(f"{size_text(item.size):>12}  {item.path}  ({item.why})")
    found = f"{counted(len(unneeded), 'thing')}, {size_text(sum(item.size for item in unneeded))}"
    say(f"{'would remove' if dry_run else 'removed'} {found}")


def build(program: Program) -> typer.Typer:
    """Makes the commands.

    Args:
        program: The names of what jobs carry out that `retry` submits again.
    """
    app = typer.Typer(add_completion=False)
    for command in (status, logs, cancel):
        app.command()(command)

    @app.command()
    def retry(
        target: SweepOrRun,
        *,
        failed: Failed = False,
        cluster: SameCluster = "",
        gpus: Gpus = "",
        allow_dirty: AllowDirty = False,
        dry_run: DryRun = False,
    ) -> None:
        """Submit again what failed, died, was interrupted or cancelled; each job resumes from its last checkpoint.

        Example: salmask retry table1 --failed
        """
        selection = find_target(target)
        retried, left_out, unclear = _to_retry(selection, failed=failed)
        for row in unclear:
            say(f"{row.task} {row.run}: {row.state}, {row.note}", err=True)
        if left_out:
            states = ", ".join(f"{number} {state}" for state, number in counts(left_out).items())
            say(
                f"--failed leaves out {counted(len(left_out), 'job')} ({states}); without it, all are retried", err=True
            )
        if not retried:
            say("nothing to retry")
            raise typer.Exit(1 if unclear else 0)
        for row in retried:
            say(f"{row.task} {row.run}: {row.state}{f', {row.note}' if row.note else ''}")
        if dry_run:
            return
        from slurm.retry import relaunch  # submitit takes a second to import

        keys = [row.key for row in retried]
        ledger, console = Ledger(selection.sweep), Console(stderr=True)
        outcome = relaunch(ledger, keys, cluster, program, console, allow_dirty=allow_dirty, gpus=gpus)
        say(f"{counted(len(outcome.submitted) + len(outcome.done), 'job')} submitted, {len(outcome.failed)} failed")
        if outcome.unsent:
            say(outcome.unsent_told("the same command again later"))
        if outcome.failed or outcome.unsent or unclear:
            raise typer.Exit(1)

    app.command()(clean)
    return app


def _to_retry(target: SweepTarget, *, failed: bool) -> tuple[list[JobRow], list[JobRow], list[JobRow]]:
    """Returns what `salmask retry` submits again, what `--failed` leaves out, and what cannot be judged.

    Args:
        target: The sweep, or a run of it.
        failed: Whether to retry only what failed or died.

    Returns:
        The jobs that ended badly or are only planned, but for those that `--replace` took out; those of them that
        `failed` leaves out; and those whose state is unknown, each with what to do about it.

    Raises:
        UserError: Slurm does not answer, and what became of a job depends on it.
    """
    (table,), queue = look([target])
    newest = Ledger(target.sweep).newest()
    # Rows of jobs on other machines, or with unreadable files, have notes of their own: Slurm knows nothing of these.
    of_slurm = {key for key, entry in newest.items() if entry.executor == "slurm"}
    if queue.trouble and any(row.note == queue.trouble and row.key in of_slurm for row in table):
        raise UserError(f"what became of the jobs cannot be known: {queue.trouble}", mend=queue.mend)
    replaced = {key for key, entry in newest.items() if entry.superseded}
    badly = [row for row in table if row.state in ENDED_BADLY | {State.planned} and row.key not in replaced]
    states = {State.failed, State.died} if failed else ENDED_BADLY | {State.planned}
    retried = [row for row in badly if row.state in states]
    # A pretraining takes along what builds on it, and any job the report.
    along = {row.folder for row in retried if row.task == PRETRAIN} | {"." for _ in retried}
    left_out = [row for row in badly if row.state not in states and row.folder not in along]
    return retried, left_out, [row for row in table if row.state is State.unknown]


def look(targets: Sequence[SweepTarget]) -> tuple[list[list[JobRow]], QueueSnapshot]:
    """Returns the rows of each target, with one look at the queue for all of them.

    Args:
        targets: Sweeps, or runs of them.
    """
    ledgers = [Ledger(target.sweep) for target in targets]
    queue = _queue_of(ledgers)
    return _tables(targets, ledgers, queue), queue


def views(targets: Sequence[SweepTarget]) -> Iterator[tuple[list[list[JobRow]], QueueSnapshot]]:
    """Yields the rows of each target; if Slurm takes long, first by the files alone, and again when it has answered.

    Args:
        targets: As of `look`.
    """
    ledgers = [Ledger(target.sweep) for target in targets]
    executor = ThreadPoolExecutor(1)
    answer = executor.submit(_queue_of, ledgers)
    executor.shutdown(wait=False)
    try:
        queue = answer.result(timeout=PATIENCE_SECONDS)
    except TimeoutError:
        silent = QueueSnapshot(trouble=f"nothing within {PATIENCE_SECONDS:.0f} s; this is what the files alone tell")
        yield _tables(targets, ledgers, silent), silent
        queue = answer.result()
    yield _tables(targets, ledgers, queue), queue


def _queue_of(ledgers: Sequence[Ledger]) -> QueueSnapshot:
    """Returns one look at the queue for the jobs of several sweeps."""
    ids = [job for ledger in ledgers for job in ids_to_ask(ledger)]
    # Slurm is not asked if it has no job of these sweeps. A job without an id may be in its queue too: a launcher may
    # have been killed before it wrote the id down.
    newest = [entry for ledger in ledgers for entry in ledger.newest().values()]
    needs_slurm = ids or any(entry.executor == "slurm" and not entry.job for entry in newest)
    return snapshot(ids, user=_owners(ledgers)) if needs_slurm else QueueSnapshot()


def _tables(targets: Sequence[SweepTarget], ledgers: Sequence[Ledger], queue: QueueSnapshot) -> list[list[JobRow]]:
    tables = [rows(ledger, queue, time.time()) for ledger in ledgers]
    return [[row for row in table if target.covers(row.folder)] for target, table in zip(targets, tables, strict=True)]


def _owners(ledgers: Sequence[Ledger]) -> str:
    """Returns whose jobs to ask for, with commas between: a sweep may be a colleague's."""
    try:
        return ",".join(sorted({ledger.path.owner() for ledger in ledgers if ledger.path.exists()}))
    except KeyError:  # an account that this machine does not know
        return ""
