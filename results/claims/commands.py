"""The command `salmask claims`: the paper's claims against the runs at hand."""

import json
from typing import Annotated

import typer

from repro.command_line.console import AsJson
from repro.command_line.terminal import Console, say_json
from repro.errors import UserError
from results.collection.gathering import OneMetric, OneSweep, OneTask, Roots, gather, roots_of


def claims(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[bool, typer.Option("--all", help="Also claims for which nothing was run.")] = False,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Test by the pooled spread of all rows of a framework.")
    ] = False,
    paired: Annotated[bool, typer.Option("--paired", help="Test each pair of rows by its own spread alone.")] = False,
    task: OneTask = "",
    metric: OneMetric = "",
    as_json: AsJson = False,
) -> None:
    """Check the paper's claims against the runs at hand: supported, tie, contradicted, undecided or not run.

    First the sentences, each with its source; then the comparisons that they consist of; then what each part of the
    method adds, where rows without the part were run.

    Example: salmask claims --runs runs/table1
    """
    from results.claims.compared_runs import notes_on_runs
    from results.claims.families import NOTE, families_as_frame, judge_families
    from results.claims.parts import parts, parts_as_frame
    from results.claims.spreads import SpreadOf
    from results.claims.verdict_frame import as_frame
    from results.claims.verdict_tables import letters, print_families, print_parts, print_verdicts
    from results.claims.verdicts import count, judge, method_notes
    from results.tables.selection import judged_by, judged_task

    if pooled and paired:
        raise UserError("--pooled and --paired exclude each other", mend="give one of them, or none")
    console = Console(stderr=as_json)
    records, frame = gather(roots_of(runs), context.obj, sweep, console)
    task = judged_task(frame, task, metric)
    spread = SpreadOf.framework if pooled else SpreadOf.pair if paired else SpreadOf.sentence
    verdicts = judge(frame, spread=spread, task=task, metric=metric)
    families = judge_families(verdicts)
    listed_verdicts = [verdict for verdict in verdicts if every or verdict.both_run]
    of_method = parts(frame, task=task, metric=metric)
    for note in notes_on_runs(verdicts, of_method, frame, records):
        console.print(f"{note}\n", soft_wrap=not console.is_terminal)
    if as_json:
        frames = {
            "sentences": families_as_frame(families),
            "comparisons": as_frame(listed_verdicts),
            "parts": parts_as_frame(of_method),
        }
        say_json({name: json.loads(table.to_json(orient="records")) for name, table in frames.items()})
        return
    print_families(families, console)
    print_verdicts(listed_verdicts, letters(families), console)
    print_parts(of_method, console)
    counts = ", ".join(f"{number} {outcome}" for outcome, number in count(verdicts).items())
    summary = filter(None, [f"Comparisons: {counts}.", judged_by(task, metric)])
    notes = ["", "How they are judged:", "", *(f"- {note}" for note in (*method_notes(verdicts), NOTE))]
    for line in (*summary, *notes):
        console.print(line, soft_wrap=not console.is_terminal)
