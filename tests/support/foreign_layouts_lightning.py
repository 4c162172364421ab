"""Checkpoints as PyTorch Lightning writes them, of Lightly's and solo-learn's modules.

Each is checked against the source that its function names.
"""

from typing import Any

import torch
from foreign_parts import Layout, headless, mlp, module, momentum_buffers, sequential
from omegaconf import OmegaConf
from torch import nn


def _lightning(model: nn.Module, settings: object) -> dict[str, Any]:
    return {
        "epoch": 99,
        "global_step": 500_400,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.6)}},
        "optimizer_states": [momentum_buffers()],
        "hparams_name": "kwargs",
        "hyper_parameters": settings,
    }


def lightly_moco_v2() -> Layout:
    # benchmarks/imagenet/resnet50/mocov2.py
    backbone = headless(0)
    model = module(
        backbone=backbone,
        projection_head=module(layers=mlp()),
        key_backbone=headless(1),
        key_projection_head=module(layers=mlp()),
        criterion=module(memory_bank=module(bank=torch.zeros(8, 64))),
        online_classifier=module(classification_head=nn.Linear(512, 10)),
    )
    return Layout(_lightning(model, {"batch_size_per_device": 128}), backbone, "state_dict.backbone.")


def lightly_byol() -> Layout:
    # benchmarks/imagenet/resnet50/byol.py
    backbone = headless(0)
    heads = {name: module(layers=mlp()) for name in ("projection_head", "prediction_head", "teacher_projection_head")}
    model = module(backbone=backbone, teacher_backbone=headless(1), **heads)
    return Layout(_lightning(model, {"num_classes": 1000}), backbone, "state_dict.backbone.")


def lightly_swav() -> Layout:
    # benchmarks/imagenet/resnet50/swav.py
    backbone = headless(0)
    prototypes = module(heads=nn.ModuleList([nn.Linear(8, 30, bias=False)]))
    model = module(backbone=backbone, projection_head=module(layers=mlp()), prototypes=prototypes)
    return Layout(_lightning(model, {"num_classes": 1000}), backbone, "state_dict.backbone.")


def lightly_example() -> Layout:
    # examples/pytorch_lightning/moco.py: the children of a ResNet without fc in a Sequential
    backbone = sequential(0)
    model = module(
        backbone=backbone,
        projection_head=module(layers=mlp()),
        backbone_momentum=sequential(1),
        projection_head_momentum=module(layers=mlp()),
    )
    return Layout(_lightning(model, {}), backbone, "state_dict.backbone.")


def lightly_parameters() -> Layout:
    # docs: torch.save({"resnet18_parameters": backbone.state_dict()}, "model.pth")
    backbone = sequential(0)
    return Layout({"resnet18_parameters": backbone.state_dict()}, backbone, "resnet18_parameters.")


def solo_learn() -> Layout:
    # solo/methods/mocov2plus.py, base.py; the settings are OmegaConf's
    backbone = headless(0)
    model = module(
        backbone=backbone,
        classifier=nn.Linear(512, 10),
        momentum_backbone=headless(1),
        projector=mlp(),
        momentum_projector=mlp(),
        queue=torch.zeros(2, 8, 64),
    )
    settings = OmegaConf.create({"backbone": {"name": "resnet18"}, "data": {"dataset": "imagenet100"}})
    return Layout(_lightning(model, settings), backbone, "state_dict.backbone.")


def lightly_dino() -> dict[str, Any]:
    # benchmarks/imagenet/resnet50/dino.py: `backbone` is the teacher
    model = module(
        backbone=headless(1),
        projection_head=module(layers=mlp()),
        student_backbone=headless(0),
        student_projection_head=module(layers=mlp()),
    )
    return _lightning(model, {})


def lightly_moco_v2_early() -> dict[str, Any]:
    # benchmarks/imagenet/resnet50/mocov2.py of 00283d7: there `backbone` is the key
    model = module(backbone=headless(1), projection_head=mlp(), query_backbone=headless(0), query_projection_head=mlp())
    return _lightning(model, {})
