"""How the study's scripts are called: `python -m examples.study.NAME FOLDER...`."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from repro.command_line.terminal import substitute_letters
from repro.errors import UserError, one_line
from results.collection.collect import collect_runs
from results.collection.row_comparison import Recipe
from results.collection.runs import RunRecord, find_runs, listed


def print_tables(description: str, tables: Callable[[Sequence[Path]], Iterable[str]]) -> int:
    """Prints the tables of the folders on the command line; returns the exit status, which is 2 for bad input.

    Args:
        description: What the script does, in a line.
        tables: Makes Markdown tables from folders of runs.
    """
    substitute_letters()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="runs, or a folder above them")
    try:
        print("\n\n".join(tables(parser.parse_args().folders)))
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def gathered(folders: Sequence[Path], recipe: Recipe | None = None) -> tuple[list[RunRecord], pd.DataFrame]:
    """Returns the runs below some folders and their results; prints what is wrong with these beside the tables.

    Args:
        folders: Runs, or folders above them.
        recipe: As in `results.collection.runs.find_runs`.
    """
    runs = find_runs(folders, recipe)
    frame = collect_runs(runs, listed(folders))
    for warning in frame.attrs["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return runs, frame
