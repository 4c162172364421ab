"""Detectors that train in seconds, on scenes in the layouts of VOC and COCO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from training_samples import CPU, TINY, tiny, with_random_backbone

from repro.data.annotations.scenes_export import write_coco, write_voc
from repro.runs.folder import RunFolder
from repro.scenes.dataset import Scenes
from repro.settings.detection import VOC, DetectionSettings
from repro.settings.run import Run

pytest.importorskip("detectron2")

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import nn
from torchvision.models import get_model

from downstream.detection.config import Scaling, build_config
from downstream.detection.data import DetectionData, open_coco, open_voc
from downstream.detection.model import build_detector
from downstream.detection.task import DetectionTask, quiet_detectron2
from downstream.detection.training import train
from downstream.detection.trial import Trial
from repro.backbones.backbone import Backbone, load_backbone

DETECTION: Mapping[str, Any] = {
    "data.scenes.classes": 4,
    "data.scenes.train_count": 10,
    "data.scenes.val_count": 6,
    "encoder.width": 64,  # no detector is built on a narrower network
    "detection.iterations": 4,
    "detection.min_size": 32,
    "detection.rois": 8,
    "detection.trials": 1,
    "machine.checkpoint_every": 2,
}
SETTINGS = {**TINY, **DETECTION}


def detection_words() -> list[str]:
    """The settings of these that an evaluation takes, as a command line has them."""
    return [f"{key}={value}" for key, value in SETTINGS.items() if key.startswith(("detection.", "machine."))]


def scenes(split: Any, count: int, objects: int = 2) -> Scenes:
    return Scenes(split, count=count, classes=4, size=64, seed=0, objects=objects)


def scenes_as(layout: str, root: Path, train: int = 10, test: int = 6) -> Path:
    write = {"voc": write_voc, "coco": write_coco}[layout]
    return write(root, scenes("train", train), scenes("val", test))


def data_of(task: str, root: Path) -> DetectionData:
    return open_voc(root, "scenes") if task == VOC else open_coco(root, "scenes")


def prepared(out: Path, changes: Mapping[str, Any] | None = None, input_filter: str = "none") -> tuple[Run, RunFolder]:
    """A run with an untrained backbone, and its folder."""
    run = tiny("mocov2", {**DETECTION, **(changes or {})})
    return run, with_random_backbone(run, out, input_filter)


def planned(run: Run, folder: RunFolder, data: DetectionData, task: str = VOC) -> tuple[Trial, Backbone]:
    """The first trial of a run."""
    backbone = load_backbone(folder.backbone)
    with quiet_detectron2():
        return DetectionTask(task).plan(run, folder, backbone, data, CPU)[0], backbone


def narrow(cfg: CfgNode) -> CfgNode:
    """The same detector with few channels, for tests that do not depend on the network's width."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.RESNETS.DEPTH = 50  # detectron2 builds no narrow ResNet-18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    return cfg


def begin(trial: Trial, backbone: Backbone) -> GeneralizedRCNN:
    trial.path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return build_detector(trial.cfg, backbone, high_passed=False)


def trained_detector(trial: Trial, backbone: Backbone) -> dict[str, Any]:
    with quiet_detectron2():
        train(trial, begin(trial, backbone))
    return torch.load(trial.final, weights_only=True)


def config(
    settings: DetectionSettings | None = None, *, arch: str = "resnet50", schedule: str = "voc_24k", devices: int = 8
) -> tuple[CfgNode, Scaling]:
    return build_config(
        settings or DetectionSettings(),
        schedule=schedule,
        arch=arch,
        classes=20,
        mask_format="polygon",
        devices=devices,
        device="cpu",
    )


def backbone_of(arch: str, input_filter: str = "none") -> Backbone:
    """Random weights, and running statistics other than the defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = get_model(arch, weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, 0, 0.1)
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.7, 1.3)
    width = network.fc.in_features
    network.fc = nn.Identity()
    return Backbone(network, arch, input_filter, width, "run")
