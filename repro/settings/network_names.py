"""The networks that runs can name, without building one: a mistyped name is refused before anything is launched."""

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""What `encoder.arch` can be: torchvision's ResNets, as `torchvision.models.list_models` has them."""
TIMM = "timm/"
"""Prefix of the names of timm's networks; only timm knows which there are."""
LOCALIZERS = ("resnet50", "efficientnet-lite0", f"{TIMM}NAME", "checkpoint")
"""What `localizer.network` can be."""


def is_localizer(network: str) -> bool:
    """Returns whether a localizer may go by this name."""
    return network in LOCALIZERS or (network.startswith(TIMM) and network != TIMM)
