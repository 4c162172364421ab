"""Estimates how long a training would take on this machine, from a few seconds of it, and refuses endless ones."""

import time
from statistics import mean
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from downstream.detection.config import norm_of
from downstream.detection.model import build_network
from repro.errors import UserError
from repro.processes.distributed import decided_by_first, world_size
from repro.quantities import counted, duration_text

PROBE_SIDE = 224
"""Side of the image that is timed, in pixels."""
PROBE_REGIONS = (8, 24)
"""Numbers of regions in the two timings."""
ASPECT = 4 / 3
"""Long side of a usual photograph over its short side."""
PATIENCE_HOURS = 12
"""How long a full schedule may take on a CPU before it is refused."""


def seconds_per_image(cfg: CfgNode) -> float:
    """Estimates the seconds of a forward and backward pass of one training image.

    They are extrapolated from a small image with few regions: the backbone's time grows with the pixels, the heads'
    with the regions, and two timings tell the two apart.

    Args:
        cfg: detectron2's config of the training; left as it is.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # Norms over all devices would wait for the other processes, which measure nothing.
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = norm_of(1)
    cfg.MODEL.MASK_ON = False  # masks take a small part of the time, and the timed image has none
    # Enough proposals for the most regions that are sampled from them.
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 4 * max(PROBE_REGIONS)
    # Each image gets one of these sides, with equal probability.
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    model = build_network(cfg).train()
    few_regions, many_regions = (_seconds(model, regions) for regions in PROBE_REGIONS)
    # On a busy machine the noise of the timings may exceed their difference; an estimate must not be negative.
    per_region = max(0.0, many_regions - few_regions) / (PROBE_REGIONS[1] - PROBE_REGIONS[0])
    probe_image = max(0.0, few_regions - per_region * PROBE_REGIONS[0])
    pixels = mean(side * min(cfg.INPUT.MAX_SIZE_TRAIN, side * ASPECT) for side in sides)
    regions: int = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    return probe_image * pixels / PROBE_SIDE**2 + per_region * regions


def refuse_endless(cfg: CfgNode, trials: int) -> None:
    """Refuses a full schedule that would take too long on this CPU, by a measurement; called on every rank.

    Args:
        cfg: detectron2's config of one training.
        trials: How many trainings there are to be.

    Raises:
        UserError: It would take longer than `PATIENCE_HOURS`.
    """
    # Rank 0 measures for all, because each rank would measure another time and could decide differently.
    seconds = decided_by_first(lambda: seconds_per_image(cfg)) * cfg.SOLVER.IMS_PER_BATCH / world_size()
    hours = seconds * cfg.SOLVER.MAX_ITER * trials / 3600
    if hours > PATIENCE_HOURS:
        raise UserError(
            f"no GPU: {counted(trials, 'training')} of {cfg.SOLVER.MAX_ITER} iterations at about {seconds:.1f} s each "
            f"would take {duration_text(3600 * hours)} here",
            mend="a GPU, a smaller schedule (detection.iterations, detection.rois, detection.min_size, "
            "detection.trials), or detection.force=true",
        )


def _seconds(model: Any, regions: int) -> float:
    """Times a forward and backward pass of one image with one object and `regions` regions, in seconds."""
    model.roi_heads.batch_size_per_image = regions
    instances = Instances((PROBE_SIDE, PROBE_SIDE))
    instances.gt_boxes = Boxes(torch.tensor([[20.0, 20.0, 120.0, 120.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    image = torch.zeros(3, PROBE_SIDE, PROBE_SIDE, dtype=torch.uint8)
    times = []
    with EventStorage():
        for _ in range(2):  # the first pass warms up
            started = time.perf_counter()
            sum(model([{"image": image, "instances": instances}]).values()).backward()
            times.append(time.perf_counter() - started)
    return min(times)
