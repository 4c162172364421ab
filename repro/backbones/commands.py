"""`salmask export`: a run's backbone for torchvision, timm, detectron2 or Hugging Face."""

import json
from pathlib import Path
from typing import Annotated

import typer

from repro.backbones.library import Library
from repro.command_line.console import AsJson
from repro.command_line.terminal import say
from repro.runs.folder import RunFolder

# torch is imported when the command runs: `--help` answers at once.


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    target: Annotated[Library, typer.Option("--to", help="The library.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write; default: RUN/exports/LIBRARY.")
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="NAME", help="Licence of the weights, for the card; e.g. apache-2.0.")
    ] = "other",
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's backbone as another library loads it, with a card: method, data, protocol, results, licence.

    Example: salmask export runs/table1/mocov2/s0-45df9c0eca --to timm
    """
    from repro.backbones.export import export as write

    export_folder = out or folder / "exports" / target
    weights = write(RunFolder(folder), target, export_folder, licence=licence, force=force)
    card = export_folder / "README.md"
    say(json.dumps({"weights": str(weights), "card": str(card)}) if as_json else str(weights))


def build() -> typer.Typer:
    """Builds the command `salmask export`."""
    app = typer.Typer(add_completion=False)
    app.command()(export)
    return app
