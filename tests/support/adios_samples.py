"""ADIOS on small encoders: models, views with something to hide, optimizers and trainings."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, nn
from training_samples import CPU, tiny

from baselines.adios import Adios
from baselines.adios_contrast import MocoContrast, SimclrContrast
from baselines.unet import OcclusionNetwork
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.masking.views import Views
from repro.settings.choices import Precision
from repro.settings.run import Run
from repro.training.steps.precision import wrap_optimizers

B, CROP, DIM, QUEUE, SEED = 8, 32, 16, 32, 3
ENCODERS = {"mocov2": "encoder_q", "simclr": "encoder"}
FRAMEWORKS = list(ENCODERS)


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
    centre = torch.rand(B, 2, 1, 1, generator=generator) * 20 + 6
    rows, columns = torch.arange(CROP).view(-1, 1), torch.arange(CROP).view(1, -1)
    disc = ((rows - centre[:, :1]) ** 2 + (columns - centre[:, 1:]) ** 2 < 40).float()
    colour = torch.rand(B, 3, 1, 1, generator=generator) * 4 - 2
    noise = [0.3 * torch.randn(B, 3, CROP, CROP, generator=generator) for _ in range(2)]
    return Views(disc * colour + noise[0], disc.flip(-1) * colour + noise[1])


class AsIs(nn.Module):
    """A data preprocessor for batches that are views already."""

    def forward(self, data: Views, training: bool) -> dict[str, Views]:
        return {"views": data}


def with_optimizers(model: Adios, lr: float = 0.05, names: tuple[str, str] = ("encoder", "occlusion")) -> Any:
    model.data_preprocessor = AsIs()
    players = (model.contrast.substrate.encoder, model.occlusion)
    optimizers = {
        name: torch.optim.SGD(player.parameters(), lr, 0.9) for name, player in zip(names, players, strict=True)
    }
    return wrap_optimizers(optimizers, Precision.fp32, CPU)


def adios_run(framework: str, changes: Mapping[str, Any] | None = None) -> Run:
    return tiny(f"{framework}+adios", changes)
