"""What a word on the command line means: a sweep's folder, or a run's."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError, nearest
from slurm.ledger import LEDGER
from slurm.profile import available, load

RUNS = Path("runs")
SHORTEST_ID = 4
"""Digits of an id that name a run."""


@dataclass(frozen=True)
class Place:
    """A sweep, or one run of it."""

    sweep: Path
    folder: str = ""
    """Of the run, relative to the sweep's; empty: the whole sweep."""


def roots_of_sweeps() -> list[Path]:
    """Where sweeps are looked for: `runs/`, and where the profiles of clusters put them."""
    found = [RUNS]
    for name in available():
        with contextlib.suppress(UserError):  # a broken profile is told of where it is used
            found.append(load(name).place)
    return list(dict.fromkeys(found))


def find_place(word: str) -> Place:
    """A folder of a run or a sweep, the name of a sweep, `METHOD/sSEED` in one, or the beginning of a run's id.

    Raises:
        UserError: there is no such thing, or several.
    """
    roots = roots_of_sweeps()
    path = Path(word)
    if path.is_dir():
        if _is_run(path):
            whole = path.resolve()
            return Place(whole.parents[1], "/".join(whole.parts[-2:]))
        if _is_sweep(path):
            return Place(path)
        if not any((root / word).is_dir() for root in roots):
            raise UserError(f"{word} holds neither jobs nor runs", mend="name runs/SWEEP or runs/SWEEP/METHOD/sSEED-ID")
    named = [root / word for root in roots if _is_sweep(root / word)]
    if named:
        return Place(named[0])
    found = sorted({run for root in roots for run in _runs(root) if _named(run, word)})
    if not found:
        known = [sweep.name for root in roots for sweep in sweeps(root)]
        raise UserError(f"no sweep or run '{word}'", mend=nearest(word, known)) if known else _nothing(roots)
    if len(found) > 1:
        raise UserError(f"'{word}' names {len(found)} runs", mend=f"one of {', '.join(map(str, found[:5]))}")
    return Place(found[0].parent.parent, "/".join(found[0].parts[-2:]))


def all_sweeps() -> list[Path]:
    """Every sweep's folder.

    Raises:
        UserError: there is none.
    """
    roots = roots_of_sweeps()
    found = [sweep for root in roots for sweep in sweeps(root)]
    if not found:
        raise _nothing(roots)
    return found


def sweeps(root: Path) -> list[Path]:
    """The sweeps' folders below one."""
    return sorted(path for path in root.glob("*/") if _is_sweep(path))


def _nothing(roots: Sequence[Path]) -> UserError:
    return UserError(
        f"there are no sweeps in {', '.join(map(str, roots))}", mend="salmask sweep first, or name a folder"
    )


def _is_sweep(path: Path) -> bool:
    return (path / LEDGER).is_file() or any(True for _ in _runs_of(path))


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("run.yaml", "status.json"))


def _runs(root: Path) -> Iterator[Path]:
    for sweep in root.glob("*/"):
        yield from _runs_of(sweep)


def _runs_of(sweep: Path) -> Iterator[Path]:
    return (path for path in sweep.glob("*/s*-*/") if _is_run(path))


def _named(run: Path, word: str) -> bool:
    method, name = run.parts[-2:]
    seed, _, identity = name.partition("-")
    whole = (name, f"{method}/{name}", f"{method}/{seed}", "/".join(run.parts[-3:]), f"{run.parts[-3]}/{method}/{seed}")
    return word in whole or (len(word) >= SHORTEST_ID and identity.startswith(word))
