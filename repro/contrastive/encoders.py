"""The encoders that are trained: torchvision's ResNets, plain or with MoCo v2's projector."""

from torch import nn
from torchvision.models import get_model, list_models

from repro.errors import UserError, nearest


def build_resnet(arch: str, outputs: int) -> nn.Module:
    """Builds a torchvision ResNet with fresh weights and so many outputs.

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    resnets = list_models(include=["resnet*", "resnext*", "wide_resnet*"])
    if arch not in resnets:
        raise UserError(f"encoder.arch={arch} is no ResNet of torchvision's", mend=nearest(arch, resnets))
    return get_model(arch, weights=None, num_classes=outputs)


def build_encoder(arch: str, dim: int) -> nn.Module:
    """Builds a torchvision ResNet whose `fc` is MoCo v2's two-layer projector to `dim` (moco/builder.py `mlp`).

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    network = build_resnet(arch, dim)
    head = network.fc
    assert isinstance(head, nn.Linear)
    width = head.in_features
    # In the place of `fc`, so that the backbone is what remains of the state dict without `fc.*`.
    network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim))
    return network
