"""Pretraining: from a Run to `backbone.pth`."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import _ParamScheduler
from torch import nn
from torch.utils.data import Dataset

from repro.backbones.checkpoint import save_backbone
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.data.catalogue import Images, Split, open_images
from repro.data.roots import root_of
from repro.distributed import barrier, rank, world_size
from repro.errors import UserError
from repro.masking.strategies import SaliencyMasking
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import RunFolder
from repro.runs.run import Framework, Precision, Run, Source, Strategy
from repro.saliency.localizer import build_localizer, grid_of
from repro.training.gallery import MaskGallery
from repro.training.loading import EpochBatches, TwoViews, make_loader
from repro.training.optimization import build_optimizer, build_schedulers
from repro.training.preprocess import ViewMaker
from repro.training.runner import Training

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class Learner:
    """What a row of the tables trains."""

    model: BaseModel
    """With its data preprocessor; on the device."""
    encoder: nn.Module
    """The part of the model that becomes `backbone.pth`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """One, `main`; or several by name."""
    schedulers: Mapping[str, Sequence[_ParamScheduler]]
    """Of each optimizer, by its name."""
    dataset: Dataset[Any]
    """What the loader reads; its items are named by (epoch, index)."""
    gallery: Callable[[Path], Hook] = MaskGallery
    """Draws what the network sees to a PNG at this path."""


Build = Callable[[Run, Images, torch.device], Learner]
"""Makes a learner for the training images, which know their classes and their number.

Raises a UserError where settings do not fit the data, the localizer or the number of processes.
"""


def build_learner(run: Run, images: Images, device: torch.device) -> Learner:
    """MoCo v2 or SimCLR, plain or with the paper's masking.

    Raises:
        UserError: the run is of a kind that only `baselines` knows, or does not fit data, localizer or processes.
    """
    if run.framework not in (Framework.mocov2, Framework.simclr) or run.masking.strategy is Strategy.learned:
        raise UserError(
            f"framework={run.framework.value} with masking.strategy={run.masking.strategy.value} is no part of the "
            "core; mend: hand `baselines.build_learner` in"
        )
    maker = build_view_maker(run, device)
    with seeded_weights(run.seed):
        model = build_substrate(run, maker).to(device)
    if run.machine.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model.encoder.parameters(), run.optimization)
    return Learner(
        model=model,
        encoder=model.encoder,
        optimizers={"main": optimizer},
        schedulers={"main": build_schedulers(optimizer, run.optimization, len(images) // run.optimization.batch)},
        dataset=TwoViews(images, run.data.crop, run.augmentation, run.seed),
    )


def build_substrate(run: Run, maker: ViewMaker | None) -> MoCo | SimCLR:
    """The contrastive model of a run, with fresh weights, on the CPU; its `encoder` is what learns.

    Args:
        run: `framework` is mocov2 or simclr.
        maker: its data preprocessor.

    Raises:
        UserError: the batch-norm groups do not fit the number of processes.
    """
    if run.framework is Framework.simclr:
        return SimCLR(
            run.encoder.arch,
            run.encoder.dim,
            temperature=run.simclr.temperature,
            hard_negative_weight=run.simclr.hard_negative_weight,
            hard_negative_anchor=run.simclr.hard_negative_anchor,
            hard_negative_stopgrad=run.simclr.hard_negative_stopgrad,
            data_preprocessor=maker,
        )
    moco = run.moco
    if moco.bn_splits % world_size() and world_size() > 1:
        raise UserError(
            f"moco.bn_splits={moco.bn_splits} groups cannot be shared by {world_size()} processes; "
            "mend: a multiple of them"
        )
    return MoCo(
        run.encoder.arch,
        run.encoder.dim,
        queue=moco.queue,
        momentum=moco.momentum,
        temperature=moco.temperature,
        hard_negative_weight=moco.hard_negative_weight,
        bn_splits=moco.bn_splits // world_size(),
        seed=run.seed,
        data_preprocessor=maker,
    )


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Networks built within start from the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, Purpose.initialisation))
        yield


def pretrain(run: Run, folder: RunFolder, device: torch.device, build: Build = build_learner) -> None:
    """Carry a run out, or go on with it; a finished one is left as it is.

    Args:
        run: what to train.
        folder: where; `backbone.pth` there is the result.
        device: from `repro.distributed.initialise`.
        build: makes what is trained.

    Raises:
        UserError: data, settings or an earlier checkpoint do not fit.
        DivergenceError: a gradient or loss was not finite.
    """
    if folder.pretrained:
        log.info("%s is pretrained already", folder.path)
        return
    images = open_data(run, "train")
    batches = plan_batches(run, images, device)
    learner = build(run, images, device)
    training = build_training(run, folder, learner, batches, device)
    if rank() == 0:
        folder.prepare(run)
        folder.record_provenance(device_name(device), {"train": images.fingerprint()})
    barrier()
    training.run()
    if rank() == 0:
        filtered = "high_pass" if run.masking.strategy is Strategy.high_pass else "none"
        save_backbone(
            folder.backbone, learner.encoder.state_dict(), arch=run.encoder.arch, input_filter=filtered, run_id=run.id
        )
    barrier()


def open_data(run: Run, split: Split) -> Images:
    """The images of a split.

    Raises:
        UserError: the data set is unknown, or its root missing or broken.
    """
    return open_images(run.data.dataset, split, root_of(run, run.data.dataset), run.data.scenes)


def plan_batches(run: Run, images: Images, device: torch.device) -> EpochBatches:
    """Which images each step sees; whatever can be refused cheaply is, before anything is built.

    Raises:
        UserError: batch or precision do not fit the data, the device or the number of processes.
    """
    settings = run.optimization
    if settings.precision is Precision.fp16 and device.type == "cpu":
        raise UserError("optimization.precision=fp16 needs a GPU; mend: optimization.precision=bf16 or fp32")
    return EpochBatches(len(images), settings.batch, run.seed)


def build_training(
    run: Run, folder: RunFolder, learner: Learner, batches: EpochBatches, device: torch.device
) -> Training:
    """Put together what mmengine's Runner drives."""
    return Training(
        task="pretrain",
        run_id=run.id,
        model=learner.model,
        loader=make_loader(learner.dataset, batches, run.machine.workers),
        optimizers=learner.optimizers,
        schedulers=learner.schedulers,
        epochs=run.optimization.epochs,
        batch=run.optimization.batch,
        folder=folder,
        checkpoints=folder.checkpoints,
        metrics=folder.metrics,
        machine=run.machine,
        device=device,
        precision=run.optimization.precision,
        hooks=[learner.gallery(folder.gallery / "masks.png")],
    )


def build_view_maker(run: Run, device: torch.device) -> ViewMaker:
    """The augmentation, localizer and masking of a run, on the device.

    Raises:
        UserError: the localizer cannot be had, or the grid does not divide the crop.
    """
    localizer = None
    if run.needs_localizer:
        of = run.localizer
        localizer = build_localizer(of.network, of.weights, seed=run.seed, sha256=of.sha256).to(device)
        localizer.check(run.data.crop)
    return ViewMaker(
        seed=run.seed,
        augmentation=run.augmentation,
        masking=SaliencyMasking(run.masking, run.fidelity) if run.masks else None,
        localizer=localizer,
        grid=grid_of(run.data.crop) if run.masks else 1,
        relax=run.localizer.relax,
        row_sorted=run.fidelity.saliency_map is Source.released,
        channels_last=run.machine.channels_last,
    ).to(device)


def device_name(device: torch.device) -> str:
    """As provenance and results name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
