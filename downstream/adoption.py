"""A run folder for weights that were trained elsewhere, so that every task and table can take them."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro.backbones.backbone import Backbone, backbone_from, load_backbone, save_backbone
from repro.backbones.facts import input_filter_beside, run_around
from repro.backbones.foreign import TOP, USUAL_ARCH, ForeignBackbone, read_foreign
from repro.backbones.resnet import build_resnet
from repro.backbones.weights import weights_digest
from repro.command_line.terminal import say
from repro.errors import UserError
from repro.processes.distributed import seeded_weights
from repro.runs.folder import RunFolder
from repro.runs.provenance_file import record_attempt
from repro.settings.choices import InputFilter
from repro.settings.comparison import difference
from repro.settings.departures import value_text
from repro.settings.limits import METHOD_NAME, METHOD_NAME_MEND
from repro.settings.reading import build
from repro.settings.run import Run

RANDOM = "random"
"""Given in place of a checkpoint's path: freshly drawn, untrained weights."""

_NO_NAME = re.compile(r"[^A-Za-z0-9.+@_-]+")
"""Characters that a file name may have and a method's name may not."""
_ENDINGS = re.compile(r"(\.pth|\.tar|\.pt|\.ckpt|\.safetensors)+$")
"""Endings of a checkpoint's file name that are left out of the method's name."""


def untrained(arch: str, seed: int, width: int) -> ForeignBackbone:
    """Makes a backbone with fresh weights, drawn from a run's seed.

    A pretraining with the same seed starts from other weights: its encoder's head, of another size, is drawn first.

    Args:
        arch: torchvision's name of the network.
        seed: The run's seed.
        width: Base planes of the network.

    Raises:
        UserError: torchvision has no ResNet of this name.
    """
    with seeded_weights(seed):
        state = build_resnet(arch, 1, width).state_dict()
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return ForeignBackbone(bare, "", (), arch, width)


def adopt(
    path: Path,
    *,
    arch: str,
    name: str,
    prefix: str,
    input_filter: InputFilter,
    settings: Mapping[str, Any],
    out: Path,
    check: Callable[[Run, Backbone], None] = lambda *_: None,
) -> tuple[Run, RunFolder]:
    """Makes the folder of an external run, or returns the existing one; must be called in one process only.

    The run's id is made from a digest of the backbone's tensors, the architecture and the input filter. How the weights
    were trained is unknown, so tables show such rows as `imported weights`, in a column of their own.

    Args:
        path: The checkpoint, see `repro.backbones.foreign.read_foreign`; `random`, if there is no file of this name,
            for fresh weights as a baseline.
        arch: torchvision's name of the network; empty: what is on record, see `read_foreign`.
        name: The method's name in tables; empty: the file's, with `-` for characters that no method's name has.
        prefix: Prefix of the tensors' names in the checkpoint, see `read_foreign`; empty: the trained ResNet's.
        input_filter: Filter of the images that the weights were trained on; for our own weights, what is on record
            counts instead.
        settings: Nested settings of the evaluation, `data`, `encoder.width` and `seed`. Without a width, that of our
            own weights is taken from the record.
        out: Folder of the sweep.
        check: Called with the run and its backbone before the folder is made; raises a UserError if they cannot be
            evaluated.

    Returns:
        The run, with the settings, and its folder with `run.yaml` and `backbone.pth`.

    Raises:
        UserError: The checkpoint does not fit, the name cannot name a folder, a setting is about the training of the
            weights, the folder holds other weights, or `check` refuses the run.
    """
    # Characters are replaced, not refused: Lightning itself calls its checkpoints `epoch=9-step=100.ckpt`.
    of_file = _NO_NAME.sub("-", _ENDINGS.sub("", path.name)).lstrip(".+@_-")
    if not METHOD_NAME.fullmatch(name or of_file):
        if not name:
            raise UserError(f"the file name of {path} cannot name a method", mend="--name NAME")
        raise UserError(f"--name {name} cannot name a folder", mend=METHOD_NAME_MEND)
    name = name or of_file
    fresh = str(path) == RANDOM and not path.exists()
    # The run itself cannot be built before its weights are known; seed and width are in the settings.
    wanted = build([settings])
    if fresh:
        foreign = untrained(arch or USUAL_ARCH, wanted.seed, wanted.encoder.width)
    else:
        encoder = settings.get("encoder", {})
        foreign = read_foreign(path, arch, prefix, wanted.encoder.width if "width" in encoder else None)
    own_filter = foreign.input_filter or (None if fresh else _filter_on_record(path, foreign))
    imported = {
        "weights": weights_digest(foreign.state),
        # For our own weights the filter is on record, and the record wins over the option.
        "input_filter": own_filter or input_filter,
        "origin": RANDOM if fresh else str(path.resolve()),
    }
    run = _external_run(settings, name, {"arch": foreign.arch, "width": foreign.width}, imported)
    folder = RunFolder.of(run, out)
    # The folder's name depends on the weights, so an existing folder was made by an earlier call with these weights.
    if folder.pretrained:
        _require_same_weights(folder, run, path)
    else:
        check(run, _backbone(run, foreign, path))
        _fill(folder, run, foreign, path)
    return run, folder


