"""The commands that measure what a backbone is worth: `salmask eval` and, in short, `salmask probe`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from repro.console import AsJson, completion
from repro.data.catalogue import DATASETS
from repro.data.roots import root_of
from repro.errors import UserError, nearest
from repro.runs import reading
from repro.runs.detection import COSTS
from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.runs.folder import RunFolder
from repro.runs.reading import parse_overrides
from repro.runs.records import Result, read
from repro.runs.run import Run

# torch is imported when a command runs: `--help` answers at once.

CarryOut = Callable[[Run, Path, str, Path | None], None]
"""Carries out an evaluation, by name, on a run's folder; with the root of its data set."""

TABLE1 = ("linear@imagenet100", "linear@caltech101", "linear@flowers102", "logistic@caltech101", "logistic@flowers102")
"""Every number of Table 1: each data set by the paper-like protocol, the transfer ones by the standard one too."""

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings, for example probe.epochs=20.")
]


def build(carry_out: CarryOut) -> typer.Typer:
    """The commands.

    Args:
        carry_out: how an evaluation is carried out in this process.
    """
    app = typer.Typer(add_completion=False)

    @app.command("eval")
    def evaluate(
        words: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[RUN] [KEY.SUB=VALUE]...",
                help="Folder of a finished run (none with --checkpoint), and settings, for example probe.epochs=20.",
            ),
        ] = None,
        task: Annotated[
            str,
            typer.Option(
                "--task",
                metavar="A,B",
                help=f"table1, or any of: {', '.join(PROTOCOLS)}; TASK@DATA.",
                autocompletion=completion(lambda: ("table1", *PROTOCOLS), several=True),
            ),
        ] = "linear",
        data: Annotated[
            str,
            typer.Option(
                "--data",
                metavar="DATASET",
                help="Default: what the run was pretrained on.",
                autocompletion=completion(lambda: DATASETS),
            ),
        ] = "",
        root: Annotated[
            list[str] | None,
            typer.Option("--root", metavar="DIR", help="Root of the data set; DATASET=DIR for one of several."),
        ] = None,
        checkpoint: Annotated[
            Path | None,
            typer.Option("--checkpoint", metavar="FILE", help="Evaluate weights from elsewhere; `random`: fresh ones."),
        ] = None,
        arch: Annotated[str, typer.Option(help="With --checkpoint: torchvision's name of the network.")] = "resnet50",
        name: Annotated[str, typer.Option(help="With --checkpoint: what tables call it; default: the file's.")] = "",
        prefix: Annotated[str, typer.Option(help="With --checkpoint: what its keys begin with; default: found.")] = "",
        high_pass: Annotated[
            bool, typer.Option("--high-pass", help="With --checkpoint: trained on high-passed images.")
        ] = False,
        out: Annotated[
            Path, typer.Option("--out", metavar="DIR", help="With --checkpoint: folder of the sweep.")
        ] = Path("runs/imported"),
        as_json: AsJson = False,
    ) -> None:
        """Evaluate a backbone by named, versioned protocols; what is measured already is only read.

        linear: SGD on the frozen backbone, as the paper; logistic: L2 logistic regression; knn: nearest neighbours;
        finetune, semi-10, semi-1: the whole network with all, 10 % or 1 % of the labels.

        Example: salmask eval runs/table1/mocov2/s0-45df9c0eca --task logistic --data caltech101 --root /data/caltech101

        Example: salmask eval --checkpoint moco_v2_200ep.pth.tar --name moco-v2-official --task table1
        """
        words = list(words or [])
        if checkpoint is None:
            if not words or ("=" in words[0] and not Path(words[0]).is_dir()):
                raise UserError("which run? name its folder first, or weights with --checkpoint FILE")
            folder = RunFolder(Path(words.pop(0)))
            run = with_settings(folder.load(), parse_overrides(words))
        else:
            if words and "=" not in words[0]:
                raise UserError(f"'{words[0]}': with --checkpoint no run is named", mend="leave one of them out")
            from downstream.adoption import adopt

            run, folder = adopt(
                checkpoint,
                arch=arch,
                name=name,
                prefix=prefix,
                input_filter="high_pass" if high_pass else "none",
                settings=parse_overrides(words),
                out=out,
            )
        _evaluate_all(run, folder, evaluations(task, data, run), _roots(root or []), carry_out, as_json=as_json)

    @app.command()
    def probe(
        folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
        settings: Settings = None,
        root: Annotated[str, typer.Option("--root", metavar="DIR", help="Root of the data set.")] = "",
        as_json: AsJson = False,
    ) -> None:
        """Evaluate a finished run by linear probing on its own data: short for `salmask eval RUN --task linear`.

        Example: salmask probe runs/table1/mocov2/s0-45df9c0eca --root /data/imagenet
        """
        run = with_settings(RunFolder(folder).load(), parse_overrides(settings or []))
        chosen = [Evaluation("linear", run.data.dataset)]
        _evaluate_all(run, RunFolder(folder), chosen, _roots([root] if root else []), carry_out, as_json=as_json)

    return app


