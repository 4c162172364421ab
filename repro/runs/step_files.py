"""The names of a training's checkpoints, `step_NUMBER.pth`: told here alone, for pretraining, probes and detection."""

import re
from pathlib import Path

KEPT = 2
"""How many checkpoints a training keeps: the newest, and one before it should the newest turn out to be damaged."""
UNFINISHED = ".step_*"
"""What a process that was killed in the middle of writing leaves: `write_atomically` puts a dot before the name."""

_NAME = re.compile(r"step_(\d{8,})\.pth")
"""Name of a checkpoint: the number of its step, of eight digits at least."""


def checkpoint_file(folder: Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step, in the folder of a training's."""
    return folder / f"step_{step:08d}.pth"


def step_of(checkpoint: Path) -> int:
    """Returns the number of steps that a checkpoint is of, as its name tells; -1 of a file that is none."""
    name = _NAME.fullmatch(checkpoint.name)
    return int(name[1]) if name else -1


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, newest first; files of other names, such as copies, are left alone."""
    return sorted((path for path in folder.glob("step_*.pth") if step_of(path) >= 0), key=step_of, reverse=True)
