"""Pretraining, from a `Run` to its `backbone.pth`."""

import logging
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from repro.backbones.backbone import require_backbone, save_backbone
from repro.command_line.progress import OPENING
from repro.contrastive.batch_norm import joint_statistics
from repro.data.catalogue import find_dataset, open_images
from repro.data.pixel_cache import cache_root, open_cached
from repro.data.roots import root_of
from repro.data.splits import Images, Split
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.filesystem.presence import exists
from repro.processes.distributed import await_file, barrier, decided_by_first, device_name, rank
from repro.runs.folder import RunFolder
from repro.runs.provenance_file import record_attempt
from repro.runs.status import PRETRAIN
from repro.saliency.true_masks import true_masks
from repro.settings.cautions import queue_caution
from repro.settings.choices import Precision
from repro.settings.comparison import difference
from repro.settings.departures import value_text
from repro.settings.identity import plain
from repro.settings.reading import FOLDERS, flat
from repro.settings.run import Run
from repro.training.batches.device_memory import require_memory
from repro.training.batches.loading import EpochBatches, RandomViews, make_loader
from repro.training.batches.resident import ResidentImages
from repro.training.batches.view_draws import ViewDraws
from repro.training.learner import Build, Learner, build_learner
from repro.training.runner import Training
from repro.training.steps.compilation import compile_step, require_compiler
from repro.training.steps.optimization import build_schedulers
from repro.training.steps.precision import arithmetic, precision_caution
from repro.training.steps.preprocess import Augmenter, ViewMaker
from repro.training.steps.step_graph import can_be_replayed
from repro.training.watching.monitor import build_monitor
from repro.training.watching.true_objects import measure_foregrounds
from repro.training.watching.wandb_backend import WandbFiles, require_wandb

log = logging.getLogger("salmask")


def pretrain(run: Run, folder: RunFolder, device: torch.device, build: Build = build_learner) -> None:
    """Carries out a run's pretraining, or goes on with it; a finished one is left as it is.

    Args:
        run: What to train.
        folder: The run's folder; `backbone.pth` there is the result.
        device: This process's, from `repro.processes.distributed.initialise`.
        build: Makes the learner, that is, the model with its optimizers and data.

    Raises:
        UserError: Data, settings or an earlier checkpoint do not fit.
        DivergenceError: A gradient or loss was not finite, or the monitor ends the run.
    """
    if work := prepare_pretraining(run, folder, device, build):
        work()


def prepare_pretraining(
    run: Run, folder: RunFolder, device: torch.device, build: Build = build_learner
) -> Callable[[], None] | None:
    """Returns a pretraining that is ready to begin, as a function; None where the run is pretrained already.

    Settings, data, networks and weights are read and built here, so that misfits are refused before the run's folder is
    touched.

    Args:
        run: What to train.
        folder: The run's folder.
        device: This process's, from `repro.processes.distributed.initialise`.
        build: Makes the learner.

    Raises:
        UserError: Data or settings do not fit.
    """
    if is_pretrained(folder):
        log.info("%s is pretrained already", folder.path)
        return None
    OPENING.say(f"{PRETRAIN}: opening {run.data.dataset}")
    images = open_data(run, "train")
    batches = plan_batches(run, images, device)
    OPENING.say(f"{PRETRAIN}: building {run.method}, and loading weights where it needs some")
    learner = build(run, images, device)
    require_backbone(learner.encoder.state_dict(), run.encoder.arch, run.encoder.width)
    return partial(_train, run, folder, device, images, batches, learner)


def _train(
    run: Run, folder: RunFolder, device: torch.device, images: Images, batches: EpochBatches, learner: Learner
) -> None:
    """Carries a prepared pretraining out."""
    if is_pretrained(folder):  # by another process, which held the folder until now
        return
    training = build_training(run, folder, learner, batches, device)
    if rank() == 0:
        folder.prepare(run)
        record_attempt(folder, device_name(device), {"train": images.fingerprint()}, **_how(run, device))
        for caution in (queue_caution(run, len(images)), precision_caution(run.optimization.precision, device)):
            if caution:
                log.warning("%s", caution)
        _record_foregrounds(run, folder, learner, images, device)
    # Rank 0 may refuse the folder, so that no other rank begins before.
    barrier()
    training.run()
    with joint_statistics(learner.encoder):
        if rank() == 0:
            # Written last of all, as this file marks a finished pretraining.
            save_backbone(
                folder.backbone,
                learner.encoder.state_dict(),
                arch=run.encoder.arch,
                width=run.encoder.width,
                input_filter=run.input_filter,
                run_id=run.id,
            )
    # An evaluation that follows reads the file on every rank.
    barrier()
    await_file(folder.backbone)


def is_pretrained(folder: RunFolder) -> bool:
    """Returns whether a run is pretrained, with the same answer on all ranks; a collective.

    Rank 0 decides: if ranks disagreed, some would train and wait for the others. If rank 0 sees the backbone, this
    returns only once every rank sees it.

    Args:
        folder: The run's.

    Raises:
        UserError: A rank still does not see the backbone after a while.
    """
    is_there = decided_by_first(lambda: folder.pretrained)
    if is_there:
        await_file(folder.backbone)
    return is_there


def _how(run: Run, device: torch.device) -> dict[str, dict[str, Any]]:
    """Returns how a training computes, for its provenance: machine settings without folders, and torch's switches."""
    machine = {name: value for name, value in plain(run.machine).items() if f"machine.{name}" not in FOLDERS}
    switches = arithmetic(device)
    return {"machine": machine, **({"arithmetic": switches} if switches else {})}


