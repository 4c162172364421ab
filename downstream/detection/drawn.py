"""Built-in scenes for detection, written once among the caches in the layout of a data set."""

import hashlib
import json
import logging
import shutil
import zlib
from pathlib import Path

import filelock

from downstream.detection.data import DetectionData, open_coco, open_voc
from repro.data.annotations.scenes_export import write_coco, write_voc
from repro.data.errors import reason_of
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.filesystem.presence import is_file
from repro.scenes.cache import scenes_cache
from repro.scenes.dataset import Scenes
from repro.settings.detection import VOC

log = logging.getLogger("salmask")


def open_scenes(task: str, train: Scenes, test: Scenes, name: str, *, workers: int) -> DetectionData:
    """Opens built-in scenes in the layout of a task's data set.

    Files of the cache may be removed at any time, as by someone who cleans a disk. A folder is used only if it is
    complete and unchanged; otherwise it is written anew.

    Args:
        task: `voc07+12` or `coco`.
        train: Scenes to train on.
        test: Scenes to score on.
        name: As results name the data set.
        workers: Drawing processes, at least one.

    Raises:
        UserError: The cache cannot be written to.
    """
    key = hashlib.sha256(f"{train.fingerprint()} {test.fingerprint()}".encode()).hexdigest()[:12]
    layout, write, open_layout = ("voc", write_voc, open_voc) if task == VOC else ("coco", write_coco, open_coco)
    cache = scenes_cache()
    root, sums = cache / f"{layout}-{key}", cache / f"{layout}-{key}.json"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Every rank takes the lock, and so may other runs: the first one writes, the others wait and find the folder.
        with filelock.FileLock(cache / f".{root.name}.lock"):
            if not _is_whole(root, sums):
                log.info("writing %d scenes in the layout of %s into %s", len(train) + len(test), task, root)
                shutil.rmtree(root, ignore_errors=True)
                write(root, train, test, workers=max(1, workers))
                # Written last: a folder without checksums does not count, so a killed process leaves no half one.
                write_json(sums, _checksums(root))
    except OSError as error:
        mend = "SALMASK_CACHE=DIR, a folder that can be written to"
        raise UserError(f"cannot write into the cache {cache}: {reason_of(error)}", mend=mend) from error
    return open_layout(root, name)


def _is_whole(root: Path, sums: Path) -> bool:
    """Returns whether a folder holds what was written, byte for byte."""
    if not is_file(sums):
        return False
    try:
        return bool(json.loads(sums.read_bytes()) == _checksums(root))
    except ValueError:  # torn
        return False


def _checksums(root: Path) -> dict[str, int]:
    """Returns the CRC-32 of each file below a folder, by its relative path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): zlib.crc32(path.read_bytes()) for path in files}
