"""Imports what tables name by `MODULE:OBJECT`, such as tasks and models of frameworks, only when it is needed."""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from repro.errors import UserError

_CORRECT = "write it, or correct its name"


def imported(place: str, told: str) -> Any:
    """Imports what a table names; an error from within its module is raised as it is.

    Args:
        place: `MODULE`, or `MODULE:OBJECT`.
        told: Which entry of which table names it, for the message.

    Raises:
        UserError: There is no such module, or nothing of that name in it.
    """
    module, _, name = place.partition(":")
    try:
        # Not `pkgutil.resolve_name`: it does not tell a missing module from an import that fails within the module.
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{told}, and there is no module {error.name}", mend=_CORRECT) from error
    if name and not hasattr(found, name):
        raise UserError(f"{told}, which has no {name}", mend=_CORRECT)
    return getattr(found, name) if name else found


def require_callable(function: object, called: str, arguments: Sequence[str], told: str) -> None:
    """Refuses an object that cannot be called with a given number of arguments.

    Args:
        function: The object.
        called: Its name, for the message.
        arguments: The names of the arguments; their number counts, and the message shows them.
        told: What names it, for the message.

    Raises:
        UserError: It is not callable, or takes another number of arguments.
    """
    if not _takes(function, len(arguments)):
        what = f"{told}, which has no function {called}({', '.join(arguments)})"
        raise UserError(what, mend="docs/extend.md has an example")


def _takes(function: object, count: int) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # a function written in C may have no signature
        return True
    except TypeError:
        return False
    return True
