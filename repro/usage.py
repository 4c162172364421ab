"""A command line that cannot be read, told in the one line that all bad input ends in.

Typer would show such an error as the line of usage, a hint and a box.
"""

from collections.abc import Callable, Sequence
from typing import Any

import typer

from repro.errors import UserError, nearest

UsageError: Any = typer.BadParameter.__base__
"""The root of these errors; typer has it under no name of its own that stays."""
SETTING = "KEY.SUB=VALUE"
"""How the help of a command that takes settings writes one."""


def shows_help(error: Any) -> bool:
    """Returns whether an error stands for help that was shown, where a group of commands is called alone."""
    return type(error).__name__ == "NoArgsIsHelpError"


def as_user_error(error: Any, words: Sequence[str], settings_named: Callable[[str], Sequence[str]]) -> UserError:
    """Returns what is wrong with a command line, and the mend.

    Args:
        error: A `UsageError`.
        words: Of the command line.
        settings_named: Returns the keys of the settings that a name may stand for.
    """
    # A value that is not of the type of its parameter comes with the name of the exception that said so.
    reason = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    reason = f"{reason[:1].lower()}{reason[1:]}"
    if error.ctx is None:  # of an option at the end of the line that lacks its value
        return UserError(reason, mend="`-h` behind the command shows what it takes, with an example")
    command = error.ctx.command_path
    if hasattr(error, "possibilities"):  # an unknown option; those of the error are a guess, and not all
        parameters = error.ctx.command.get_params(error.ctx)
        # Sorted: those of --help come out of a set, in another order in each process.
        options = [name for parameter in parameters for name in sorted(parameter.opts) if name.startswith("-")]
        mend = nearest(error.option_name, options)
        if any(SETTING in (parameter.metavar or "") for parameter in parameters):
            mend = _as_settings(error.option_name, words, options, settings_named) or mend
        return UserError(f"`{command}` has no option {error.option_name}", mend=mend)
    return UserError(f"`{command}`: {reason}", mend=f"`{command} -h` shows what it takes, with an example")


def _as_settings(
    option: str, words: Sequence[str], options: Sequence[str], settings_named: Callable[[str], Sequence[str]]
) -> str:
    """Returns the mend of an unknown option that was meant as a setting; empty where it was not."""
    if any(known.startswith(option) for known in options):  # `--seed` is `--seeds`, where there is that
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
    """Returns what a command line gives an option: behind an equals sign, or as the next word; empty: nothing."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and not following.startswith("-"):
            return following
    return ""
