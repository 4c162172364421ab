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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.optim import MultiStepLR
from torch import Tensor, nn

from downstream.crops import BackboneInput, RandomCrops
from downstream.epoch_scores import EpochScores, final_scores, read_scores, write_scores
from downstream.features import FeatureStore, labels_of
from downstream.measurement import (
    Measurement,
    Target,
    averaged,
    keep_predictions,
    measurements,
    predictions_of,
    scores,
)
from downstream.partitions import paper_like, split_seeds
from repro.backbones.backbone import Backbone, load_backbone
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.errors import UserError
from repro.filesystem.files import LONGEST_NAME
from repro.processes.distributed import seeded_weights, unwrapped
from repro.runs.evaluation import Evaluation
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.predictions import Predictions, joined, path_of_predictions
from repro.settings.protocols import ProbeSettings
from repro.settings.run import Run
from repro.training.batches.loading import EpochBatches, fingerprint_of, make_loader
from repro.training.runner import Training


class LinearProbe(LossModel):
    """Linear classifiers on a frozen backbone, which is no registered submodule and so is in no checkpoint."""

    def __init__(self, backbone: Backbone, classes: int, heads: int = 1) -> None:
        """Starts all heads from the same weights N(0, 0.01) and biases of zero (main_lincls.py).

        Args:
            backbone: The frozen backbone of a `FeatureStore`.
            classes: Number of classes of the data set.
            heads: Number of classifiers side by side, none of which influences the others.
        """
        super().__init__(data_preprocessor=BackboneInput(backbone.input_filter))
        # In a tuple, so that nn.Module does not register it: `train()` must not reach its batch norms.
        self._backbone = (backbone.network,)
        first = nn.Linear(backbone.features, classes)
        nn.init.normal_(first.weight, 0.0, 0.01)
        nn.init.zeros_(first.bias)
        self.heads = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(heads - 1))])

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Computes the backbone's features B×D of its input B×3×H×W."""
        (backbone,) = self._backbone
        return backbone(images)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the cross-entropy of a batch, summed over the heads.

        A sum, and not a mean, so that each head has the gradient that it would have alone.
        """
        features = self.features(images)
        return {"loss": torch.stack([F.cross_entropy(head(features), labels) for head in self.heads]).sum()}


class ScoreHeads(Hook):
    """Writes accuracies on the validation images to the probe's metrics after every epoch.

    Nothing but the classifiers changes between epochs, so the validation features are computed once, by the caller.
    """

    def __init__(self, features: Tensor, labels: Tensor, endings: Sequence[str]) -> None:
        """Prepares the scoring.

        Args:
            features: N×D, of the validation images.
            labels: N, of the same images.
            endings: Suffix of each head's metrics' names.
        """
        super().__init__()
        self.features, self.labels, self.endings = features, labels, endings

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Scores the current classifiers."""
        probe = unwrapped(runner.model)
        assert isinstance(probe, LinearProbe)
        values: dict[str, float] = {}
        for head, ending in zip(probe.heads, self.endings, strict=True):
            values |= {f"{metric}{ending}": value for metric, value in scores(head(self.features), self.labels).items()}
        write_scores(runner, values)


def check(run: Run, target: Target, backbone: Backbone) -> None:
    """Checks what can be known before the probe is trained.

    Args:
        run: `probe` and `seed` are used.
        target: The data set.
        backbone: Not used.

    Raises:
        UserError: The data set is missing or broken, the processes cannot share a batch evenly, or the grid has more
            rates than the name of a file can hold.
    """
    # The longest of the file names that contain the protocol's. It is needed only after hours of training.
    protocol = run.probe.protocol(target.dataset).name
    predictions = path_of_predictions(RunFolder(Path()), "linear", target.dataset, protocol)
    if len(predictions.name) > LONGEST_NAME:
        raise UserError(
            f"the {len(run.probe.lr_grid)} rates of probe.lr_grid are part of files' names, which would be too long",
            mend="fewer rates, or with fewer digits",
        )
    train, _, _ = paper_like(target, seed=0)
    _batches(run, train)


def _batches(run: Run, train: Images) -> EpochBatches:
    """Plans the epochs of a probe; raises a UserError if the processes cannot share a batch evenly."""
    # The last, smaller batch is trained on, too, as in main_lincls.py: a frozen backbone takes no batch statistics.
    return EpochBatches(len(train), run.probe.batch, run.seed, drop_last=False)


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """Measures `top1`, `top5` and `mean_per_class` of the last epoch, the result, and `top1_best` over all epochs.

    With a grid of learning rates, the best `lr` and each rate's top-1 (`top1@lr=10`) are added. On Caltech-101 the
    numbers are means over drawn splits, and the values of each split are added.

    Args:
        run: `probe`, `data.crop`, `seed` and `machine` are used.
        folder: Of the run, with its `backbone.pth`.
        target: The data set.
        device: Where the probe is trained.

    Raises:
        UserError: The data or the backbone do not fit.
        RuntimeError: Probing changed the backbone.
    """
    protocol = run.probe.protocol(target.dataset).name
    seeds = split_seeds(target.dataset, run.probe.splits)
    # One store for all splits: the backbone is read once, and a pool's features serve every split of it.
    evaluation = Evaluation("linear", target.dataset)
    store = FeatureStore.of(run, folder, device, evaluation.name(run), channels_last=run.probe.channels_last)
    split_scores, split_predictions, split = [], [], ""
    for seed in seeds:
        train, val, split = paper_like(target, seed)
        probe_folder = folder_of_probe(folder, target.dataset, protocol, seed if len(seeds) > 1 else None)
        training = build_training(run, folder, probe_folder, store, train, val)
        training.run()
        epochs = read_scores(training.metrics, training.epochs)
        split_scores.append(best_head_scores(epochs, run.probe))
        split_predictions.append(predictions_of_head(training, best_head(epochs, run.probe), store, val))
    assert_unchanged(store.backbone.network, folder.backbone)  # before any number becomes a row
    values = averaged(split_scores)
    kept = keep_predictions(folder, evaluation, protocol, joined(split_predictions), values)
    return measurements(protocol, split, values, kept)


