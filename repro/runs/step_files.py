"""The names of a training's checkpoints, `step_NUMBER.pth`, defined once for pretraining, probes and detection."""

import re
from pathlib import Path

KEPT = 2
"""How many checkpoints a training keeps: the newest, and the one before in case the newest is damaged."""
UNFINISHED = ".step_*"
"""Pattern of what a process leaves that is killed while it writes: `write_atomically` puts a dot before the name."""

_NAME = re.compile(r"step_(\d{8,})\.pth")
"""Name of a checkpoint: the number of its step, with at least eight digits."""


def checkpoint_file(folder: Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step, in a training's folder of checkpoints."""
    return folder / f"step_{step:08d}.pth"


def step_of(checkpoint: Path) -> int:
    """Returns the number of steps of a checkpoint, by its name; -1 if the file is not a checkpoint."""
    name = _NAME.fullmatch(checkpoint.name)
    return int(name[1]) if name else -1


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, newest first; files of other names, such as copies, are left alone."""
    return sorted((path for path in folder.glob("step_*.pth") if step_of(path) >= 0), key=step_of, reverse=True)
