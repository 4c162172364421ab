"""A run's backbone as other libraries load it, in a folder with a card that says what it is."""

import dataclasses
import io
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from repro.backbones.backbone import Backbone, load_backbone_of
from repro.backbones.card import render
from repro.backbones.convert import DETECTRON2_RESNETS, to_detectron2
from repro.backbones.facts import FACTS_FILE, Facts
from repro.backbones.library import Library
from repro.backbones.resnet import BASE_WIDTH
from repro.backbones.weights import weights_digest
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError
from repro.filesystem.new_folders import new_folder
from repro.filesystem.presence import is_file, is_folder
from repro.runs.folder import RunFolder
from repro.runs.resumption import require_pretrained
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of
from repro.settings.reading import FOLDERS, build
from repro.settings.run import Run
from repro.settings.sections import Framework

State = dict[str, Tensor]

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def export(folder: RunFolder, target: Library, out: Path, *, licence: str = "other", force: bool = False) -> Path:
    """Writes a run's backbone for another library, with its card.

    Args:
        folder: The folder of a finished run.
        target: The library to write for.
        out: Folder to write: the weights, `README.md` (the card), `salmask.json` (`Facts`) and `run.yaml`, without the
            paths of the machine that trained it.
        licence: The weights' licence, as Hugging Face names licences; `other` where nothing is said.
        force: Whether to replace the export that is there; nothing else is ever replaced.

    Returns:
        The path of the file of weights.

    Raises:
        UserError: The run is not finished, its backbone is damaged or another run's, `licence` is not a name, the
            library cannot build the network, or `out` is there already, is not an export, or cannot be written.
    """
    run = folder.load()
    require_pretrained(folder)
    # The licence goes into the card's front matter as it is: a line break there could add any other field.
    if not _LICENCE.fullmatch(licence):
        raise UserError(
            f"--licence '{licence}' is not a name of a licence", mend="for example apache-2.0, mit or other"
        )
    backbone = load_backbone_of(run, folder)
    state: State = backbone.network.state_dict()
    _require_buildable(target, backbone)
    name, write = _WRITERS[target]
    facts = _facts(run, backbone, state, name.format(arch=backbone.arch))
    # --force deletes a folder: only one that an export of ours made, or an empty one.
    if force and is_folder(out) and any(out.iterdir()) and not is_file(out / FACTS_FILE):
        raise UserError(
            f"{out} is not an export, so --force does not replace it", mend="name another folder with --out"
        )
    with new_folder(out, force=force, mend="name another with --out, or add --force to replace it") as export_folder:
        write(export_folder / facts.weights, state, facts)
        (export_folder / "run.yaml").write_text(_without_paths(run).to_yaml(), encoding="utf-8")
        facts_text = json.dumps(dataclasses.asdict(facts), indent=1) + "\n"
        (export_folder / FACTS_FILE).write_text(facts_text, encoding="utf-8")
        (export_folder / "README.md").write_text(render(folder, run, target, facts, licence), encoding="utf-8")
    return out / facts.weights


def _without_paths(run: Run) -> Run:
    """Returns the run with bare names in place of the paths of its files and folders; its id stays the same."""
    replace, localizer, imported = dataclasses.replace, run.localizer, run.imported
    if localizer.sha256:  # only then are the weights a path and not a name
        localizer = replace(localizer, weights=Path(localizer.weights).name)
    localizer = replace(localizer, files=Path(localizer.files).name)
    data = replace(run.data, masks=Path(run.data.masks).name)
    imported = replace(imported, origin=Path(imported.origin).name)
    return build([dict.fromkeys(FOLDERS, "")], base=replace(run, data=data, localizer=localizer, imported=imported))


def _facts(run: Run, backbone: Backbone, state: State, weights: str) -> Facts:
    """Returns what `salmask.json` says of a run's backbone, whose file is named `weights`."""
    return Facts(
        format=2,
        arch=backbone.arch,
        features=backbone.features,
        input_filter=backbone.input_filter,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        crop=run.data.crop,
        weights=weights,
        sha256=weights_digest(state),
        run=run.id,
        method=run.method,
        dataset="" if run.framework is Framework.external else run.data.dataset,
        seed=run.seed,
        tiny=scale_of(sizes_below_recipe(run)),
    )


def _require_buildable(target: Library, backbone: Backbone) -> None:
    """Refuses a backbone whose network the library cannot build.

    Raises:
        UserError: The library has no network of this architecture or width.
    """
    arch = backbone.arch
    if backbone.width != BASE_WIDTH:
        raise UserError(
            f"{target} builds no {arch} of width {backbone.width}", mend=f"a run with encoder.width={BASE_WIDTH}"
        )
    if target is Library.detectron2:
        architectures: Sequence[str] = list(DETECTRON2_RESNETS)
    elif target is Library.torchvision:
        architectures = [arch]
    else:
        import timm

        architectures = timm.list_models(arch)
    if arch not in architectures:
        raise UserError(f"{target} builds no '{arch}'", mend="--to torchvision, which made it")


def _write_torchvision(path: Path, state: State, facts: Facts) -> None:
    # Via memory: torch would not report a full disk as the OSError that `new_folder` expects.
    content = io.BytesIO()
    torch.save(dict(state), content)
    path.write_bytes(content.getvalue())


def _write_safetensors(path: Path, state: State, facts: Facts) -> None:
    # The header of the format holds only strings; "format" is what transformers looks for.
    header = {"format": "pt", **{name: str(value) for name, value in dataclasses.asdict(facts).items()}}
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}, header))


def _write_huggingface(path: Path, state: State, facts: Facts) -> None:
    """Writes weights and the `config.json` by which timm builds the network (timm's models/_hub.py, `save_for_hf`)."""
    _write_safetensors(path, state, facts)
    config = {
        "architecture": facts.arch,
        "num_classes": 0,
        "num_features": facts.features,
        "pretrained_cfg": {
            "tag": f"salmask_{facts.run}",
            "custom_load": False,
            "input_size": [3, facts.crop, facts.crop],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 224 / 256,
            "crop_mode": "center",
            "mean": facts.mean,
            "std": facts.std,
            "num_classes": 0,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "salmask": dataclasses.asdict(facts),
    }
    path.with_name("config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _write_detectron2(path: Path, state: State, facts: Facts) -> None:
    """Writes the format of MoCo's detection/convert-pretrain-to-detectron2.py: arrays, matched by the ends of names."""
    content = {
        "model": {name: tensor.numpy() for name, tensor in to_detectron2(state).items()},
        "__author__": "salmask",
        "matching_heuristics": True,
        "salmask": dataclasses.asdict(facts),
    }
    path.write_bytes(pickle.dumps(content))


_WRITERS: Mapping[Library, tuple[str, Callable[[Path, State, Facts], None]]] = {
    Library.torchvision: ("{arch}.pth", _write_torchvision),
    Library.timm: ("{arch}.safetensors", _write_safetensors),
    Library.detectron2: ("{arch}.pkl", _write_detectron2),
    Library.huggingface: ("model.safetensors", _write_huggingface),
}
"""The name of each library's file of weights, and the function that writes it."""
