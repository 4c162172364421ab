"""The commands that read results: `salmask table`, `claims`, `explain`, `plot`, `report`, `pack`, `collect`."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from repro.console import AsJson, completion
from repro.runs.run import Run

# pandas and matplotlib are imported when a command runs: `--help` answers at once.

Roots = Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR", help="Runs or sweeps; repeatable.")]
OneSweep = Annotated[str, typer.Option("--sweep", metavar="NAME", help="Only runs of this sweep.")]


def _tables() -> Iterable[str]:
    from results.published import TABLES

    return TABLES


def table(
    name: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2 or table3.", autocompletion=completion(_tables))
    ] = "table1",
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[bool, typer.Option("--all", help="The paper's whole layout: also what was not run.")] = False,
    only: Annotated[str, typer.Option(metavar="ours|paper|diff", help="Show one of the three alone.")] = "",
    metric: Annotated[
        str, typer.Option(help="Tables 1 and 3: top1 (last epoch), top1_best, top5, mean_per_class.")
    ] = "",
    task: Annotated[str, typer.Option(help="Tables 1 and 3: by another evaluation, logistic, knn, semi-1, ...")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write it; default: tables/ beside.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a table of the paper from recorded results, as Markdown, LaTeX, CSV and HTML.

    Example: salmask table table1 --runs runs/table1
    """
    roots = runs or [Path("runs")]
    paths = show_table(
        name,
        roots,
        out or roots[0] / "tables",
        rows="all" if every else "ours",
        metric=metric,
        console=Console(stderr=as_json),
        only=only,
        sweep=sweep,
        task=task,
    )
    if as_json:
        typer.echo(json.dumps([str(path) for path in paths]))


def show_table(
    name: str,
    roots: Sequence[Path],
    out: Path,
    *,
    rows: Any,
    metric: str = "",
    console: Console,
    only: Any = "",
    sweep: str = "",
    task: str = "",
) -> Sequence[Path]:
    """Print a table and write it in every format; returns the files."""
    from results.collect import collect_runs
    from results.formats import markdown, write
    from results.runs import find_runs, listed
    from results.tables import render

    found = [] if only == "paper" else find_runs(roots, sweep=sweep)
    frame = None if only == "paper" else collect_runs(found, listed(roots))
    _warn(frame.attrs["warnings"] if frame is not None else [], console)
    made = render(name, frame, runs=found, rows=rows, only=only, metric=metric, task=task)
    console.print(markdown(made), markup=False, highlight=False, soft_wrap=True)
    paths = write(made, out)
    for path in paths:
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    return paths


def show_tables(tables: Sequence[str], place: Path, console: Console) -> None:
    """Print a sweep's tables, write them beside its runs, and name the pictures.

    Args:
        tables: names of the tables.
        place: the sweep's folder.
        console: to print on.
    """
    for name in tables:
        show_table(name, [place], place / "tables", rows="ours", console=console)
    for gallery in sorted(place.glob("*/*/gallery/*.png")):
        console.print(f"  {gallery}", soft_wrap=True, highlight=False)


def collect(
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .parquet or .csv file.")] = Path(
        "results.parquet"
    ),
) -> None:
    """Write every result of the run folders as one long table, for pandas, R or a spreadsheet.

    Example: salmask collect --runs runs/table1 --out results.parquet
    """
    from results.collect import collect as collect_results
    from results.collect import export

    console = Console()
    frame = collect_results(runs or [Path("runs")], sweep=sweep)
    _warn(frame.attrs["warnings"], console)
    export(frame, out)
    console.print(f"{len(frame)} rows of {frame['run_id'].nunique()} runs in {out}", soft_wrap=True, highlight=False)


