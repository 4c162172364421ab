"""The look of plots: one colour, marker and line for a method everywhere, in light and dark, in colour and in grey."""

import re
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.settings.method_name import MethodName

WIDTH = 9.0
"""The width of a plot in inches."""
_LETTER_WIDTH = 0.073
"""Width of a label's letter in inches."""
_NOTE_LETTER_WIDTH = 0.066
"""Width of a letter of a legend's note in inches."""
_TITLE_LETTER_WIDTH = 0.082
"""Width of a letter of a panel's bold title in inches."""

Theme = Literal["light", "dark"]
Fill = Literal["full", "left", "bottom"]

# Okabe and Ito's colours, told apart with any colour vision; the markers tell them apart without any colour.
_MASKING = {  # by what follows the framework in a method's name
    "": ("#8a8f98", "o"),
    "mscn": ("#56b4e9", "s"),
    "adios": ("#cc79a7", "D"),
    "ours-hp": ("#d55e00", "^"),
    "ours-blur": ("#0072b2", "v"),
    "ours-mean": ("#009e73", "P"),
}
_SUPERVISED = ("#e69f00", "*")
_ENDS = (
    "no-masks",
    "random",
    "no-hard-negative",
    "rho1",
    "rho4",
    "ratio0.25-0.45",
    "ratio0.45-0.65",
    "no-focal",
    "localizer-efficientnet",
    "localizer-random",
    "localizer-checkpoint",
    "released",
    "released-saliency-map",
    "released-hard-negative",
    "released-noise",
    "released-cap",
    "released-counts",
    "released-negative-count",
    "released-single-patch",
    "anchor-both",
    "stopgrad",
    "script",
    "all-masks",
    "queue16k",
    "ours-blur-no-hard-negative",
    "ours-mean-no-hard-negative",
    "by-network-shuffled",
    "by-truth",
    "by-truth-dilated-1",
    "by-truth-dilated-2",
    "by-truth-eroded-1",
    "by-truth-shifted-2",
    "by-truth-shifted-4",
    "by-centre",
    "by-random",
    "by-inverted",
    "hard-by-truth-shifted-2",
    "hard-by-truth-shifted-4",
    "hard-by-random",
    "hard-by-inverted",
    "query-by-truth-shifted-2",
    "query-by-truth-shifted-4",
    "query-by-random",
    "query-by-inverted",
)
"""The changes that our own rows make, as their names end; with the masking if another masking has the same change.

There are at most as many as pairs of the colours and markers below. One that is not listed gets a look by its name.
"""
_FURTHER_COLOURS = ("#b3a400", "#7b4173", "#637939", "#843c39", "#4f6d9e", "#c2478f", "#8c6d31", "#2f8f8a")
_FURTHER_MARKERS = ("<", ">", "d", "8", "X", "p", "h")
_FRAMEWORK: Mapping[str, tuple[str, str, Fill]] = {"mocov2": ("-", "", "full"), "simclr": ("--", "///", "left")}
_BRANCH = {"key": ":", "both": "-.", "query": ":"}  # the query is named only if another branch is the rule


@dataclass(frozen=True)
class Look:
    """How a method is drawn.

    Attributes:
        colour: The colour of its line, marker and bar, which stands for the masking.
        marker: The marker of its points, which stands for the masking too.
        line: The style of its line: solid for MoCo v2, dashed for SimCLR; dotted and dash-dotted if the key or both
            branches are masked.
        hatch: The hatching of its bar: none for MoCo v2, hatched for others.
        fill: Which part of its marker is filled: all for MoCo v2, half for others.
    """

    colour: str
    marker: str
    line: str
    hatch: str
    fill: Fill


def look(method: str) -> Look:
    """Returns the look of a method; a change of one of the paper's rows has a colour and a marker of its own.

    Args:
        method: Its name, `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`, for example `mocov2+ours-hp@key-no-hard-negative`.
    """
    name = MethodName.parse(method)
    if name.framework == "supervised":
        return Look(*_SUPERVISED, "-", "", "full")
    line, hatch, fill = _FRAMEWORK.get(name.framework, (":", "...", "bottom"))
    colour, marker = _MASKING.get(name.end) or _look_of_end(name)
    return Look(colour, marker, _BRANCH.get(name.branch, line), hatch, fill)


def _look_of_end(name: MethodName) -> tuple[str, str]:
    """Returns colour and marker for the end of the name of an ablation, or of a person's own row."""
    listed = next((end for end in (name.end, name.change) if end in _ENDS), None)
    # By its place in the list, so that no two of ours look alike: the numbers of colours and markers are coprime.
    number = zlib.crc32(name.end.encode()) if listed is None else _ENDS.index(listed)
    return _FURTHER_COLOURS[number % len(_FURTHER_COLOURS)], _FURTHER_MARKERS[number % len(_FURTHER_MARKERS)]


