"""What this code's tables name by `MODULE:OBJECT`, for whoever needs it only then: tasks, and models of frameworks."""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from repro.errors import UserError

_CORRECT = "write it, or correct its name"


def imported(place: str, told: str) -> Any:
    """Imports what a table names; what fails within its module is raised as it is.

    Args:
        place: `MODULE`, or `MODULE:OBJECT`.
        told: Which entry of which table names it, for the message.

    Raises:
        UserError: There is no such module, or nothing of that name in it.
    """
    module, _, name = place.partition(":")
    try:
        # Not `pkgutil.resolve_name`, which does not tell an import that fails within the module from one of it.
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{told}, and there is no module {error.name}", mend=_CORRECT) from error
    if name and not hasattr(found, name):
        raise UserError(f"{told}, which has no {name}", mend=_CORRECT)
    return getattr(found, name) if name else found


def require_callable(function: object, called: str, arguments: Sequence[str], told: str) -> None:
    """Refuses what cannot be called with so many arguments.

    Args:
        function: Perhaps a function.
        called: Its name, for the message.
        arguments: Names of what it is called with.
        told: Who names it, for the message.

    Raises:
        UserError: It is no function, or one of other arguments.
    """
    if not _takes(function, len(arguments)):
        what = f"{told}, which has no function {called}({', '.join(arguments)})"
        raise UserError(what, mend="docs/extend.md has an example")


def _takes(function: object, count: int) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # of what is written in C, nothing is known
        return True
    except TypeError:
        return False
    return True