def claims(
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[bool, typer.Option("--all", help="Also claims that nothing was run for.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold the paper's claims against the runs at hand: supported, tie, contradicted or not enough runs.

    Example: salmask claims --runs runs/table1
    """
    from results.claims import as_frame, count, judge, method_note

    console = Console(stderr=as_json)
    _, frame = _gather(runs, sweep, console)
    findings = judge(frame)
    shown = as_frame([finding for finding in findings if every or finding.comparison.n])
    if as_json:
        typer.echo(shown.to_json(orient="records", indent=1))
        return
    print_claims(shown, console)
    console.print(
        ", ".join(f"{number} {verdict}" for verdict, number in count(findings).items()) + f"\n{method_note(findings)}"
    )


def print_claims(shown: Any, console: Console) -> None:
    """Print findings as a table, one line each."""
    page = RichTable(box=None, pad_edge=False)
    for head in ("verdict", "claim", "where", "paper", "ours (n)", "95 %", "p"):
        page.add_column(head, overflow="fold", justify="left" if head in ("verdict", "claim", "where") else "right")
    for line in shown.to_dict("records"):
        tested = line["p_corrected"] is not None and line["p_corrected"] == line["p_corrected"]
        page.add_row(
            line["verdict"],
            escape(f"{line['better']} > {line['worse']}"),
            escape(line["where"]),
            f"{line['published']:+.2f}",
            f"{line['difference']:+.2f} ({line['n']})" if line["n"] else "–",
            f"{line['low']:+.2f} … {line['high']:+.2f}" if tested else "–",
            f"{line['p_corrected']:.3f}" if tested else "–",
        )
    console.print(page)


def explain(name: str, runs: Roots, sweep: str, recipe: Callable[[str], Run], *, as_json: bool) -> None:
    """Print all that is known about a cell of a table."""
    from results.explain import explain as explain_cell

    found, frame = _gather(runs, sweep, Console(stderr=as_json))
    content = explain_cell(name, frame, found, recipe)
    typer.echo(json.dumps(content, indent=1) if as_json else yaml.safe_dump(content, sort_keys=False, width=120))


def plot(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="curves, scatter, bars, branches, compute, gallery, all.")
    ],
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    dark: Annotated[bool, typer.Option("--dark", help="For a dark page or slide.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write it; default: plots/ beside.")
    ] = None,
) -> None:
    """Draw a plot from recorded runs, as SVG and PNG.

    Example: salmask plot all --runs runs/table1
    """
    from results.material import Material, NothingToDrawError
    from results.plots import PLOTS, save

    console = Console()
    roots = runs or [Path("runs")]
    material = Material(*_gather(roots, sweep, console), "dark" if dark else "light")
    for chosen in PLOTS if name == "all" else [name]:
        try:
            paths = save(chosen, material, out or roots[0] / "plots")
        except NothingToDrawError as reason:
            if name != "all":
                raise
            console.print(f"{chosen}: left out, {reason}", markup=False, soft_wrap=True)
        else:
            console.print("\n".join(str(path) for path in paths), markup=False, highlight=False, soft_wrap=True)


def report(runs: list[Path] | None, sweep: str, out: Path | None, title: str, recipe: Callable[[str], Run]) -> Path:
    """Write the page that shows everything; returns its path."""
    from results.report import write

    roots = runs or [Path("runs")]
    found, frame = _gather(roots, sweep, Console(stderr=True))
    path = out or roots[0] / "report.html"
    write(path, found, frame, title=title or _heading(roots, sweep), recipe=recipe)
    return path


def pack(
    runs: list[Path] | None,
    sweep: str,
    out: Path | None,
    title: str,
    recipe: Callable[[str], Run],
    *,
    checkpoints: bool,
) -> str:
    """Write the artifact; returns what there is to say of it."""
    from results.pack import pack as write_artifact

    roots = runs or [Path("runs")]
    found, frame = _gather(roots, sweep, Console(stderr=True))
    path = out or roots[0] / "artifact.zip"
    heading = title or _heading(roots, sweep)
    files = write_artifact(path, found, frame, title=heading, recipe=recipe, checkpoints=checkpoints)
    return f"{files} files, {path.stat().st_size / 1e6:.1f} MB in {path}"


def _heading(roots: Sequence[Path], sweep: str) -> str:
    return f"salmask: {sweep or ', '.join(root.resolve().name for root in roots)}"


def _gather(runs: list[Path] | None, sweep: str, console: Console) -> tuple[Any, Any]:
    """The run folders and their results; None for results where nothing was evaluated."""
    from results.collect import collect_runs
    from results.runs import find_runs

    found = find_runs(runs or [Path("runs")], sweep=sweep)
    evaluated = any(run.folder.results.is_file() for run in found)
    frame = collect_runs(found) if evaluated else None
    _warn(frame.attrs["warnings"] if frame is not None else [], console)
    return found, frame


def bench_collect(
    rows: Annotated[int, typer.Option(min=1, help="Result rows.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Time collecting a million result rows and making Table 1 of them.

    Example: salmask bench collect --rows 1000000
    """
    from results.bench import collecting

    content = collecting(rows)
    typer.echo(json.dumps(content, indent=1) if as_json else "\n".join(f"{k}: {v}" for k, v in content.items()))


def _warn(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def build(recipe: Callable[[str], Run]) -> typer.Typer:
    """The commands.

    Args:
        recipe: The run that a method's name stands for, by which `explain` and `report` tell what a run changed.
    """
    app = typer.Typer(add_completion=False)
    for command in (table, claims, plot, collect):
        app.command()(command)

    @app.command("explain")
    def explain_command(
        cell: Annotated[str, typer.Argument(metavar="TABLE:METHOD:DATASET[:METRIC]", help="A cell of a table.")],
        runs: Roots = None,
        *,
        sweep: OneSweep = "",
        as_json: AsJson = False,
    ) -> None:
        """Tell where a number comes from: the runs behind a cell, their code, settings, data, machine and logs.

        Example: salmask explain table1:mocov2+ours-hp:imagenet100
        """
        explain(cell, runs, sweep, recipe, as_json=as_json)

    @app.command("report")
    def report_command(
        runs: Roots = None,
        *,
        sweep: OneSweep = "",
        title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
        out: Annotated[
            Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html beside the runs.")
        ] = None,
    ) -> None:
        """Write one self-contained HTML page: claims, tables, plots, runs and a checklist, warnings first.

        Example: salmask report --runs runs/table1
        """
        typer.echo(report(runs, sweep, out, title, recipe))

    @app.command("pack")
    def pack_command(
        runs: Roots = None,
        *,
        sweep: OneSweep = "",
        check: Annotated[
            Path | None, typer.Option("--check", metavar="FILE", help="Verify an artifact instead of making one.")
        ] = None,
        checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Also the backbones.")] = False,
        title: Annotated[str, typer.Option(help="Heading of the report.")] = "",
        out: Annotated[
            Path | None, typer.Option("--out", metavar="FILE", help="Default: artifact.zip beside the runs.")
        ] = None,
    ) -> None:
        """Make one zip of everything but checkpoints: report, tables, data, settings, provenance, commands, checksums.

        Example: salmask pack --runs runs/table1; salmask pack --check runs/table1/artifact.zip
        """
        if check is not None:
            from results.pack import check as verify

            typer.echo(f"{verify(check)} files are as they were packed")
        else:
            typer.echo(pack(runs, sweep, out, title, recipe, checkpoints=checkpoints))

    return app
