"""The commands that read results: `salmask table`, `claims`, `explain`, `plot`, `report`, `pack`, `collect`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from repro.console import AsJson, completion
from repro.errors import UserError
from repro.files import write_text
from repro.progress import OPENING, doing, on_terminal
from repro.quantities import counted, size_text
from repro.terminal import Console, say, say_json
from results.collection.gathering import Roots, gather, heading_of, roots_of, warn
from results.collection.row_comparison import Recipe
from results.collection.runs import find_runs, listed

if TYPE_CHECKING:
    from results.formats.layout import Table

# pandas and matplotlib are imported when a command runs: `--help` answers at once.

OneSweep = Annotated[str, typer.Option("--sweep", metavar="NAME", help="Only runs of this sweep.")]
OneTask = Annotated[str, typer.Option(help="Evaluation, in Tables 1 and 3: linear, logistic, knn, semi-1, ...")]
OneMetric = Annotated[
    str,
    typer.Option(help="Metric, in Tables 1 and 3: top1 (last epoch, the default), top1_best, top5, mean_per_class."),
]


def table_names() -> Iterable[str]:
    """Returns the names of the tables that can be made."""
    from results.paper.published import TABLES

    return TABLES


def table(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2 or table3.", autocompletion=completion(table_names))
    ] = "table1",
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[
        bool, typer.Option("--all", help="All rows and columns of the paper's table, also those not run.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(
            metavar="measured|paper|diff", help="Show the measured numbers, the paper's, or their difference alone."
        ),
    ] = "",
    metric: OneMetric = "",
    task: OneTask = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", file_okay=False, help="Also write it there, as Markdown, LaTeX, CSV and HTML."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a table of the paper beside recorded results; --out writes it as Markdown, LaTeX, CSV and HTML.

    Without --task it is made of the paper's evaluation, or where no run has that, of logistic regression, kNN, or what
    else was measured.

    Example: salmask table table1 --runs runs/table1
    """
    from results.collection.collect import collect_runs
    from results.paper.published import published
    from results.tables.references import has_both
    from results.tables.rendering import render
    from results.tables.selection import fuller_task, measured_task, refuse_unknown

    published(name)  # refuses a name before thousands of runs are read
    console = Console(stderr=as_json)  # with --json nothing else goes to the standard output
    roots = roots_of(runs)
    # The paper's numbers alone need no run, not even a folder of runs.
    records = [] if only == "paper" else find_runs(roots, context.obj, sweep=sweep)
    frame = None if only == "paper" else collect_runs(records, listed(roots))
    warn(frame, console)
    refuse_unknown(frame, task, metric)
    rows: Any = "all" if every else "measured"
    only_checked: Any = only  # `render` refuses what is none of its choices
    if frame is not None and not task:
        task = measured_task(frame, name, metric) or ""
        if fuller := fuller_task(frame, name, metric):
            Console(stderr=True).print(fuller, soft_wrap=True)
    references = frame is not None and has_both(frame)
    content = render(
        name, frame, runs=records, rows=rows, only=only_checked, metric=metric, task=task, references=references
    )
    if as_json:
        say(content.records.to_json(orient="records", double_precision=4, force_ascii=False, indent=1))
    else:
        _print_table(content, console)
    if out is not None:
        _write_table(content, out, console)


