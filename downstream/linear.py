"""Linear evaluation of a frozen backbone by SGD, protocol `linear-moco-v1`.

MoCo's main_lincls.py as the authors ran it: a linear classifier on the frozen, eval-mode backbone; SGD with learning
rate 30, momentum 0.9, no weight decay, batch 256; 100 epochs, x0.1 at 60 and 80; random crops of scale 0.08..1 and
flips for training, resize to 256 and a central crop of 224 for validation; high-passed input for backbones trained on
such. Other numbers of epochs keep the shape of the schedule, and the protocol's name says so.

On Caltech-101 (`linear-caltech-30-v1`) and Flowers-102 (`linear-flowers-80-10-10-v1`) the same on the splits that the
paper's numbers look measured on, see `downstream.partitions.paper_like`.

Features of supervised networks may want another learning rate: with `probe.lr_grid` a classifier for each rate is
trained in one pass (as in DINOv2's eval/linear.py), and the one with the best top-1 of the last epoch counts. It is
chosen on the images that are scored, which the protocol's name and the row `lr` tell.
"""

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.optim import MultiStepLR
from torch import Tensor, nn

from downstream.crops import BackboneInput, RandomCrops
from downstream.features import FeatureStore, labels_of
from downstream.measurement import Measurement, Target, averaged, measurements, scores
from downstream.partitions import paper_like, split_seeds
from repro.backbones.checkpoint import Backbone, load_backbone
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.distributed import rank, seeded_weights
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.protocols import ProbeSettings
from repro.runs.run import Run
from repro.training.loading import EpochBatches, make_loader
from repro.training.resume import unwrapped
from repro.training.runner import Training

log = logging.getLogger("salmask")


class LinearProbe(LossModel):
    """Linear classifiers on a frozen backbone, which is no registered submodule and so in no checkpoint."""

    def __init__(self, backbone: Backbone, classes: int, heads: int = 1) -> None:
        """Start with weights N(0, 0.01) and no bias (main_lincls.py), the same for all heads.

        Args:
            backbone: frozen here.
            classes: of the data set.
            heads: classifiers side by side, none of which feels the others.
        """
        super().__init__(data_preprocessor=BackboneInput(backbone.input_filter))
        self._backbone = (backbone.network.eval().requires_grad_(False),)
        first = nn.Linear(backbone.width, classes)
        nn.init.normal_(first.weight, 0.0, 0.01)
        nn.init.zeros_(first.bias)
        self.heads = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(heads - 1))])

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """B×D of B×3×H×W."""
        (backbone,) = self._backbone
        return backbone(images)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of a batch, summed over the heads."""
        features = self.features(images)
        return {"loss": torch.stack([F.cross_entropy(head(features), labels) for head in self.heads]).sum()}


class ScoreHeads(Hook):
    """Accuracies on the validation images after every epoch, written to the probe's metrics.

    Nothing but the classifiers changes between epochs, so the validation features are computed once, by the caller.
    """

    def __init__(self, features: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        """Score the heads on N×D features and N labels; `names` are the endings of each head's metrics."""
        super().__init__()
        self.features, self.labels, self.names = features, labels, names

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Score the classifiers as they are."""
        probe = unwrapped(runner.model)
        assert isinstance(probe, LinearProbe)
        found: dict[str, float] = {}
        for head, name in zip(probe.heads, self.names, strict=True):
            found |= {f"{metric}{name}": value for metric, value in scores(head(self.features), self.labels).items()}
        if rank() == 0:
            runner.visualizer.add_scalars({**found, "epoch": runner.epoch + 1}, step=runner.iter)
            shown = "  ".join(f"{key}: {value:.2f}" for key, value in found.items() if key.startswith("top"))
            runner.logger.info(f"Epoch(val) [{runner.epoch + 1}]  {shown}")


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """`top1`, `top5` and `mean_per_class` of the last epoch, the primary ones, and `top1_best` over epochs.

    With a grid also the chosen `lr` and each rate's own `top1@lr=10`. On Caltech-101 means over drawn splits, beside
    each split's own values.

    Raises:
        UserError: the data or the backbone do not fit.
    """
    protocol = run.probe.protocol_on(target.dataset)
    seeds = split_seeds(target.dataset, run.probe.splits)
    store = FeatureStore.of(run, folder, device, Evaluation("linear", target.dataset).name(run))
    found, split = [], ""
    for seed in seeds:
        train, val, split = paper_like(target, seed)
        place = probe_place(folder, target.dataset, protocol, seed if len(seeds) > 1 else None)
        build_training(run, folder, place, store, train, val).run()
        found.append(final_scores(place / "metrics.jsonl", run.probe))
    assert_unchanged(store.backbone.network, folder.backbone)
    return measurements(protocol, split, averaged(found))


def probe_place(folder: RunFolder, dataset: str, protocol: str, split_seed: int | None = None) -> Path:
    """Where a probe's own files go."""
    ending = "" if split_seed is None else f"-split{split_seed}"
    return folder.path / "probes" / f"{dataset}-{protocol}{ending}"


