"""Scoring of a trained detector: its average precisions (AP), and a picture of what it detects."""

import gzip
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.data import DatasetFromList, DatasetMapper, MapDataset, MetadataCatalog
from detectron2.data.build import trivial_batch_collator
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from downstream.detection.data import DetectionData, Record, map_record
from downstream.detection.trial import Trial
from repro.command_line.progress import tracked
from repro.errors import UserError
from repro.filesystem.files import write_bytes
from repro.processes.distributed import rank
from repro.processes.loader import Loader

log = logging.getLogger("salmask")
PREFIX = {"bbox": "bbox", "segm": "mask"}
"""detectron2's name of a task -> how our metrics' names begin."""
METRICS = ("AP", "AP50", "AP75")
"""AP over IoU thresholds from 0.5 to 0.95, at 0.5, and at 0.75."""
PICTURED_IMAGES = 6
"""How many of the first test images are drawn with their detections."""
PICTURED_SCORE = 0.5
"""Least score of a detection that is drawn."""


class Sample(DatasetEvaluator):
    """Counts detections, and keeps those of a few images for a picture."""

    def __init__(self, names: Sequence[str]) -> None:
        """Keeps the detections of the images with these file names."""
        self.names = set(names)

    def reset(self) -> None:
        """Forgets all detections; detectron2 calls this before the first batch."""
        self.count = 0
        self.detections: dict[str, Instances] = {}

    def process(self, inputs: Sequence[Record], outputs: Sequence[dict[str, Any]]) -> None:
        """Counts a batch's detections, and keeps those of the images to draw."""
        for record, output in zip(inputs, outputs, strict=True):
            self.count += len(output["instances"])
            if record["file_name"] in self.names:
                # Moved to the CPU, because they are drawn only at the end and would occupy the device until then.
                self.detections[record["file_name"]] = output["instances"].to("cpu")

    def evaluate(self) -> dict[str, Any] | None:
        """Returns the `count` of all ranks' detections and the kept `detections` by file; None on ranks but 0."""
        of_ranks = comm.gather((self.count, self.detections))
        if rank():
            return None
        detections = {name: instances for _, sample in of_ranks for name, instances in sample.items()}
        return {"count": sum(count for count, _ in of_ranks), "detections": detections}


class Detections(DatasetEvaluator):
    """Keeps all detections in COCO's format of results: image, category, box, score, and mask if there are masks."""

    def __init__(self, data: DetectionData) -> None:
        """Keeps the detections on a test split."""
        self.data = data

    def reset(self) -> None:
        """Forgets all detections; detectron2 calls this before the first batch."""
        self.entries: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[Record], outputs: Sequence[dict[str, Any]]) -> None:
        """Keeps a batch's detections."""
        for record, output in zip(inputs, outputs, strict=True):
            self.entries += instances_to_coco_json(output["instances"].to("cpu"), record["image_id"])

    def evaluate(self) -> dict[str, Any] | None:
        """Returns the `results` of all ranks, by image and then by score; None on other ranks than 0."""
        of_ranks = comm.gather(self.entries)
        if rank():
            return None
        numbers = self.data.category_ids
        results = [
            {
                **entry,
                "category_id": numbers[entry["category_id"]],
                # Rounded to hundredths of a pixel and millionths of a score: full floats would take twice the room.
                "bbox": [round(edge, 2) for edge in entry["bbox"]],
                "score": round(entry["score"], 6),
            }
            for entries in of_ranks
            for entry in entries
        ]
        return {"results": sorted(results, key=lambda entry: (entry["image_id"], -entry["score"]))}


def make_test_loader(records: list[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], *, workers: int) -> Loader:
    """Makes a loader of this rank's images, one per batch, like detectron2's, whose processes do not survive signals.

    Args:
        records: detectron2's records of the images.
        mapper: Turns a record into the detector's input.
        workers: Decoding processes of this rank.
    """
    return Loader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        workers=workers,
        batch_size=1,
        sampler=InferenceSampler(len(records)),
        collate_fn=trivial_batch_collator,
    )


@dataclass(frozen=True)
class _Counted:
    """A loader with a bar that shows how many of its batches, of one image each, are processed."""

    loader: DataLoader[Any]
    label: str

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return tracked(self.loader, self.label, len(self.loader), unit="images", shown=rank() == 0)


