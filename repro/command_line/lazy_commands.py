"""A command line whose rooms are loaded one at a time: each when one of its commands runs.

`salmask --help` and a wrong word must not wait for omegaconf and pandas. So the command line holds a table of names,
each with its line of help and a function that makes the room's commands; only what is asked for is made. A test checks
that each line of help is that of the command itself.
"""

import inspect
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from repro.errors import UserError, nearest
from repro.filesystem.paths import with_home
from repro.quantities import decimal_number, whole_number

NARROW = 80
"""Columns of a terminal below which help has no boxes, which would cut off the names of options."""
_PATH = re.compile(r"\b(DIR|FILE|PATH)\b")
"""What help calls the value of an option that takes a path."""
_ONE_LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")
"""A line break within a paragraph."""


@dataclass(frozen=True)
class LazyCommand:
    """A command, or a group of commands, that is not loaded yet."""

    help: str
    """What `--help` says of it: the first line of its docstring."""
    app: Callable[[], typer.Typer]
    """Makes the app of its room, which has this command among others; for a group, the app that is the group."""
    group: bool = False
    """Whether the name stands for a group of commands: all of `app()`."""
    panel: str | None = None
    """The heading under which `--help` lists it; None: typer's default."""


class CommandGroup(TyperGroup):
    """A group of commands, which answers a wrong name with the nearest right one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command that a line calls, with its name and its arguments.

        Raises:
            UserError: No command has that name; the mend is the nearest.
        """
        # Left to typer: the unfinished line of which a shell asks completions, and words with a dash (options).
        if not ctx.resilient_parsing and args[0] not in self.commands and not args[0].startswith("-"):
            what = f"`{ctx.command_path}` has no command '{args[0]}'"
            raise UserError(what, mend=nearest(args[0], self.commands))
        return super().resolve_command(ctx, args)


class LazyGroup(TyperGroup):
    """A group of commands, of which only the one that is called is loaded."""

    table: ClassVar[Mapping[str, LazyCommand]]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, as wide as the terminal is."""
        _fit_to_terminal(self)
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns all names, in the order in which help shows them."""
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns a stand-in with the line of help, which is all that a list of commands needs; None if unknown."""
        entry = self.table.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the called command, loaded, with its name and its arguments, in which `~` is expanded.

        Raises:
            UserError: No command has that name (the mend is the nearest), a word of the line is empty, or a number is
                written in a way that Python reads and no person writes.
        """
        if args[0] in self.table:
            command = self.load(args[0])
            if not ctx.resilient_parsing:
                called, words, line = _called(command, args[1:], f"{ctx.command_path} {args[0]}")
                _refuse_empty(called, words, line)
                _refuse_odd_numbers(called, words, line)
            return args[0], command, [with_home(word) for word in args[1:]]
        if ctx.resilient_parsing:  # a shell asks for completions of a line that is not finished
            return super().resolve_command(ctx, args)
        mend = f"{nearest(args[0], self.table)}; `{ctx.command_path} --help` lists them"
        raise UserError(f"unknown command '{args[0]}'", mend=mend)

    @classmethod
    def load(cls, name: str) -> Any:
        """Loads a command's room, and returns the command itself."""
        entry = cls.table[name]
        commands = typer.main.get_command(entry.app())  # for a room with a single command, that command itself
        command = commands if entry.group else getattr(commands, "commands", {name: commands})[name]
        command.name = name
        for each in (command, *getattr(command, "commands", {}).values()):
            _fit_to_terminal(each)
            # Typer joins the lines of the first paragraph alone: the others would break where the source does.
            each.help = _ONE_LINE_BREAK.sub(" ", inspect.cleandoc(each.help or ""))
        return command


def _called(command: Any, words: Sequence[str], line: str) -> tuple[Any, Sequence[str], str]:
    """Returns the command that a line calls (of a group, its command), the words after its name, and the line up to it.

    Args:
        command: The command, or the group of commands, that is called.
        words: The words after its name.
        line: The line up to its name.
    """
    while words and words[0] in getattr(command, "commands", {}):
        command, line, words = command.commands[words[0]], f"{line} {words[0]}", words[1:]
    return command, words, line


def _refuse_empty(command: Any, words: Sequence[str], line: str) -> None:
    """Refuses an empty word, as `--out "$OUT"` gives if the shell has no variable `OUT`.

    As a path it would be the current folder: `data cache` would write there, and `cancel` would end its jobs.

    Args:
        command: The called command.
        words: The words after its name.
        line: The line up to its name.

    Raises:
        UserError: A word or the value of an option that takes a path is empty. Empty values of other options are left
            to the command.
    """
    takes_path = {
        option: _PATH.search(parameter.metavar or "") is not None
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("-") and not getattr(parameter, "is_flag", False)
    }
    for before, word in zip(["", *words], words, strict=False):
        option = word.removesuffix("=") if word else before
        if takes_path.get(option, False) and option != word:
            what = f"{option} has an empty value"
        elif not word and option not in takes_path:
            what = "a word is empty"
        else:
            continue
        raise UserError(f"`{line}`: {what}", mend="is a variable of the shell not set? Write the word, or leave it out")


def _refuse_odd_numbers(command: Any, words: Sequence[str], line: str) -> None:
    """Refuses what Python reads as a number and no person writes for one.

    `--parallel 1_0` would run ten jobs at a time. `nan` is neither below an option's minimum nor above its maximum, and
    not every version of typer refuses it. Words that Python does not read either are left to the command.

    Args:
        command: The called command.
        words: The words after its name.
        line: The line up to its name.

    Raises:
        UserError: An option has such a value.
    """
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    kinds = {option: hints.get(parameter.name) for parameter in command.params for option in parameter.opts}
    for before, word in zip(["", *words], words, strict=False):
        if word == "--":  # no options follow
            return
        option, _, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        if option not in kinds or not value:
            option, value = before, word
        kind = kinds.get(option)
        if kind not in (int, float):
            continue
        read = whole_number if kind is int else decimal_number
        if _is_read_by(read, value.strip()) or not _is_read_by(kind, value):
            continue
        if abs(kind(value)) != math.inf:  # infinity is above the maximum of most options, which say so themselves
            what = f"`{line}`: {option} {value} is not a number in plain digits"
            raise UserError(what, mend=f"for example {option} 10")


def _is_read_by(read: Callable[[str], float], word: str) -> bool:
    try:
        read(word)
    except ValueError:
        return False
    return True


def _fit_to_terminal(command: Any) -> None:
    """Lets a command print its help without boxes in a narrow terminal."""
    if shutil.get_terminal_size().columns < NARROW:
        command.rich_markup_mode = None


def lazy_app(table: Mapping[str, LazyCommand], *, help: str, callback: Callable[..., None]) -> typer.Typer:
    """Makes a command line of lazily loaded commands.

    Args:
        table: The commands by name.
        help: What the command line is for.
        callback: Takes the options before a command's name, and acts if no command is named.
    """
    group = type("Commands", (LazyGroup,), {"table": table})
    return typer.Typer(
        cls=group,
        help=help,
        callback=callback,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
