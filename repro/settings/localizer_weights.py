"""The weights that a run's localizer needs and that are not installed with salmask, and their files. No torch.

They are downloaded once, by `salmask data weights` or by the first run that needs them, into the cache that this module
names; nodes of a cluster often have no network, and can only read them there.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from repro.filesystem.paths import CACHE_VARIABLE, cache_home, expanded
from repro.filesystem.presence import is_file
from repro.settings.network_names import TIMM
from repro.settings.run import Run

FILES_OF_RESNET50 = {
    "IMAGENET1K_V1": "resnet50-0676ba61.pth",
    "IMAGENET1K_V2": "resnet50-11ad3fa6.pth",
    "DEFAULT": "resnet50-11ad3fa6.pth",
}
"""torchvision's weights of ResNet-50 by name; the file's name ends with the first digits of its SHA-256."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names under which the Hub keeps the weights of a timm model."""


@dataclass(frozen=True, order=True)
class LocalizerWeights:
    """The trained weights of one localizer."""

    network: str
    """`resnet50`, `timm/NAME` or `checkpoint`."""
    weights: str = ""
    """The name of the weights for `resnet50`; a path for `checkpoint`; empty for `timm/NAME`."""

    def __str__(self) -> str:
        if self.network == "checkpoint":
            return f"localizer {self.weights}"
        return f"weights of {self.network}" + (f" ({self.weights})" if self.network == "resnet50" else "")

    @property
    def fetched_by(self) -> str:
        """The command that downloads them; empty for a checkpoint, which cannot be downloaded."""
        if self.network == "checkpoint":
            return ""
        words = [f"localizer.network={self.network}"] if self.network != "resnet50" else []
        if self.network == "resnet50" and self.weights != "IMAGENET1K_V2":
            words = [f"localizer.weights={self.weights}"]
        return " ".join(["salmask data weights", *words])

    def file(self) -> Path | None:
        """Returns the file that holds them on this machine; None where there is none.

        For a timm model without a tag, `timm/resnet18`, the file of any tag counts: only timm knows the default one.
        """
        if self.network == "checkpoint":
            candidates = [Path(self.weights)]
        elif self.network == "resnet50":
            candidates = [torchs_folder() / "checkpoints" / FILES_OF_RESNET50.get(self.weights, self.weights)]
        else:
            pattern = f"models--{self.network.replace('/', '--')}" + ("" if "." in self.network else ".*")
            snapshots = sorted(hub_folder().glob(f"{pattern}/snapshots/*"))
            candidates = [snapshot / file for snapshot in snapshots for file in HUB_FILES]
        return next((path for path in candidates if is_file(path)), None)

    def is_damaged(self, path: Path) -> bool:
        """Returns whether a file is cut off or another one, by the hash in its name; only torchvision's can be checked.

        Raises:
            OSError: The file cannot be read.
        """
        if self.network != "resnet50":
            return False
        expected = Path(FILES_OF_RESNET50.get(self.weights, "")).stem.partition("-")[2]
        with path.open("rb") as file:
            return not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected)


PAPERS_WEIGHTS = LocalizerWeights("resnet50", "IMAGENET1K_V2")
"""The weights of every row's localizer, unless settings say otherwise."""


def weights_of(run: Run) -> LocalizerWeights | None:
    """Returns the weights that a pretraining reads at its beginning; None if it needs none, or they are installed."""
    return weights_named(run.localizer.network, run.localizer.weights) if run.needs_localizer else None


def weights_named(network: str, weights: str) -> LocalizerWeights | None:
    """Returns the weights of a localizer; None if they are installed or random.

    Args:
        network: As `localizer.network` names it.
        weights: As `localizer.weights` names them.
    """
    if network == "efficientnet-lite0" or (weights == "random" and network != "checkpoint"):
        return None
    return LocalizerWeights(network, "" if network.startswith(TIMM) else weights)


def weights_cache() -> Path | None:
    """Returns the folder of downloaded weights in $SALMASK_CACHE; None without that variable.

    Without it, torch and the Hub keep them in their own folders, which all programs of this user share.
    """
    return cache_home() / "weights" if os.environ.get(CACHE_VARIABLE) else None


def torchs_folder() -> Path:
    """Returns the folder whose `checkpoints` holds torchvision's weights: ours, or else torch.hub's."""
    own = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"))
    return weights_cache() or expanded(own) / "hub"


def hub_folder() -> Path:
    """Returns the folder in which the Hub's client keeps the weights of timm's models: ours, or else its own."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return weights_cache() or expanded(named or Path(home, "hub"))
