"""`salmask data weights`: the trained weights of a localizer, fetched before any run needs them."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.console import AsJson, report
from repro.data.errors import PathError, reason_of
from repro.errors import UserError
from repro.filesystem.files import write_atomically
from repro.filesystem.paths import expanded
from repro.filesystem.presence import is_special
from repro.settings.localizer_weights import FILES_OF_RESNET50, LocalizerWeights, torchs_folder, weights_named
from repro.settings.reading import build, command_settings, flat

# torch is imported where something is fetched: `--help` answers at once.

AGAIN = "salmask data weights where there is a network, or with --from FILE"


def data_weights(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[localizer.KEY=VALUE]...", help="Another localizer than the paper's ResNet-50."),
    ] = None,
    *,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="File downloaded elsewhere; of ResNet-50 only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a localizer's trained weights into the cache, for machines that see it but have no network.

    Call it on a login node, with $SALMASK_CACHE naming a folder that the nodes see too. Files that are there are only
    checked.

    Example: salmask data weights

    Downloaded elsewhere: salmask data weights --from ~/resnet50-11ad3fa6.pth
    """
    words = command_settings(settings)
    for key, _ in flat(words):
        if key not in ("localizer.network", "localizer.weights"):
            raise UserError(f"'{key}' has no effect on weights", mend="localizer.network and localizer.weights only")
    localizer = build([words]).localizer
    weights = weights_named(localizer.network, localizer.weights)
    if weights is None:
        if source is not None:
            raise UserError(f"--from: this localizer ({localizer.network}) needs no file", mend="leave it out")
        file, how = "", "needs no file: installed with salmask, or random"
    elif weights.network == "checkpoint":
        raise UserError(f"{weights} is a file of your own", mend="put it where the nodes see it")
    else:
        how = _fetch(weights, source)
        file = str(weights.file() or "")
    report(as_json, {"localizer": localizer.network, "file": file, "how": how})


def _fetch(weights: LocalizerWeights, source: Path | None) -> str:
    """Makes sure that the weights are there and whole; returns in words how.

    Raises:
        UserError: They cannot be fetched, or a file is damaged or of other weights.
    """
    if weights.network == "resnet50" and weights.weights not in FILES_OF_RESNET50:
        from repro.saliency.networks import build_localizer

        build_localizer(weights.network, weights.weights)  # refuses the name, with the nearest
    present = weights.file()
    if present is not None and source is None:
        if weights.is_damaged(present):
            mend = f"remove it, and {AGAIN}"
            raise PathError(present, "is cut off, or another file: its SHA-256 is not that of its name", mend=mend)
        return "was there"
    if source is not None:
        _copy(weights, expanded(source))
        return f"copied from {source}"
    from repro.saliency.networks import build_localizer

    build_localizer(weights.network, weights.weights)
    return "downloaded"


def _copy(weights: LocalizerWeights, source: Path) -> None:
    """Copies a downloaded file of ResNet-50 to where runs look for it."""
    if weights.network != "resnet50":
        mend = "leave out --from, and run it where there is a network: the Hub's client arranges its files itself"
        raise UserError(f"--from takes the file of ResNet-50, not of {weights.network}", mend=mend)
    name = FILES_OF_RESNET50[weights.weights]
    if is_special(source):  # it can be read only once, but is both compared and copied
        raise PathError(source, "is not a regular file", mend="name the downloaded file")
    try:
        if weights.is_damaged(source):
            raise PathError(source, f"is not {name}: its SHA-256 is another", mend=f"download {name} again")
        target = torchs_folder() / "checkpoints" / name
        with source.open("rb") as content:
            write_atomically(target, lambda file: shutil.copyfileobj(content, file))
    except OSError as error:
        raise PathError(source, f"cannot be copied ({reason_of(error)})", mend="name the downloaded file") from error