def evaluate_detector(trial: Trial, model: GeneralizedRCNN) -> dict[str, float]:
    """Scores a detector on the whole test split; for the first trial, draws its detections on the first images.

    All detections are kept in the file `trial.detections`.

    Args:
        trial: The trial of the detector.
        model: The trained detector.

    Returns:
        `bbox_AP`, `bbox_AP50`, `bbox_AP75`, with masks also `mask_AP` …, in percent; empty on other ranks than 0.

    Raises:
        UserError: An AP cannot be computed.
    """
    data = trial.data
    sample = Sample([record["file_name"] for record in data.test[:PICTURED_IMAGES]])
    evaluators = [data.evaluator(), sample, Detections(data)]
    mapper = partial(map_record, DatasetMapper(trial.cfg, is_train=False))
    loader = make_test_loader(data.test, mapper, workers=trial.machine.workers)
    with redirect_stdout(io.StringIO()):  # pycocotools prints tables, and standard output is for results
        counted = _Counted(loader, f"{trial.task} trial {trial.index}: scoring")
        outcome = inference_on_dataset(model, counted, DatasetEvaluators(evaluators))
    if rank():
        return {}
    tasks = ["bbox", "segm"] if trial.cfg.MODEL.MASK_ON else ["bbox"]
    scores = average_precisions(outcome, tasks, detections=outcome["count"])
    # Without a time in it, so that the same detections give the same file.
    content = gzip.compress(json.dumps(outcome["results"], separators=(",", ":")).encode(), mtime=0)
    write_bytes(trial.detections, content)
    if trial.index == 0:
        path = trial.folder.gallery / f"objects-{data.name}-{trial.protocol}.png"
        write_bytes(path, draw_detections(data, outcome["detections"]))
    return scores


def average_precisions(
    outcome: Mapping[str, Mapping[str, float]], tasks: Sequence[str], *, detections: int
) -> dict[str, float]:
    """Reads the APs of boxes and masks out of what detectron2's evaluators return.

    Args:
        outcome: Results by detectron2's name of a task.
        tasks: `bbox` and `segm`, or one of them.
        detections: How many there are on all images.

    Returns:
        Percent by our metrics' names. If nothing was detected, all are 0; COCO's evaluator returns NaN then, or leaves
        them out.

    Raises:
        UserError: An AP is not a number although there are detections.
    """
    if not detections:
        log.warning("the detector finds nothing on any image: AP is 0; it was trained too briefly or diverged")
        return {f"{PREFIX[task]}_{metric}": 0.0 for task in tasks for metric in METRICS}
    scores = {}
    for task in tasks:
        for metric in METRICS:
            value = float(outcome.get(task, {}).get(metric, math.nan))
            if not math.isfinite(value):
                raise UserError(
                    f"{task} {metric} of {detections} detections is not a number: the test split has no object that "
                    "counts",
                    mend="check its annotations with `salmask data verify`",
                )
            scores[f"{PREFIX[task]}_{metric}"] = value
    return scores


def draw_detections(data: DetectionData, detections: Mapping[str, Instances]) -> bytes:
    """Draws a PNG with one column per image: the annotated objects above, what the detector detects below.

    Args:
        data: With the annotations.
        detections: By file name, the best first. Those with a score of `PICTURED_SCORE` or more are drawn; if an image
            has none, its best one.
    """
    records = [record for record in data.test if record["file_name"] in detections]
    figure = Figure(figsize=(2.4 * len(records), 5.2), layout="constrained")
    axes = figure.subplots(2, len(records), squeeze=False)
    for column, record in enumerate(records):
        pixels = read_image(record["file_name"], "RGB")  # upright, as the detector sees it
        instances = detections[record["file_name"]]
        confident: Tensor = instances.scores >= PICTURED_SCORE
        pictured = instances[confident] if confident.any() else instances[:1]
        # Tiny scenes are enlarged, so that boxes and names can be told apart.
        factor = max(1.0, 320 / pixels.shape[0])
        for row, title in enumerate(("annotated", f"found: {len(pictured)}")):
            painter = Visualizer(pixels, MetadataCatalog.get(data.metadata), factor, ColorMode.IMAGE)
            image = painter.draw_dataset_dict(record) if row == 0 else painter.draw_instance_predictions(pictured)
            axes[row, column].imshow(Image.fromarray(image.get_image()))
            axes[row, column].set_axis_off()
            axes[row, column].set_title(title, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
