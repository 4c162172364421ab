"""Checkpoints as others lay them out, each checked against the source that its function names.

Those of Lightning's modules are in `foreign_layouts_lightning.py`.
"""

import copy
from argparse import Namespace

import numpy as np
import timm
import torch
from foreign_parts import Layout, ddp, headless, mlp, module, momentum_buffers, network, with_head
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import ResNet


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
    # losses/moco_loss.py: the key's encoder and the queue belong to the loss
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


def own_backbone() -> Layout:
    resnet = headless(0)
    facts = {"format": 1, "arch": "resnet18", "input_filter": "high_pass", "run_id": "x"}
    return Layout({**facts, "state_dict": resnet.state_dict()}, resnet, "state_dict.")
