"""How long a training would take here, from a few seconds of it."""

import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from downstream.detection.model import build_network

PROBE_SIDE = 224
"""Pixels of the image that is timed."""
PROBE_REGIONS = (8, 24)
ASPECT = 4 / 3
"""Of a usual photograph."""


def seconds_per_image(cfg: CfgNode) -> float:
    """Forward and backward of one training image, extrapolated from a small one with few regions.

    The backbone's time goes with the pixels, the heads' with the regions: two timings tell the two apart.

    Args:
        cfg: of the training.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = False  # a small part of it, and the timed image has no mask
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 4 * max(PROBE_REGIONS)
    side = max(cfg.INPUT.MIN_SIZE_TRAIN)
    model = build_network(cfg).train()
    few, many = (_seconds(model, regions) for regions in PROBE_REGIONS)
    region = max(0.0, many - few) / (PROBE_REGIONS[1] - PROBE_REGIONS[0])
    image = max(0.0, few - region * PROBE_REGIONS[0])
    pixels = side * min(cfg.INPUT.MAX_SIZE_TRAIN, side * ASPECT)
    regions: int = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    return image * pixels / PROBE_SIDE**2 + region * regions


def _seconds(model: Any, regions: int) -> float:
    model.roi_heads.batch_size_per_image = regions
    instances = Instances((PROBE_SIDE, PROBE_SIDE))
    instances.gt_boxes = Boxes(torch.tensor([[20.0, 20.0, 120.0, 120.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    image = torch.zeros(3, PROBE_SIDE, PROBE_SIDE, dtype=torch.uint8)
    times = []
    with EventStorage():
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            sum(model([{"image": image, "instances": instances}]).values()).backward()
            times.append(time.perf_counter() - started)
    return min(times)
