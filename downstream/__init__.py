"""What a checkpoint is worth: each task turns a finished run into rows of results."""

from collections.abc import Mapping
from typing import Protocol

import torch

from downstream import linear
from repro.folder import RunFolder
from repro.records import Result
from repro.run import Run


class Task(Protocol):
    """A module of this room."""

    def evaluate(self, run: Run, folder: RunFolder, device: torch.device) -> list[Result]:
        """Measure a finished run and append the rows to its `results.jsonl`."""
        ...

    def recorded(self, run: Run, folder: RunFolder) -> list[Result]:
        """The rows of the run's protocol that stand there already."""
        ...


TASKS: Mapping[str, Task] = {linear.TASK: linear}
