"""Keep finished run folders in the repository: all that results are made of, without what is large or names a machine.

    python examples/record.py runs/demo examples/demo
    python examples/record.py runs/reproduction examples/reproduced/h100

Of each run it keeps settings, provenance, state, metrics and results as they are, except that host names are dropped
and absolute paths are cut to their last part; the end of the last log; and, of the first run of each method, the
gallery as a small JPEG. Backbones, checkpoints, TensorBoard files and the scheduler's files stay behind.
"""

import re
import shutil
import sys
from pathlib import Path

from PIL import Image

LOG_LINES = 30
GALLERY_PIXELS = 640
ABSOLUTE = re.compile(r"(?<![\w.])/(?:[\w.+@\[\]=,-]+/)+")


def main(source: Path, target: Path) -> None:
    """Copy every run folder below `source` into `target`, which is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    drawn: set[str] = set()
    for run in sorted(path.parent for path in source.glob("*/*/run.yaml")):
        method = run.parent.name
        place = target / method / run.name
        place.mkdir(parents=True)
        states = [path.name for path in run.glob("status*.json")]
        for name in ("run.yaml", *states, "provenance.json", "metrics.jsonl", "results.jsonl"):
            (place / name).write_text(cleaned((run / name).read_text()))
        for metrics in run.glob("probes/*/metrics.jsonl"):
            (place / "probes" / metrics.parent.name).mkdir(parents=True)
            (place / metrics.relative_to(run)).write_text(metrics.read_text())
        keep_log(run, place)
        if method not in drawn:
            drawn.add(method)
            keep_gallery(run, place)


def cleaned(text: str) -> str:
    """Without host names and without the folders of absolute paths."""
    text = re.sub(r'("host": )"[^"]*"', r'\1"example"', text)
    return ABSOLUTE.sub("", text)


def keep_log(run: Path, place: Path) -> None:
    """Keep the last lines of the last log."""
    logs = sorted((run / "logs").rglob("*.log"))
    for log in logs[-1:]:
        lines = cleaned(log.read_text(errors="replace")).splitlines()[-LOG_LINES:]
        (place / "logs").mkdir()
        (place / "logs" / log.name).write_text("\n".join(lines) + "\n")


def keep_gallery(run: Path, place: Path) -> None:
    """Keep the gallery, small."""
    for path in sorted((run / "gallery").glob("*.png"))[:1]:
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
        shown.thumbnail((GALLERY_PIXELS, 2 * GALLERY_PIXELS))
        (place / "gallery").mkdir()
        shown.save(place / "gallery" / f"{path.stem}.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/record.py RUNS OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
