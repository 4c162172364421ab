"""The files of an audit: a page, its pictures, and its statistics."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from repro.filesystem.files import write_bytes, write_json, write_text
from repro.html import data_uri, page
from repro.methods.audit import Audit
from repro.settings.choices import Strategy
from repro.settings.frameworks import FRAMEWORKS, SINGLE_CELL_CROP
from repro.training.watching.gallery import draw_columns


def draw_frequencies(frequencies: Mapping[str, Tensor]) -> bytes:
    """Draws how often each cell of the grid is foreground, in percent.

    Args:
        frequencies: g×g shares in 0..1, by the name of the map; each map gets a panel.

    Returns:
        A PNG.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.6 * len(frequencies), 2.9), layout="constrained")
        panels = figure.subplots(1, len(frequencies), squeeze=False)[0]
        for axes, (name, cells) in zip(panels, frequencies.items(), strict=True):
            axes.imshow(cells.numpy(), vmin=0, vmax=1, cmap="cividis")
            for (row, column), share in np.ndenumerate(cells.numpy()):
                colour = "black" if share > 0.5 else "white"  # cividis is dark at 0 and light at 1
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def write(result: Audit, folder: Path) -> list[Path]:
    """Writes `audit.html` with its pictures embedded, the pictures as PNG files, and `statistics.json`.

    Args:
        result: The audit.
        folder: Where the files go.

    Returns:
        The paths of the files, the page first.

    Raises:
        UserError: The folder cannot be written to, or the disk is full.
    """
    run = result.run
    framework = FRAMEWORKS[run.framework]
    pictures = {"gallery": draw_columns(result.columns), "where": draw_frequencies(result.frequencies)}
    facts = {
        "run": run.id,
        "masks": f"{run.masking.strategy}, {run.masking.branch} masked",
        "data": run.data.dataset,
        "images": str(result.images),
        "view": f"{run.data.crop} px",
        "foreground by": ", of hard negatives ".join(dict.fromkeys(map(str, run.saliency_sources))),
    }
    # Whether the run itself is guided or not: it stands beside a variant that is.
    if any(source.needs_network for source in run.saliency_sources):
        facts["localizer"] = run.localizer.network
    text = page(
        "audit.html.j2",
        package="repro.methods",
        title=f"Mask audit of {run.method}",
        facts=facts,
        masks=result.masks,
        maps=result.maps,
        gallery=data_uri(pictures["gallery"], "image/png"),
        where=data_uri(pictures["where"], "image/png"),
        group_size=framework.group_size(run) if framework.released else 0,
        is_too_small=run.data.crop <= SINGLE_CELL_CROP,
        focal=f"{run.masking.focal_probability:.0%}" if run.masking.strategy is Strategy.high_pass else "",
    )
    picture_paths = [folder / f"{name}.png" for name in pictures]
    for path, content in zip(picture_paths, pictures.values(), strict=True):
        write_bytes(path, content)
    page_path, statistics_path = folder / "audit.html", folder / "statistics.json"
    write_json(statistics_path, result.statistics())
    write_text(page_path, text)  # last: where there is a page, there is all the rest
    return [page_path, *picture_paths, statistics_path]
