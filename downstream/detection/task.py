"""Detection and instance segmentation: a pretrained backbone becomes a detector and is fine-tuned whole, as MoCo does.

Two tasks, `voc07+12` (Faster R-CNN, 24k) and `coco` (Mask R-CNN, 1x or 2x), each on its own data set, on another one in
its layout, or on built-in scenes written in its layout. detectron2 is imported only when one is carried out, so modules
that need it are imported inside functions here; the package's docstring says why.
"""

import importlib.util
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from downstream.measurement import Measurement, Target
from repro.backbones.backbone import Backbone, load_backbone_of
from repro.backbones.resnet import BASE_WIDTH
from repro.data.catalogue import find_dataset, required_root
from repro.data.splits import SPLITS
from repro.errors import UserError
from repro.filesystem.files import write_json, write_text
from repro.processes.distributed import await_file, computes_on_gpu, decided_by_first, rank, world_size
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.predictions import FileReference, reference
from repro.scenes.dataset import Scenes
from repro.settings.choices import InputFilter
from repro.settings.departures import Departure
from repro.settings.detection import COCO, VOC, DetectionSettings
from repro.settings.run import Run

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from downstream.detection.config import Scaling
    from downstream.detection.data import DetectionData
    from downstream.detection.trial import Trial

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class DetectionTask:
    """One of the two tasks."""

    name: str
    """`voc07+12` or `coco`."""

    def check(self, run: Run, target: Target, backbone: Backbone) -> None:
        """Checks what can be known before the data are opened.

        Args:
            run: `detection` is used.
            target: A data set in the task's layout, or built-in scenes.
            backbone: What the detectors are to be built on.

        Raises:
            UserError: detectron2 is missing, settings, backbone or data set do not fit, or a full schedule would take
                too long on this CPU.
        """
        require_detectron2()
        if backbone.width != BASE_WIDTH:  # detectron2 refuses basic blocks with other planes
            raise UserError(
                f"no detector can be built on a {run.encoder.network}",
                mend=f"a run with encoder.width={BASE_WIDTH}",
            )
        from downstream.detection.config import batch_on, resnet_of

        resnet_of(backbone.arch)
        batch_on(run.detection, world_size())
        if (find := _finder(self.name, target)) is not None:
            # Only looks for its parts: they are read when the data are opened, which takes minutes.
            find(required_root(target.root))
        settings = run.detection
        unbounded = not (settings.iterations or settings.force or settings.evaluate_only)
        if unbounded and not computes_on_gpu(run.machine.device):
            # Neither the classes nor the form of masks changes how long it takes.
            cfg, _ = self._config(settings, backbone, classes=1, mask_format="polygon", device=torch.device("cpu"))
            with quiet_detectron2():
                from downstream.detection.estimate import refuse_endless

                refuse_endless(cfg, settings.trials_of(self.name))

    def measure(self, run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
        """Trains and scores detectors on a finished run's backbone.

        Every trial keeps its checkpoints and scores below the run's `detection/`; finished trials are not repeated.

        Args:
            run: `detection`, `seed` and `machine` are used.
            folder: Of the run, with its `backbone.pth`.
            target: A data set in the task's layout, or built-in scenes.
            device: From `repro.processes.distributed.initialise`.

        Returns:
            A measurement for each number of `summary`; none on other ranks than 0.

        Raises:
            UserError: As in `check`, or the data are broken.
        """
        backbone = load_backbone_of(run, folder)
        self.check(run, target, backbone)
        with quiet_detectron2():
            data = open_data(self.name, run, target)
            trials = self.plan(run, folder, backbone, data, device)
            scores = [carry_out(trial, backbone, run.detection) for trial in trials]
        if rank():  # only rank 0 is given all detections, so it alone has scores
            return []
        departures = self.departures(run.detection, data)
        detections = detections_by_metric(trials)
        return [
            Measurement(trials[0].protocol, data.split, metric, value, departures, detections(metric))
            for metric, value in summary(scores).items()
        ]

    def plan(
        self, run: Run, folder: RunFolder, backbone: Backbone, data: "DetectionData", device: torch.device
    ) -> "list[Trial]":
        """Plans the trainings of a backbone, and logs their schedule as scaled to the devices at hand.

        Args:
            run: `detection`, `seed` and `machine` are used.
            folder: Of the run; the config is written below it.
            backbone: What the detectors are built on.
            data: What they are trained and scored on.
            device: From `repro.processes.distributed.initialise`.

        Returns:
            One trial for each training; they differ in their seeds alone.

        Raises:
            UserError: Settings do not fit.
        """
        from downstream.detection.trial import Trial

        settings = run.detection
        cfg, scaling = self._config(
            settings, backbone, classes=len(data.classes), mask_format=data.mask_format, device=device
        )
        protocol = settings.protocol(self.name, scaling.batch).name
        log.info("%s: %s", protocol, scaling)
        # Trial 0 of 5 is also trial 0 of 1: the folder's name leaves the number of trials out, so that no trial is
        # trained again if more are asked for later.
        trials_folder = (
            folder.path / TASK_FOLDERS[self.name] / f"{data.name}-{settings.protocol_of_one(self.name, scaling.batch)}"
        )
        if rank() == 0:
            write_text(trials_folder / "config.yaml", cfg.dump())  # detectron2 can read it back
        return [
            Trial(
                task=self.name,
                run_id=run.id,
                protocol=protocol,
                index=index,
                seed=stream_seed(run.seed, Purpose.trial, index),
                path=trials_folder / f"trial{index}",
                folder=folder,
                cfg=cfg,
                data=data,
                machine=run.machine,
                device=device,
            )
            for index in range(settings.trials_of(self.name))
        ]

    def _config(
        self, settings: DetectionSettings, backbone: Backbone, *, classes: int, mask_format: str, device: torch.device
    ) -> "tuple[CfgNode, Scaling]":
        """Returns detectron2's config of the task, and how its schedule was scaled to the devices at hand."""
        from downstream.detection.config import build_config

        return build_config(
            settings,
            schedule="voc_24k" if self.name == VOC else f"coco_{settings.coco_schedule}",
            arch=backbone.arch,
            classes=classes,
            mask_format=mask_format,
            devices=world_size(),
            device=str(device),
        )

    def departures(self, settings: DetectionSettings, data: "DetectionData") -> tuple[Departure, ...]:
        """Returns how the measurement is smaller than the paper's; any departure makes it *tiny*."""
        departures = list(settings.departures())
        if data.name != self.name:
            content = f"{self.name} on {data.name} ({len(data.classes)} classes, {len(data.train)} images)"
            departures.append(Departure("detection data", content))
        return tuple(departures)


def summary(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarises the scores of all trials.

    Args:
        scores: From `carry_out`, of each trial.

    Returns:
        For each AP the mean over the trials; of several trials also the sample standard deviation (`bbox_AP_std`) and
        each trial's own AP (`bbox_AP@trial=0`). The mean `seconds_per_iteration`, the largest `peak_memory_gib`, and
        the sum of `training_seconds` over all attempts.
    """
    numbers: dict[str, float] = {}
    for metric in (name for name in scores[0] if "_AP" in name):
        values = [trial[metric] for trial in scores]
        numbers[metric] = statistics.fmean(values)
        if len(values) > 1:
            numbers[f"{metric}_std"] = statistics.stdev(values)
            numbers |= {f"{metric}@trial={index}": value for index, value in enumerate(values)}
    numbers["seconds_per_iteration"] = statistics.fmean(trial["seconds_per_iteration"] for trial in scores)
    numbers["peak_memory_gib"] = max(trial["peak_memory_gib"] for trial in scores)
    numbers["training_seconds"] = sum(trial["training_seconds"] for trial in scores)
    return numbers


def detections_by_metric(trials: "Sequence[Trial]") -> Callable[[str], FileReference | None]:
    """Returns a function from a metric to its file of detections: the AP of a single trial has that trial's file.

    All other metrics, such as a mean over several trials, have no file.
    """
    files: dict[str, FileReference] = {}
    for trial in trials:
        if trial.detections.exists():
            files[f"@trial={trial.index}"] = reference(trial.detections, trial.folder, trial.detections.read_bytes())

    def of_metric(metric: str) -> FileReference | None:
        name, at, trial = metric.partition("@")
        is_precision = "_AP" in name and not name.endswith("_std")
        return files.get(at + trial if at or len(trials) > 1 else "@trial=0") if is_precision else None

    return of_metric


def carry_out(trial: "Trial", backbone: Backbone, settings: DetectionSettings) -> dict[str, float]:
    """Trains and scores one trial, or reads its recorded scores; `scores.json` is written last.

    Args:
        trial: What to train.
        backbone: What the detector is built on.
        settings: `evaluate_only` and `high_pass_input` are used.

    Returns:
        Its APs, `seconds_per_iteration`, `peak_memory_gib` and `training_seconds`. On other ranks than 0 nothing,
        unless the scores were read.

    Raises:
        UserError: Only evaluation is asked for and nothing is trained, or a checkpoint does not fit.
    """
    from downstream.detection.evaluation import evaluate_detector
    from downstream.detection.model import build_detector
    from downstream.detection.resume import load_trained
    from downstream.detection.training import train

    earlier_scores, has_detections, trained = decided_by_first(
        lambda: (trial.recorded_scores(), trial.detections.exists(), trial.final.exists())
    )
    # If the file of detections is gone but the trained detector is there, the detector is scored again.
    if earlier_scores and not settings.evaluate_only and (has_detections or not trained):
        return earlier_scores
    if settings.evaluate_only and not trained:
        raise UserError(f"{trial.path} has no trained detector", mend="leave out detection.evaluate_only")
    if trained:
        await_file(trial.final)
    trial.path.mkdir(parents=True, exist_ok=True)
    if trial.device.type == "cuda":  # so that the peak does not include earlier trials
        torch.cuda.reset_peak_memory_stats(trial.device)
    high_passed = settings.high_pass_input and backbone.input_filter == InputFilter.high_pass
    # detectron2 draws from torch's global generators, and the trainer seeds them at each step. They are restored for
    # whatever else runs in this process.
    with torch.random.fork_rng([trial.device] if trial.device.type == "cuda" else []):
        torch.manual_seed(stream_seed(trial.seed, Purpose.initialisation))
        model = build_detector(trial.cfg, backbone, high_passed=high_passed)
        cost = load_trained(trial, model) if trained else train(trial, model)
    scores = evaluate_detector(trial, model)
    if rank():
        return {}
    scores |= {
        "seconds_per_iteration": cost.seconds / trial.cfg.SOLVER.MAX_ITER,
        "peak_memory_gib": cost.peak_memory_gib,  # of the training, not of the scoring
        "training_seconds": cost.seconds,
    }
    write_json(trial.scores, {**trial.scored_identity(), "scores": scores})
    precisions = ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if "_AP" in name)
    log.info("%s trial %d: %s", trial.task, trial.index, precisions)
    return scores


def open_data(task: str, run: Run, target: Target) -> "DetectionData":
    """Opens the images of a task.

    Args:
        task: `voc07+12` or `coco`.
        run: `detection.scene_objects` and `machine.workers` are used.
        target: A data set in the task's layout, or built-in scenes.

    Raises:
        UserError: The task cannot be done on this data set, or its root is broken.
    """
    from downstream.detection.data import open_coco, open_voc
    from downstream.detection.drawn import open_scenes

    if _finder(task, target) is not None:
        open_layout = open_voc if task == VOC else open_coco
        return open_layout(required_root(target.root), target.dataset)
    train, test = (
        Scenes.by_settings(split, target.scenes, objects=run.detection.scene_objects, cutouts=target.root)
        for split in SPLITS
    )
    return open_scenes(task, train, test, target.dataset, workers=run.machine.workers)


def _finder(task: str, target: Target) -> Callable[[Path], object] | None:
    """Returns the function that looks for a task's layout below a root; None for scenes, which are drawn.

    Raises:
        UserError: The data set is of another layout, or without boxes.
    """
    entry, layout = find_dataset(target.dataset), find_dataset(task)
    if entry.generated:
        return None
    if entry.find is not layout.find:
        what = "which has another layout" if entry.find else "which has no boxes"
        mend = f"--data {task}, --data scenes, or a data set of your own in its layout (docs/extend.md)"
        raise UserError(f"{task} cannot be done on {target.dataset}, {what}", mend=mend)
    return layout.find


def require_detectron2() -> None:
    """Checks that detectron2 is installed, without importing it.

    Raises:
        UserError: It is not installed; says how to get it.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise UserError(
            "detection and segmentation need detectron2, which is not installed",
            mend="make setup, or pip install '.[detection]' && python tools/get_detectron2.py",
        )


@contextmanager
def quiet_detectron2() -> Iterator[None]:
    """Keeps detectron2's own messages and warnings out of the log; our messages say what matters.

    The loggers' levels are restored afterwards.
    """
    quiet_levels = dict.fromkeys(("detectron2", "fvcore", "iopath", "torch.fx._symbolic_trace"), logging.ERROR)
    # Its trainer logs a traceback of each error before it raises it again; a UserError is to be one line.
    quiet_levels["detectron2.engine.train_loop"] = logging.CRITICAL
    levels_before = {name: logging.getLogger(name).level for name in quiet_levels}
    for name, level in quiet_levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            for pattern in (".*torch.jit.script.*", "torch.meshgrid.*", "The given NumPy array is not writable"):
                warnings.filterwarnings("ignore", message=pattern)
            yield
    finally:
        for name, level in levels_before.items():
            logging.getLogger(name).setLevel(level)


VOC_TASK, COCO_TASK = (DetectionTask(name) for name in (VOC, COCO))
"""The tasks, for `downstream.tasks`."""
