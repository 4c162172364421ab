"""Settings of detection and segmentation: fine-tuning a backbone as MoCo's detection/ does. No torch.

A number belongs to a protocol with a name and a version, and every departure from it is part of the name:
`voc-frcnn-c4-24k-v1[batch=2,trials=1]`. The defaults of the settings are the protocols.
"""

import dataclasses
import re
from dataclasses import dataclass
from enum import StrEnum

from repro.settings.departures import DETECTION, FORMATS, Departure
from repro.settings.protocols import EvaluationProtocol

VOC, COCO = "voc07+12", "coco"
"""The two tasks, named as the data sets whose schedules they are."""
DETECTION_TASKS = (VOC, COCO)
COCO_SCHEDULES = ("1x", "2x")
TRIALS = {VOC: 5, COCO: 1}
"""Trainings of one checkpoint whose mean is the result (MoCo: 5 on VOC)."""
REFERENCE_BATCH = 16
"""Images a step over all devices in MoCo's detection/: two on each of 8 GPUs."""
IMAGES_PER_DEVICE = 2
LEAST_SIDE = 32
"""Least pixels of an image's short side; with fewer, a C4 feature map has a single cell."""
_RECORDED_SIZES = re.compile(
    re.escape(FORMATS[DETECTION].format("")) + r"\d+ (?:iterations|px|regions)(?:, \d+ (?:px|regions))*"
    rf"|(?:{'|'.join(map(re.escape, DETECTION_TASKS))}) on \S+ \(\d+ classes, \d+ images\)"
)
"""The texts of `DetectionSettings.departures` and of smaller data, the two kinds of size in a detector's results."""
COSTS = ("seconds_per_iteration", "peak_memory_gib", "training_seconds")
"""Metrics beside AP: what a training cost."""


def recorded_sizes(scale: str) -> str:
    """Returns the detector's part of the scale of a result from an older version; empty if it has none.

    Such results have no `evaluation_scale`. Nor can it be computed from the run: its settings do not tell the
    evaluation's data, and today's text of its own scale may differ from the recorded one.

    Args:
        scale: As `repro.runs.records.Result.scale`.
    """
    return ", ".join(_RECORDED_SIZES.findall(scale))


class DetectionHead(StrEnum):
    """The detector that is built on a backbone."""

    c4 = "c4"
    fpn = "fpn"


@dataclass(frozen=True)
class DetectionSettings:
    """How a detector is trained; 0 stands for the protocol's value."""

    head: DetectionHead = DetectionHead.c4
    coco_schedule: str = "2x"  # "1x" or "2x"; the paper does not say which
    trials: int = 0  # trainings of one checkpoint whose mean is the result; 0: five on VOC, one on COCO
    high_pass_input: bool = False  # whether backbones trained on high-passed images get such images here too
    batch: int = 0  # images a step over all devices; 0: two for each device, 16 at most
    iterations: int = 0  # steps; 0: the schedule's, scaled to the batch
    base_lr: float = 0.02  # learning rate of a batch of 16; scaled to the batch
    min_size: int = 0  # short side in pixels, for training and test; 0: the protocol's
    rois: int = 0  # regions per image that the heads are trained on; 0: 512
    scene_objects: int = 3  # largest number of objects on a built-in scene
    force: bool = False  # allow a full schedule on a CPU
    evaluate_only: bool = False  # never train; score trained detectors again, even if their results are recorded

    def protocol(self, task: str, batch: int = 0) -> EvaluationProtocol:
        """Returns the protocol with every departure from it.

        Args:
            task: `voc07+12` or `coco`.
            batch: The batch that was used on the available devices; 0: the setting, which is named only if it is set.
        """
        version = f"voc-frcnn-{self.head}-24k-v1" if task == VOC else f"coco-mrcnn-{self.head}-{self.coco_schedule}-v1"
        batch, trials = batch or self.batch, self.trials_of(task)
        # 0 stands for the protocol's own value: no setting here can depart from it by being 0.
        values = {
            "batch": batch if batch != REFERENCE_BATCH else 0,
            "iterations": self.iterations,
            "base_lr": self.base_lr if self.base_lr != DetectionSettings.base_lr else 0,
            "min_size": self.min_size,
            "rois": self.rois,
            "high_pass_input": int(self.high_pass_input),
            "scene_objects": self.scene_objects if self.scene_objects != DetectionSettings.scene_objects else 0,
            "trials": trials if trials != TRIALS[task] else 0,
        }
        return EvaluationProtocol.departing(version, ((setting, value) for setting, value in values.items() if value))

    def protocol_of_one(self, task: str, batch: int) -> str:
        """Returns the protocol's name without the number of trials, which changes nothing in a single one."""
        return dataclasses.replace(self, trials=0).protocol(task, batch).name

    def possible_protocols(self, task: str) -> tuple[EvaluationProtocol, ...]:
        """Returns every protocol that a training may have, depending on the number of devices.

        Args:
            task: `voc07+12` or `coco`.

        Returns:
            A single one if `batch` is set. Otherwise those for two images on each of 1 to 8 devices, in this order;
            more than eight devices share the batch of sixteen.
        """
        open_batches = range(IMAGES_PER_DEVICE, REFERENCE_BATCH + 1, IMAGES_PER_DEVICE)
        return tuple(self.protocol(task, batch) for batch in ([self.batch] if self.batch else open_batches))

    def departures(self) -> tuple[Departure, ...]:
        """Returns one departure that names every size that is smaller than the protocol's, or none."""
        sizes = {"iterations": self.iterations, "px": self.min_size, "regions": self.rois}
        text = ", ".join(f"{size} {unit}" for unit, size in sizes.items() if size)
        return (Departure(DETECTION, text),) if text else ()

    def trials_of(self, task: str) -> int:
        """Returns how many trainings of one checkpoint a result is the mean of."""
        return self.trials or TRIALS[task]
