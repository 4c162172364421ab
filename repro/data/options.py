"""Arguments and options that commands of several rooms have: settings, `--data` and `--root`.

They stand here so that each is worded once, and has one name.
"""

from collections.abc import Iterable
from typing import Annotated

import typer

from repro.command_line.console import completion

# The catalogue is imported when a shell asks for names: commands that have these options start without it.


def _datasets() -> Iterable[str]:
    from repro.data.catalogue import DATASETS

    return DATASETS


Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings, for example optimization.epochs=10 or data.crop=112."),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Data set: a run's data.dataset.",
        autocompletion=completion(_datasets),
    ),
]
DataRoot = Annotated[
    str, typer.Option("--root", metavar="DIR", help="Root of the data set: a run's machine.data_root.")
]
