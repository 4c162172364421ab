"""The checkpoints in a training's folder: written whole or not at all, the last two kept, the newest readable one read.

Pretraining and detection both use this module.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.backbones.checkpoint import read_checkpoint, write_checkpoint
from repro.errors import UserError
from repro.filesystem.presence import is_file
from repro.processes.distributed import await_file, decided_by_first
from repro.runs.health import read_symptoms
from repro.runs.step_files import KEPT, UNFINISHED, checkpoint_file, checkpoints, step_of

log = logging.getLogger("salmask")


def save_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Writes a training's checkpoint of a step, then removes all but the newest `KEPT`.

    Args:
        folder: Of the training's checkpoints.
        step: Number of steps made.
        content: Tensors and plain values alone, as `read_checkpoint` reads nothing else.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the earlier checkpoints are untouched.
    """
    # Written before others are removed, so that a whole checkpoint is on the disk whenever the process is killed.
    write_checkpoint(checkpoint_file(folder, step), content)
    for outdated in checkpoints(folder)[KEPT:]:
        outdated.unlink()


def kept_checkpoint(folder: Path, health: Path | None = None) -> str:
    """Returns, in words, which checkpoint a diverged training can go back to: the one that resuming would take.

    Args:
        folder: Of the training's checkpoints.
        health: File in which the training recorded symptoms; those up to that checkpoint's step are named as well.
    """
    if not (paths := checkpoints(folder)):
        return "there is no checkpoint of an earlier step"
    if not (newest := _first_readable(paths, lambda _: None)):
        return "no checkpoint of an earlier step can be read"
    step = step_of(newest[0])
    earlier = [each for each in read_symptoms(health) if each.step <= step] if health else []
    return f"the checkpoint of step {step} is kept" + "".join(f"; the run already had {symptom}" for symptom in earlier)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Gives errors about a checkpoint within the block a mend that says how the training goes on without the file.

    Args:
        path: The newest readable checkpoint of its folder.

    Raises:
        UserError: The block raised one; this one has the same text and that mend.
    """
    try:
        yield
    except UserError as error:
        raise UserError(error.what, mend=_once_removed(path)) from error


def _once_removed(path: Path) -> str:
    others = [other for other in checkpoints(path.parent) if other != path]
    if not others:
        return "remove it: the training begins anew"
    if readable := _first_readable(others, lambda _: None):
        return f"remove it: the training then resumes from {readable[0].name}"
    return f"delete {path.parent}: the training begins anew"


def newest_checkpoint(
    folder: Path, check: Callable[[dict[str, Any], Path], None]
) -> tuple[Path, dict[str, Any]] | None:
    """Finds and reads the newest readable checkpoint of a training; a collective.

    A torn checkpoint is passed over for the one before. Rank 0 chooses, and all ranks read its choice. Temporary files
    that a killed process left are removed on the way.

    Args:
        folder: Of the training's checkpoints.
        check: Is given the content and the path of the newest readable checkpoint, and raises a UserError if it belongs
            to another training.

    Returns:
        The path and the content, or None where the folder holds no checkpoint.

    Raises:
        UserError: There are checkpoints and none can be read, `check` refuses the newest readable one, or something
            with a checkpoint's name is not a file.
    """
    here: list[dict[str, Any]] = []

    def find() -> Path | None:
        newest = _newest_readable(folder, check)
        here[:] = [newest[1]] if newest else []
        return newest[0] if newest else None

    path = decided_by_first(find)
    if path is None:
        return None
    await_file(path)
    return path, here[0] if here else read_checkpoint(path)


def _newest_readable(folder: Path, check: Callable[[dict[str, Any], Path], None]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the checkpoint to resume from, as `newest_checkpoint` does; called on rank 0 alone."""
    # No file is being written now, as a training has its folder to itself.
    for leftover in folder.glob(UNFINISHED):
        leftover.unlink()
    paths = checkpoints(folder)
    if odd := [path for path in paths if not is_file(path)]:
        # Refused now, as the training would otherwise fail when it writes there, perhaps hours later.
        raise UserError(f"{odd[0]} has a checkpoint's name but is not a file", mend="move it away")
    unreadable: list[UserError] = []
    newest = _first_readable(paths, unreadable.append)
    for error in unreadable:
        log.warning("%s%s", error.what, f"; falling back to {newest[0].name}" if newest else "")
    if newest:
        # A checkpoint of another training is refused, not passed over: the older ones would belong to it as well.
        check(newest[1], newest[0])
    elif paths:
        # To begin anew silently would throw away what may be days of training.
        raise UserError(f"no checkpoint in {folder} can be read", mend="delete the folder to start anew")
    return newest


def _first_readable(paths: list[Path], tell: Callable[[UserError], None]) -> tuple[Path, dict[str, Any]] | None:
    """Returns the first checkpoint that can be read, with its content; `tell` hears why those before it cannot."""
    # A disk may lose what it confirmed as written. To fall back costs some steps, which are repeated with the same
    # result.
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except UserError as error:
            tell(error)
    return None
