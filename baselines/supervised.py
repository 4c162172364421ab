"""The supervised row: a ResNet that learns the labels, by torchvision's reference recipe (references/classification).

SGD with learning rate 0.1 for a batch of 256, divided by ten every 30 epochs, random crops and flips; the settings are
its `recipe` in `repro.settings.frameworks`. The paper states no recipe. Two things are not torchvision's: there are 100
epochs instead of 90, so that the rate is divided once more at 90; and batch norm spans the global batch instead of one
device's 32 images, so that the number of devices changes nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH, build_resnet
from repro.contrastive.batch_norm import sync_batch_norm
from repro.contrastive.loss_model import LossModel
from repro.data.splits import Images
from repro.processes.distributed import seeded_weights
from repro.settings.run import Run
from repro.settings.sections import AugmentationSettings
from repro.training.batches.loading import OneView
from repro.training.learner import Learner
from repro.training.steps.memory_layout import lay_out_images, lay_out_network
from repro.training.steps.optimization import build_optimizer
from repro.training.steps.preprocess import Augmenter


class LabelledInput(Augmenter):
    """mmengine's data preprocessor of supervised learning: augments and normalises one view of each image."""

    def __init__(self, augmentation: AugmentationSettings, *, channels_last: bool) -> None:
        """Prepares for the loader's crops.

        Args:
            augmentation: What the loader draws from, and whether the loader or the device applies it.
            channels_last: Memory layout of the network's input.
        """
        super().__init__(augmentation)
        self.channels_last = channels_last

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Tensor]:
        """Makes the model's keyword arguments from a batch of `OneView`: images B×3×S×S and labels B."""
        # Only the network runs in half precision: pixels would lose a bit or two of the eight that they have.
        with torch.autocast(self.device.type, enabled=False):
            images = self.normalise(self.augment(data, "view"))
        return {
            "images": lay_out_images(images, channels_last=self.channels_last),
            "labels": data["label"].to(self.device, non_blocking=True),
        }


class Classifier(LossModel):
    """A ResNet with one output for each class; `encoder` holds it whole, its `fc` included."""

    def __init__(
        self, arch: str, classes: int, *, width: int = BASE_WIDTH, data_preprocessor: nn.Module | None = None
    ) -> None:
        """Builds the network; where there are several processes, its batch norm spans them.

        Args:
            arch: A torchvision ResNet.
            classes: Number of classes in the data.
            width: Base planes of the ResNet.
            data_preprocessor: Turns a batch of the loader into images and labels.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        # The classifier stays in it: `save_backbone` leaves `fc` out of the backbone.
        self.encoder = sync_batch_norm(build_resnet(arch, classes, width))

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the cross-entropy of one step.

        Args:
            images: B×3×H×W, normalised.
            labels: B, below the number of classes.

        Returns:
            `loss`, and `accuracy` of the batch in 0..1, which is logged.
        """
        logits = self.encoder(images).float()  # a cross-entropy in half precision would lose small probabilities
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}


def build_learner(run: Run, images: Images, device: torch.device) -> Learner:
    """Builds a classifier of the images' classes; a `repro.training.learner.Build`.

    Args:
        run: `encoder`, `augmentation`, `optimization`, `data.crop`, `seed` and `machine` are used.
        images: The training images.
        device: Where the model goes.

    Raises:
        UserError: torchvision has no such ResNet.
    """
    with seeded_weights(run.seed):
        maker = LabelledInput(run.augmentation, channels_last=run.machine.channels_last)
        encoder = run.encoder
        model = Classifier(encoder.arch, len(images.classes), width=encoder.width, data_preprocessor=maker).to(device)
    lay_out_network(model, channels_last=run.machine.channels_last)
    return Learner(
        model=model,
        encoder=model.encoder,
        optimizers={"main": build_optimizer(model.parameters(), run.optimization)},
        dataset=OneView(images, run.data.crop, run.augmentation, run.seed),
    )