def _filter_on_record(path: Path, foreign: ForeignBackbone) -> InputFilter | None:
    """Returns the input filter that files beside our own weights record; None for weights from elsewhere."""
    if recorded := input_filter_beside(path, foreign.state):
        return recorded
    run = run_around(path, foreign.run_id)
    return run.input_filter if run else None


def _external_run(
    settings: Mapping[str, Any], name: str, encoder: Mapping[str, Any], imported: Mapping[str, str]
) -> Run:
    """Builds the run of imported weights; raises a UserError if a setting is about the training of the weights."""
    identity = {"method": name, "framework": "external", "encoder": encoder, "imported": imported}
    run = build([settings, identity])
    # No setting can say how the weights were trained. Data settings may differ: the evaluation uses their crop.
    meaningless = sorted(key for key in difference(build([identity]), run) if not key.startswith("data."))
    if meaningless:
        raise UserError(f"{meaningless[0]} cannot be set for weights from elsewhere", mend="leave it out")
    return run


def _backbone(run: Run, foreign: ForeignBackbone, path: Path) -> Backbone:
    """Builds the backbone of an external run out of its weights; `path` is for errors."""
    encoder, input_filter = run.encoder, run.imported.input_filter
    return backbone_from(
        foreign.state, path, arch=encoder.arch, input_filter=input_filter, run_id=run.id, width=encoder.width
    )


def _require_same_weights(folder: RunFolder, run: Run, path: Path) -> None:
    """Raises a UserError if the run's folder holds other weights, because its backbone was replaced since."""
    backbone = load_backbone(folder.backbone, arch=run.encoder.arch)
    if weights_digest(backbone.network.state_dict()) != run.imported.weights:
        raise UserError(f"{folder.backbone} holds other weights than {path}", mend="choose another --out")


def _command(run: Run, prefix: str, folder: RunFolder) -> str:
    """Returns the command that makes an external run again, with its seed and every setting that is no default."""
    words = ["--checkpoint", run.imported.origin, "--arch", run.encoder.arch, "--name", run.method]
    if run.imported.origin != RANDOM:
        words += ["--prefix", prefix.removesuffix(".") or TOP]
    if run.imported.input_filter is not InputFilter.none:
        words += ["--high-pass"]
    changed = difference(Run(), run)
    keys = [key for key in changed if key == "encoder.width" or key.startswith("data.")]
    words += [f"seed={run.seed}", *(f"{key}={value_text(changed[key][1])}" for key in keys)]
    return shlex.join(["salmask", "eval", *words, "--out", str(folder.path.parent.parent)])


def _fill(folder: RunFolder, run: Run, foreign: ForeignBackbone, path: Path) -> None:
    """Writes the files of an external run, and prints which tensors were taken and which were left out.

    The backbone is written last, because a run counts as finished once its backbone is there.
    """
    imported = run.imported
    folder.prepare(run)
    weights = {"weights": imported.weights}
    record_attempt(folder, "not trained here", weights, _command(run, foreign.prefix, folder))
    save_backbone(
        folder.backbone,
        foreign.state,
        arch=run.encoder.arch,
        width=run.encoder.width,
        input_filter=imported.input_filter,
        run_id=run.id,
    )
    taken = f"{len(foreign.state)} tensors behind '{foreign.prefix}'; left out: {foreign.parts_left_out}"
    say(f"{path}: {f'fresh weights of {run.encoder.arch}' if imported.origin == RANDOM else taken}", err=True)
