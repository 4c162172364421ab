"""MoCo's detection settings as a detectron2 config, scaled linearly to the devices at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from repro.backbones.convert import DETECTRON2_RESNETS
from repro.errors import UserError
from repro.quantities import counted
from repro.settings.detection import IMAGES_PER_DEVICE, REFERENCE_BATCH, DetectionHead, DetectionSettings

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the YAML files that a config is merged from."""
NARROW = (18, 34)
"""Depths of ResNets with basic blocks, whose stages are four times narrower than those of bottleneck blocks."""


@dataclass(frozen=True)
class Scaling:
    """A schedule after linear scaling to the batch."""

    batch: int
    """Images a step over all devices."""
    devices: int
    """How many processes train."""
    lr: float
    """Learning rate after the warm-up."""
    iterations: int
    """Steps of the whole training."""
    warmup: int
    """Steps of the warm-up."""
    steps: tuple[int, ...]
    """Steps after which the learning rate falls to a tenth."""

    def __str__(self) -> str:
        """The schedule in one line for the log."""
        falls = f", x0.1 at {', '.join(map(str, self.steps))}" if self.steps else ""
        return (
            f"{counted(self.devices, 'device')}, batch {self.batch} (reference {REFERENCE_BATCH}): "
            f"learning rate {self.lr:g}, {self.iterations} iterations, warm-up {self.warmup}{falls}"
        )


def resnet_of(arch: str) -> Mapping[str, Any]:
    """Returns the values of `MODEL.RESNETS` for a backbone, by torchvision's name.

    Raises:
        UserError: No detector can be built on it.
    """
    if arch not in DETECTRON2_RESNETS:
        known = ", ".join(DETECTRON2_RESNETS)
        raise UserError(f"no detector can be built on a {arch}", mend=f"a run with encoder.arch one of {known}")
    return DETECTRON2_RESNETS[arch]


def batch_on(settings: DetectionSettings, devices: int) -> int:
    """Returns how many images a step takes over all devices.

    Args:
        settings: `batch` is used; 0 stands for two images per device, but 16 at most.
        devices: How many processes train.

    Raises:
        UserError: The devices cannot share the batch evenly.
    """
    batch = settings.batch or min(REFERENCE_BATCH, IMAGES_PER_DEVICE * devices)
    if batch % devices:
        raise UserError(
            f"a detection batch of {batch} cannot be shared by {devices} processes",
            mend=f"detection.batch={-(-batch // devices) * devices}",  # the next larger multiple
        )
    return batch


def scale(cfg: CfgNode, settings: DetectionSettings, devices: int) -> Scaling:
    """Scales the schedule of a merged config to the batch, in place (linear rule, as detectron2's auto_scale_workers).

    The learning rate grows with the batch, and the iterations shrink with it. Where `iterations` is set, the schedule
    keeps its shape.

    Args:
        cfg: With the reference schedule for a batch of 16.
        settings: `batch`, `iterations` and `base_lr` are used.
        devices: How many processes train.

    Returns:
        The schedule that is in `cfg.SOLVER` now.

    Raises:
        UserError: The devices cannot share the batch evenly.
    """
    batch, solver = batch_on(settings, devices), cfg.SOLVER
    share = batch / REFERENCE_BATCH
    iterations = settings.iterations or round(solver.MAX_ITER / share)
    shape = iterations / solver.MAX_ITER
    # A short schedule needs as long a warm-up as a long one, but it takes a tenth of the steps at most.
    warmup = max(1, min(iterations // 10, round(solver.WARMUP_ITERS / share)))
    scaling = Scaling(
        batch=batch,
        devices=devices,
        lr=settings.base_lr * share,
        iterations=iterations,
        warmup=warmup,
        # In a very short schedule two steps may coincide, be rounded to 0, which detectron2 refuses, or be rounded to
        # the end, where they would have no effect.
        steps=tuple(sorted({min(round(step * shape), iterations - 1) for step in solver.STEPS} - {0})),
    )
    solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER = scaling.batch, scaling.lr, scaling.iterations
    solver.STEPS, solver.WARMUP_ITERS = scaling.steps, scaling.warmup
    # detectron2 estimates running statistics over 200 batches of any size; a shorter training needs no more batches
    # than it was trained on.
    cfg.TEST.PRECISE_BN.NUM_ITER = min(cfg.TEST.PRECISE_BN.NUM_ITER, iterations)
    return scaling


def build_config(
    settings: DetectionSettings, *, schedule: str, arch: str, classes: int, mask_format: str, devices: int, device: str
) -> tuple[CfgNode, Scaling]:
    """Builds the whole config of a training.

    Args:
        settings: Of the run.
        schedule: Name of a file in `configs/`: `voc_24k`, `coco_1x` or `coco_2x`.
        arch: torchvision's name of the backbone.
        classes: Number of classes of the data set.
        mask_format: `polygon` or `bitmask`, as the data set has its masks.
        devices: How many processes train.
        device: `cpu` or `cuda`, which may have a number.

    Returns:
        A frozen config, and the scaling in it.

    Raises:
        UserError: No detector can be built on this backbone, or the devices cannot share the batch.
    """
    resnet = resnet_of(arch)
    cfg = get_cfg()
    # Each file wins over those before it: what all trainings have in common, then the detector, then the schedule.
    for name in ("transfer", f"head_{settings.head.value}", schedule):
        cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    norm = norm_of(devices)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.RESNETS.update(resnet)
    cfg.MODEL.RESNETS.NORM = norm
    if settings.head is DetectionHead.fpn:
        cfg.MODEL.FPN.NORM = norm
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.INPUT.MASK_FORMAT = mask_format
    if settings.min_size:
        # The limit of the long side grows with a short side above the reference. Otherwise it would cap the short side
        # of 4:3 images at 1000 px, although the protocol's name says more.
        growth = max(1.0, settings.min_size / cfg.INPUT.MIN_SIZE_TEST)
        cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = round(growth * cfg.INPUT.MAX_SIZE_TEST)
        cfg.INPUT.MIN_SIZE_TRAIN = (settings.min_size,)
        cfg.INPUT.MIN_SIZE_TEST = settings.min_size
    if settings.rois:  # proposals shrink with the regions that are sampled from them
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.rois
        cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2 * settings.rois
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 2 * settings.rois
    scaling = scale(cfg, settings, devices)
    cfg.freeze()
    return cfg, scaling


def norm_of(devices: int) -> str:
    """Returns detectron2's name of a batch norm over all devices.

    For several devices it is detectron2's own synchronised norm, as in MoCo: unlike torch's, it works on CPUs, too.
    """
    return "naiveSyncBN" if devices > 1 else "BN"
