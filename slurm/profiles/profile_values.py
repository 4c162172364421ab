"""The values of a cluster profile, read from YAML: each of one type, in one line, and of the form that sbatch takes.

Every value becomes a word of a batch script. One that is read wrongly would be noticed in the queue, days later; one
with a newline in it would be an option, or a command, of its own. So whatever is not plainly right is refused here.
"""

import math
import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from repro.errors import UserError, one_line
from repro.filesystem.files import read_regular
from repro.quantities import decimal_number

try:
    from yaml import CBaseLoader as _BaseLoader
except ImportError:  # PyYAML was built without libyaml: slower, in thousands of nested brackets by minutes
    from yaml import BaseLoader as _BaseLoader  # type: ignore[assignment]  # another class, used alike

LARGEST_FILE = 64 * 1024
"""The most bytes of a profile; one that a person writes has less than 2 KiB."""
LARGEST_NUMBER = 1_000_000
"""The largest number in a profile: anything larger is a typing error, and Slurm counts with 32 bits."""

_NOTHING = ("", "~", "null", "Null", "NULL")
_MINUTES = re.compile(r"(\d+)(?::(\d\d?))?", re.ASCII)
"""`MINUTES` or `MINUTES:SECONDS`."""
_HOURS = re.compile(r"(\d+):(\d\d?):(\d\d?)", re.ASCII)
"""`HOURS:MINUTES:SECONDS`."""
_DAYS = re.compile(r"(\d+)-(\d\d?)(?::(\d\d?)(?::(\d\d?))?)?", re.ASCII)
"""`DAYS-HOURS`, `DAYS-HOURS:MINUTES` or `DAYS-HOURS:MINUTES:SECONDS`."""
_GPU_TYPE = r"(?P<type>[A-Za-z\d][\w.+-]*)"
"""`a100`; `1g.10gb`, a slice of a GPU (MIG)."""
_GPUS = re.compile(rf"(?:{_GPU_TYPE}:)?(?P<count>\d+)", re.ASCII)
_GPUS_OF_GRES = re.compile(
    # Digits at its end are the number, and not the type: `gpu:4`, but `gpu:3090:4`.
    rf"(?P<kind>(?:gres[/:])?gpu(?::(?!\d+(?:\(|$)){_GPU_TYPE})?)(?::(?P<count>\d+))?(?:\(.*\))?",
    re.ASCII,
)
_PART_OF_GRES = re.compile(r"(?:[^,(]|\([^)]*\)?)+")
"""What stands between commas, but for those in brackets: `gpu:8(S:0,1)`."""


class _ProfileLoader(_BaseLoader):
    """Reads values as text (YAML takes 10:00:00 for a base-60 number), empty ones as None; refuses a key twice."""

    def construct_scalar(self, node: Any) -> Any:
        # A quoted "" is an empty text: with it, a task asks for no `gres` although the profile does.
        if isinstance(node, yaml.ScalarNode) and not node.style and node.value in _NOTHING:
            return None
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands there twice")
        return super().construct_mapping(node, deep=deep)


