"""The commands that read results, each made by its room: `salmask table`, `claims`, `plot`, `collect`, and so on."""

import typer

from results.claims.commands import claims
from results.collection.commands import collect
from results.collection.row_comparison import Recipe
from results.plots.commands import plot
from results.report.commands import pack, report
from results.tables.commands import explain, table

# These modules import pandas and matplotlib only when a command runs: `--help` answers at once.


def build(recipe: Recipe) -> typer.Typer:
    """Returns the commands that read results.

    Args:
        recipe: Makes the run that a method's name stands for; recorded runs are compared with it.
    """
    app = typer.Typer(add_completion=False)
    for command in (table, claims, plot, collect, explain, report, pack):
        app.command(context_settings={"obj": recipe})(command)
    return app
