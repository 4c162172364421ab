"""The page of an audit: pictures, tables and a file of its statistics."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from repro.files import write_atomically, write_json, write_text
from repro.html import data_uri, page
from repro.methods.audit import BATCH, Audit
from repro.runs.choices import Strategy
from repro.training.gallery import draw_columns


def draw_where(where: Mapping[str, Tensor]) -> bytes:
    """A PNG of how often each cell is foreground, one panel a map, in percent."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.6 * len(where), 2.9), layout="constrained")
        for axes, (name, often) in zip(figure.subplots(1, len(where), squeeze=False)[0], where.items(), strict=True):
            axes.imshow(often.numpy(), vmin=0, vmax=1, cmap="cividis")
            for (row, column), value in np.ndenumerate(often.numpy()):
                colour = "black" if value > 0.5 else "white"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def write(made: Audit, folder: Path) -> list[Path]:
    """Write `audit.html`, which needs nothing beside it, its pictures as PNG, and `statistics.json`.

    Returns:
        The files, the page first.
    """
    run = made.run
    pictures = {"gallery": draw_columns(made.columns), "where": draw_where(made.where)}
    facts = {
        "run": run.id,
        "masks": f"{run.masking.strategy}, {run.masking.branch} masked",
        "data": run.data.dataset,
        "images": str(made.images),
        "view": f"{run.data.crop} px",
        "localizer": run.localizer.network,
    }
    text = page(
        "audit.html.j2",
        package="repro.methods",
        title=f"Mask audit of {run.method}",
        facts=facts,
        masks=made.masks,
        maps=made.maps,
        gallery=data_uri(pictures["gallery"], "image/png"),
        where=data_uri(pictures["where"], "image/png"),
        batch=BATCH,
        focal=f"{run.masking.focal_probability:.0%}" if run.masking.strategy is Strategy.high_pass else "",
    )
    paths = [folder / "audit.html", folder / "gallery.png", folder / "where.png", folder / "statistics.json"]
    for path, content in zip(paths[1:3], pictures.values(), strict=True):
        _save(path, content)
    write_json(paths[3], made.statistics())
    write_text(paths[0], text)
    return paths


def _save(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
