"""A command line that cannot be read, told in the one line that all bad input ends in.

Typer would show such an error as the line of usage, a hint and a box.
"""

from typing import Any

import typer

from repro.errors import UserError, nearest

UsageError: Any = typer.BadParameter.__base__
"""The root of these errors; typer has it under no name of its own that stays."""


def shows_help(error: Any) -> bool:
    """Returns whether an error stands for help that was shown, where a group of commands is called alone."""
    return type(error).__name__ == "NoArgsIsHelpError"


def as_user_error(error: Any) -> UserError:
    """Returns what is wrong with a command line, and the mend.

    Args:
        error: A `UsageError`.
    """
    # A value that is not of the type of its parameter comes with the name of the exception that said so.
    reason = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    reason = f"{reason[:1].lower()}{reason[1:]}"
    if error.ctx is None:  # of an option at the end of the line that lacks its value
        return UserError(reason, mend="`-h` behind the command shows what it takes, with an example")
    command = error.ctx.command_path
    if hasattr(error, "possibilities"):  # an unknown option; those of the error are a guess, and not all
        parameters = error.ctx.command.get_params(error.ctx)
        options = [name for parameter in parameters for name in parameter.opts if name.startswith("-")]
        return UserError(f"`{command}` has no option {error.option_name}", mend=nearest(error.option_name, options))
    return UserError(f"`{command}`: {reason}", mend=f"`{command} -h` shows what it takes, with an example")
