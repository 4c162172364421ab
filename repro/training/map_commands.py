"""`salmask data saliency`: the saliency of a data set's whole images, computed before any run needs it."""

from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.console import AsJson, report, show_log
from repro.data.commands import Name
from repro.data.roots import refuse_idle_root
from repro.errors import UserError
from repro.filesystem.paths import CACHE_VARIABLE
from repro.filesystem.presence import exists
from repro.filesystem.writability import check_place
from repro.processes.workers import deaths_told
from repro.settings.choices import MapOf
from repro.settings.reading import build, command_settings, pinned
from repro.settings.saliency_sources import SourceKind

# torch is imported when the command runs: `--help` answers at once.


def data_saliency(
    name: Name,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY.SUB=VALUE]...", help="Settings of the runs, for example localizer.network=efficientnet-lite0."
        ),
    ] = None,
    root: Annotated[
        str, typer.Option("--root", metavar="DIR", help="Root of the data set; default: as `salmask data list` shows.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Compute the saliency of whole training images once, for runs with localizer.map=image or localizer.files.

    Can be stopped and repeated, and several may work at it. A run whose maps are missing computes them as it starts.

    Example: salmask data saliency imagenet100 localizer.network=efficientnet-lite0 --root /data/imagenet
    """
    from repro.processes.distributed import initialise
    from repro.saliency.image_maps import load_maps
    from repro.saliency.map_file import MapFile, map_path
    from repro.saliency.sources import map_source
    from repro.training.pretraining import open_data

    show_log()
    refuse_idle_root(name, root)
    run = pinned(build([{"localizer": {"map": "image"}}, command_settings(settings, data=name, root=root)]))
    wanted = run.saliency_sources[0]
    if wanted.needs_network and run.localizer.map is not MapOf.image:
        raise UserError(f"localizer.map={run.localizer.map.name} has no maps of whole images", mend="leave it out")
    if run.localizer.hard_negative_source:
        mend = "call it once for each source, given as localizer.source"
        raise UserError("localizer.hard_negative_source: this command makes the maps of one source", mend=mend)
    if wanted.kind is SourceKind.centre:
        raise UserError("localizer.source=centre is one map for all images, which needs no file", mend="another source")
    images = open_data(run, "train")
    source = map_source(run, images, wanted)
    path: Path = map_path(source.identity, images.fingerprint())
    if not exists(path):
        # A training goes on with maps in memory alone; here, hours of work would be lost if they cannot be kept.
        check_place(path, mend=f"{CACHE_VARIABLE}=DIR before the command, a folder that this user may write to")
    device = initialise(run.machine.device)
    with deaths_told(), deaths_told():  # twice, see its docstring
        maps = load_maps(source, images, device, workers=run.machine.workers)
    # Parts that could not be written (a full disk, another user's file) were kept in memory, as the log says. There is
    # no file at all where none could be made, or somebody has removed it.
    file = MapFile(path if exists(path) else None, len(images), source.grid)
    if missing := sum(not file.is_whole(chunk) for chunk in range(file.chunks)):
        mend = "check the disk's space and the file's permissions, and repeat the command: other parts are kept"
        raise UserError(f"{path}: parts that could not be written: {missing} of {file.chunks}", mend=mend)
    report(
        as_json,
        {
            "images": len(maps),
            "cells": f"{source.grid}×{source.grid}",
            "bytes an image": source.grid**2 * maps.element_size(),
            "file": str(path),
        },
    )
