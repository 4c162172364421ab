"""Checkpoints as other libraries lay them out: real modules under the names of each library's own code.

Each layout is checked against the source that its function names; the networks are torchvision's, small, and their
batch norms have seen something, so that a statistic in the wrong place shows.
"""

import copy
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from mmengine.logging import HistoryBuffer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import ResNet, get_model


@dataclass
class Layout:
    """A file's content, and the network in it that is to be evaluated."""

    content: dict[str, Any]
    source: nn.Module
    prefix: str


def network(seed: int, arch: str = "resnet18") -> ResNet:
    """A ResNet with random weights and statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resnet = get_model(arch, weights=None)
        for module in resnet.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return resnet.eval()


def module(**children: nn.Module | Tensor) -> nn.Module:
    """A module with these children and buffers."""
    parent = nn.Module()
    for name, child in children.items():
        if isinstance(child, nn.Module):
            parent.add_module(name, child)
        else:
            parent.register_buffer(name, child)
    return parent


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def headless(seed: int) -> ResNet:
    resnet = network(seed)
    resnet.fc = nn.Identity()
    return resnet


def with_head(seed: int) -> ResNet:
    resnet = network(seed)
    resnet.fc = mlp()
    return resnet


def ddp(wrapped: nn.Module) -> dict[str, Tensor]:
    """The state of a module in DistributedDataParallel, or DataParallel."""
    return module(module=wrapped).state_dict()


def sequential(seed: int) -> nn.Sequential:
    return nn.Sequential(*list(network(seed).children())[:-1])


def momentum_buffers() -> dict[str, Any]:
    return {"state": {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}}, "param_groups": [{"lr": 0.03}]}


def torchvision() -> Layout:
    resnet = network(0)
    return Layout(resnet.state_dict(), resnet, "")


def torchvision_references() -> Layout:
    # vision/references/classification/train.py, with --model-ema
    resnet = network(0)
    content = {
        "model": resnet.state_dict(),
        "optimizer": momentum_buffers(),
        "epoch": 90,
        "args": Namespace(model="resnet18"),
        "model_ema": AveragedModel(network(1)).state_dict(),
    }
    return Layout(content, resnet, "model.")


def timm_weights() -> Layout:
    resnet = timm.create_model("resnet18", pretrained=False, num_classes=10)
    resnet.load_state_dict({k: v for k, v in network(0).state_dict().items() if "fc." not in k}, strict=False)
    return Layout(resnet.state_dict(), resnet, "")


def timm_train() -> Layout:
    # timm/utils/checkpoint_saver.py
    layout = timm_weights()
    content = {
        "epoch": 9,
        "arch": "resnet18",
        "state_dict": layout.content,
        "optimizer": momentum_buffers(),
        "version": 2,
        "args": Namespace(model="resnet18"),
        "state_dict_ema": network(1).state_dict(),
        "metric": np.float64(70.5),
    }
    return Layout(content, layout.source, "state_dict.")


def moco_v2() -> Layout:
    # moco/builder.py, main_moco.py: moco_v2_800ep_pretrain.pth.tar
    query = with_head(0)
    queue = {"queue": torch.zeros(8, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    state = ddp(module(encoder_q=query, encoder_k=with_head(1), **queue))
    content = {"epoch": 800, "arch": "resnet18", "state_dict": state, "optimizer": momentum_buffers()}
    return Layout(content, query, "state_dict.module.encoder_q.")


def moco_v3() -> Layout:
    # moco-v3/moco/builder.py
    base = with_head(0)
    state = ddp(module(base_encoder=base, momentum_encoder=with_head(1), predictor=mlp()))
    content = {"epoch": 1000, "arch": "resnet18", "state_dict": state, "scaler": {"scale": 65536.0}}
    return Layout(content, base, "state_dict.module.base_encoder.")


def simsiam() -> Layout:
    # simsiam/builder.py
    encoder = with_head(0)
    content = {"epoch": 100, "arch": "resnet18", "state_dict": ddp(module(encoder=encoder, predictor=mlp()))}
    return Layout(content, encoder, "state_dict.module.encoder.")


def barlow_twins() -> Layout:
    # barlowtwins/main.py
    backbone = headless(0)
    norm = nn.BatchNorm1d(8, affine=False)
    content = {"epoch": 1000, "model": ddp(module(backbone=backbone, projector=mlp(), bn=norm))}
    return Layout({**content, "optimizer": momentum_buffers()}, backbone, "model.module.backbone.")


def _swav(prototypes: nn.Module) -> ResNet:
    # swav/src/resnet50.py: heads and prototypes are children of the ResNet itself
    resnet = network(0)
    del resnet.fc
    resnet.projection_head, resnet.prototypes = mlp(), prototypes
    return resnet


def swav() -> Layout:
    # swav_800ep_pretrain.pth.tar: the state of the wrapped network alone
    resnet = _swav(nn.Linear(8, 30, bias=False))
    return Layout(ddp(resnet), resnet, "module.")


def deepcluster_v2() -> Layout:
    # swav/main_deepclusterv2.py: checkpoint.pth.tar
    heads = [nn.Linear(8, 30, bias=False) for _ in range(2)]
    resnet = _swav(module(prototypes0=heads[0], prototypes1=heads[1]))
    content = {"epoch": 400, "state_dict": ddp(resnet), "optimizer": momentum_buffers()}
    return Layout(content, resnet, "state_dict.module.")


def dino(evaluated: str = "teacher") -> Layout:
    # dino/main_dino.py, dino/utils.py's MultiCropWrapper; where there are batch norms both networks are wrapped
    networks = {"student": headless(0), "teacher": headless(1)}
    states = {name: ddp(module(backbone=resnet, head=module(mlp=mlp()))) for name, resnet in networks.items()}
    content = {
        **states,
        "optimizer": momentum_buffers(),
        "epoch": 800,
        "args": Namespace(arch="resnet18", data_path="/data"),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
    return Layout(content, networks[evaluated], f"{evaluated}.module.backbone.")


def _vissl(seed: int) -> tuple[ResNet, dict[str, dict[str, Tensor]]]:
    # vissl/models/base_ssl_model.py: get_classy_state; trunks/resnext.py holds its layers in `_feature_blocks`
    resnet = network(seed)
    blocks = nn.ModuleDict({name: child for name, child in resnet.named_children() if name != "fc"})
    trunk, heads = module(_feature_blocks=blocks), nn.ModuleList([module(clf=mlp())])
    return resnet, {"trunk": trunk.state_dict(), "heads": heads.state_dict()}


def vissl() -> Layout:
    resnet, model = _vissl(0)
    _, momentum = _vissl(1)
    # losses/moco_loss.py: the key's encoder and the queue are the loss's
    loss = {f"moco_encoder.{part}.{name}": value for part in momentum for name, value in momentum[part].items()}
    content = {
        "phase_idx": 199,
        "iteration": 100_000,
        "loss": {"name": "moco_loss"},
        "type": "consolidated",
        "classy_state_dict": {
            "train": True,
            "base_model": {"model": model, "meta": {"trunk": {}}},
            "meters": [{"name": "accuracy", "top_k": [1, 5]}],
            "optimizer": {"optim": momentum_buffers()},
            "train_phase_idx": 199,
            "losses": [np.float32(6.2)],
            "loss": {**loss, "moco_queue": torch.zeros(8, 64)},
        },
    }
    return Layout(content, resnet, "classy_state_dict.base_model.model.trunk._feature_blocks.")


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


def mmselfsup() -> Layout:
    # mmselfsup 1.0 models/algorithms/moco.py on mmengine's runner, whose message hub holds history buffers
    backbone = headless(0)
    momentum = AveragedModel(nn.Sequential(headless(1), module(mlp=mlp())))
    state = module(backbone=backbone, neck=module(mlp=mlp()), encoder_k=momentum, queue=torch.zeros(8, 64)).state_dict()
    content = {
        "meta": {"epoch": 200, "cfg": "model = dict(type='MoCo')"},
        "state_dict": state,
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([6.2], [1])}},
        "optimizer": momentum_buffers(),
    }
    return Layout(content, backbone, "state_dict.backbone.")


def open_self_sup() -> Layout:
    # openselfsup/models/moco.py: `backbone` is the first part of `encoder_q`, and both are children
    backbone = headless(0)
    state = module(
        encoder_q=nn.Sequential(backbone, module(mlp=mlp())),
        encoder_k=nn.Sequential(headless(1), module(mlp=mlp())),
        backbone=backbone,
        queue=torch.zeros(8, 64),
    ).state_dict()
    return Layout({"meta": {"epoch": 200}, "state_dict": state}, backbone, "state_dict.backbone.")


def compiled() -> Layout:
    # torch.compile of the whole, in DistributedDataParallel
    backbone = network(0)
    whole = torch.compile(module(encoder=backbone, head=mlp()))
    assert isinstance(whole, nn.Module)
    return Layout({"model_state_dict": ddp(whole)}, backbone, "model_state_dict.module.encoder.")


def compiled_parts() -> Layout:
    # torch.compile of single stages
    backbone = network(0)
    compiled = copy.deepcopy(backbone)
    compiled.layer1, compiled.layer4 = torch.compile(compiled.layer1), torch.compile(compiled.layer4)
    state = compiled.state_dict()
    assert any(name.startswith("layer1._orig_mod.") for name in state)
    return Layout(state, backbone, "")


def encoder_with_heads() -> Layout:
    # heads as children of the encoder, under names of one's own
    encoder = network(0)
    encoder.projection, encoder.predictor, encoder.queue_proj = mlp(), mlp(), nn.Linear(8, 8)
    return Layout({"model": module(encoder=encoder).state_dict()}, encoder, "model.encoder.")


def without_counters() -> Layout:
    resnet = network(0)
    state = {name: value for name, value in resnet.state_dict().items() if not name.endswith("num_batches_tracked")}
    return Layout(state, resnet, "")


def salmask() -> Layout:
    resnet = headless(0)
    facts = {"format": 1, "arch": "resnet18", "input_filter": "high_pass", "run_id": "x"}
    return Layout({**facts, "state_dict": resnet.state_dict()}, resnet, "state_dict.")


ACCEPTED: dict[str, Callable[[], Layout]] = {
    function.__name__: function
    for function in (
        torchvision,
        torchvision_references,
        timm_weights,
        timm_train,
        moco_v2,
        moco_v3,
        simsiam,
        barlow_twins,
        swav,
        deepcluster_v2,
        vissl,
        lightly_moco_v2,
        lightly_byol,
        lightly_swav,
        lightly_example,
        lightly_parameters,
        solo_learn,
        mmselfsup,
        open_self_sup,
        compiled,
        compiled_parts,
        encoder_with_heads,
        without_counters,
        salmask,
    )
}
"""Layouts in which one network is the one to evaluate."""


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


AMBIGUOUS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "dino": (lambda: dino().content, ("student.module.backbone.", "teacher.module.backbone.")),
    "lightly_dino": (lightly_dino, ("state_dict.backbone.", "state_dict.student_backbone.")),
    "lightly_moco_v2_early": (
        lightly_moco_v2_early,
        ("state_dict.backbone.", "state_dict.query_backbone."),
    ),
    "bare_beside_another": (
        lambda: {**network(0).state_dict(), "other": network(1).state_dict()},
        (".", "other."),
    ),
}
"""Layouts in which one network must be named, with the prefixes to choose from."""


def features(source: nn.Module, images: Tensor) -> Tensor:
    """What the source network computes: B×3×H×W -> B×512, the mean over the last stage."""
    stages: dict[str, nn.Module] = dict(source.named_children())
    if isinstance(source, nn.Sequential):
        maps = source[:8](images)
    else:
        first = stages.get("act1") or stages["relu"]  # timm's name of the first ReLU
        maps = stages["maxpool"](first(stages["bn1"](stages["conv1"](images))))
        for number in range(1, 5):
            maps = stages[f"layer{number}"](maps)
    return maps.mean((2, 3))