_INK = {"light": "#1d2430", "dark": "#e6eaf0"}
_SURFACE = {"light": "#ffffff", "dark": "#14181f"}
_GRID = {"light": "#d9dee6", "dark": "#3a4453"}


def ink(theme: Theme) -> str:
    """Returns the colour of text and reference lines."""
    return _INK[theme]


def surface(theme: Theme) -> str:
    """Returns the colour of the page, which fills a hollow marker so that no line shows through it."""
    return _SURFACE[theme]


def for_dark_page(svg: bytes) -> bytes:
    """Returns a plot's SVG of the light theme in the colours of the dark one, as if it were drawn anew.

    Only ink, surface and grid depend on the theme, and nothing else has their light colours.
    """
    for colours in (_INK, _SURFACE, _GRID):
        svg = svg.replace(colours["light"].encode(), colours["dark"].encode())
    return svg


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draws in a theme while the context lasts; backgrounds are transparent, so that a page shows through."""
    settings: Mapping[str, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same plot everywhere
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID[theme],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 3.2,  # long enough to tell dashes from dots
        "legend.columnspacing": 1.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 5.5,
        "errorbar.capsize": 3,
        "hatch.linewidth": 0.8,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "text.parse_math": False,  # a name with dollars is a name
        "svg.hashsalt": "salmask",  # the same drawing, the same bytes
        "svg.fonttype": "path",
        **{f"{element}.color": _INK[theme] for element in ("text", "xtick", "ytick")},
        "axes.labelcolor": _INK[theme],
        "axes.titlecolor": _INK[theme],
        "axes.edgecolor": _INK[theme],
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]  # a name of its list is no str to it
        yield


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Lays out panels in two columns.

    Args:
        count: The number of panels.
        height: The height of a row of panels in inches.

    Returns:
        The figure, and the axes of its panels row by row.
    """
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()  # the empty half of the last row, which would be drawn as an empty frame
    return figure, grid[:count]


def stacked(rows: Sequence[int], height: float, *, room: float) -> tuple[Figure, list[Axes]]:
    """Lays out panels below one another, each as high as the rows that it shows, so that all rows are equally thick.

    Args:
        rows: The number of rows of each panel.
        height: The height of a row in inches.
        room: Room for a legend below them in inches.

    Returns:
        The figure, and the axes of its panels from the top.
    """
    heights = [0.75 + height * count for count in rows]  # beside the rows: the title and the axis
    figure = Figure(figsize=(WIDTH, sum(heights) + room), layout="constrained")
    return figure, list(figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0])


def letters_above(labels: Iterable[str]) -> int:
    """Returns how many letters of a title fit above a panel of full width that has these labels at its left."""
    return int((WIDTH - 0.3 - _LETTER_WIDTH * max(map(len, labels), default=0)) / _TITLE_LETTER_WIDTH)


def folded(title: str, width: int = 46) -> str:
    """Returns a title in lines of at most `width` characters; 46 fit above one of two panels in a row.

    The departures in a protocol's name, which have no spaces between them, may be broken after their commas.
    """
    return textwrap.fill(re.sub(r",(?! )", ", ", title), width, break_on_hyphens=False)


def folded_name(name: str, inches: float) -> str:
    """Returns a method's name in lines that fit above a picture; it is broken after its hyphens."""
    return textwrap.fill(name, max(int(inches / _TITLE_LETTER_WIDTH), 1), break_long_words=False)


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the range of an axis that shows all values with some room around."""
    low, high = min(values), max(values)
    # The span counts as 1 at least: otherwise the axis of a single value would have no length.
    room = 0.08 * max(high - low, 1.0)
    return low - room, high + room


def legend(figure: Figure, note: str) -> None:
    """Draws one legend for all panels below them, and makes the figure higher by the legend's height.

    Args:
        figure: The figure with all panels drawn.
        note: The legend's title.
    """
    # By label: each method stands once, however many panels it is drawn in.
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    note = textwrap.fill(note, int(figure.get_figwidth() / _NOTE_LETTER_WIDTH))
    for columns in (3, 2, 1):
        drawn = figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=columns,
            title=note,
            title_fontsize=8.5,
        )
        size = drawn.get_window_extent()
        if size.width <= figure.bbox.width or columns == 1:  # a wider legend would be cut off
            break
        drawn.remove()
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)
