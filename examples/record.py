"""Keeps finished run folders in the repository: all that results are made of, without what is large or names a machine.

    python examples/record.py runs/demo examples/demo
    python examples/record.py runs/reproduction examples/reproduced/h100

Of each run it keeps settings, provenance, state, metrics, results and predictions as they are, except that host names
are dropped and absolute paths are cut to their last part; the end of the last log; and, of the first run of each
method, the gallery as a small JPEG. Backbones, checkpoints, TensorBoard files and the scheduler's files stay behind.
"""

import re
import shutil
import sys
from pathlib import Path

from PIL import Image

LOG_LINES = 30
"""Lines kept of the end of a log, which hold the last losses and how the run ended."""

GALLERY_PIXELS = 640
"""The most pixels of a kept gallery across; it may be twice as high."""

FOLDERS_OF_PATH = re.compile(r"(?<![\w.])/(?:[\w.+@\[\]=,-]+/)+")
"""The folders of an absolute path, from its slash on; a slash within a word or after a dot begins a relative one."""


def main(source: Path, target: Path) -> None:
    """Copies every run folder below `source` into `target`, which is made anew.

    Args:
        source: folder of a sweep: METHOD/SEED/run.yaml.
        target: folder in the repository; what it holds is removed.
    """
    shutil.rmtree(target, ignore_errors=True)
    methods_with_gallery: set[str] = set()
    # Sorted, so that the gallery that is kept is the same run's every time.
    for run in sorted(path.parent for path in source.glob("*/*/run.yaml")):
        method = run.parent.name
        copy = target / method / run.name
        copy.mkdir(parents=True)
        # Each task has a status of its own, and only runs on scenes record their foregrounds.
        some = [path.name for pattern in ("status*.json", "foregrounds.json") for path in run.glob(pattern)]
        for name in ("run.yaml", *some, "provenance.json", "metrics.jsonl", "results.jsonl"):
            (copy / name).write_text(without_machine((run / name).read_text()))
        if (run / "predictions").is_dir():
            shutil.copytree(run / "predictions", copy / "predictions")
        for metrics in run.glob("probes/*/metrics.jsonl"):
            (copy / "probes" / metrics.parent.name).mkdir(parents=True)
            (copy / metrics.relative_to(run)).write_text(metrics.read_text())
        keep_log(run, copy)
        if method not in methods_with_gallery:
            methods_with_gallery.add(method)
            keep_gallery(run, copy)


def without_machine(text: str) -> str:
    """Returns a file's text without host names and without the folders of absolute paths."""
    text = re.sub(r'("host": )"[^"]*"', r'\1"example"', text)
    return FOLDERS_OF_PATH.sub("", text)


def keep_log(run: Path, copy: Path) -> None:
    """Copies the last lines of a run folder's last log, if it has one."""
    logs = sorted((run / "logs").rglob("*.log"))
    for log in logs[-1:]:
        lines = without_machine(log.read_text(errors="replace")).splitlines()[-LOG_LINES:]
        (copy / "logs").mkdir()
        (copy / "logs" / log.name).write_text("\n".join(lines) + "\n")


def keep_gallery(run: Path, copy: Path) -> None:
    """Copies a run folder's gallery, if it has one, as a small JPEG."""
    for path in sorted((run / "gallery").glob("*.png"))[:1]:
        with Image.open(path) as picture:
            thumbnail = picture.convert("RGB")
        thumbnail.thumbnail((GALLERY_PIXELS, 2 * GALLERY_PIXELS))
        (copy / "gallery").mkdir()
        thumbnail.save(copy / "gallery" / f"{path.stem}.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/record.py RUNS OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
