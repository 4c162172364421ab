"""One training of a detector: what it is, where its files go, and what a file of it must agree with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from downstream.detection.data import DetectionData
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.predictions import PREDICTIONS
from repro.runs.schemas import Field, Schema
from repro.settings.sections import MachineSettings

SCORES = Schema({"scores": Field(dict)}, mend="remove it; the detector is scored again")
"""A trial's `scores.json`. Its other entries are `Trial.scored_identity`."""


@dataclass(frozen=True)
class Trial:
    """One training: what it is, and where its files go."""

    task: str
    """`voc07+12` or `coco`."""
    run_id: str
    """Of the run whose backbone is the detector's."""
    protocol: str
    """Name of the protocol, with its departures."""
    index: int
    """Number of the trial, from 0."""
    seed: int
    """Of this trial alone: for order, augmentation, sampled regions, and the detector's new weights."""
    path: Path
    """Folder of the trial's own files."""
    folder: RunFolder
    """Of the run."""
    cfg: CfgNode
    """detectron2's config, frozen."""
    data: DetectionData
    machine: MachineSettings
    device: torch.device

    @property
    def final(self) -> Path:
        """File of the trained detector; `{"model": …}`, as detectron2's own tools read it."""
        return self.path / "model_final.pth"

    @property
    def scores(self) -> Path:
        """File of the trained detector's scores."""
        return self.path / "scores.json"

    @property
    def detections(self) -> Path:
        """File of all that the trained detector detects on the images that are scored."""
        # Beside the predictions of other tasks, and not with the training's own files, which may be cleared away.
        return self.folder.path / PREDICTIONS / f"{self.task}-{self.path.parent.name}-{self.path.name}.json.gz"

    @property
    def metrics(self) -> Path:
        """File of the training's losses and learning rates."""
        return self.path / "metrics.jsonl"

    def recorded_scores(self) -> dict[str, float]:
        """Reads the scores of this training from their file; empty if there are none, or another training's.

        Raises:
            UserError: The file cannot be read, or a score in it is not a number.
        """
        if not self.scores.exists():
            return {}
        content = SCORES.read(self.scores)
        # The folder's name leaves the data out, whose annotations may have changed since.
        if any(content.get(name) != value for name, value in self.scored_identity().items()):
            return {}
        for name, value in content["scores"].items():
            if fault := Field(float).fault(value):
                raise UserError(f"{self.scores}: its score '{name}' {fault}", mend=SCORES.mend)
        return dict(content["scores"])

    def identity(self) -> dict[str, Any]:
        """Returns what a checkpoint of this training must agree with; the settings are in the folder's name."""
        return {"run_id": self.run_id, "trial": self.index, "train_data": self.data.train_fingerprint}

    def scored_identity(self) -> dict[str, Any]:
        """Returns what scores of this training must agree with: what was trained, and what it is scored against.

        If a test annotation is corrected, the detector is scored again, but not trained again. If the run's rows are
        recorded already, this happens only with `detection.evaluate_only`.
        """
        return {**self.identity(), "test_data": self.data.test_fingerprint}

    def difference(self, content: Mapping[str, Any]) -> str:
        """Returns how a checkpoint's content differs from this training's identity; "" if it does not."""
        for name, expected in self.identity().items():
            if content.get(name) != expected:
                return f"its {name} is {content.get(name)}, not {expected}"
        return ""