def read_file(path: Path) -> dict[str, Any]:
    """Returns what a profile's file says: each value text, None, or a list or mapping of such.

    Raises:
        UserError: The file is missing, too long, no YAML, holds a key twice, or is not a mapping.
    """
    try:
        content = read_regular(path, LARGEST_FILE)
        settings = yaml.load(content.decode(), Loader=_ProfileLoader)
    except FileNotFoundError:
        raise UserError(f"cluster profile {path} does not exist", mend="check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        mend = "check that it is YAML and may be read"
        raise UserError(f"cluster profile {path} cannot be read: {one_line(error)}", mend=mend) from error
    if not isinstance(settings, dict):
        mend = "for example `partition: gpu`"
        raise UserError(f"cluster profile {path} holds no settings of the form `key: value`", mend=mend)
    return settings


def text(where: str, key: str, value: Any) -> str:
    """Returns a value that is one line of text, with the launcher's environment variables expanded.

    Args:
        where: The file, for the error.
        key: The setting's name, for the error.
        value: What stands there.

    Raises:
        UserError: It is nothing, a list or a mapping; it holds a control character, or a variable that is not set.
    """
    return _expanded(where, key, one_word_or_line(where, key, value))


def one_word_or_line(where: str, key: str, value: Any) -> str:
    """Returns a value that is one line of text, as it stands there; see `text`."""
    if value is None:
        raise UserError(f"{where}: {key} has no value", mend='take the line out, or write "" to ask for nothing')
    if not isinstance(value, str):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        raise UserError(f"{where}: {key} is {kind}", mend=f"write one value, `{key}: …`")
    if any(not character.isprintable() for character in value):
        mend = "write it in one line, without control characters"
        raise UserError(f"{where}: {key} holds a line's end or another character that cannot be printed", mend=mend)
    return value


def names(where: str, key: str, value: Any) -> str:
    """Returns `a,b` for `a,b` and for the list `[a, b]`, as Slurm writes several partitions or nodes.

    Raises:
        UserError: As of `text`.
    """
    if isinstance(value, list):
        return ",".join(text(where, key, name) for name in value)
    return text(where, key, value)


def lines(where: str, key: str, value: Any) -> tuple[str, ...]:
    """Returns a list of lines of shell, which may name variables of the node.

    Raises:
        UserError: It is not a list of texts.
    """
    if not isinstance(value, list) or not all(isinstance(line, str) and line for line in value):
        mend = f"for example `{key}: [module load cuda]`"
        raise UserError(f"{where}: {key} is a list of shell lines", mend=mend)
    if any("\0" in line for line in value):
        raise UserError(f"{where}: {key} holds a zero byte", mend="take it out")
    return tuple(value)


def words(where: str, key: str, value: Any) -> tuple[str, ...]:
    """Returns a list of options such as `--mpi=pmix`.

    Raises:
        UserError: It is no list, or one of them begins otherwise.
    """
    options = [text(where, key, option) for option in (value if isinstance(value, list) else [value])]
    for option in options:
        if not option.startswith("--"):
            raise UserError(f"{where}: {key} holds '{option}'", mend=f"for example `{key}: [--mpi=pmix]`")
    return tuple(options)


def whole_number(where: str, key: str, value: Any) -> int:
    """Returns a whole number, 0 or more.

    Raises:
        UserError: It is none, or absurdly large.
    """
    number = any_number(where, key, value)
    if number < 0:
        raise UserError(f"{where}: {key}={number} is below 0", mend=f"for example `{key}: 1`")
    return number


def any_number(where: str, key: str, value: Any) -> int:
    """Returns a whole number, which may be negative.

    Raises:
        UserError: It is none, or absurdly large.
    """
    written = text(where, key, value)
    if not re.fullmatch(r"-?\d{1,7}", written, re.ASCII) or abs(int(written)) > LARGEST_NUMBER:
        raise UserError(f"{where}: {key}={written} is not a whole number", mend=f"for example `{key}: 1`")
    return int(written)


def gigabytes(where: str, key: str, value: Any) -> float:
    """Returns a number of gigabytes; 0 asks for nothing.

    Raises:
        UserError: It is none.
    """
    written = text(where, key, value)
    try:
        number = decimal_number(written)
    except ValueError:
        number = math.nan
    if not 0 <= number < LARGEST_NUMBER:
        raise UserError(f"{where}: {key}={written} is not a number of gigabytes", mend=f"for example `{key}: 64`")
    return number


def minutes(where: str, key: str, value: Any) -> int:
    """Returns a time limit in whole minutes, rounded up, as Slurm reads it.

    That is `MINUTES`, `MINUTES:SECONDS`, `HOURS:MINUTES:SECONDS`, `DAYS-HOURS`, `DAYS-HOURS:MINUTES` or
    `DAYS-HOURS:MINUTES:SECONDS`: `30:00` is half an hour, and `1-0` a day.

    Raises:
        UserError: It is none of them, or less than a minute.
    """
    written = text(where, key, value)
    seconds = _seconds(written)
    if seconds is None:
        mend = "write minutes, HH:MM:SS or D-HH:MM:SS"
        raise UserError(f"{where}: {key}={written} is not a time", mend=mend)
    if seconds < 60:
        # Slurm would give it a minute. Whoever writes 0:30 means half an hour.
        mend = "Slurm reads A:B as minutes and seconds; write minutes, HH:MM:SS or D-HH:MM:SS"
        raise UserError(f"{where}: {key}={written} is {seconds} seconds, and the least is a minute", mend=mend)
    return math.ceil(seconds / 60)


def _seconds(written: str) -> int | None:
    """Returns a time in seconds; None where it is of no form that Slurm takes, or a part of it is too large."""
    days, hours = "0", "0"
    if match := _MINUTES.fullmatch(written):
        minute, second = match.groups(default="0")
    elif match := _HOURS.fullmatch(written):
        hours, minute, second = match.groups()
    elif match := _DAYS.fullmatch(written):
        days, hours, minute, second = match.groups(default="0")
        if int(hours) > 23:
            return None
    else:
        return None
    leading_minutes = match.re is _MINUTES  # 90:00 are ninety minutes, 10:75:00 is a slip
    if int(second) > 59 or (int(minute) > 59 and not leading_minutes):
        return None
    total = ((24 * int(days) + int(hours)) * 60 + int(minute)) * 60 + int(second)
    return total if total <= 60 * LARGEST_NUMBER else None


def gpus(where: str, key: str, value: Any) -> tuple[str, int]:
    """Returns the type of GPU that is asked for (empty: any) and how many: `a100:4` or `4`.

    Raises:
        UserError: It is neither.
    """
    written = text(where, key, value)
    match = _GPUS.fullmatch(written)
    if not match or int(match["count"]) > LARGEST_NUMBER:
        mend = f"for example `{key}: 1`, or `{key}: a100:4`"
        raise UserError(f"{where}: {key}={written} is neither a whole number nor TYPE:NUMBER", mend=mend)
    return match["type"] or "", int(match["count"])


def gpus_of_gres(gres: str) -> int:
    """Returns how many GPUs of a node a `gres` names: 4 for `gpu:a100:4,nvme:1`; 0 where it names none."""
    return sum(int(match["count"] or 1) for match in _gpus_in(gres))


def gpu_type_of_gres(gres: str) -> str:
    """Returns the type of the first GPUs that a `gres` names; empty where it names none."""
    return next((match["type"] or "" for match in _gpus_in(gres)), "")


def gres_without_gpus(gres: str) -> str:
    """Returns what a `gres` names but GPUs: `nvme:1` for `gpu:a100:4,nvme:1`."""
    return ",".join(part for part in _PART_OF_GRES.findall(gres) if not _GPUS_OF_GRES.fullmatch(part))


def gres_with_one_gpu(gres: str) -> str:
    """Returns a `gres` with one of the first GPUs that it names: `gpu:a100:1,nvme:1` for `gpu:a100:4,nvme:1`."""
    parts, has_one = [], False
    for part in _PART_OF_GRES.findall(gres):
        match = _GPUS_OF_GRES.fullmatch(part)
        if not (match and has_one):
            parts.append(f"{match['kind']}:1" if match else part)
        has_one = has_one or match is not None
    return ",".join(parts)


def _gpus_in(gres: str) -> list[re.Match[str]]:
    return [match for match in map(_GPUS_OF_GRES.fullmatch, _PART_OF_GRES.findall(gres)) if match]


def options(where: str, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Returns other options of sbatch by their long names; one without a value is empty: `{exclusive: ""}`.

    Raises:
        UserError: It is not a mapping, or a name is not that of a long option.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} is a mapping of sbatch's options", mend="for example {mail-type: FAIL}")
    pairs = []
    for name, content in value.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]+", str(name), re.ASCII):
            mend = 'its long name, without dashes in front: {exclusive: ""}'
            raise UserError(f"{where}: {key} holds {name!r}, which is not an option of sbatch", mend=mend)
        pairs.append((name, "" if content is None else text(where, f"{key}.{name}", content)))
    return tuple(pairs)


def _expanded(where: str, key: str, written: str) -> str:
    """Returns a text with environment variables expanded, which sbatch would not do."""
    expanded = os.path.expandvars(written)
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded, re.ASCII):
        mend = f"export {unset[1].strip('{}')}, or write its value"
        raise UserError(f"{where}: {key} names {unset[0]}, which is not set", mend=mend)
    if expanded != written:
        one_word_or_line(where, key, expanded)  # a variable may hold anything
    return expanded