def show_tables(tables: Sequence[str], sweep_folder: Path, console: Console, recipe: Recipe) -> None:
    """Print a sweep's tables, write them beside its runs, and name the pictures.

    A table is made of what was measured: one of linear probes, of which a sweep has none, by the next best task;
    and where nothing of the sweep stands in a table, that is said.

    Args:
        tables: Names of the tables.
        sweep_folder: The sweep's folder.
        console: What to print on.
        recipe: Makes the run that a method's name stands for, which runs are compared with.

    Raises:
        UserError: There is nothing to show, or it cannot be written.
    """
    from results.collection.collect import collect_runs
    from results.tables.references import has_both
    from results.tables.rendering import render
    from results.tables.selection import measured_task

    runs = find_runs([sweep_folder], recipe)
    frame = collect_runs(runs, listed([sweep_folder]))
    warn(frame, console)
    for name in tables:
        task = measured_task(frame, name)
        if task is None:
            measured = ", ".join(sorted(frame["task"].unique()))
            console.print(f"no {name}: nothing of what was measured ({measured}) stands in it")
        else:
            content = render(name, frame, runs=runs, task=task, references=has_both(frame))
            _print_table(content, console)
            _write_table(content, sweep_folder / "tables", console)
    for gallery in (gallery for run in runs for gallery in run.galleries):
        console.print(f"  {gallery}", soft_wrap=True)


def collect(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="A .parquet or .csv file.")] = Path(
        "results.parquet"
    ),
) -> None:
    """Write every result of the run folders as one long table, for pandas, R or a spreadsheet.

    Example: salmask collect --runs runs/table1 --out results.parquet
    """
    from results.collection.collect import collect as collect_results
    from results.collection.collect import export

    console = Console()
    frame = collect_results(roots_of(runs), context.obj, sweep=sweep)
    warn(frame, console)
    export(frame, out)
    many = counted(frame["run_id"].nunique(), "run")
    console.print(f"{counted(len(frame), 'row')} of {many} in {out}", soft_wrap=True)


def claims(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[bool, typer.Option("--all", help="Also claims that nothing was run for.")] = False,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Test by the pooled spread of all rows of a framework.")
    ] = False,
    paired: Annotated[bool, typer.Option("--paired", help="Test each pair of rows by its own spread alone.")] = False,
    task: OneTask = "",
    metric: OneMetric = "",
    as_json: AsJson = False,
) -> None:
    """Hold the paper's claims against the runs at hand: supported, tie, contradicted, undecided or not run.

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
    from results.claims.verdicts import count, judge, method_note
    from results.tables.selection import judged_by, judged_task, refuse_unknown

    if pooled and paired:
        raise UserError("--pooled and --paired exclude each other", mend="give one of them, or none")
    console = Console(stderr=as_json)
    records, frame = gather(roots_of(runs), context.obj, sweep, console)
    refuse_unknown(frame, task, metric)
    task = judged_task(frame, task, metric)
    spread = SpreadOf.framework if pooled else SpreadOf.pair if paired else SpreadOf.sentence
    verdicts = judge(frame, spread=spread, task=task, metric=metric)
    families = judge_families(verdicts)
    listed_verdicts = [verdict for verdict in verdicts if every or verdict.told]
    of_method = parts(frame, task=task, metric=metric)
    for note in notes_on_runs(verdicts, of_method, frame, records):
        console.print(note, soft_wrap=True)
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
    notes = [f"Comparisons: {counts}.", judged_by(task, metric), method_note(verdicts), NOTE]
    console.print(" ".join(filter(None, notes)), soft_wrap=not console.is_terminal)


def plot(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="forest, curves, scatter, bars, branches, compute, saliency-dose, gallery, all."
        ),
    ],
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    dark: Annotated[bool, typer.Option("--dark", help="Colours for a dark background.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Where to write it.")] = Path(
        "plots"
    ),
) -> None:
    """Draw a plot from recorded runs, as SVG and PNG.

    Example: salmask plot all --runs runs/table1
    """
    from results.plots.figures import PLOTS, require_plot, save
    from results.plots.material import Material, NothingToDrawError
    from results.tables.selection import judged_by, judged_task, refuse_unknown

    if name != "all":
        require_plot(name)
    console = Console()
    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, console)
    refuse_unknown(frame, task, metric)
    task = judged_task(frame, task, metric)
    material = Material(records, frame, "dark" if dark else "light", task, metric)
    if judged := judged_by(task, metric):
        console.print(judged)
    for plot_name in PLOTS if name == "all" else [name]:
        try:
            with doing(f"drawing {plot_name}"):
                paths = save(plot_name, material, out)
        except NothingToDrawError as reason:
            if name != "all":
                raise
            console.print(f"{plot_name}: left out, {reason.note}", soft_wrap=True)
        else:
            console.print("\n".join(str(path) for path in paths), soft_wrap=True)


def explain(
    context: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="TABLE:METHOD:DATASET[:METRIC]", help="A cell of a table.")],
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    as_json: AsJson = False,
) -> None:
    """Tell where a number comes from: the runs behind a cell, their code, settings, data, machine and logs.

    Example: salmask explain table1:mocov2+ours-hp:imagenet100
    """
    from results.tables.explain import CellAddress, with_common_facts
    from results.tables.explain import explain as explain_cell
    from results.tables.selection import refuse_unknown

    CellAddress.parse(cell)  # refuses what names no cell before thousands of runs are read
    records, frame = gather(roots_of(runs), context.obj, sweep, Console(stderr=as_json))
    refuse_unknown(frame, task)  # a metric of detection is one of the table's alone
    content = explain_cell(cell, frame, records, task=task, metric=metric)
    if as_json:
        say_json(content)
    else:
        text = yaml.safe_dump(with_common_facts(content), sort_keys=False, width=120, allow_unicode=True)
        say(text)


def report(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="Where to write it.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained HTML page: the verdict, forest plot, tables, claims, runs and a checklist.

    Example: salmask report --runs runs/table1
    """
    from results.report.page import build

    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, Console(stderr=True))
    with doing("drawing the page"):
        page = build(records, frame, title=title or heading_of(roots, sweep), task=task, metric=metric)
        write_text(out, page)
    say(out)


