"""Training of the whole network from a backbone, with all labels, ten percent of them, or one.

Protocols `finetune-v1`, `semi-10pct-v1` and `semi-1pct-v1`: SimCLR's recipe (Chen et al. 2020, appendix B.5; lightly
benchmarks/imagenet/resnet50/finetune_eval.py). A new linear layer on the backbone; SGD with Nesterov momentum 0.9, no
weight decay, learning rate 0.05 * batch / 256 along a cosine over steps, without warm-up; random crops and flips; 30
epochs, 60 with one percent. The images of a share are class-balanced and the same for every run: the draw belongs to
the protocol. Batch norm is synchronised over devices, so that their number changes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.optim import CosineAnnealingLR
from torch import Tensor, nn

from downstream.crops import BackboneInput, RandomCrops, central_crops_of_rank
from downstream.epoch_scores import final_scores, read_scores, write_scores
from downstream.measurement import Measurement, Target, keep_predictions, measurements, predictions_of, scores
from downstream.partitions import standard
from repro.backbones.backbone import Backbone, load_backbone_of
from repro.contrastive.batch_norm import sync_batch_norm
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.data.subsets import share_of
from repro.errors import UserError
from repro.processes.distributed import gather, in_order, seeded_weights, unwrapped, world_size
from repro.runs.evaluation import Evaluation
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.settings.protocols import FINE_TUNINGS, FinetuneSettings
from repro.settings.run import Run
from repro.training.batches.loading import EpochBatches, fingerprint_of, make_loader
from repro.training.runner import Training
from repro.training.steps.memory_layout import lay_out_network

SHARE_SEED = 0
"""Seed of the draw of labelled images; it belongs to the protocol and is not a setting of a run."""


class FineTuned(LossModel):
    """A backbone with a new linear layer, all of it trained."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        """Adds the new layer, with weights drawn from N(0, 0.01) (standard deviation) and biases of zero.

        Args:
            backbone: Its network gets the layer and is trained.
            classes: Number of classes of the data set.
        """
        super().__init__(data_preprocessor=BackboneInput(backbone.input_filter))
        self.network = backbone.network
        self.network.fc = nn.Linear(backbone.features, classes)
        nn.init.normal_(self.network.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.network.fc.bias)
        sync_batch_norm(self.network)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the cross-entropy of a batch: images B×3×H×W and labels B."""
        return {"loss": F.cross_entropy(self.network(images), labels)}


