"""Keeps finished run folders in the repository: all that results are made of, without large files and machine names.

    python examples/record.py runs/demo examples/demo
    python examples/record.py runs/reproduction examples/reproduced/h100

Of each run it keeps settings, provenance, state, metrics, results, predictions and `health.json` as they are, except
that host names are replaced and absolute paths are cut to their last part; the end of the last log; and, of the first
run of each method, the gallery as a small JPEG. Backbones, checkpoints, TensorBoard files and the scheduler's files
are left out. The target is replaced when its new content is complete; after an error it is as it was.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from repro.errors import UserError, one_line
from repro.filesystem.files import reading
from repro.filesystem.new_folders import new_folder

NEEDED = ("run.yaml", "provenance.json", "results.jsonl")
"""Files without which a run is not finished."""

KEPT = (*NEEDED, "status*.json", "metrics.jsonl", "health.json", "foregrounds.json")
"""Files that are kept if a run has them: each task has a status of its own, and not all runs record the others."""

LOG_LINES = 30
"""Lines kept of the end of a log, which hold the last losses and how the run ended."""

DAMAGED = "put the run's own file in its place, or take the run out of the folder"
"""What to do about a file that cannot be read."""

GALLERY_PIXELS = 640
"""The most pixels of a kept gallery across; it may be twice as high."""

FOLDERS_OF_PATH = re.compile(r"(?<![\w.])/(?:[\w.+@\[\]=,-]+/)+")
"""The folders of an absolute path, with its first slash; one within a word or after a dot is of a relative path."""


def record(source: Path, target: Path) -> None:
    """Copies every run folder below `source` into `target`, which is made anew.

    Args:
        source: Folder of a sweep: METHOD/SEED/run.yaml.
        target: Folder in the repository; what it holds is removed.

    Raises:
        UserError: There is no finished run, one is not finished, or the target cannot take them; then it is as it was.
    """
    # Sorted, so that the gallery of the same run is kept every time.
    runs = sorted(path.parent for path in source.glob("*/*/run.yaml"))
    if not runs:
        raise UserError(f"no run below {source}", mend="give the folder of a sweep, which holds METHOD/SEED/run.yaml")
    lacking = [run / name for run in runs for name in NEEDED if not (run / name).is_file()]
    if lacking:
        raise UserError(f"no file {lacking[0]}", mend="evaluate the run, or take it out of the folder")
    places = (source.resolve(), target.resolve())
    if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
        raise UserError(f"{source} and {target} overlap", mend="give another folder to record into")
    with new_folder(target, force=True, mend="give another folder to record into") as new:
        copy_runs(runs, new)


def copy_runs(runs: Sequence[Path], target: Path) -> None:
    """Copies run folders into an empty one.

    Args:
        runs: The folders, METHOD/SEED.
        target: The empty folder.
    """
    methods_with_gallery: set[str] = set()
    for run in runs:
        method = run.parent.name
        copy = target / method / run.name
        copy.mkdir(parents=True)
        for path in (path for pattern in KEPT for path in run.glob(pattern)):
            (copy / path.name).write_text(without_machine(text_of(path)), encoding="utf-8")
        if (run / "predictions").is_dir():
            shutil.copytree(run / "predictions", copy / "predictions")
        for metrics in run.glob("probes/*/metrics.jsonl"):
            (copy / "probes" / metrics.parent.name).mkdir(parents=True)
            (copy / metrics.relative_to(run)).write_text(text_of(metrics), encoding="utf-8")
        keep_log(run, copy)
        if method not in methods_with_gallery:
            methods_with_gallery.add(method)
            keep_gallery(run, copy)


def text_of(path: Path) -> str:
    """Returns the text of a run's file.

    Raises:
        UserError: It is damaged.
    """
    with reading(path, DAMAGED):
        return path.read_text(encoding="utf-8")


def without_machine(text: str) -> str:
    """Returns a file's text without host names and without the folders of absolute paths."""
    text = re.sub(r'("host": )"[^"]*"', r'\1"example"', text)
    return FOLDERS_OF_PATH.sub("", text)


def keep_log(run: Path, copy: Path) -> None:
    """Copies the last lines of a run folder's last log, if it has one."""
    logs = sorted((run / "logs").rglob("*.log"))
    for log in logs[-1:]:
        lines = without_machine(log.read_text(encoding="utf-8", errors="replace")).splitlines()[-LOG_LINES:]
        (copy / "logs").mkdir()
        (copy / "logs" / log.name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def keep_gallery(run: Path, copy: Path) -> None:
    """Copies a run folder's gallery, if it has one, as a small JPEG."""
    for path in sorted((run / "gallery").glob("*.png"))[:1]:
        with reading(path, DAMAGED), Image.open(path) as picture:
            thumbnail = picture.convert("RGB")
        thumbnail.thumbnail((GALLERY_PIXELS, 2 * GALLERY_PIXELS))
        (copy / "gallery").mkdir()
        thumbnail.save(copy / "gallery" / f"{path.stem}.jpg", quality=72, optimize=True)


def main(words: Sequence[str]) -> int:
    """Records what the command line names; returns the exit status: 2 for bad input, after a line that explains it.

    Args:
        words: The words of the command line after the script's name.
    """
    try:
        if len(words) != 2:
            raise UserError(f"two folders are needed, not {len(words)}", mend="python examples/record.py RUNS OUT")
        record(Path(words[0]), Path(words[1]))
    except (OSError, UserError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
