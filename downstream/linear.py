"""Linear evaluation of a frozen backbone, protocol `linear-moco-v1`.

MoCo's main_lincls.py as the authors ran it: a linear classifier on the frozen, eval-mode backbone; SGD with learning
rate 30, momentum 0.9, no weight decay, batch 256; 100 epochs, x0.1 at 60 and 80; random crops of scale 0.08..1 and
flips for training, resize to 256 and a central crop of 224 for validation; high-passed input for backbones trained on
such. Other numbers of epochs
keep the shape of the schedule, and the protocol's name says so.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import MultiStepLR
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tvf

from repro.checkpoint import Backbone, load_backbone
from repro.datasets import Images
from repro.distributed import barrier, rank
from repro.errors import UserError
from repro.folder import RunFolder, now, source
from repro.loading import EpochBatches, make_loader
from repro.masking import high_pass
from repro.pretrain import device_name, open_data
from repro.randomness import Purpose, stream, stream_seed
from repro.records import Result, append, read
from repro.resume import unwrapped
from repro.run import Run
from repro.saliency import IMAGENET_MEAN, IMAGENET_STD
from repro.training import Training
from repro.views import random_crop

log = logging.getLogger("salmask")
TASK = "linear"
CROP_SCALE_MIN = 0.08


class ProbeCrops(Dataset[dict[str, Any]]):
    """Random resized crops with flips; an item is `images` (uint8, 3×S×S) and `labels`."""

    metainfo: ClassVar[dict[str, Any]] = {}  # mmengine asks for it, for its own visualisations

    def __init__(self, images: Images, size: int, seed: int) -> None:
        self.images, self.size, self.seed = images, size, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        rng = stream(self.seed, Purpose.view, epoch, index)
        image, label = self.images[index]
        crop = tvf.pil_to_tensor(random_crop(image, self.size, CROP_SCALE_MIN, rng))
        return {"images": crop.flip(-1) if rng.random() < 0.5 else crop, "labels": label}


class CentralCrops(Dataset[tuple[Tensor, int]]):
    """The central crop that validation sees: short side resized to 256/224 of the crop, bilinear."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        resized = tvf.resize(image, [round(self.size * 256 / 224)], Image.Resampling.BILINEAR)
        return tvf.pil_to_tensor(tvf.center_crop(resized, [self.size, self.size])), label


