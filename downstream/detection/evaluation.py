"""From a trained detector to AP, and to pictures of what it finds."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from downstream.detection.data import DetectionData, Record
from downstream.detection.training import Trial
from repro.data.images import decode
from repro.distributed import rank
from repro.errors import UserError
from repro.files import write_atomically

log = logging.getLogger("salmask")
PREFIX = {"bbox": "bbox", "segm": "mask"}
"""detectron2's name of a task -> ours."""
METRICS = ("AP", "AP50", "AP75")
SHOWN_IMAGES = 6
SHOWN_SCORE = 0.5
"""Least score of a detection that is drawn."""


class Sample(DatasetEvaluator):
    """Counts detections, and keeps those of a few images for a picture."""

    def __init__(self, names: Sequence[str]) -> None:
        """Keep the detections of these files."""
        self.names = set(names)

    def reset(self) -> None:
        """Forget everything."""
        self.count = 0
        self.kept: dict[str, Instances] = {}

    def process(self, inputs: Sequence[Record], outputs: Sequence[dict[str, Any]]) -> None:
        """Look at the detections of a batch."""
        for record, output in zip(inputs, outputs, strict=True):
            self.count += len(output["instances"])
            if record["file_name"] in self.names:
                self.kept[record["file_name"]] = output["instances"].to("cpu")

    def evaluate(self) -> dict[str, Any] | None:
        """Those of all ranks, on the first one."""
        gathered = comm.gather((self.count, self.kept))
        if rank():
            return None
        kept = {name: found for _, part in gathered for name, found in part.items()}
        return {"count": sum(count for count, _ in gathered), "kept": kept}


def evaluate_detector(trial: Trial, model: GeneralizedRCNN) -> dict[str, float]:
    """Score a detector on the whole test split, and draw what it finds on the first images.

    Args:
        trial: whose.
        model: trained.

    Returns:
        `bbox_AP`, `bbox_AP50`, `bbox_AP75`, with masks also `mask_AP` …, in percent; empty on other ranks than 0.

    Raises:
        UserError: an AP cannot be computed.
    """
    data = trial.data
    shown = [record["file_name"] for record in data.test[:SHOWN_IMAGES]]
    sample = Sample(shown)
    loader = build_detection_test_loader(
        data.test, mapper=DatasetMapper(trial.cfg, is_train=False), num_workers=trial.machine.workers
    )
    with redirect_stdout(io.StringIO()):  # pycocotools prints tables, and standard output is for results
        found = inference_on_dataset(model, loader, DatasetEvaluators([data.evaluator(), sample]))
    if rank():
        return {}
    tasks = ["bbox", "segm"] if trial.cfg.MODEL.MASK_ON else ["bbox"]
    scores = average_precisions(found, tasks, detections=found["count"])
    path = trial.folder.gallery / f"objects-{data.name}-{trial.protocol}.png"
    if trial.index == 0:
        picture = draw_detections(data, found["kept"])
        write_atomically(path, lambda file: file.write(picture))
    return scores


def average_precisions(
    found: Mapping[str, Mapping[str, float]], tasks: Sequence[str], *, detections: int
) -> dict[str, float]:
    """AP of boxes and masks from what detectron2's evaluators say.

    Args:
        found: their results, by task.
        tasks: `bbox` and `segm`, or one of them.
        detections: how many there are on all images.

    Returns:
        Percent by our metric. Where nothing was detected that is 0, which COCO's evaluator calls NaN or leaves out.

    Raises:
        UserError: an AP is not a number although there are detections.
    """
    if not detections:
        log.warning("the detector finds nothing on any image: AP is 0; it was trained too briefly or diverged")
        return {f"{PREFIX[task]}_{metric}": 0.0 for task in tasks for metric in METRICS}
    scores = {}
    for task in tasks:
        for metric in METRICS:
            value = float(found.get(task, {}).get(metric, math.nan))
            if not math.isfinite(value):
                raise UserError(
                    f"{task} {metric} of {detections} detections is not a number: the test split has no object that "
                    "counts",
                    mend="check its annotations with `salmask data verify`",
                )
            scores[f"{PREFIX[task]}_{metric}"] = value
    return scores


def draw_detections(data: DetectionData, kept: Mapping[str, Instances]) -> bytes:
    """A PNG with one column an image: the annotated objects above, what the detector finds below.

    Args:
        data: with the annotations.
        kept: detections by file; those with a score of at least 0.5 are drawn, the best one where there are none.
    """
    records = [record for record in data.test if record["file_name"] in kept]
    figure = Figure(figsize=(2.4 * len(records), 5.2), layout="constrained")
    axes = figure.subplots(2, len(records), squeeze=False)
    for column, record in enumerate(records):
        pixels = np.asarray(decode(record["file_name"]))
        found = kept[record["file_name"]]
        scores: Tensor = found.scores
        drawn = found[scores >= SHOWN_SCORE] if (scores >= SHOWN_SCORE).any() else found[:1]
        # Tiny scenes are enlarged, so that boxes and names can be told apart.
        factor = max(1.0, 320 / pixels.shape[0])
        for row, title in enumerate(("annotated", f"found: {len(drawn)}")):
            painter = Visualizer(pixels, MetadataCatalog.get(data.metadata), factor, ColorMode.IMAGE)
            image = painter.draw_dataset_dict(record) if row == 0 else painter.draw_instance_predictions(drawn)
            axes[row, column].imshow(Image.fromarray(image.get_image()))
            axes[row, column].set_axis_off()
            axes[row, column].set_title(title, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
