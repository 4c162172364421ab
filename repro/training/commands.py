"""`salmask pretrain`: from a row of the tables to its backbone."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.console import AsJson, completion, report
from repro.command_line.progress import suggest
from repro.command_line.terminal import is_first_process
from repro.data.options import DataName, DataRoot, Settings
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import ADHOC
from repro.settings.reading import command_settings, read_settings
from repro.settings.rows import Resolve
from repro.settings.run import Run

CarryOut = Callable[[Run, Path, str], None]
"""`carry_out(run, folder, task)` carries out a task of a run in the run's folder."""


def build(resolve: Resolve, carry_out: CarryOut, methods: Callable[[], Iterable[str]]) -> typer.Typer:
    """Builds the command `salmask pretrain`.

    Args:
        resolve: Returns the run of a method; handed in, as this package does not know the methods.
        carry_out: Carries the pretraining out in this process.
        methods: Returns the names of the methods, for completion.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def pretrain(
        method: Annotated[
            str,
            typer.Argument(
                metavar="METHOD",
                help="A row of the tables; `salmask methods` lists them.",
                autocompletion=completion(methods),
            ),
        ],
        settings: Settings = None,
        config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.")] = None,
        data: DataName = "",
        root: DataRoot = "",
        out: Annotated[
            Path,
            typer.Option(
                "--out", metavar="DIR", help="Folder below which the run's own folder is made: METHOD/sSEED-ID."
            ),
        ] = Path("runs", ADHOC),
        as_json: AsJson = False,
    ) -> None:
        """Pretrain a method; the same command resumes an interrupted run.

        Example: salmask pretrain mocov2+ours-hp --root /data/imagenet seed=1

        On 4 GPUs: torchrun --nproc-per-node 4 -m repro.cli pretrain mocov2+ours-hp --root /data/imagenet
        """
        from repro.data.roots import refuse_idle_root

        layers = [read_settings(config)] if config else []
        run = resolve(method, *layers, command_settings(settings, data=data, root=root))
        refuse_idle_root(run.data.dataset, root)
        folder = RunFolder.of(run, out)
        carry_out(run, folder.path, PRETRAIN)
        if not is_first_process():
            return
        report(as_json, {"run": run.id, "folder": str(folder.path), "backbone": str(folder.backbone)})
        suggest(f"salmask eval {shlex.quote(str(folder.path))} --task linear")

    return app
