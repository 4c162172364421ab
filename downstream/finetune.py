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
from torch.utils.data import DataLoader
from torch.utils.data import Subset as LoaderSubset

from downstream.crops import BackboneInput, CentralCrops, RandomCrops
from downstream.linear import read_scores
from downstream.measurement import Measurement, Target, measurements, scores
from downstream.partitions import standard
from repro.backbones.checkpoint import Backbone, load_backbone
from repro.contrastive.batch_norm import sync_batch_norm
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.data.subsets import share_of
from repro.distributed import gather, rank, seeded_weights, world_size
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.protocols import FINE_TUNINGS
from repro.runs.run import Run
from repro.training.loading import EpochBatches, make_loader
from repro.training.resume import unwrapped
from repro.training.runner import Training

SHARE_SEED = 0
"""Of the draw of labelled images."""


class FineTuned(LossModel):
    """A backbone with a new linear layer, all of it trained."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        """Start with weights N(0, 0.01) and no bias in the new layer."""
        super().__init__(data_preprocessor=BackboneInput(backbone.input_filter))
        self.network = backbone.network.requires_grad_(True)
        self.network.fc = nn.Linear(backbone.width, classes)
        nn.init.normal_(self.network.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.network.fc.bias)
        sync_batch_norm(self.network)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of a batch."""
        return {"loss": F.cross_entropy(self.network(images), labels)}


class ScoreNetwork(Hook):
    """Accuracies on the validation images after every epoch, written to the metrics; ranks share the images."""

    def __init__(self, images: Images, size: int, batch: int, workers: int) -> None:
        super().__init__()
        self.count = len(images)
        ranks = world_size()
        mine = [index % self.count for index in range(rank(), self.count + -self.count % ranks, ranks)]
        crops = LoaderSubset(CentralCrops(images, size), mine)
        self.loader = DataLoader(crops, batch_size=max(1, batch // ranks), num_workers=workers)

    @torch.no_grad()
    def after_train_epoch(self, runner: Any) -> None:
        """Score the network as it is; the last images of a share that fill up count once."""
        model = unwrapped(runner.model)
        assert isinstance(model, FineTuned)
        model.eval()
        logits, labels = [], []
        for pixels, label in self.loader:
            logits.append(model.network(model.data_preprocessor.normalise(pixels)).float())
            labels.append(label.to(logits[-1].device))
        model.train()
        ranks = world_size()
        together, truth = gather(torch.cat(logits)), gather(torch.cat(labels))
        place = torch.arange(self.count, device=together.device)  # image i was number i // ranks of rank i % ranks
        order = place % ranks * (len(together) // ranks) + place // ranks
        found = scores(together[order], truth[order])
        if rank() == 0:
            runner.visualizer.add_scalars({**found, "epoch": runner.epoch + 1}, step=runner.iter)
            runner.logger.info(f"Epoch(val) [{runner.epoch + 1}]  top1: {found['top1']:.2f}  top5: {found['top5']:.2f}")


@dataclass(frozen=True)
class FineTuning:
    """A task: fine-tuning with a share of the labels."""

    task: str
    """`finetune`, `semi-10` or `semi-1`."""

    def measure(self, run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
        """`top1`, `top5` and `mean_per_class` of the last epoch, and `top1_best` over epochs.

        Raises:
            UserError: the data or the backbone do not fit.
        """
        protocol = run.finetune.protocol(self.task)
        parts = standard(target, seed=0)
        place = folder.path / "finetune" / f"{target.dataset}-{protocol}"
        backbone = load_backbone(folder.backbone, arch=run.encoder.arch)
        self.build_training(
            run, folder, place, backbone, target, self.labelled(parts.train), parts.scored, device
        ).run()
        rows = read_scores(place / "metrics.jsonl")
        values = {metric: rows[-1][metric] for metric in ("top1", "top5", "mean_per_class")}
        return measurements(protocol, parts.split, values | {"top1_best": max(row["top1"] for row in rows)})

    def labelled(self, train: Images) -> Images:
        """The training images whose labels the task may see."""
        _, share, _ = FINE_TUNINGS[self.task]
        return train if share == 1 else share_of(train, share, SHARE_SEED)

    def build_training(
        self,
        run: Run,
        folder: RunFolder,
        place: Path,
        backbone: Backbone,
        target: Target,
        train: Images,
        val: Images,
        device: torch.device,
    ) -> Training:
        """Put together what mmengine's Runner drives.

        Args:
            run: `finetune`, `data.crop`, `seed` and `machine` are used.
            folder: of the run.
            place: where the training's own files go.
            backbone: changed here.
            target: the data set.
            train: images to fit on; where they are fewer than a batch, they are one.
            val: images to score on.
            device: where.
        """
        settings, machine = run.finetune, run.machine
        epochs, batch = settings.epochs_of(self.task), min(settings.batch, len(train) // world_size() * world_size())
        with seeded_weights(run.seed):
            model = FineTuned(backbone, len(train.classes)).to(device)
        if machine.channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.network.parameters(),
            settings.lr * batch / 256,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        batches = EpochBatches(len(train), batch, run.seed)  # a rest of one image would have no batch statistics
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
            checkpoints=place / "checkpoints",
            metrics=place / "metrics.jsonl",
            machine=machine,
            device=device,
            hooks=[ScoreNetwork(val, run.data.crop, settings.batch, machine.workers)],
        )