class ScoreNetwork(Hook):
    """Writes accuracies on the validation images to the metrics after every epoch; the ranks share the images."""

    def __init__(self, images: Images, size: int, batch: int, workers: int) -> None:
        """Prepares the scoring.

        Args:
            images: To score on.
            size: Of the central crops, pixels a side.
            batch: Images of a forward pass over all ranks.
            workers: Decoding processes of this rank.
        """
        super().__init__()
        self.images = images
        self.last_logits: Tensor | None = None
        self.loader = central_crops_of_rank(images, size, batch=batch, workers=workers)

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Scores the current network; each image counts once, even if the ranks cannot share the images evenly."""
        # Without DDP's wrapper, whose forward pass computes the loss; here the network's logits are needed.
        model = unwrapped(runner.model)
        assert isinstance(model, FineTuned)
        self.last_logits = self.logits(model)
        labels = torch.tensor(self.images.targets, device=self.last_logits.device)
        write_scores(runner, scores(self.last_logits, labels))

    @torch.no_grad()
    def logits(self, model: FineTuned) -> Tensor:
        """Computes N×classes logits of the N images; called on every rank, each of which returns all."""
        model.eval()
        batches = [model.network(model.data_preprocessor.normalise(pixels)) for pixels, _ in self.loader]
        return in_order(gather(torch.cat(batches)), len(self.images))

    def final_logits(self, model: nn.Module) -> Tensor:
        """Returns the logits of the last epoch; computes them again if the training ended in an earlier process."""
        network = unwrapped(model)
        assert isinstance(network, FineTuned)
        return self.logits(network) if self.last_logits is None else self.last_logits


@dataclass(frozen=True)
class FineTuning:
    """One of the three tasks: fine-tuning with a share of the labels."""

    task: str
    """`finetune`, `semi-10` or `semi-1`."""

    def check(self, run: Run, target: Target, backbone: Backbone) -> None:
        """Checks what can be known before the network is trained.

        Args:
            run: `finetune` is used.
            target: The data set.
            backbone: Not used.

        Raises:
            UserError: The data set is missing or broken, or the processes cannot share a batch evenly.
        """
        self.batch_of(run.finetune.batch, len(self.labelled(standard(target, seed=0).train)))

    def measure(self, run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
        """Measures `top1`, `top5` and `mean_per_class` of the last epoch, and `top1_best` over epochs.

        Args:
            run: `finetune`, `data.crop`, `seed` and `machine` are used.
            folder: Of the run, with its `backbone.pth`, which is left as it is.
            target: The data set.
            device: Where the network is trained.

        Raises:
            UserError: The data or the backbone do not fit.
        """
        protocol = run.finetune.protocol(self.task).name
        partition = standard(target, seed=0)
        training_folder = folder.path / TASK_FOLDERS[self.task] / f"{target.dataset}-{protocol}"
        backbone = load_backbone_of(run, folder)
        train = self.labelled(partition.train)
        val = partition.scored
        training = self.build_training(run, folder, training_folder, backbone, target, train, val, device)
        training.run()
        values = final_scores(read_scores(training.metrics, training.epochs))
        (scorer,) = training.hooks
        assert isinstance(scorer, ScoreNetwork)
        predictions = predictions_of(scorer.final_logits(training.model), val)
        kept = keep_predictions(folder, Evaluation(self.task, target.dataset), protocol, predictions, values)
        return measurements(protocol, partition.split, values, kept)

    def labelled(self, train: Images) -> Images:
        """Returns the training images whose labels the task may see: all, or a class-balanced share of them."""
        _, share, _ = FINE_TUNINGS[self.task]  # the other two are the protocol's name and its epochs
        return train if share == 1 else share_of(train, share, SHARE_SEED)

    def batch_of(self, batch: int, images: int) -> int:
        """Returns the number of images per step over all processes, which does not depend on their number.

        Args:
            batch: `finetune.batch`.
            images: Number of labelled images; one percent of a small data set is less than a batch.

        Raises:
            UserError: The processes cannot share the batch evenly.
        """
        batch, processes = min(batch, images), world_size()
        if batch % processes:
            shareable = batch // processes * processes
            raise UserError(
                f"{self.task} has {images} labelled images and a batch of {batch}, which {processes} processes cannot "
                "share evenly",
                mend=f"finetune.batch={shareable}, or fewer processes" if shareable else "fewer processes",
            )
        return batch

    def build_training(
        self,
        run: Run,
        folder: RunFolder,
        training_folder: Path,
        backbone: Backbone,
        target: Target,
        train: Images,
        val: Images,
        device: torch.device,
    ) -> Training:
        """Puts together what mmengine's Runner drives.

        Args:
            run: `finetune`, `data.crop`, `seed` and `machine` are used.
            folder: Of the run.
            training_folder: Where the training's own files go.
            backbone: Its network gets a new layer and is trained.
            target: The data set.
            train: Images to fit on; if they are fewer than a batch, they form one batch.
            val: Images to score on.
            device: Where the network is trained.

        Raises:
            UserError: The processes cannot share a batch evenly.
        """
        settings, machine = run.finetune, run.machine
        epochs = settings.epochs_of(self.task)
        batch = self.batch_of(settings.batch, len(train))
        # Only the new layer is drawn; the seed makes it the same on every rank.
        with seeded_weights(run.seed):
            model = FineTuned(backbone, len(train.classes)).to(device)
        lay_out_network(model, channels_last=machine.channels_last)
        optimizer = _optimizer(model, settings, batch)
        # Images that do not fill a batch are left out of the epoch: a single one would have no batch statistics.
        batches = EpochBatches(len(train), batch, run.seed)
        schedule = CosineAnnealingLR(optimizer, T_max=epochs * len(batches), eta_min=0.0, by_epoch=False)
        return Training(
            task=Evaluation(self.task, target.dataset).name(run),
            run_id=run.id,
            model=model,
            loader=make_loader(RandomCrops(train, run.data.crop, run.seed), batches, machine.workers),
            optimizers={"main": optimizer},
            schedulers={"main": [schedule]},
            epochs=epochs,
            batch=batch,
            folder=folder,
            checkpoints=training_folder / "checkpoints",
            metrics=training_folder / "metrics.jsonl",
            machine=machine,
            device=device,
            data=fingerprint_of(train, val),
            when_diverged="a lower finetune.lr",
            hooks=[ScoreNetwork(val, run.data.crop, settings.batch, machine.workers)],
        )


def _optimizer(model: FineTuned, settings: FinetuneSettings, batch: int) -> torch.optim.Optimizer:
    """Returns SGD over the whole network, whose learning rate grows with the batch."""
    return torch.optim.SGD(
        model.network.parameters(),
        settings.lr * batch / 256,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,  # torch refuses Nesterov's without momentum
    )


FINETUNE, SEMI_1, SEMI_10 = (FineTuning(task) for task in ("finetune", "semi-1", "semi-10"))
"""The tasks, for `downstream.tasks`."""
