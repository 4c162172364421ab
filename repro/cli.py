"""The `salmask` command. Everything it does is a call into the rooms; nobody imports it."""

import json
import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table as RichTable

from repro import data_cli
from repro.errors import UserError, one_line
from repro.folder import RunFolder
from repro.run import Run, plain
from repro.settings import build, parse_overrides, read_yaml
from results import cli as results_cli

# Commands that train import torch when they are called: `salmask table` and `--help` answer at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Saliency-guided masking for contrastive learning: train, evaluate, and get the paper's tables back.",
)
app.add_typer(data_cli.app, name="data")

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings, for example optimization.epochs=10.")
]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.")]
Root = Annotated[
    str, typer.Option("--root", metavar="DIR", help="Root of the data set; short for machine.data_root=DIR.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the sweep that the run belongs to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def pretrain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A row of the tables; `salmask methods` lists them.")],
    settings: Settings = None,
    config: Config = None,
    root: Root = "",
    out: Out = Path("runs/adhoc"),
    as_json: AsJson = False,
) -> None:
    """Pretrain a method; the same command goes on where an interrupted run stopped.

    Example: salmask pretrain mocov2+ours-hp --root /data/imagenet seed=1

    On 4 GPUs: torchrun --nproc-per-node 4 -m repro.cli pretrain mocov2+ours-hp --root /data/imagenet
    """
    from baselines import resolve

    layers = [read_yaml(config)] if config else []
    run = resolve(method, *layers, {"machine": {"data_root": root}} if root else {}, parse_overrides(settings or []))
    folder = RunFolder.of(run, out)
    carry_out(run, folder.path, "pretrain")
    report(as_json, {"run": run.id, "folder": str(folder.path), "backbone": str(folder.backbone)})


@app.command()
def probe(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    settings: Settings = None,
    root: Root = "",
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run by linear probing, protocol linear-moco-v1.

    Example: salmask probe runs/table1/mocov2/s0-45df9c0eca --root /data/imagenet
    """
    held = RunFolder(folder).load()
    overrides = parse_overrides(settings or [])
    run = build([overrides, {"machine": {"data_root": root}} if root else {}], base=held)
    if run.id != held.id:
        raise UserError("only settings of probe and machine can change here: a backbone keeps the run that made it")
    from downstream import TASKS

    carry_out(run, folder, "linear")
    rows = TASKS["linear"].recorded(run, RunFolder(folder))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    for row in rows:
        if not as_json:
            typer.echo(f"{row.metric:10} {row.value:6.2f} %   {row.protocol}, {row.dataset} {row.split}")


def carry_out(run: Run, path: Path, task: str) -> None:
    """Carry out a task on a run's folder, as a command, a job or a rank of several.

    Args:
        run: the experiment.
        path: its folder.
        task: `pretrain` or a downstream task.

    Raises:
        UserError: bad input, or another process holds the folder.
    """
    from contextlib import nullcontext

    from downstream import TASKS
    from repro.distributed import initialise, rank
    from repro.pretrain import pretrain

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, _stop)
    folder = RunFolder(path)
    device = initialise(run.machine.device)
    with folder.attempt(task) if rank() == 0 else nullcontext():
        if task == "pretrain":
            pretrain(run, folder, device)
        else:
            TASKS[task].evaluate(run, folder, device)


def _stop(signum: int, _: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does: its status says so, and its last checkpoint stays."""
    sys.exit(128 + signum)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="demo, table1, or a YAML file.")],
    settings: Settings = None,
    *,
    local: Annotated[bool, typer.Option("--local", help="Run here, through submitit's local executor.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run, and run nothing.")] = False,
    methods: Annotated[str, typer.Option(metavar="A,B", help="Only these methods.")] = "",
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="Only these seeds.")] = "",
    parallel: Annotated[int, typer.Option(min=1, help="Jobs at a time.")] = 1,
    root: Root = "",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/SWEEP.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pretrain and evaluate a whole table; a second call does only what is missing.

    Example: salmask sweep table1 --local --methods mocov2,mocov2+ours-hp --seeds 0,1 --root /data/imagenet
    """
    from baselines import resolve
    from slurm.launch import launch_local
    from slurm.sweep import expand, load, narrowed

    if not (local or plan):
        raise UserError("say where to run: --local runs here; --plan only shows the jobs")
    chosen = narrowed(load(name), _names(methods), _numbers(seeds))
    overrides = parse_overrides([*([f"machine.data_root={root}"] if root else []), *(settings or [])])
    place = out or Path("runs") / chosen.name
    jobs = expand(chosen, place, resolve, overrides)
    if plan:
        report(as_json, [{"job": job.name, "folder": str(job.folder.path), "done": job.done} for job in jobs])
        return
    console = Console(stderr=as_json)
    outcome = launch_local(jobs, place / "logs", parallel=parallel, console=console)
    console.print(f"{len(outcome.done)} jobs done, {len(outcome.skipped)} had been, {len(outcome.failed)} failed")
    if any(job.done for job in jobs if job.task != "pretrain"):
        results_cli.show_table(chosen.table, [place], place / "tables", rows="ours", console=console)
        galleries = sorted(place.glob("*/*/gallery/*.png"))
        for gallery in galleries:
            console.print(f"  {gallery}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps({"done": [j.name for j in outcome.done], "failed": outcome.failed}, indent=1))
    if outcome.failed:
        raise typer.Exit(1)


def _names(text: str) -> Sequence[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> Sequence[int]:
    try:
        return [int(word) for word in _names(text)]
    except ValueError:
        raise UserError(f"--seeds {text}: seeds are whole numbers, for example --seeds 0,1,2") from None


def _recipe(method: str) -> Run:
    """What a method's name stands for; the results room may not ask `baselines` itself."""
    from baselines import resolve

    return resolve(method)


