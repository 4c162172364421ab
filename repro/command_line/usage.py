"""Errors in a command line as one line, like all bad input.

Typer would show such an error as the line of usage, a hint and a box.
"""

from collections.abc import Callable, Sequence
from typing import Any

import typer

from repro.errors import UserError, nearest

UsageError: Any = typer.BadParameter.__base__
"""The base class of typer's errors in a command line, which typer exports under no stable name."""
SETTING = "KEY.SUB=VALUE"
"""How the help of a command that takes settings writes one."""


def shows_help(error: Any) -> bool:
    """Returns whether an error only says that help was shown, because a group was called without a command."""
    return type(error).__name__ == "NoArgsIsHelpError"


def as_user_error(error: Any, words: Sequence[str], settings_named: Callable[[str], Sequence[str]]) -> UserError:
    """Returns an error in a command line as a `UserError` with a mend.

    Args:
        error: A `UsageError`.
        words: The words of the command line.
        settings_named: Returns the keys of the settings for which a name may stand.
    """
    # The message about a value of the wrong type may begin with the name of an exception.
    reason = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    reason = f"{reason[:1].lower()}{reason[1:]}"
    if error.ctx is None:  # an option at the end of the line lacks its value
        return UserError(reason, mend="`-h` after the command shows what it takes, with an example")
    command = error.ctx.command_path
    if hasattr(error, "possibilities"):  # an unknown option; typer's `possibilities` are a guess and incomplete
        parameters = error.ctx.command.get_params(error.ctx)
        # Sorted: the names of --help come from a set, in another order in each process.
        options = [name for parameter in parameters for name in sorted(parameter.opts) if name.startswith("-")]
        mend = nearest(error.option_name, options)
        if any(SETTING in (parameter.metavar or "") for parameter in parameters):
            mend = _as_settings(error.option_name, words, options, settings_named) or mend
        return UserError(f"`{command}` has no option {error.option_name}", mend=mend)
    return UserError(f"`{command}`: {reason}", mend=f"`{command} -h` shows what it takes, with an example")


def _as_settings(
    option: str, words: Sequence[str], options: Sequence[str], settings_named: Callable[[str], Sequence[str]]
) -> str:
    """Returns the mend for an unknown option that was meant as a setting; empty if it was not."""
    if any(known.startswith(option) for known in options):  # `--seed` is `--seeds`, if the command has that
        return ""
    value = _value_of(option, words)
    key, is_setting, _ = value.partition("=")
    if is_setting and settings_named(key):
        return f"settings are words without dashes: write {value} alone"
    keys = settings_named(option.lstrip("-").replace("-", "_"))
    if not keys:
        return ""
    others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
    return f"settings are words without dashes: {keys[0]}={value or 'VALUE'}{others}"


def _value_of(option: str, words: Sequence[str]) -> str:
    """Returns an option's value in a command line: after an equals sign or as the next word; empty if it has none."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and not following.startswith("-"):
            return following
    return ""
