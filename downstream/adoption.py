"""A run folder for weights that were trained elsewhere, so that every task and table can take them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.backbones.checkpoint import load_backbone, read_checkpoint, save_backbone, weights_digest
from repro.backbones.foreign import ForeignBackbone, read_foreign
from repro.contrastive.encoders import build_resnet
from repro.distributed import seeded_weights
from repro.errors import UserError, shortened
from repro.runs.difference import difference
from repro.runs.folder import RunFolder
from repro.runs.reading import build
from repro.runs.run import Run

log = logging.getLogger("salmask")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+@_-]*")

RANDOM = "random"
"""In place of a checkpoint: weights that never saw an image."""


def untrained(arch: str, seed: int) -> ForeignBackbone:
    """A backbone with fresh weights, those that a run with this seed starts from.

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    with seeded_weights(seed):
        state = build_resnet(arch, 1).state_dict()
    return ForeignBackbone({key: value for key, value in state.items() if not key.startswith("fc.")}, "", ())


def adopt(
    path: Path,
    *,
    arch: str,
    name: str,
    prefix: str,
    input_filter: str,
    settings: Mapping[str, Any],
    out: Path,
) -> tuple[Run, RunFolder]:
    """Make the folder of an external run, or find the one that is there.

    Its identity is the weights themselves: a digest of the backbone's tensors, with the architecture and the input
    filter. What trained them is unknown, so tables show such rows as `imported weights`, in a column of their own.

    Args:
        path: the checkpoint, see `repro.backbones.foreign.read_foreign`; `random` for fresh weights, the row below
            all others.
        arch: torchvision's name of the network.
        name: the method's name in tables; empty: the file's.
        prefix: of the keys; empty: found.
        input_filter: `high_pass` where the weights were trained on high-passed images, else `none`.
        settings: of the evaluation, of `data.crop` and `seed`.
        out: folder of the sweep.

    Returns:
        The run, with the settings, and its folder with `run.yaml` and `backbone.pth`.

    Raises:
        UserError: the checkpoint does not fit, the name is no name, or the folder holds another run.
    """
    name = name or re.sub(r"(\.pth|\.tar|\.pt|\.ckpt|\.safetensors)+$", "", path.name)
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: letters, digits and . + @ _ - only, as it names a folder")
    fresh = str(path) == RANDOM and not path.exists()
    foreign = untrained(arch, build([settings]).seed) if fresh else read_foreign(path, arch, prefix)
    if not fresh and path.suffix != ".safetensors":
        # One of our own says itself what it was trained on.
        input_filter = str(read_checkpoint(path).get("input_filter", input_filter))
    digest = weights_digest(foreign.state)
    imported = {"weights": digest, "input_filter": input_filter, "origin": RANDOM if fresh else str(path.resolve())}
    made = {"method": name, "framework": "external", "encoder": {"arch": arch}, "imported": imported}
    run = build([settings, made])
    fixed = sorted(key for key in difference(build([made]), run) if not key.startswith("data."))
    if fixed:
        raise UserError(f"{fixed[0]} says nothing about weights from elsewhere", mend="leave it out")
    folder = RunFolder.of(run, out)
    if folder.pretrained:
        held = weights_digest(load_backbone(folder.backbone, arch=arch).network.state_dict())
        if held != digest:
            raise UserError(f"{folder.backbone} holds other weights than {path}", mend="choose another --out")
        return run, folder
    folder.prepare(run)
    folder.record_provenance("not trained here", {"weights": digest})
    save_backbone(folder.backbone, foreign.state, arch=arch, input_filter=input_filter, run_id=run.id)
    log.info(
        "%s: %d tensors behind '%s'; left out: %s",
        path,
        len(foreign.state),
        foreign.prefix,
        shortened(foreign.left_out) if foreign.left_out else "nothing",
    )
    return run, folder
