"""Pooled features of a frozen backbone, computed once and kept: the linear, logistic and kNN tasks share them.

A file holds the features of all images of a pool; the parts of a split are rows of it. Its name is a digest of
everything that the features depend on, so that a changed backbone, data set, crop or filter never finds an old file.
"""

import hashlib
import json
import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.crops import BackboneInput, central_crops_of_rank
from downstream.progress import reported
from repro.backbones.backbone import Backbone, load_backbone_of
from repro.backbones.weights import weights_digest
from repro.data.splits import Images
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.filesystem.files import reading, write_atomically
from repro.processes.distributed import await_file, decided_by_first, gather, in_order, rank, share_of_rank
from repro.runs.folder import FEATURES, RunFolder
from repro.settings.run import Run
from repro.training.steps.memory_layout import lay_out_network

log = logging.getLogger("salmask")
VERSION = 1
"""Part of every file's name. Raise it when the same images and weights give other features than before."""
BATCH = 256
"""Images per forward pass over all devices; another number changes features by rounding at most."""

Features = NDArray[np.float32]
"""N×D, D the width of the backbone's last stage."""


@dataclass(frozen=True)
class FeatureStore:
    """The features of one backbone, read from their files or computed.

    The features of the last pool stay in memory, so that a task may ask for its parts one after the other.

    Attributes:
        backbone: The network, frozen, on the device.
        digest: `weights_digest` of the network.
        crop: Side of the central crop in pixels.
        folder: Of the run; the files go to its `features/`.
        device: Where features are computed.
        workers: Decoding processes of this rank.
        task: The task in whose status the progress is written.
        channels_last: Whether the network lies in memory as NHWC, which rounds its features differently.
    """

    backbone: Backbone
    digest: str
    crop: int
    folder: RunFolder
    device: torch.device
    workers: int
    task: str
    channels_last: bool
    _last_pool: dict[str, Features] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls, run: Run, folder: RunFolder, device: torch.device, task: str, *, channels_last: bool = False
    ) -> "FeatureStore":
        """Makes the store of a finished run's backbone, which is read from its file and frozen.

        Args:
            run: `encoder.arch`, `data.crop` and `machine.workers` are used.
            folder: Of the run, with its `backbone.pth`.
            device: Where features are computed.
            task: The task in whose status the progress is written.
            channels_last: As the task's protocol says; `machine.channels_last`, which is for trainings, is not used.

        Raises:
            UserError: The backbone is damaged, or another run's.
        """
        backbone = load_backbone_of(run, folder)
        digest = weights_digest(backbone.network.state_dict())
        backbone.network.to(device).eval().requires_grad_(False)
        lay_out_network(backbone.network, channels_last=channels_last)
        return cls(backbone, digest, run.data.crop, folder, device, run.machine.workers, task, channels_last)

    def __call__(self, images: Images) -> Features:
        """Returns the features N×D of N images, read from their file if there is one; called on every rank.

        Raises:
            UserError: Features are NaN or infinite, or this rank cannot read the file that rank 0 reads.
        """
        # The whole pool is computed for any part of it: the parts of several splits then share one file.
        if isinstance(images, Subset):
            return self(images.pool)[images.indices]
        name = self.name(images)
        if name not in self._last_pool:
            self._last_pool.clear()  # frees memory before the next pool is read: ImageNet-100 takes a gigabyte
            found = self._find(images)
            self._last_pool[name] = self._make(images) if found is None else found
            _warn_if_equal(self._last_pool[name], self.folder.backbone)
        return self._last_pool[name]

    def _find(self, images: Images) -> Features | None:
        """Reads a pool's features from their file; returns None, on every rank, if no file can be used."""
        path, found = self.path(images), None

        def is_whole() -> bool:
            nonlocal found
            found = read_features(path, len(images), self.backbone.features)
            return found is not None

        # Rank 0 decides for all whether the file can be used: ranks that did not see it would wait in `_compute`.
        if decided_by_first(is_whole) and found is None:  # on the other ranks
            await_file(path)
            found = read_features(path, len(images), self.backbone.features)
            if found is None:  # this rank cannot compute them: it would wait for the other ranks for ever
                what = f"rank {rank()} on {socket.gethostname()} cannot read {path}, which rank 0 reads"
                raise UserError(what, mend=f"look at the file on that node, or remove {path}")
        return found

    def _make(self, images: Images) -> Features:
        """Computes a pool's features, and keeps them in their file."""
        features = self._compute(images)
        # Checked before the file is written: later, NaN would show only as scikit-learn's traceback or as a
        # meaningless accuracy.
        _require_finite(features, self.folder.backbone)
        if rank() == 0:
            write_atomically(self.path(images), lambda file: np.save(file, features))
        return features

    def path(self, images: Images) -> Path:
        """Returns where a pool's features are kept."""
        return self.folder.path / FEATURES / f"{self.name(images)}.npy"

    def name(self, images: Images) -> str:
        """Returns the name of the images' features: 16 hex digits of a digest of everything that they depend on."""
        # The order is part of the digest: if it changed, files of earlier runs would not be found.
        content = (
            VERSION,
            self.digest,
            self.backbone.arch,
            self.backbone.input_filter,
            self.crop,
            images.fingerprint(),
            # Added only if set, so that files from before this setting are still found.
            *(["channels_last"] if self.channels_last else []),
            # A row names the device that measured it, so its features must come from such a device: others round
            # differently.
            *([self.device.type] if self.device.type != "cpu" else []),
        )
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @torch.no_grad()
    def _compute(self, images: Images) -> Features:
        """Computes the features of all images; the ranks share the work, and each returns all features."""
        count = len(images)
        loader = central_crops_of_rank(images, self.crop, batch=BATCH, workers=self.workers)
        prepare = BackboneInput(self.backbone.input_filter).to(self.device)
        batches: list[Tensor] = []
        images_computed = 0
        with reported(self.folder, self.task, "features", len(share_of_rank(count)), "images") as tell:
            for pixels, _ in loader:
                batches.append(self.backbone.network(prepare.normalise(pixels)))
                images_computed += len(pixels)
                tell(images_computed)
        # Every rank gets all features, since each of them goes on to train or to score with them.
        return in_order(gather(torch.cat(batches)), count).float().cpu().numpy()