class ProbeInput(BaseDataPreprocessor):
    """Pixels to the backbone's input: normalised, and high-passed where it was trained so."""

    def __init__(self, input_filter: str) -> None:
        super().__init__(non_blocking=True)
        self.input_filter = input_filter
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """B×3×H×W from uint8 pixels."""
        images = (pixels.to(self.device, non_blocking=True).float().div_(255) - self.mean) / self.std
        return high_pass(images) if self.input_filter == "high_pass" else images

    def forward(self, data: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """A batch of `ProbeCrops` as the classifier's arguments."""
        return {"images": self.normalise(data["images"]), "labels": data["labels"].to(self.device, non_blocking=True)}


class LinearProbe(BaseModel):
    """A linear classifier on a frozen backbone, which is no registered submodule and so in no checkpoint."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        """Start with weights N(0, 0.01) and no bias (main_lincls.py)."""
        super().__init__(data_preprocessor=ProbeInput(backbone.input_filter))
        self.input: ProbeInput = self.data_preprocessor
        self._backbone = (backbone.network.eval().requires_grad_(False),)
        self.fc = nn.Linear(backbone.width, classes)
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.fc.bias)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """B×D of B×3×H×W."""
        (backbone,) = self._backbone
        return backbone(images)

    def forward(self, images: Tensor, labels: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        """Cross-entropy of a batch."""
        if mode != "loss":
            raise ValueError(f"the probe is only trained; mode '{mode}' is not one of its own")
        return {"loss": F.cross_entropy(self.fc(self.features(images)), labels)}


class Evaluate(Hook):
    """Top-1 and top-5 on the validation images after every epoch, written to the probe's metrics.

    Nothing but the classifier changes between epochs, so the validation features are computed once.
    """

    def __init__(self, images: Images, size: int, batch: int, workers: int) -> None:
        super().__init__()
        self.loader = DataLoader(CentralCrops(images, size), batch_size=batch, num_workers=workers)

    def before_train(self, runner: Any) -> None:
        """Compute the features; every rank has all of them, as in main_lincls.py."""
        probe = _probe(runner)
        features, labels = [], []
        for pixels, label in self.loader:
            features.append(probe.features(probe.input.normalise(pixels)))
            labels.append(label)
        self.features, self.labels = torch.cat(features), torch.cat(labels).to(features[0].device)

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Score the classifier as it is."""
        top1, top5 = accuracy(_probe(runner).fc(self.features), self.labels)
        if rank() == 0:
            runner.visualizer.add_scalars({"top1": top1, "top5": top5, "epoch": runner.epoch + 1}, step=runner.iter)
            runner.logger.info(f"Epoch(val) [{runner.epoch + 1}]  top1: {top1:.2f}  top5: {top5:.2f}")


def _probe(runner: Any) -> LinearProbe:
    probe = unwrapped(runner.model)
    assert isinstance(probe, LinearProbe)
    return probe


def accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 (of fewer classes: top-all) in percent.

    Args:
        logits: N×classes.
        labels: N.
    """
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hit = best == labels.unsqueeze(1)
    return 100 * hit[:, 0].float().mean().item(), 100 * hit.any(1).float().mean().item()


def evaluate(run: Run, folder: RunFolder, device: torch.device) -> list[Result]:
    """Probe a finished run and append the rows to its `results.jsonl`; rows that stand there are not made again.

    Args:
        run: `probe`, `data` and `machine` are used.
        folder: of the run, with its `backbone.pth`.
        device: from `repro.distributed.initialise`.

    Returns:
        `top1` and `top5` of the last epoch, the primary ones, and `top1_best` over epochs.

    Raises:
        UserError: the run is not finished, or the data or the backbone do not fit.
    """
    done = recorded(run, folder)
    if done:
        return done
    if not folder.pretrained:
        raise UserError(
            f"{folder.path} has no backbone.pth: its pretraining is not finished; mend: salmask pretrain first"
        )
    started, clock = now(), time.monotonic()
    backbone = load_backbone(folder.backbone, arch=run.encoder.arch)
    train, val = open_data(run, "train"), open_data(run, "val")
    if list(train.classes) != list(val.classes):
        raise UserError(f"{run.data.dataset}: train and val have different classes; mend: salmask data verify")
    place = folder.path / "probes" / f"{run.data.dataset}-{run.probe.protocol}"
    training = build_training(run, folder, place, backbone, train, val, device)
    training.run()
    assert_unchanged(backbone.network, folder.backbone)
    rows: list[Result] = []
    if rank() == 0:
        scores = read_scores(place / "metrics.jsonl")
        values = {"top1": scores[-1]["top1"], "top5": scores[-1]["top5"], "top1_best": max(s["top1"] for s in scores)}
        rows = [
            Result(
                run_id=run.id,
                recipe=run.recipe,
                sweep=folder.sweep,
                method=run.method,
                framework=run.framework.name,
                strategy=run.masking.strategy.name,
                fidelity=str(run.fidelity),
                seed=run.seed,
                task=TASK,
                dataset=run.data.dataset,
                split="val",
                protocol=run.probe.protocol,
                metric=metric,
                value=value,
                scale=", ".join(run.departures),
                **asdict(source()),
                device=device_name(device),
                started=started,
                duration_s=round(time.monotonic() - clock, 1),
            )
            for metric, value in values.items()
        ]
        append(folder.results, rows)
    barrier()
    return rows


def recorded(run: Run, folder: RunFolder) -> list[Result]:
    """The rows of this protocol that the run's folder holds already."""
    rows, warnings = read(folder.results) if folder.results.exists() else ([], [])
    for warning in warnings:
        log.warning(warning)
    wanted = (run.id, TASK, run.data.dataset, run.probe.protocol)
    return [row for row in rows if (row.run_id, row.task, row.dataset, row.protocol) == wanted]


def build_training(
    run: Run, folder: RunFolder, place: Path, backbone: Backbone, train: Images, val: Images, device: torch.device
) -> Training:
    """Put together what mmengine's Runner drives.

    Args:
        run: `probe`, `data.crop`, `seed` and `machine` are used.
        folder: of the run.
        place: where the probe's own files go.
        backbone: frozen here.
        train: images to fit on.
        val: images to score on.
        device: where.
    """
    settings, machine = run.probe, run.machine
    backbone.network.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(run.seed, Purpose.initialisation))
        model = LinearProbe(backbone, len(train.classes)).to(device)
    optimizer = torch.optim.SGD(
        model.fc.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    milestones = [round(0.6 * settings.epochs), round(0.8 * settings.epochs)]
    batches = EpochBatches(len(train), settings.batch, run.seed, drop_last=False)
    return Training(
        task=TASK,
        run_id=run.id,
        model=model,
        loader=make_loader(ProbeCrops(train, run.data.crop, run.seed), batches, machine.workers),
        optimizer=optimizer,
        schedulers=[MultiStepLR(optimizer, milestones=milestones, gamma=0.1, by_epoch=True)],
        epochs=settings.epochs,
        batch=settings.batch,
        folder=folder,
        checkpoints=place / "checkpoints",
        metrics=place / "metrics.jsonl",
        machine=machine,
        device=device,
        hooks=[Evaluate(val, run.data.crop, settings.batch, machine.workers)],
    )


def assert_unchanged(network: nn.Module, saved: Path) -> None:
    """Prove that probing left the backbone as it was, running statistics included (main_lincls.py `sanity_check`).

    Raises:
        RuntimeError: a tensor differs from the file's.
    """
    before, after = load_backbone(saved).network.state_dict(), network.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name].cpu())]
    if changed:
        raise RuntimeError(f"probing changed the frozen backbone: {', '.join(changed[:3])}; its numbers are void")


def read_scores(metrics: Path) -> Sequence[dict[str, float]]:
    """The validation rows of a probe's metrics, one an epoch."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row for row in rows if "top1" in row]
