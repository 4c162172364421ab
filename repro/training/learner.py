"""What a run trains: its model, optimizers and data, put together from the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from repro.contrastive.loss_model import ContrastiveModel, LossModel
from repro.data.splits import Images
from repro.errors import UserError
from repro.masking.branches import SaliencyMasking
from repro.named_code import imported, require_callable
from repro.processes.distributed import seeded_weights
from repro.saliency.sources import build_foregrounds
from repro.settings.choices import Strategy
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.run import Run
from repro.training.batches.loading import TwoViews
from repro.training.steps.memory_layout import lay_out_network
from repro.training.steps.optimization import build_optimizer
from repro.training.steps.preprocess import ViewMaker
from repro.training.watching.gallery import MaskGallery


@dataclass(frozen=True)
class Learner:
    """What a row of the tables trains: a model with its optimizers and its data."""

    model: BaseModel
    """The whole model with its data preprocessor, on the device."""
    encoder: nn.Module
    """The part of the model that becomes `backbone.pth`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One optimizer, named `main`, or several by name; all follow the schedule of the run."""
    dataset: Dataset[Any]
    """The data set that the loader reads; its items are named by (epoch, index)."""
    gallery: Callable[[Path], Hook] = MaskGallery
    """Makes the hook that draws what the network sees, as a PNG at a path."""


Build = Callable[[Run, Images, torch.device], Learner]
"""Makes a run's learner for its training images, on a device.

It raises a UserError if settings do not fit the data, the localizer or the number of processes.
"""


def build_learner(run: Run, images: Images, device: torch.device) -> Learner:
    """Makes the learner of a contrastive framework, plain or with the paper's masking.

    Args:
        run: Of a framework that the core knows.
        images: To train on.
        device: Where the model goes.

    Returns:
        The learner, its model on the device with the weights that the run's seed gives.

    Raises:
        UserError: The run is of a kind that only `baselines` knows, or does not fit the data, the localizer or the
            number of processes.
    """
    if not FRAMEWORKS[run.framework].model or run.masking.strategy is Strategy.learned:
        raise UserError(
            (
                f"framework={run.framework.value} with masking.strategy={run.masking.strategy.value} is not part of "
                "the core"
            ),
            mend="`baselines.build_learner`, with a line for it",
        )
    maker = build_view_maker(run, device, images)
    # Built on the CPU and then moved: a seed gives the same weights whatever the device.
    with seeded_weights(run.seed):
        model = build_model(run, maker).to(device)
    lay_out_network(model, channels_last=run.machine.channels_last)
    return Learner(
        model=model,
        encoder=model.encoder,
        # Weight decay is on all parameters, biases and norms too, as in main_moco.py; `build_lars` makes exceptions.
        optimizers={"main": build_optimizer(model.learned, run.optimization)},
        dataset=TwoViews(images, run.data.crop, run.augmentation, run.seed),
    )


def build_model(run: Run, preprocessor: ViewMaker | None) -> ContrastiveModel:
    """Builds the contrastive model of a run, with fresh weights, on the CPU.

    Args:
        run: Of a contrastive framework.
        preprocessor: Turns a batch of the loader into `Views`.

    Raises:
        UserError: The settings do not fit the number of processes, or what FRAMEWORKS names builds no model with an
            encoder.
    """
    # FRAMEWORKS holds the names of its models' functions instead of the functions, as it is also read without torch.
    place = FRAMEWORKS[run.framework].model
    told = f"FRAMEWORKS (repro/settings/frameworks.py) has the model of {run.framework} at {place}"
    build: Callable[[Run, ViewMaker | None], ContrastiveModel] = imported(place, told)
    require_callable(build, place.partition(":")[2], ("run", "preprocessor"), told)
    model = build(run, preprocessor)
    if not isinstance(model, LossModel) or not isinstance(getattr(model, "encoder", None), nn.Module):
        mend = "a ContrastiveModel (repro/contrastive/loss_model.py) with its network as `encoder`"
        raise UserError(f"{told}, which returned {type(model).__name__} without an encoder to train", mend=mend)
    return model


def build_view_maker(
    run: Run, device: torch.device, images: Images | None = None, *, only: Sequence[int] | None = None
) -> ViewMaker:
    """Puts the augmentation, localizer and masking of a run together, on the device.

    Args:
        run: Whose views are made.
        device: Where they are made.
        images: Training images. Maps of whole images need them, and are computed here if missing; so do random cells.
        only: Numbers of the images whose maps are needed; None: all, and the maps are kept in a file.

    Returns:
        The preprocessor that turns a batch of the loader into the network's inputs, on the device.

    Raises:
        UserError: The localizer cannot be built, or the grid does not divide the crop.
    """
    foregrounds, hard_foregrounds = build_foregrounds(run, device, images, only=only) if run.masks else (None, None)
    return ViewMaker(
        seed=run.seed,
        augmentation=run.augmentation,
        masking=(
            SaliencyMasking(
                run.masking,
                run.fidelity,
                group_size=FRAMEWORKS[run.framework].group_size(run),
                library=run.machine.filter_library,
            )
            if run.masks
            else None
        ),
        foregrounds=foregrounds,
        hard_foregrounds=hard_foregrounds,
        channels_last=run.machine.channels_last,
    ).to(device)
