"""Every command of the command line, loaded."""

from typing import Any

import typer

from repro import cli
from repro.command_line.lazy_commands import LazyGroup


def commands() -> dict[str, Any]:
    """All commands, by the words that call them."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, LazyGroup)
    by_name = {}
    for name, command in ((name, group.load(name)) for name in group.table):
        below = getattr(command, "commands", None)
        by_name |= {f"{name} {inner}": c for inner, c in below.items()} if below else {name: command}
    return by_name