def _record_foregrounds(run: Run, folder: RunFolder, learner: Learner, images: Images, device: torch.device) -> None:
    """Records how well the run's foregrounds cover the true objects, for `salmask plot saliency-dose`.

    Only for maps of whole images, which that plot shows, and for which it takes seconds.
    """
    maker = learner.model.data_preprocessor
    if exists(folder.foregrounds) or not (run.guided and isinstance(maker, ViewMaker)) or maker.localizer is not None:
        return
    if (masks := true_masks(run, images)) is not None:
        OPENING.say("measuring how well foregrounds cover the true objects")
        write_json(folder.foregrounds, measure_foregrounds(run, maker, images, masks, device))


def open_data(run: Run, split: Split) -> Images:
    """Opens the images of one split of a run's data set: the original ones, or those of the pixel cache.

    Raises:
        UserError: The data set is unknown, its root missing or broken, or it is not cached at the run's side.
    """
    data = run.data
    images = open_images(data.dataset, split, root_of(run, data.dataset), data.scenes)
    if not data.cached_side:
        return images
    root = cache_root(run.machine.data_cache)
    return open_cached(images, data.dataset, split, data.cached_side, root, _cache_command(run))


def _cache_command(run: Run) -> str:
    """Returns the command that caches the images of a run, with its settings of scenes and its folders."""
    words = ["salmask", "data", "cache", run.data.dataset, "--side", str(run.data.cached_side)]
    changed = difference(Run(), run) if run.data.drawn else {}
    words += [f"{key}={value_text(changed[key][1])}" for key in changed if key.startswith("data.scenes.")]
    root = run.machine.data_root if find_dataset(run.data.dataset).needs_root else ""  # else `--root` is refused
    for option, folder in (("--root", root), ("--to", run.machine.data_cache)):
        words += [option, folder] if folder else []
    return shlex.join(words)


def plan_batches(run: Run, images: Images, device: torch.device) -> EpochBatches:
    """Plans which images each step sees.

    Whatever can be refused cheaply is refused here, before anything is built.

    Args:
        run: Whose batch, seed and precision count.
        images: To train on.
        device: This process's.

    Raises:
        UserError: Batch or precision do not fit the data, the device or the number of processes, the run needs more
            memory than there is, or it needs W&B or a compiler, which is not installed.
    """
    settings = run.optimization
    if settings.precision is Precision.fp16 and device.type == "cpu":
        raise UserError("optimization.precision=fp16 needs a GPU", mend="optimization.precision=bf16 or fp32")
    if settings.precision is Precision.fp16 and run.machine.graphs:
        # The loss scaler decides on the host whether to take a step.
        raise UserError("machine.graphs=true cannot replay steps in fp16", mend="optimization.precision=bf16 or fp32")
    if run.machine.wandb:
        require_wandb()
    require_memory(run, device)
    if run.machine.compile:
        require_compiler(device)
    return EpochBatches(len(images), settings.batch, run.seed)


def _wandb_files(run: Run, folder: RunFolder) -> WandbFiles:
    """Returns the writer of a run's scalars for W&B, under the names of the run's folders."""
    path = folder.path.absolute()
    name, sweep = f"{path.parent.name}/{path.name}", path.parent.parent.name
    return WandbFiles(folder.path, run.id, name, sweep, dict(flat(plain(run))))


def with_resident_images(learner: Learner, run: Run, device: torch.device) -> Learner:
    """Moves a learner's images into the device's memory, and lets its views be cropped there.

    Args:
        learner: Its data set is not changed; its data preprocessor is.
        run: `machine.workers` and, for the error, the method are used.
        device: Where the images go.

    Returns:
        The learner with a data set that hands out draws alone.

    Raises:
        UserError: The images do not fit, or the learner does not see random views.
    """
    views, maker = learner.dataset, learner.model.data_preprocessor
    if not (isinstance(views, RandomViews) and isinstance(maker, Augmenter)):
        raise UserError(f"{run.method} does not learn from random views of images", mend="machine.resident=false")
    resident = ResidentImages.load(views.images, device, run.machine.workers)
    maker.crop_from(resident, views.size)
    return replace(learner, dataset=ViewDraws(views, resident.sizes))


def build_training(
    run: Run, folder: RunFolder, learner: Learner, batches: EpochBatches, device: torch.device
) -> Training:
    """Puts together the training that mmengine's Runner drives.

    Args:
        run: What is trained, and how.
        folder: The run's, which takes checkpoints, metrics, logs and gallery.
        learner: Its model is on the device.
        batches: Which images each step sees.
        device: This process's.

    Raises:
        UserError: With `machine.resident`, the images do not fit on the device or cannot be cropped there.
    """
    if run.machine.resident:
        learner = with_resident_images(learner, run, device)
    if run.machine.compile:
        compile_step(learner.model)
    return Training(
        task=PRETRAIN,
        run_id=run.id,
        model=learner.model,
        loader=make_loader(learner.dataset, batches, run.machine.workers),
        optimizers=learner.optimizers,
        schedulers={
            name: build_schedulers(optimizer, run.optimization, len(batches))
            for name, optimizer in learner.optimizers.items()
        },
        epochs=run.optimization.epochs,
        batch=run.optimization.batch,
        folder=folder,
        checkpoints=folder.checkpoints,
        metrics=folder.metrics,
        machine=run.machine,
        device=device,
        precision=run.optimization.precision,
        graphs=run.machine.graphs and can_be_replayed(learner.model, device),
        hooks=[
            learner.gallery(folder.gallery / "masks.png"),
            build_monitor(run, folder, learner.encoder, learner.model, learner.dataset, len(batches)),
        ],
        more_writers=[_wandb_files(run, folder)] if run.machine.wandb and rank() == 0 else [],
    )