results_cli.mount(app, _recipe)


@app.command()
def methods(
    method: Annotated[str, typer.Argument(help="Show one method's whole run.")] = "", as_json: AsJson = False
) -> None:
    """List the methods, or show every setting of one.

    Example: salmask methods mocov2+ours-hp
    """
    from baselines import METHODS, resolve

    if method:
        run = resolve(method)
        report(True, plain(run)) if as_json else typer.echo(run.to_yaml())
        return
    report(
        as_json,
        [{"method": name, "title": row.title, "settings": _short(row.settings)} for name, row in METHODS.items()],
    )


def _short(settings: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


@app.command()
def doctor(
    root: Root = "",
    dataset: Annotated[str, typer.Option(help="Check this data set's root.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check packages, devices, data roots and weights; say what is wrong and the mend.

    Example: salmask doctor --dataset imagenet100 --root /data/imagenet
    """
    from repro.doctor import examine

    findings = examine(dataset, Path(root) if root else None)
    report(as_json, [{"check": f.check, "verdict": f.verdict, "found": f.found, "mend": f.mend} for f in findings])
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


bench = typer.Typer(no_args_is_help=True, help="Measure, side by side in one run.")
app.add_typer(bench, name="bench")


@bench.command("masking")
def bench_masking(
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 32,
    size: Annotated[int, typer.Option(min=28, help="Pixels a side; a multiple of 7.")] = 224,
    as_json: AsJson = False,
) -> None:
    """Time our masking beside a plain loop over images.

    Example: salmask bench masking --batch 32 --size 224
    """
    from repro.bench import masking

    if size % 7:
        raise UserError(f"--size {size} is no multiple of the 7×7 grid; mend: --size {7 * (size // 7)}")
    report(as_json, masking(batch, size))


@bench.command("saliency")
def bench_saliency(
    size: Annotated[int, typer.Option(min=64, max=512, help="Pixels a side.")] = 224,
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 200,
    cutouts: Annotated[Path | None, typer.Option(metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the foreground map with true object masks: the paper's, the released code's, and chance.

    Example: salmask bench saliency --cutouts /usr/share/tuxpaint/stamps --size 224
    """
    from repro.bench import saliency
    from repro.saliency import grid_of
    from repro.scenes import Scenes

    grid_of(size)
    report(as_json, saliency(Scenes("val", count=count, classes=60, size=size, cutouts=cutouts), size))


bench.command("collect")(results_cli.bench_collect)


def report(as_json: bool, content: Any) -> None:
    """Print rows as a table, a mapping as lines, or either as JSON."""
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    elif isinstance(content, dict):
        for key, value in content.items():
            typer.echo(f"{key}: {value}")
    else:
        _print_rows(content)


def _print_rows(rows: Iterable[dict[str, Any]]) -> None:
    shown = RichTable(box=None, pad_edge=False)
    for index, row in enumerate(rows):
        if not index:
            for key in row:
                shown.add_column(key, overflow="fold")
        shown.add_row(*(str(value) for value in row.values()))
    Console().print(shown, markup=False)


def main() -> None:
    """Run the command; bad input ends in one line and status 2, Ctrl-C in one line and status 130."""
    try:
        app()
    except UserError as error:
        _end(f"salmask: {one_line(error)}", 2)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            _end("salmask: interrupted; the same command goes on from the last checkpoint", 130)
        raise


def _end(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
