"""The commands that look after jobs: `salmask status`, `logs`, `cancel`, `retry`, `clean`."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from repro.console import AsJson
from repro.doctor.diagnosis import Diagnosis
from repro.errors import UserError
from slurm.cancel import cancel as cancel_jobs
from slurm.clean import leftovers, remove
from slurm.ledger import Ledger
from slurm.logs import follow, log_files
from slurm.places import Place, all_sweeps, find_place
from slurm.program import Program
from slurm.queue import QueueSnapshot, snapshot
from slurm.status import ENDED_BADLY, LIVE, JobRow, State, as_json_of, counts, duration, ids_to_ask, jobs_of, rows

COLOURS = {
    State.done: "green",
    State.running: "cyan",
    State.starting: "cyan",
    State.preempted: "yellow",
    State.interrupted: "yellow",
    State.cancelled: "yellow",
    State.unknown: "yellow",
    State.silent: "red",
    State.failed: "red",
    State.died: "red",
}
WIDTH_OF_FILES = 200
"""Characters of a line where it goes to a file or a pager."""
FASTEST_SECONDS = 5.0
"""Between two questions to Slurm, which serves everybody."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Target = Annotated[
    str, typer.Argument(metavar="SWEEP|RUN", help="Name or folder of a sweep; a run's folder, METHOD/sSEED or id.")
]


