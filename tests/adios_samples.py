"""ADIOS on an encoder of two layers: models, views with something to hide, optimizers and trainings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Generator, nn
from training_samples import CPU, tiny

from baselines.adios import Adios, MocoContrast, SimclrContrast
from baselines.unet import OcclusionNetwork
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.masking.views import Views
from repro.runs.choices import Precision
from repro.runs.run import Run
from repro.training.precision import wrap_optimizers

B, CROP, DIM, QUEUE, SEED = 8, 32, 16, 32, 3
ENCODERS = {"mocov2": "encoder_q", "simclr": "encoder"}
FRAMEWORKS = list(ENCODERS)


def build_small(_arch: str, dim: int) -> nn.Module:
    """A ResNet takes a second to initialise; what is tested here does not depend on the encoder."""
    first = nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU()
    second = nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, dim))


@contextmanager
def small_encoders() -> Iterator[None]:
    """All encoders that are built within are small."""
    with (
        patch("repro.contrastive.moco.build_encoder", build_small),
        patch("repro.contrastive.simclr.build_encoder", build_small),
    ):
        yield


def make_adios(framework: str, **settings: Any) -> Adios:
    torch.manual_seed(0)
    contrast: MocoContrast | SimclrContrast
    if framework == "mocov2":
        contrast = MocoContrast(MoCo("small", DIM, queue=QUEUE, momentum=0.9, bn_splits=2, seed=SEED))
    else:
        contrast = SimclrContrast(SimCLR("small", DIM))
    model = Adios(contrast, OcclusionNetwork(CROP), seed=SEED, **settings)
    model.train()
    return model


def make_views(seed: int = 1) -> Views:
    """Bright discs at random places: something to hide."""
    generator = Generator().manual_seed(seed)
    place = torch.rand(B, 2, 1, 1, generator=generator) * 20 + 6
    rows, columns = torch.arange(CROP).view(-1, 1), torch.arange(CROP).view(1, -1)
    disc = ((rows - place[:, :1]) ** 2 + (columns - place[:, 1:]) ** 2 < 40).float()
    colour = torch.rand(B, 3, 1, 1, generator=generator) * 4 - 2
    noise = [0.3 * torch.randn(B, 3, CROP, CROP, generator=generator) for _ in range(2)]
    return Views(disc * colour + noise[0], disc.flip(-1) * colour + noise[1])


class Given(nn.Module):
    """A data preprocessor for batches that are views already."""

    def forward(self, data: Views, training: bool) -> dict[str, Views]:
        return {"views": data}


def with_optimizers(model: Adios, lr: float = 0.05, names: tuple[str, str] = ("encoder", "occlusion")) -> Any:
    model.data_preprocessor = Given()
    parts = (model.contrast.substrate.encoder, model.occlusion)
    optimizers = {name: torch.optim.SGD(part.parameters(), lr, 0.9) for name, part in zip(names, parts, strict=True)}
    return wrap_optimizers(optimizers, Precision.fp32, CPU)


def adios_run(framework: str, changes: Mapping[str, Any] | None = None) -> Run:
    return tiny(f"{framework}+adios", changes)
