"""What a word on the command line means: a sweep's folder, or a run's."""

import contextlib
import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError, nearest
from repro.filesystem.presence import is_file, is_folder
from repro.runs.sweep_names import LEDGER
from repro.settings.run_name import RunName
from slurm.profiles.profile import RUNS, available, load


@dataclass(frozen=True)
class SweepTarget:
    """A sweep, or one run of it."""

    sweep: Path
    folder: str = ""
    """Of the run, relative to the sweep's; empty: the whole sweep."""

    def covers(self, folder: str) -> bool:
        """Returns whether a job of this folder (relative to the sweep's) is meant."""
        return self.folder in ("", folder)


def roots_of_sweeps() -> list[Path]:
    """Returns the folders that sweeps are looked for in: `runs/`, and where the profiles of clusters put them."""
    roots = [RUNS]
    for name in available():
        with contextlib.suppress(UserError):  # whoever uses a broken profile is told
            roots.append(load(name).sweeps_folder)
    return list(dict.fromkeys(roots))


def find_target(word: str) -> SweepTarget:
    """Finds the sweep or the run that a word names.

    Args:
        word: A folder of a run or a sweep, the name of a sweep, `METHOD/sSEED` in one, or the beginning of a run's id.

    Raises:
        UserError: There is no such thing, or several.
    """
    roots = roots_of_sweeps()
    return _in_folder(word, roots) or _sweep_called(word, roots) or _run_called(word, roots)


def _in_folder(word: str, roots: Sequence[Path]) -> SweepTarget | None:
    """Returns the run or sweep in a folder; None if there is no such folder, or it may be meant as a sweep's name."""
    path = Path(word)
    if not is_folder(path):
        return None
    if _is_run(path):
        absolute = path.resolve()
        if absolute not in runs_of(absolute.parents[1]):  # else an empty page would be shown of it
            what = f"{word} is a run's folder under another name, by which no sweep knows it"
            raise UserError(what, mend="rename it to sSEED-ID, as it was made: run.yaml has its seed")
        return SweepTarget(absolute.parents[1], "/".join(absolute.parts[-2:]))
    if _is_sweep(path):
        return SweepTarget(path)
    # A folder that is neither, such as a checkout's own `table1/`, may be called like a sweep below a root.
    if path.is_absolute() or not any(is_folder(root / word) for root in roots):
        raise UserError(f"{word} holds neither jobs nor runs", mend="name runs/SWEEP or runs/SWEEP/METHOD/sSEED-ID")
    return None


def _sweep_called(word: str, roots: Sequence[Path]) -> SweepTarget | None:
    """Returns the sweep with this name; None if there is none."""
    matching: dict[Path, Path] = {}  # two roots may lead to one folder
    for folder in (root / word for root in roots if _is_sweep(root / word)):
        matching.setdefault(folder.resolve(), folder)
    if len(matching) > 1:
        raise _several(word, "sweeps", list(matching.values()))
    return SweepTarget(next(iter(matching.values()))) if matching else None


def _run_called(word: str, roots: Sequence[Path]) -> SweepTarget:
    """Returns the run that `METHOD/sSEED` or the beginning of an id means; refuses a word that means none."""
    runs = {run: RunName.of(run) for root in roots for sweep in root.glob("*/") for run in runs_of(sweep)}
    matching = sorted(run for run, name in runs.items() if name.is_meant_by(word))
    if not matching:
        names = list(dict.fromkeys(sweep.name for sweep in sweeps(roots)))
        if names and "/" in word:  # meant as a run
            labels = sorted({f"{name.method}/{name.seed}" for name in runs.values()})
            names = labels if difflib.get_close_matches(word, labels) else names
        raise UserError(f"no sweep or run '{word}'", mend=nearest(word, names)) if names else _nothing(roots)
    if len(matching) > 1:
        raise _several(word, "runs", matching)
    (run,) = matching
    return SweepTarget(run.parent.parent, "/".join(run.parts[-2:]))


def all_sweeps() -> list[Path]:
    """Returns every sweep's folder.

    Raises:
        UserError: There is none.
    """
    roots = roots_of_sweeps()
    folders = sweeps(roots)
    if not folders:
        raise _nothing(roots)
    return folders


def sweeps(roots: Iterable[Path]) -> list[Path]:
    """Returns the folders of sweeps directly below some folders, except those that cannot be read."""
    return [path for root in roots for path in sorted(root.glob("*/")) if _surely(_is_sweep, path)]


def runs_of(sweep: Path) -> Iterator[Path]:
    """Yields the folders of a sweep's runs, except those that cannot be read."""
    return (path for path in sweep.glob("*/s*-*/") if _surely(_is_run, path))


def _several(word: str, things: str, folders: Sequence[Path]) -> UserError:
    few = ", ".join(shlex.quote(str(folder)) for folder in folders[:5])
    return UserError(f"'{word}' names {len(folders)} {things}", mend=f"one of {few}")


def _nothing(roots: Sequence[Path]) -> UserError:
    return UserError(
        f"there are no sweeps in {', '.join(map(str, roots))}",
        mend="salmask sweep first, or name the sweep's folder, for example /scratch/ME/salmask/table1, "
        "which the launch printed",
    )


def _surely(question: Callable[[Path], bool], path: Path) -> bool:
    """Returns the answer to a question about a folder; False if its file system gives none."""
    try:
        return question(path)
    except UserError:
        return False


def _is_sweep(path: Path) -> bool:
    return is_file(path / LEDGER) or any(runs_of(path))


def _is_run(path: Path) -> bool:
    return any(is_file(path / name) for name in ("run.yaml", "status.json"))
