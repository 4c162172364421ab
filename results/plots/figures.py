"""Every plot by its name, drawn as the content of a file."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from repro.errors import UserError, nearest
from repro.filesystem.files import write_bytes
from results.plots.curves import curves
from results.plots.dose_plot import saliency_dose
from results.plots.forest import forest
from results.plots.gallery import gallery
from results.plots.material import Material
from results.plots.style import surface, themed
from results.plots.table_plots import bars, branches, compute, scatter

SUFFIXES = (".svg", ".png")
"""The files of a plot."""


class Plot(NamedTuple):
    """One kind of plot."""

    figure: Callable[[Material], Figure]
    """Draws it; raises NothingToDrawError if the material holds nothing that it shows."""
    caption: str
    """What a page shows above it."""


PLOTS: Mapping[str, Plot] = {
    "forest": Plot(forest, "Does masking help? Each masking against its framework without masking."),
    "curves": Plot(curves, "Training curves."),
    "scatter": Plot(scatter, "Published against measured."),
    "bars": Plot(bars, "Table 1 as bars."),
    "branches": Plot(branches, "Table 3 by masked branch."),
    "compute": Plot(compute, "Accuracy against the time that pretraining took."),
    "saliency-dose": Plot(saliency_dose, "Accuracy against how well the foreground covers the true objects."),
    "gallery": Plot(gallery, "What the networks see."),
}
"""Every plot by its name, in the order of the report."""


def require_plot(name: str) -> None:
    """Refuses a name that no plot has.

    Args:
        name: What was asked for.

    Raises:
        UserError: It is none of `PLOTS`.
    """
    if name not in PLOTS:
        raise UserError(f"unknown plot '{name}'", mend=nearest(name, PLOTS))


def draw(name: str, material: Material, suffix: str) -> bytes:
    """Draws a plot as the content of a file.

    Args:
        name: One of `PLOTS`.
        material: What it is made of.
        suffix: One of `SUFFIXES`.

    Returns:
        The content of the file; the same material gives the same bytes.

    Raises:
        UserError: Unknown plot.
        NothingToDrawError: The runs at hand hold nothing that it shows.
    """
    require_plot(name)
    buffer = io.BytesIO()
    with themed(material.theme):
        # Without matplotlib's date and version: the same runs, the same bytes.
        metadata = {"Date": None, "Creator": "salmask"} if suffix == ".svg" else {"Software": "salmask"}
        # An SVG lets its page show through. A PNG may be looked at on anything, where its text would vanish.
        background = "none" if suffix == ".svg" else surface(material.theme)
        figure = PLOTS[name].figure(material)
        figure.savefig(buffer, format=suffix[1:], dpi=160, metadata=metadata, facecolor=background)
    return buffer.getvalue()


def save(name: str, material: Material, folder: Path) -> list[Path]:
    """Writes a plot as SVG and PNG.

    Args:
        name: One of `PLOTS`.
        material: What it is made of.
        folder: The folder of the files; made if it does not exist.

    Returns:
        The files.

    Raises:
        UserError: Unknown plot, or a file cannot be written.
        NothingToDrawError: The runs at hand hold nothing that it shows.
    """
    # Both are drawn before the first is written: a plot that fails leaves the old files as they were.
    contents = {folder / f"{name}{suffix}": draw(name, material, suffix) for suffix in SUFFIXES}
    for path, content in contents.items():
        write_bytes(path, content)
    return list(contents)