def build_training(
    run: Run, folder: RunFolder, place: Path, store: FeatureStore, train: Images, val: Images
) -> Training:
    """Put together what mmengine's Runner drives.

    Args:
        run: `probe`, `data.crop`, `seed` and `machine` are used.
        folder: of the run.
        place: where the probe's own files go.
        store: of the frozen backbone.
        train: images to fit on.
        val: images to score on.
    """
    settings, machine, device = run.probe, run.machine, store.device
    rates = settings.lr_grid or (settings.lr,)
    features = torch.from_numpy(store(val)).to(device)
    labels = torch.from_numpy(labels_of(val)).to(device)
    with seeded_weights(run.seed):
        model = LinearProbe(store.backbone, len(train.classes), len(rates)).to(device)
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(model.heads, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, rates[0], momentum=settings.momentum, weight_decay=settings.weight_decay)
    milestones = [round(0.6 * settings.epochs), round(0.8 * settings.epochs)]
    batches = EpochBatches(len(train), settings.batch, run.seed, drop_last=False)
    return Training(
        task=store.task,
        run_id=run.id,
        model=model,
        loader=make_loader(RandomCrops(train, run.data.crop, run.seed), batches, machine.workers),
        optimizers={"main": optimizer},
        schedulers={"main": [MultiStepLR(optimizer, milestones=milestones, gamma=0.1, by_epoch=True)]},
        epochs=settings.epochs,
        batch=settings.batch,
        folder=folder,
        checkpoints=place / "checkpoints",
        metrics=place / "metrics.jsonl",
        machine=machine,
        device=device,
        hooks=[ScoreHeads(features, labels, metric_endings(settings))],
    )


def metric_endings(settings: ProbeSettings) -> list[str]:
    """What follows the metrics' names of each head: nothing for a single one, `@lr=10` in a grid."""
    return [f"@lr={lr:g}" for lr in settings.lr_grid] or [""]


def final_scores(metrics: Path, settings: ProbeSettings) -> dict[str, float]:
    """What a finished probe reached, as its metrics tell."""
    rows, endings = read_scores(metrics), metric_endings(settings)
    last = rows[-1]
    best = max(range(len(endings)), key=lambda head: last[f"top1{endings[head]}"])
    found = {metric: last[f"{metric}{endings[best]}"] for metric in ("top1", "top5", "mean_per_class")}
    found["top1_best"] = max(row[f"top1{endings[best]}"] for row in rows)
    if settings.lr_grid:
        found |= {"lr": settings.lr_grid[best], **{f"top1{ending}": last[f"top1{ending}"] for ending in endings}}
    return found


def read_scores(metrics: Path) -> Sequence[dict[str, float]]:
    """The validation rows of a training's metrics, one an epoch."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row for row in rows if "epoch" in row and any(key.startswith("top1") for key in row)]


def assert_unchanged(network: nn.Module, saved: Path) -> None:
    """Prove that probing left the backbone as it was, running statistics included (main_lincls.py `sanity_check`).

    Raises:
        RuntimeError: a tensor differs from the file's.
    """
    before, after = load_backbone(saved).network.state_dict(), network.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name].cpu())]
    if changed:
        raise RuntimeError(f"probing changed the frozen backbone: {', '.join(changed[:3])}; its numbers are void")
