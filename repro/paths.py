"""Paths as a person enters them: what `~` stands for, and from where a relative one counts."""

import os
import re

_HOME = re.compile(r"((?:[^=~/\s]+=)*)(~[^/=\s]*(?:/.*)?)", re.DOTALL)
"""`~` at the beginning of a word, or of a value behind `--option=`, `key.sub=` or `--root=DATASET=`."""


def with_home(word: str) -> str:
    """Returns a word of a command line with `~` and `~user` expanded, wherever a path may begin in it.

    A shell does so at the beginning of a word alone: `--out=~/runs` comes as it was typed, and would make a folder of
    the name `~`. What is no home folder of this machine stays as it is.
    """
    match = _HOME.fullmatch(word)
    return word if match is None else match[1] + os.path.expanduser(match[2])  # noqa: PTH111 - text, kept where no path


def absolute(path: str) -> str:
    """Returns a path that is to be recorded, with `~` expanded, as it counts from any folder; an empty one stays empty.

    Links stay in it: they are what a person named, and may lead elsewhere tomorrow.
    """
    return os.path.abspath(os.path.expanduser(path)) if path else path  # noqa: PTH100, PTH111 - text in, text out