def pack(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", dir_okay=False, help="Verify an artifact instead of making one."),
    ] = None,
    task: OneTask = "",
    metric: OneMetric = "",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Pack the backbones, too.")] = False,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="Where to write it.")] = Path(
        "artifact.zip"
    ),
) -> None:
    """Make one zip of everything but checkpoints: report, tables, data, settings, provenance, commands, checksums.

    Example: salmask pack --runs runs/table1; salmask pack --check artifact.zip
    """
    from results.report import pack as artifact  # the module: its function has the name of this command

    if check is not None:
        say(f"{artifact.check(check)} files are as they were packed")
        return
    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, Console(stderr=True))
    heading = title or heading_of(roots, sweep)
    is_watched = on_terminal()
    with doing("packing"):

        def tell(what: str) -> None:
            if is_watched:
                OPENING.say(f"packing {what}")
            else:
                say(f"packing {what}", err=True)

        shown = {"title": heading, "task": task, "metric": metric}
        files = artifact.pack(out, records, frame, **shown, checkpoints=checkpoints, tell=tell)
    say(f"{counted(files, 'file')}, {size_text(out.stat().st_size)} in {out}")


def build(recipe: Recipe) -> typer.Typer:
    """Returns the commands that read results.

    Args:
        recipe: Makes the run that a method's name stands for, which runs are compared with.
    """
    app = typer.Typer(add_completion=False)
    for command in (table, claims, plot, collect, explain, report, pack):
        app.command(context_settings={"obj": recipe})(command)
    return app


def _print_table(table: "Table", console: Console) -> None:
    """Print a table: laid out on a terminal, as Markdown elsewhere."""
    from results.formats.on_terminal import print_on_terminal
    from results.formats.table_files import markdown

    if console.is_terminal:
        print_on_terminal(table, console)
    else:
        console.print(markdown(table), soft_wrap=True)


def _write_table(table: "Table", folder: Path, console: Console) -> None:
    """Write a table in every format, and name the files."""
    from results.formats.table_files import write

    for path in write(table, folder):
        console.print(f"  {path}", soft_wrap=True)
