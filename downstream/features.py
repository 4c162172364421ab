"""Pooled features of a frozen backbone, computed once and kept: linear, logistic and kNN tasks share them.

A file holds all images of a pool; the parts of a split are rows of it. Its name follows from everything that the
features depend on, so that a changed backbone, data set, crop or filter finds no file of another.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Subset as LoaderSubset

from downstream.crops import BackboneInput, CentralCrops
from downstream.progress import reported
from repro.backbones.checkpoint import Backbone, load_backbone, weights_digest
from repro.data.splits import Images
from repro.data.subsets import Subset
from repro.distributed import barrier, gather, rank, world_size
from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.folder import RunFolder
from repro.runs.run import Run

log = logging.getLogger("salmask")
VERSION = 1
"""Raise it when the same images and weights give other features."""
BATCH = 256
"""Images over all devices; changes no feature beyond rounding."""

Features = NDArray[np.float32]
"""N×D."""


@dataclass(frozen=True)
class FeatureStore:
    """The features of one backbone.

    Attributes:
        backbone: frozen, on the device.
        digest: of its weights.
        crop: side of the central crop in pixels.
        folder: of the run; files go to `features/`.
        device: where it computes.
        workers: decoding processes.
        task: whose progress `status.json` tells.
    """

    backbone: Backbone
    digest: str
    crop: int
    folder: RunFolder
    device: torch.device
    workers: int
    task: str

    @classmethod
    def of(cls, run: Run, folder: RunFolder, device: torch.device, task: str) -> "FeatureStore":
        """The features of a finished run's backbone, which is read and frozen.

        Raises:
            UserError: the backbone is torn or of another architecture than the run's.
        """
        backbone = load_backbone(folder.backbone, arch=run.encoder.arch)
        digest = weights_digest(backbone.network.state_dict())
        backbone.network.to(device).eval().requires_grad_(False)
        return cls(backbone, digest, run.data.crop, folder, device, run.machine.workers, task)

    def __call__(self, images: Images) -> Features:
        """N×D of N images, from the file where there is one; on every rank."""
        if isinstance(images, Subset):
            return self(images.pool)[images.indices]
        path = self.path(images)
        known = _read(path, len(images), self.backbone.width)
        if known is None:
            known = self._compute(images)
            if rank() == 0:
                write_atomically(path, lambda file: np.save(file, known))
        barrier()  # no rank may look for the file while another decides by it
        return known

    def path(self, images: Images) -> Path:
        """The file of a pool's features."""
        content = (
            VERSION,
            self.digest,
            self.backbone.arch,
            self.backbone.input_filter,
            self.crop,
            images.fingerprint(),
        )
        return self.folder.path / "features" / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.npy"

    @torch.no_grad()
    def _compute(self, images: Images) -> Features:
        """Each rank takes every world_size-th image."""
        count, ranks = len(images), world_size()
        if not count:
            raise UserError("there is no image to compute features of", mend="salmask data verify")
        mine = [index % count for index in range(rank(), count + -count % ranks, ranks)]
        loader = DataLoader(
            LoaderSubset(CentralCrops(images, self.crop), mine),
            batch_size=max(1, BATCH // ranks),
            num_workers=self.workers,
        )
        prepare = BackboneInput(self.backbone.input_filter).to(self.device)
        local: list[Tensor] = []
        done = 0
        with reported(self.folder, self.task, "features", len(mine)) as tell:
            for pixels, _ in loader:
                local.append(self.backbone.network(prepare.normalise(pixels)))
                done += len(pixels)
                tell(done)
        together = gather(torch.cat(local))  # by rank; image i was number i // ranks of rank i % ranks
        ordered = together.view(ranks, len(mine), -1).transpose(0, 1).reshape(ranks * len(mine), -1)[:count]
        return ordered.float().cpu().numpy()


def _read(path: Path, count: int, width: int) -> Features | None:
    """What a file holds; None where there is none, or it was damaged."""
    if not path.exists():
        return None
    try:
        known: Features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s cannot be read (%s); the features are computed anew", path, " ".join(str(error).split()))
        return None
    if known.shape != (count, width) or known.dtype != np.float32:
        log.warning("%s holds %s, not %d×%d; the features are computed anew", path, known.shape, count, width)
        return None
    return known


def labels_of(images: Images) -> NDArray[np.int64]:
    """N labels."""
    return np.asarray(images.targets, dtype=np.int64)
