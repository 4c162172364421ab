"""Contrastive pretraining: from a Run to `backbone.pth`."""

import logging
from pathlib import Path

import torch
from mmengine.optim import CosineAnnealingLR

from repro.checkpoint import save_backbone
from repro.contrastive import MoCo
from repro.datasets import Images, Split, find_root, open_images
from repro.distributed import barrier, rank, world_size
from repro.errors import UserError
from repro.folder import RunFolder
from repro.gallery import MaskGallery
from repro.loading import EpochBatches, TwoViews, make_loader
from repro.masking import SaliencyMasking
from repro.preprocess import ViewMaker
from repro.randomness import Purpose, stream_seed
from repro.run import Precision, Run, Source, Strategy
from repro.saliency import build_localizer, grid_of
from repro.training import Training

log = logging.getLogger("salmask")


def pretrain(run: Run, folder: RunFolder, device: torch.device) -> None:
    """Carry a run out, or go on with it; a finished one is left as it is.

    Args:
        run: what to train.
        folder: where; `backbone.pth` there is the result.
        device: from `repro.distributed.initialise`.

    Raises:
        UserError: data, settings or an earlier checkpoint do not fit.
        DivergenceError: a gradient or loss was not finite.
    """
    if folder.pretrained:
        log.info("%s is pretrained already", folder.path)
        return
    images = open_data(run, "train")
    training = build_training(run, folder, images, device)
    if rank() == 0:
        folder.prepare(run)
        folder.record_provenance(device_name(device), {"train": images.fingerprint()})
    barrier()
    training.run()
    if rank() == 0:
        filtered = "high_pass" if run.masking.strategy is Strategy.high_pass else "none"
        encoder = training.model.encoder_q
        assert isinstance(encoder, torch.nn.Module)
        save_backbone(
            folder.backbone, encoder.state_dict(), arch=run.encoder.arch, input_filter=filtered, run_id=run.id
        )
    barrier()


def open_data(run: Run, split: Split) -> Images:
    """The images of a split.

    Raises:
        UserError: the data set is unknown, or its root missing or broken.
    """
    given = Path(run.machine.data_root) if run.machine.data_root else None
    return open_images(run.data.dataset, split, find_root(run.data.dataset, given), run.data.scenes)


def build_training(run: Run, folder: RunFolder, images: Images, device: torch.device) -> Training:
    """Put together what mmengine's Runner drives.

    Raises:
        UserError: batch, crop or batch-norm groups do not fit the data, the localizer or the number of processes.
    """
    settings, moco = run.optimization, run.moco
    if settings.precision is Precision.fp16 and device.type == "cpu":
        raise UserError("optimization.precision=fp16 needs a GPU; mend: optimization.precision=bf16 or fp32")
    if moco.bn_splits % world_size() and world_size() > 1:
        raise UserError(
            f"moco.bn_splits={moco.bn_splits} groups cannot be shared by {world_size()} processes; "
            "mend: a multiple of them"
        )
    batches = EpochBatches(len(images), settings.batch, run.seed)
    maker = build_view_maker(run, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(run.seed, Purpose.initialisation))
        model = MoCo(
            run.encoder.arch,
            run.encoder.dim,
            queue=moco.queue,
            momentum=moco.momentum,
            temperature=moco.temperature,
            hard_negative_weight=moco.hard_negative_weight,
            bn_splits=moco.bn_splits // world_size(),
            seed=run.seed,
            data_preprocessor=maker,
        ).to(device)
    if run.machine.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    return Training(
        task="pretrain",
        run_id=run.id,
        model=model,
        loader=make_loader(TwoViews(images, run.data.crop, run.augmentation, run.seed), batches, run.machine.workers),
        optimizer=optimizer,
        schedulers=[CosineAnnealingLR(optimizer, T_max=settings.epochs, eta_min=0.0, by_epoch=True)],
        epochs=settings.epochs,
        batch=settings.batch,
        folder=folder,
        checkpoints=folder.checkpoints,
        metrics=folder.metrics,
        machine=run.machine,
        device=device,
        precision=settings.precision,
        hooks=[MaskGallery(folder.gallery / "masks.png")],
    )


def build_view_maker(run: Run, device: torch.device) -> ViewMaker:
    """The augmentation, localizer and masking of a run, on the device.

    Raises:
        UserError: the localizer cannot be had, or the grid does not divide the crop.
    """
    localizer = None
    if run.needs_localizer:
        localizer = build_localizer(run.localizer.network, run.localizer.weights).to(device)
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
