"""The encoders that are trained: torchvision's ResNets with MoCo v2's projector."""

from torch import nn

from repro.backbones.resnet import BASE_WIDTH, build_resnet


def build_encoder(arch: str, dim: int, width: int = BASE_WIDTH) -> nn.Module:
    """Builds a ResNet whose `fc` is MoCo v2's two-layer projector to `dim` (moco/builder.py, `mlp`).

    Args:
        arch: torchvision's name of the network.
        dim: Number of dimensions of the embedding.
        width: Base planes, see `repro.backbones.resnet.resnet_of_width`.

    Returns:
        A network that maps images B×3×H×W to embeddings B×dim, which are not normalised yet.

    Raises:
        UserError: torchvision has no ResNet of this name, or its groups do not divide so few planes.
    """
    network = build_resnet(arch, dim, width)
    head = network.fc
    assert isinstance(head, nn.Linear)
    features = head.in_features
    # The projector replaces `fc`, so that the state dict without `fc.*` is the backbone.
    network.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))
    return network