def folder_of_probe(folder: RunFolder, dataset: str, protocol: str, split_seed: int | None = None) -> Path:
    """Returns where a probe's own files go.

    Args:
        folder: Of the run.
        dataset: The data set of the probe.
        protocol: The protocol with its departures, so that probes with other settings have other folders.
        split_seed: Of the drawn split; None if there are not several.
    """
    ending = "" if split_seed is None else f"-split{split_seed}"
    return folder.path / TASK_FOLDERS["linear"] / f"{dataset}-{protocol}{ending}"


def build_training(
    run: Run, folder: RunFolder, probe_folder: Path, store: FeatureStore, train: Images, val: Images
) -> Training:
    """Puts together what mmengine's Runner drives.

    Args:
        run: `probe`, `data.crop`, `seed` and `machine` are used.
        folder: Of the run.
        probe_folder: Where the probe's own files go.
        store: Of the frozen backbone.
        train: Images to fit on.
        val: Images to score on.

    Raises:
        UserError: The processes cannot share a batch evenly.
    """
    settings, machine, device = run.probe, run.machine, store.device
    rates = settings.lr_grid or (settings.lr,)
    # All validation features fit on the device: 5,000 images of ImageNet-100 take 40 MB.
    features = torch.from_numpy(store(val)).to(device)
    labels = torch.from_numpy(labels_of(val)).to(device)
    with seeded_weights(run.seed):
        model = LinearProbe(store.backbone, len(train.classes), len(rates)).to(device)
    # One parameter group for each head: momentum and weight decay are per parameter, so the heads stay independent.
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(model.heads, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, rates[0], momentum=settings.momentum, weight_decay=settings.weight_decay)
    milestones = [round(0.6 * settings.epochs), round(0.8 * settings.epochs)]  # 60 and 80 of the protocol's 100
    return Training(
        task=store.task,
        run_id=run.id,
        model=model,
        loader=make_loader(RandomCrops(train, run.data.crop, run.seed), _batches(run, train), machine.workers),
        optimizers={"main": optimizer},
        schedulers={"main": [MultiStepLR(optimizer, milestones=milestones, gamma=0.1, by_epoch=True)]},
        epochs=settings.epochs,
        batch=settings.batch,
        folder=folder,
        checkpoints=probe_folder / "checkpoints",
        metrics=probe_folder / "metrics.jsonl",
        machine=machine,
        device=device,
        data=fingerprint_of(train, val),
        when_diverged="lower rates in probe.lr_grid" if settings.lr_grid else "a lower probe.lr",
        hooks=[ScoreHeads(features, labels, settings.metric_endings)],
    )


@torch.no_grad()
def predictions_of_head(training: Training, head: int, store: FeatureStore, val: Images) -> Predictions:
    """Returns what a classifier of a finished probe, as after its last epoch, predicts for each scored image."""
    probe = unwrapped(training.model)
    assert isinstance(probe, LinearProbe)
    features = torch.from_numpy(store(val)).to(store.device)
    return predictions_of(probe.heads[head](features), val)


def best_head(epochs: Sequence[EpochScores], settings: ProbeSettings) -> int:
    """Returns the number of the classifier with the best top-1 of the last epoch; the first one wins a tie."""
    endings = settings.metric_endings
    return max(range(len(endings)), key=lambda head: epochs[-1][f"top1{endings[head]}"])


def best_head_scores(epochs: Sequence[EpochScores], settings: ProbeSettings) -> dict[str, float]:
    """Returns the result of a finished probe.

    Args:
        epochs: Its scores, from `read_scores`.
        settings: The settings that the probe was trained with.

    Returns:
        `final_scores` of the head with the best top-1 of the last epoch. With a grid also that head's `lr`, and the
        top-1 of each.
    """
    endings, last, best = settings.metric_endings, epochs[-1], best_head(epochs, settings)
    values = final_scores(epochs, endings[best])
    if settings.lr_grid:
        values |= {"lr": settings.lr_grid[best], **{f"top1{ending}": last[f"top1{ending}"] for ending in endings}}
    return values


def assert_unchanged(network: nn.Module, backbone_file: Path) -> None:
    """Checks that probing left the backbone as it was, running statistics included (main_lincls.py `sanity_check`).

    Args:
        network: The backbone after probing.
        backbone_file: The file that it was read from.

    Raises:
        RuntimeError: A tensor differs from the file's.
    """
    before, after = load_backbone(backbone_file).network.state_dict(), network.state_dict()
    differing = [name for name, tensor in before.items() if not torch.equal(tensor, after[name].cpu())]
    if differing:
        raise RuntimeError(f"probing changed the frozen backbone: {', '.join(differing[:3])}; its numbers are void")
