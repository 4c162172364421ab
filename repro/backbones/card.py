"""The card of an exported backbone: how to load it, what it was trained on and how, what it scored, its licence."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from repro.backbones.convert import DETECTRON2_RESNETS
from repro.backbones.facts import Facts
from repro.backbones.library import Library
from repro.command_line.text_tables import as_code, escaped
from repro.filesystem.presence import exists, is_file
from repro.runs.evaluation import measured_text
from repro.runs.folder import RunFolder
from repro.runs.records import latest, read
from repro.runs.schemas import ATTEMPT
from repro.settings.choices import Strategy
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.run import Run
from repro.settings.sections import Framework

_DATA_TERMS = {
    "imagenet100": "ImageNet's terms of access: non-commercial research and education",
    "folder": "the terms of the images that the run was given",
    "scenes": "no terms of others apply, as the images are drawn",
    "scenes-cutouts": "the terms of the cut-outs that the scenes were made of",
}
"""What the images of a data set may be used for, as the card says it."""


def render(folder: RunFolder, run: Run, target: Library, facts: Facts, licence: str) -> str:
    """Returns the card as Markdown with the front matter of Hugging Face.

    The tests run the Python code in it.

    Args:
        folder: The run's folder, with its provenance and results.
        run: The run that made the backbone.
        target: The library whose way of loading is shown.
        facts: What `salmask.json` holds.
        licence: Name of the weights' licence.

    Raises:
        UserError: The run's results or provenance cannot be read.
    """
    rows = latest(read(folder.results)[0]) if is_file(folder.results) else []
    terms = _DATA_TERMS.get(facts.dataset, "the terms of the data set that was learned from")
    return _template().render(
        target=target.value,
        licence=licence,
        terms=terms,
        run=run,
        facts=facts,
        resized=round(facts.crop * 256 / 224),
        pixel_mean=[round(255 * value, 3) for value in facts.mean],
        pixel_std=[round(255 * value, 3) for value in facts.std],
        resnets=DETECTRON2_RESNETS.get(facts.arch, {}),
        settings=_settings(run),
        data=_data(run, folder),
        rows=[row for row in rows if row.run_id == run.id],
        measured_text=measured_text,
        provenance=_provenance(folder, facts),
    )


def _settings(run: Run) -> dict[str, str]:
    """Returns the settings that set the run apart, by names for people."""
    if run.framework is Framework.external:
        return {"framework": "unknown: the weights were trained elsewhere", "file": Path(run.imported.origin).name}
    masking, optimization = run.masking, run.optimization
    drawn_by = "a network that is trained with it" if masking.strategy is Strategy.learned else masking.guidance.name
    masks = masking.strategy is not Strategy.none
    masked = f"{masking.branch.name}, {'patches' if run.masks else 'masks'} drawn by {drawn_by}" if masks else "nothing"
    rho = FRAMEWORKS[run.framework].hard_negative_weight
    # At a weight of 0, too, it is a term of the loss, though a constant one.
    hard = f"weight {rho(run):g}" if rho and run.masks and masking.hard_negative else "none"
    return {
        "framework": run.framework.name,
        "masking": masking.strategy.name,
        "masked": masked,
        "hard negative": hard,
        **({"saliency": _saliency(run)} if run.guided else {}),
        "fidelity": str(run.fidelity),
        "epochs": str(optimization.epochs),
        "batch": f"{optimization.batch} over all devices",
        "learning rate": f"{optimization.lr:g}",
        "precision": optimization.precision.name,
    }


def _saliency(run: Run) -> str:
    """Returns where the foreground of a guided run comes from: its sources, and the network with its weights."""
    source, hard = run.saliency_sources
    sources = f"source {source}" if hard == source else f"source {source}, of hard negatives {hard}"
    maps = f"; maps of SHA-256 {run.localizer.files_sha256}" if run.localizer.files else ""
    masks = f"; true masks of SHA-256 {run.data.masks_sha256}" if run.data.masks_sha256 else ""
    return f"{sources}{maps}{masks}" + (f"; {_localizer(run)}" if run.needs_localizer else "")


def _localizer(run: Run) -> str:
    """Returns the frozen network and its weights; a checkpoint is named by its SHA-256, not by its path."""
    localizer = run.localizer
    if localizer.network == "checkpoint":
        return f"network: a backbone of SHA-256 {localizer.sha256}"
    if localizer.weights == "random":
        return f"network {localizer.network}, untrained"
    # The other networks have only one kind of trained weights, whatever the setting says.
    named = localizer.weights if localizer.network == "resnet50" else "pretrained"
    return f"network {localizer.network}, weights {named}"


def _help(run: Run) -> str:
    """Returns the end of a sentence that says what guided the masks of a run besides pixels; empty if nothing did."""
    if not run.guided:
        return ""
    known = []
    localizer = run.localizer
    if run.needs_localizer and localizer.weights != "random":
        trained = {
            "checkpoint": "a localizer that another run trained",
            "resnet50": "a localizer trained with ImageNet's labels",
            "efficientnet-lite0": "a localizer trained with ImageNet's labels",
        }
        known.append(trained.get(localizer.network, "a pretrained localizer, which may have seen labels"))
    if any(source.needs_truth for source in run.saliency_sources):
        known.append("the objects' true masks")
    if any(source.needs_files for source in run.saliency_sources):
        known.append("saliency maps from elsewhere, which may have seen labels")
    return f"; masks were guided by {' and '.join(known)}" if known else ""


def _data(run: Run, folder: RunFolder) -> str:
    """Returns the sentence that says what the weights were learned from."""
    if run.framework is Framework.external:
        return "Unknown: the weights were trained elsewhere."
    attempt = _last_attempt(folder)
    fingerprints: dict[str, str] = attempt["data"] if attempt else {}
    by_split = ", ".join(f"{escaped(split)} `{as_code(str(digest))}`" for split, digest in fingerprints.items())
    labels = "with" if run.framework is Framework.supervised else "without"
    fingerprint = f" (fingerprint: {by_split})" if by_split else ""
    return _Markdown(f"{escaped(run.data.dataset)}, {labels} its labels{_help(run)}{fingerprint}.")


def _provenance(folder: RunFolder, facts: Facts) -> list[str]:
    """Returns lines that say where the weights come from; the machine's name and its paths are left out."""
    lines = [f"run `{facts.run}`, weights SHA-256 `{facts.sha256}`"]
    if attempt := _last_attempt(folder):
        edited = " (edited since)" if attempt["dirty"] else ""
        packages = attempt["packages"]
        verb = "imported" if not facts.dataset else "trained"
        where = escaped(f"{attempt['device']}, {attempt['started']}")
        lines.append(f"{verb} by commit `{as_code(attempt['commit'])}`{edited} on {where}")
        versions = (packages.get(name, "unknown") for name in ("torch", "torchvision"))
        lines.append(escaped("torch {}, torchvision {}".format(*versions)))
    return [_Markdown(line) for line in lines]


def _last_attempt(folder: RunFolder) -> dict[str, Any] | None:
    """Returns the provenance of the last attempt at the run; None if a folder put together by hand has none."""
    attempts = ATTEMPT.read_list(folder.provenance) if exists(folder.provenance) else []
    return attempts[-1] if attempts else None


class _Markdown(str):
    """A text that is Markdown already. Any other text may come from a file that somebody sent, and is escaped."""


def _as_markdown(value: Any) -> Any:
    return escaped(value) if isinstance(value, str) and not isinstance(value, _Markdown) else value


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("repro.backbones", "templates"),
        undefined=StrictUndefined,  # a card that lacks something must not be published
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # of HTML; this is Markdown
        finalize=_as_markdown,
    )
    return environment.get_template("card.md.j2")