def with_settings(held: Run, overrides: Mapping[str, object]) -> Run:
    """A run with other settings of its evaluation.

    Raises:
        UserError: a setting would make it another run.
    """
    run = reading.build([overrides], base=held)
    if run.id != held.id:
        raise UserError(
            "only settings of machine and of evaluations (probe, logistic, knn, finetune, detection) can change here: "
            "a backbone keeps the run that made it"
        )
    return run


def evaluations(tasks: str, dataset: str, run: Run) -> list[Evaluation]:
    """What `--task` and `--data` name, in their order, each once.

    Args:
        tasks: names with commas between; `table1` stands for `TABLE1`.
        dataset: for tasks that name none themselves; empty: the run's own.
        run: the run.

    Raises:
        UserError: an unknown task or data set, or `--data` given to tasks that have one.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    found: dict[Evaluation, None] = {}
    for name in names:
        if dataset and (name == "table1" or "@" in name):
            raise UserError(f"--task {name} says itself what it is evaluated on", mend="leave --data out")
        for one in TABLE1 if name == "table1" else (f"{name}@{dataset}" if dataset else name,):
            if one.partition("@")[0] not in PROTOCOLS:
                raise UserError(f"unknown task '{one}'", mend=nearest(one, ("table1", *PROTOCOLS)))
            found[Evaluation.parse(one, run)] = None
    if not found:
        raise UserError("no task is named", mend="--task linear")
    return list(found)


def _roots(given: Sequence[str]) -> dict[str, Path]:
    """`DIR` under the empty name, `DATASET=DIR` under the data set's."""
    roots = {}
    for text in given:
        dataset, equals, folder = text.partition("=")
        named = bool(equals) and "/" not in dataset
        if named and dataset not in DATASETS:
            raise UserError(f"--root {text}: unknown data set {dataset!r}", mend=nearest(dataset, DATASETS))
        roots[dataset if named else ""] = Path(folder if named else text)
    return roots


def _evaluate_all(
    run: Run,
    folder: RunFolder,
    chosen: Sequence[Evaluation],
    roots: Mapping[str, Path],
    carry_out: CarryOut,
    *,
    as_json: bool,
) -> None:
    several = len({evaluation.dataset for evaluation in chosen}) > 1
    if several and "" in roots:
        raise UserError(
            f"--root {roots['']}: several data sets are evaluated on",
            mend="--root DATASET=DIR for each, or $SALMASK_DATA",
        )
    _check_roots(run, folder, chosen, roots)
    rows: list[Result] = []
    for evaluation in chosen:
        carry_out(run, folder.path, evaluation.name(run), _root_of(evaluation, roots))
        rows += evaluation.recorded(run, read(folder.results)[0])
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        if "@" not in row.metric:  # of single splits and learning rates: in the files and in JSON
            typer.echo(f"{_shown(row)}   {row.protocol}, {row.dataset} {row.split}")


def _shown(row: Result) -> str:
    unit = "  " if row.metric in ("lr", "l2", "unconverged", *COSTS) else " %"
    number = f"{row.value:6.2f}" if unit.strip() else f"{row.value:6.3g}"
    return f"{row.metric:14} {number}{unit}"


def _root_of(evaluation: Evaluation, roots: Mapping[str, Path]) -> Path | None:
    return roots.get(evaluation.dataset, roots.get(""))


def _check_roots(run: Run, folder: RunFolder, chosen: Sequence[Evaluation], roots: Mapping[str, Path]) -> None:
    """Of several, find a missing root before hours are spent on the first."""
    if len(chosen) < 2:
        return
    from downstream.tasks import recorded

    for evaluation in chosen:
        if not recorded(run, folder, evaluation):
            root_of(run, evaluation.dataset, _root_of(evaluation, roots))