def read_features(path: Path, count: int, width: int) -> Features | None:
    """Reads features from a file; returns None if there is no file, or if it is damaged, which is logged.

    Args:
        path: The file.
        count: Number of images that it must hold.
        width: Number of features per image.
    """
    if not path.exists():
        return None
    try:
        with reading(path, "remove it"):
            features: Features = np.load(path, allow_pickle=False)
            if not isinstance(features, np.ndarray):
                raise TypeError("it is an archive of arrays")
    except UserError as error:
        log.warning("%s; the features are computed anew", error.what)
        return None
    if features.shape != (count, width) or features.dtype != np.float32:
        held = f"{'×'.join(map(str, features.shape))} of {features.dtype}"
        log.warning("%s holds %s, not %d×%d of float32; the features are computed anew", path, held, count, width)
        return None
    if not np.isfinite(features).all():
        log.warning("%s holds values that are not finite; the features are computed anew", path)
        return None
    return features


def _require_finite(features: Features, backbone: Path) -> None:
    """Raises a UserError if features are NaN or infinite, with the number of such images."""
    images = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if images.size:
        raise UserError(
            f"the features of {images.size} of {len(features)} images, image {images[0]} first, are NaN or infinite: "
            f"{backbone} cannot be measured",
            mend="take an earlier checkpoint of its training, or train it anew",
        )


def _warn_if_equal(features: Features, backbone: Path) -> None:
    """Logs a warning if all images have the same features: accuracies are chance then, or depend on the images' order.

    The evaluation goes on: for a collapsed backbone, these are its accuracies.
    """
    # The first two images nearly always differ, which spares comparing a gigabyte.
    if len(features) > 1 and (features[1] == features[0]).all() and (features == features[0]).all():
        log.warning("all %d images have the same features: %s cannot tell images apart", len(features), backbone)


def labels_of(images: Images) -> NDArray[np.int64]:
    """Returns the labels of N images as an array."""
    return np.asarray(images.targets, dtype=np.int64)