def status(
    sweep: Annotated[str, typer.Argument(metavar="[SWEEP]", help="Name or folder; default: all below runs/.")] = "",
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until nothing is under way.")] = False,
    every: Annotated[float, typer.Option(min=FASTEST_SECONDS, help="Seconds between two looks.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show what every job is doing: how far it is, why it waits, how it ended, or the number that it found.

    Example: salmask status table1 --watch
    """
    if watch and as_json:
        raise UserError("--watch and --json exclude each other", mend="call --json again and again")
    places = [find_place(sweep)] if sweep else [Place(path) for path in all_sweeps()]
    seen, queue = _look(places)
    if as_json:
        content = [as_json_of(table, place.sweep, queue) for place, table in zip(places, seen, strict=True)]
        typer.echo(json.dumps(content[0] if sweep else content, indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    if not watch:
        console.print(_shown(places, seen, queue))
        return
    with Live(_shown(places, seen, queue), console=console, auto_refresh=False) as live:
        while any(row.state in LIVE for table in seen for row in table):
            time.sleep(every)
            seen, queue = _look(places)
            live.update(_shown(places, seen, queue), refresh=True)


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its folder, METHOD/sSEED, or the beginning of its id.")],
    *,
    task: Annotated[str, typer.Option(help="Of this task; default: of the one that was submitted last.")] = "",
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on, also across requeues.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of the end of each file.")] = 50,
) -> None:
    """Show what the newest attempt at a run printed.

    Example: salmask logs mocov2+ours-hp/s0 -f
    """
    place = find_place(run)
    ledger = Ledger(place.sweep)
    folder = place.folder or "."
    if not following and not log_files(ledger, folder, task):
        raise UserError(f"{run} has printed nothing yet", mend=f"salmask status {place.sweep}")

    asked, over = -math.inf, False

    def ended() -> bool:
        nonlocal asked, over
        if time.monotonic() - asked >= FASTEST_SECONDS:
            asked = time.monotonic()
            (seen,), _ = _look([Place(place.sweep, folder)])
            over = not any(row.state in LIVE and task in ("", row.task) for row in seen)
        return over

    shown: Path | None = None
    for path, text in follow(lambda: log_files(ledger, folder, task), lines, ended=ended if following else None):
        if path != shown:
            typer.secho(f"==> {path} <==", bold=True)
            shown = path
        typer.echo(text, nl=False)


def cancel(
    target: Target,
    *,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """End the jobs of a sweep or a run; each saves a checkpoint, and `salmask retry` goes on from it.

    Example: salmask cancel table1 --dry-run
    """
    place = find_place(target)
    entries = [e for e in Ledger(place.sweep).submissions() if place.folder in ("", e.folder)]
    told = cancel_jobs(entries, snapshot(), dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"cancelled": told.jobs, "elsewhere": told.elsewhere, "trouble": told.trouble}, indent=1))
    else:
        verb = "would cancel" if dry_run else "cancelled"
        typer.echo(f"{verb} {len(told.jobs)} jobs{': ' if told.jobs else ''}{', '.join(told.jobs)}")
        for process in told.elsewhere:
            typer.echo(f"started on another machine, end it there: {process}")
    if told.trouble:
        raise UserError(f"{told.trouble}", mend="try again, or scancel by hand")


def clean(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Name or folder.")],
    *,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove what nobody needs any more: checkpoints of what is done, files of old submissions, unused code, locks.

    Results, backbones, metrics, pictures and settings stay. Look with --dry-run first.

    Example: salmask clean table1 --dry-run
    """
    ledger = Ledger(find_place(sweep).sweep)
    queue = snapshot(ids_to_ask(ledger.sweep, jobs_of(ledger)))
    found = leftovers(ledger, queue)
    if not dry_run:
        remove(found)
    if as_json:
        content = [{"path": str(item.path), "why": item.why, "bytes": item.size} for item in found]
        typer.echo(json.dumps({"removed": not dry_run, "found": content}, indent=1))
        return
    for item in found:
        typer.echo(f"{item.size / 1e6:10.1f} MB  {item.path}  ({item.why})")
    total = sum(item.size for item in found) / 1e6
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(found)} things, {total:.1f} MB")


def probe_cluster(cluster: str, program: Program, *, wait: float, console: Console) -> list[Diagnosis]:
    """What a short job with a profile's resources finds; see `slurm.probe`."""
    from slurm.probe import probe
    from slurm.profile import load

    return probe(load(cluster), console, program, wait=wait)


def build(program: Program) -> typer.Typer:
    """The commands.

    Args:
        program: what jobs carry out that `retry` hands over again.
    """
    app = typer.Typer(add_completion=False)
    for command in (status, logs, cancel):
        app.command()(command)

    @app.command()
    def retry(
        target: Target,
        *,
        failed: Annotated[
            bool, typer.Option("--failed", help="Only what failed or died, not what was cancelled.")
        ] = False,
        cluster: Annotated[str, typer.Option(metavar="NAME|FILE", help="Profile; default: the one of last time.")] = "",
        allow_dirty: Annotated[
            bool, typer.Option("--allow-dirty", help="Submit edited code, recording the difference.")
        ] = False,
        dry_run: DryRun = False,
    ) -> None:
        """Hand over again what failed, died, was interrupted or cancelled; each job goes on from its last checkpoint.

        Example: salmask retry table1 --failed
        """
        place = find_place(target)
        (seen,), queue = _look([place])
        if queue.trouble and any(row.state is State.unknown for row in seen):
            raise UserError(f"what became of the jobs cannot be known: {queue.trouble}", mend="later")
        wanted = frozenset({State.failed, State.died}) if failed else ENDED_BADLY | {State.planned}
        chosen = [row for row in seen if row.state in wanted]
        if not chosen:
            typer.echo("nothing to retry")
            return
        for row in chosen:
            typer.echo(f"{row.task} {row.run}: {row.state}{f', {row.note}' if row.note else ''}")
        if dry_run:
            return
        from slurm.retry import relaunch  # submitit takes a second to import

        keys = [(row.folder, row.task) for row in chosen]
        outcome = relaunch(Ledger(place.sweep), keys, cluster, program, Console(stderr=True), allow_dirty=allow_dirty)
        typer.echo(f"{len(outcome.submitted) + len(outcome.done)} jobs handed over, {len(outcome.failed)} failed")
        if outcome.failed:
            raise typer.Exit(1)

    app.command()(clean)
    return app


def _look(places: Sequence[Place]) -> tuple[list[list[JobRow]], QueueSnapshot]:
    """The rows of each place, with one look at the queue for all of them."""
    ledgers = [Ledger(place.sweep) for place in places]
    known = [job for ledger in ledgers for job in ids_to_ask(ledger.sweep, jobs_of(ledger))]
    # Where no job was handed to Slurm, it has nothing to tell, and is not missed.
    asked = known or any(_on_slurm(ledger) for ledger in ledgers)
    queue = snapshot(known, user=_owners(ledgers)) if asked else QueueSnapshot()
    tables = [rows(ledger, queue, time.time()) for ledger in ledgers]
    return [
        [row for row in table if place.folder in ("", row.folder)] for place, table in zip(places, tables, strict=True)
    ], queue


def _on_slurm(ledger: Ledger) -> bool:
    return any(entry.executor == "slurm" and not entry.job for entry in ledger.newest().values())


def _owners(ledgers: Sequence[Ledger]) -> str:
    """Whose jobs to ask for: a sweep may be a colleague's."""
    try:
        return ",".join(sorted({ledger.path.owner() for ledger in ledgers if ledger.path.exists()}))
    except KeyError:  # an account that this machine does not know
        return ""


def _shown(places: Sequence[Place], seen: Sequence[Sequence[JobRow]], queue: QueueSnapshot) -> RenderableType:
    parts: list[RenderableType] = []
    for place, table in zip(places, seen, strict=True):
        summary = ", ".join(f"{number} {state}" for state, number in counts(table).items()) or "nothing yet"
        parts += [Text(f"{place.sweep}: {summary}", style="bold"), _table(table)]
    if queue.trouble:
        parts.append(Text(f"Slurm does not answer: {queue.trouble}", style="red"))
    return Group(*parts)


def _table(table: Sequence[JobRow]) -> Table:
    cells = [
        {
            "run": row.run,
            "task": row.task,
            "job": row.job,
            "state": row.state.value,
            "progress": _progress(row),
            "left": "" if row.eta_s is None else duration(row.eta_s),
            "images/s": f"{row.images_per_second:.0f}" if row.images_per_second else "",
            "": _note(row),
        }
        for row in table
    ]
    used = [heading for heading in (cells[0] if cells else {}) if any(line[heading] for line in cells)]
    shown = Table(box=None, pad_edge=False)
    for heading in used:
        number = heading in ("progress", "left", "images/s")
        shown.add_column(heading, justify="right" if number else "left", min_width=0 if heading else 28, no_wrap=number)
    for row, line in zip(table, cells, strict=True):
        colours = {"state": COLOURS.get(row.state, "")}
        shown.add_row(*(Text(line[heading], style=colours.get(heading, "")) for heading in used))
    return shown


def _progress(row: JobRow) -> str:
    if row.state is State.done or not row.steps:
        return ""
    return f"{100 * row.step / row.steps:.0f} % ({row.step}/{row.steps})"


def _note(row: JobRow) -> str:
    number = f"{row.metric} {row.value:.2f}" if row.value is not None else ""
    attempt = f"attempt {row.attempt}" if row.attempt > 1 and row.state is not State.done else ""
    return ", ".join(part for part in (number, attempt, row.note) if part)
