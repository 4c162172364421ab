"""The `salmask` command. Everything it does is a call into the rooms; nobody imports it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from downstream import commands as downstream_cli
from repro.backbones import commands as export_cli
from repro.console import report
from repro.data import commands as data_cli
from repro.errors import UserError, one_line
from repro.methods import commands as methods_cli
from repro.runs.folder import RunFolder
from repro.runs.reading import parse_overrides, read_yaml
from repro.runs.run import Run
from repro.runs.stopping import STOP
from results import commands as results_cli
from slurm import commands as slurm_cli
from slurm import status_commands as status_cli

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


def carry_out(run: Run, path: Path, task: str, root: Path | None = None, *, wait: float = 0.0) -> None:
    """Carry out a task on a run's folder, as a command, a job or a rank of several.

    Args:
        run: the experiment.
        path: its folder.
        task: `pretrain`, or an evaluation: `TASK` or `TASK@DATASET`.
        root: of the evaluation's data set, where it is not to be looked up.
        wait: seconds to wait where another process is at the same.

    Raises:
        UserError: bad input, or another process holds the folder.
    """
    from contextlib import nullcontext

    from baselines import build_learner
    from downstream.tasks import evaluate
    from repro.distributed import initialise, rank
    from repro.training.pretraining import pretrain

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    STOP.install()
    folder = RunFolder(path)
    device = initialise(run.machine.device)
    with folder.attempt(task, wait=wait) if rank() == 0 else nullcontext():
        if task == "pretrain":
            pretrain(run, folder, device, build_learner)
        else:
            evaluate(run, folder, task, device, root)


def carry_out_report(place: Path, tables: Sequence[str]) -> None:
    """Render a sweep's tables, as its last job."""
    slurm_cli.carry_out_report(place, tables, show_tables)


def show_tables(tables: Sequence[str], place: Path, console: Console) -> None:
    """Print a sweep's tables, write them beside its runs, and name the pictures."""
    for table in tables:
        results_cli.show_table(table, [place], place / "tables", rows="ours", console=console)
    for gallery in sorted(place.glob("*/*/gallery/*.png")):
        console.print(f"  {gallery}", soft_wrap=True, highlight=False)


def _resolve(method: str, *layers: Any, origin: str = "settings") -> Run:
    from baselines import resolve

    return resolve(method, *layers, origin=origin)


def _recipe(method: str) -> Run:
    """What a method's name stands for; the results room may not ask `baselines` itself."""
    from baselines import resolve

    return resolve(method)


results_cli.mount(app, _recipe)
slurm_cli.mount(app, _resolve, show_tables)
status_cli.mount(app)
export_cli.mount(app)
downstream_cli.mount(app, carry_out)


def _rows() -> methods_cli.Rows:
    from baselines import METHODS, TABLE1, build_learner, resolve

    return methods_cli.Rows(METHODS, list(TABLE1), resolve, build_learner)


methods_cli.mount(app, _rows)


@app.command()
def doctor(
    root: Root = "",
    dataset: Annotated[str, typer.Option(help="Check this data set's root.")] = "",
    *,
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="NAME|FILE", help="Check a node instead: submits a short job.")
    ] = "",
    wait: Annotated[float, typer.Option(min=1, help="Minutes to wait for that job.")] = 15.0,
    as_json: AsJson = False,
) -> None:
    """Check packages, devices, data roots and weights; say what is wrong and the mend.

    Example: salmask doctor --dataset imagenet100 --root /data/imagenet

    On a cluster: salmask doctor --cluster mycluster
    """
    if cluster:
        findings = status_cli.probe_cluster(cluster, wait=60 * wait, console=Console(stderr=True))
    else:
        from repro.doctor import examine

        findings = [vars(finding) for finding in examine(dataset, Path(root) if root else None)]
    report(as_json, findings)
    if any(finding["verdict"] == "wrong" for finding in findings):
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
    from repro.bench.masking import masking

    if size % 7:
        raise UserError(f"--size {size} is no multiple of the 7×7 grid", mend=f"--size {7 * (size // 7)}")
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
    from repro.bench.saliency import saliency
    from repro.saliency.localizer import grid_of
    from repro.scenes.dataset import Scenes

    grid_of(size)
    report(as_json, saliency(Scenes("val", count=count, classes=60, size=size, cutouts=cutouts), size))


@bench.command("norm")
def bench_norm(
    batch: Annotated[int, typer.Option(min=8, help="Images; a multiple of 4.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Pixels a side.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Time a ResNet-18 with four batch-norm groups, ours and MoCo's demo's, beside one group.

    Example: salmask bench norm --batch 128 --size 224
    """
    from repro.bench.batch_norm import batch_norm

    if batch % 4:
        raise UserError(f"--batch {batch} is no multiple of the 4 groups", mend=f"--batch {4 * (batch // 4)}")
    report(as_json, batch_norm(batch, size))


@bench.command("scenes")
def bench_scenes(
    size: Annotated[int, typer.Option(min=64, max=512, help="Pixels a side.")] = 128,
    cutouts: Annotated[Path | None, typer.Option(metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time drawing built-in scenes beside reading those that are kept.

    Example: salmask bench scenes --cutouts /usr/share/tuxpaint/stamps
    """
    from repro.bench.scenes import scenes

    report(as_json, scenes(size, cutouts))


@bench.command("step")
def bench_step(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help="Default: mocov2.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="A setting; repeatable.")
    ] = None,
    root: Root = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps that count.")] = 20,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where plans look by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast methods train here, real learner and loader; `salmask sweep --plan` reads it.

    Example: salmask bench step mocov2 mocov2+ours-hp --root /data/imagenet
    """
    from baselines import build_learner, resolve
    from repro.bench.step import measure
    from repro.bench.throughput import record, record_file

    layers = [{"machine": {"data_root": root}} if root else {}, parse_overrides(settings or [])]
    rows = []
    for method in methods or ["mocov2"]:
        measured = measure(resolve(method, *layers), build_learner, warm_up=warm_up, steps=steps)
        record(out or record_file(), [measured])
        rows.append(
            {
                "method": method,
                "images/s": measured.images_per_second,
                "forward images/s": measured.forward_images_per_second,
                "checkpoint MB": round(measured.checkpoint_bytes / 1e6, 1),
                "device": measured.device,
            }
        )
    report(as_json, rows)


bench.command("collect")(results_cli.bench_collect)


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
