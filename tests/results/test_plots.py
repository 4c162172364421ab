"""Every plot is drawn from runs, is the same for the same runs, and says what is missing if there is nothing."""

import colorsys
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from json_rows import write_rows
from matplotlib.text import Text
from PIL import Image
from run_samples import FOREGROUNDS, finished, renamed, with_foreground
from training_samples import salmask

from baselines import METHODS, resolve
from repro.errors import UserError
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.paper.published import published
from results.plots import figures
from results.plots.curves import curves
from results.plots.figures import PLOTS, draw, save
from results.plots.gallery import gallery
from results.plots.material import Material, NothingToDrawError, key_of, panel_titles
from results.plots.style import Theme, for_dark_page, ink, look, surface, themed
from results.plots.table_plots import bars, branches, compute, scatter
from results.report.galleries import embed
from results.report.page import build
from results.tables.rendering import render

WITHOUT = ("mocov2+ours-hp@key-no-hard-negative", "mocov2+ours-hp@both-no-hard-negative")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    root = tmp_path_factory.mktemp("runs")
    methods = ("mocov2", "mocov2+ours-hp", "mocov2+ours-hp@key", "simclr+ours-hp", *WITHOUT)
    for number, method in enumerate(methods):
        for seed in range(2):
            values = {("imagenet100", "top1"): 60.0 + number + seed, ("coco", "bbox_AP"): 38.0 + number + seed}
            finished(root, method, seed, values)
    finished(root, "mocov2", 0, {("scenes", "top1"): 40.0}, sweep="demo", data__dataset="scenes", data__crop=64)
    for number, source in enumerate(FOREGROUNDS):
        with_foreground(root, source, 0, iou=0.2 * number)
    return find_runs([root], resolve)


@pytest.fixture(scope="module")
def material(runs: list[RunRecord]) -> Material:
    return Material(runs, collect_runs(runs))


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_written_as_svg_and_png_and_for_dark_pages_only_its_colours_change(
    material: Material, tmp_path: Path, name: str
) -> None:
    svg, png = save(name, material, tmp_path)
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert_on_ground(png, "light")
    dark = draw(name, replace(material, theme="dark"), ".svg")
    # Drawn anew, it is the same but for the names of markers, clips and hatches, which are made of their colours, too.
    of_drawing = re.compile(rb"\b[mph][0-9a-f]{10}\b")
    assert of_drawing.sub(b"", dark) == of_drawing.sub(b"", for_dark_page(svg.read_bytes()))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "bars" else pytest.mark.end_to_end) for name in PLOTS]
)
def test_a_picture_for_dark_pages_can_be_read_on_any(material: Material, tmp_path: Path, name: str) -> None:
    """The PNG's ground used to be white in both themes, and so the light text of a dark one could not be read."""
    _, png = save(name, replace(material, theme="dark"), tmp_path)
    assert_on_ground(png, "dark")


def assert_on_ground(png: Path, theme: Theme) -> None:
    """The picture is large, on the ground of its theme, and has letters in the ink of its theme."""
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000
    assert "#" + bytes(pixels[0, 0]).hex() == surface(theme)
    letters = np.array([int(ink(theme)[place : place + 2], 16) for place in (1, 3, 5)])
    assert (pixels == letters).all(-1).sum() > 100


def test_long_names_above_galleries_stand_apart_and_are_not_cut(tmp_path: Path) -> None:
    """Names of the study's degraded foregrounds used to run into the next picture's, and over the figure's edge."""
    widths = {
        "hard-by-random": 900,
        "hard-by-truth-shifted-2": 300,
        "hard-by-truth-shifted-4": 300,
        "query-by-random": 400,
    }
    for varied, width in widths.items():
        folder = finished(tmp_path, f"mocov2+ours-hp-{varied}", 0, {}, masking__strategy="high_pass")
        (picture,) = folder.gallery.iterdir()
        Image.new("RGB", (width, 500)).save(picture)
    with themed("light"):
        figure = gallery(Material(find_runs([tmp_path], resolve), None))
        figure.draw_without_rendering()
    texts = [text for strip in figure.subfigs for axes in strip.axes for text in axes.findobj(Text)]
    titles = [text.get_window_extent() for text in texts if "mocov2" in text.get_text()]
    assert len(titles) == 4
    assert all(figure.bbox.x0 <= title.x0 and title.x1 <= figure.bbox.x1 for title in titles)
    assert all(title.y1 <= figure.bbox.y1 for title in titles)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))


def test_a_gallery_that_stands_alone_in_its_row_is_as_high_as_the_others(tmp_path: Path) -> None:
    def height(methods: Sequence[str]) -> float:
        for method in methods:
            folder = finished(tmp_path, method, 0, {})
            (picture,) = folder.gallery.iterdir()
            Image.new("RGB", (400, 500)).save(picture)
        return gallery(Material(find_runs([tmp_path], resolve), None)).get_figheight()

    one_row = height(["mocov2", "simclr", "mocov2+ours-hp"])
    assert height(["simclr+ours-hp"]) == pytest.approx(2 * one_row)


@pytest.mark.end_to_end
def test_the_report_shows_every_plot_below_its_caption(material: Material) -> None:
    page = build(material.runs, material.frame)
    shown = [plot.caption for name, plot in PLOTS.items() if name != "gallery"]  # the page has galleries of its own
    assert re.findall(r"<figcaption>(.*?)</figcaption>\s*<div class=\"drawing\"", page) == shown


def test_curves_show_the_mean_of_the_seeds_and_a_band(runs: list[RunRecord]) -> None:
    seeds = [run for run in runs if run.method == "mocov2+ours-hp"]
    axes = curves(Material(seeds, None)).axes[0]
    (line,) = axes.lines
    expected = np.mean([[row["loss"] for row in run.metrics] for run in seeds], axis=0)
    assert np.allclose(line.get_ydata(), expected)
    assert line.get_label() == "MoCo v2 + ours (high-pass) (2)"
    (band,) = axes.collections
    lowest = min(row["loss"] for run in seeds for row in run.metrics)
    assert band.get_datalim(axes.transData).y0 == pytest.approx(lowest)


def test_branches_are_drawn_by_reading(material: Material) -> None:
    of_the_paper, measured = (axes.get_legend_handles_labels() for axes in branches(material).axes[:2])
    names = [f"MoCo v2 + ours ({strategy})" for strategy in ("high-pass", "strong blur", "mean fill")]
    assert of_the_paper[1] == [f"{name}, no hard negative" for name in names]
    assert measured[1] == [f"{names[0]}, no hard negative", names[0]]
    assert [bars.lines[0].get_xdata().tolist() for bars in measured[0]] == [
        [0, 1],
        [0, 2],
    ]  # key and both; key and query
    # On scenes there is only plain MoCo v2: a panel of its own would be empty.
    assert len(branches(material).axes) == 2


def test_long_names_are_not_cut_off(tmp_path: Path) -> None:
    settings = {"probe__epochs": 3, "probe__batch": 64, "probe__lr_grid": [30.0, 10.0, 1.0, 0.1]}
    for method in ("mocov2", "mocov2+ours-hp", "mocov2+ours-blur", "mocov2+ours-mean"):
        finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}, **settings)
    runs = find_runs([tmp_path], resolve)
    material = Material(runs, collect_runs(runs))
    for drawing in (branches, bars):
        with themed("light"):
            figure = drawing(material)
            figure.draw_without_rendering()
            boxes = [artist.get_tightbbox() for artist in (*figure.axes, *figure.legends)]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes), drawing.__name__


@pytest.mark.parametrize("seeds", [1, 2])
def test_bars_explain_no_sign_that_is_not_drawn(tmp_path: Path, seeds: int) -> None:
    for seed in range(seeds):
        finished(tmp_path, "mocov2", seed, {("scenes", "top1"): 40.0 + seed}, data__dataset="scenes", data__crop=64)
    runs = find_runs([tmp_path], resolve)
    caption = bars(Material(runs, collect_runs(runs))).get_supxlabel()
    assert "published" not in caption
    assert ("whisker" in caption) == (seeds == 2)
    assert "*: not with the paper's settings" in caption


def test_of_a_grid_of_rates_the_course_of_the_best_is_drawn(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    (run,) = find_runs([tmp_path], resolve)
    (probe,) = run.path.glob("probes/*/metrics.jsonl")
    rows = [{"step": 10, "loss": 2.0}, {"step": 10, "top1@lr=30": 9.0, "top1@lr=1": 3.0, "top5@lr=1": 99.0}]
    rows += [{"step": 20, "top1@lr=30": 11.0, "top1@lr=1": 12.0, "top5@lr=1": 99.0}]
    write_rows(probe, rows)
    (line,) = curves(Material(find_runs([tmp_path], resolve), None)).axes[1].lines
    assert line.get_xydata().tolist() == [[10, 3], [20, 12]]


def test_columns_of_other_sizes_have_panels_of_their_own_and_untrained_networks_none(tmp_path: Path) -> None:
    for seed in range(2):
        for epochs, base in ((6, 40.0), (3, 20.0)):
            small = {"data__dataset": "scenes", "data__crop": 64, "sweep": f"of{epochs}"}
            for method in ("mocov2", "mocov2+ours-hp"):
                finished(
                    tmp_path, method, seed, {("scenes", "top1"): base + seed}, optimization__epochs=epochs, **small
                )
    untrained = {"optimization__epochs": 1, "optimization__lr": 1e-9, "sweep": "untrained"}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 10.0}, data__dataset="scenes", data__crop=64, **untrained)
    runs = find_runs([tmp_path], resolve)
    material = Material(runs, collect_runs(runs))
    title = "scenes (TINY, not comparable with the paper), linear-moco-v1"
    for drawing in (bars, compute):
        titles = [" ".join(axes.get_title().split()) for axes in drawing(material).axes]
        assert titles == [f"{title}, 3 epochs", f"{title}, 6 epochs"], drawing.__name__
    of_branches = [" ".join(axes.get_title().split()) for axes in branches(material).axes]
    assert of_branches[1:] == [f"measured, {title}, 3 epochs", f"measured, {title}, 6 epochs"]
    drawn = [axes.containers[0].lines[0].get_ydata().tolist() for axes in branches(material).axes[1:]]
    assert drawn == [[20.5], [40.5]]


def test_parts_of_a_size_stand_whole_in_a_title() -> None:
    parts = (
        ("scenes (20 classes, 9 grounds (context 0.5), 16 members)", "64 px"),
        ("scenes (20 classes)", "64 px"),
        ("scenes :(, 20 classes", "64 px"),
        (),
    )
    common = {"dataset": "scenes", "split": "val", "protocol": "knn-v1", "fidelity": "paper", "mark": ""}
    lines = [{**common, "scale": ", ".join(of_line)} for of_line in parts] + [{**common, "scale": "", "split": "test"}]
    sizes = {key_of(line): of_line for line, of_line in zip(lines, (*parts, ()), strict=True)}
    assert list(panel_titles(lines, sizes).values()) == [
        "scenes, knn-v1, scenes (20 classes, 9 grounds (context 0.5), 16 members), 64 px",
        "scenes, knn-v1, scenes (20 classes), 64 px",
        "scenes, knn-v1, scenes :(, 20 classes, 64 px",
        "scenes, knn-v1, val",
        "scenes, knn-v1, test",
    ]
    assert list(panel_titles(lines[:3], sizes).values()) == [
        "scenes, knn-v1, scenes (20 classes, 9 grounds (context 0.5), 16 members)",
        "scenes, knn-v1, scenes (20 classes)",
        "scenes, knn-v1, scenes :(, 20 classes",
    ]


def test_columns_hand_the_parts_of_their_sizes_to_titles(tmp_path: Path) -> None:
    data = "scenes (12 classes, 512 images)"
    drawn = {"data__dataset": "scenes", "data__scenes__classes": 12, "data__scenes__train_count": 512}
    for epochs in (6, 3):
        settings = {"data__crop": 64, "optimization__epochs": epochs, **drawn}
        for method in ("mocov2", "mocov2+ours-hp"):
            finished(tmp_path, method, 0, {("scenes", "top1"): 40.0}, sweep=f"of{epochs}", **settings)
    small = {"data__dataset": "scenes", "data__crop": 64, "optimization__epochs": 3}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 40.0}, sweep="other", **small)
    runs = find_runs([tmp_path], resolve)
    table = render("table1", collect_runs(runs), runs=runs)
    assert {(*key[:1], *key[-2:]): parts for key, parts in table.sizes.items()} == {
        ("scenes", f"{data}, 64 px, 6 epochs", "TINY"): (data, "64 px", "6 epochs"),
        ("scenes", f"{data}, 64 px, 3 epochs", "TINY"): (data, "64 px", "3 epochs"),
        ("scenes", "scenes (10 classes, 1024 images), 64 px, 3 epochs", "TINY"): (
            "scenes (10 classes, 1024 images)",
            "64 px",
            "3 epochs",
        ),
    }
    title = "scenes (TINY, not comparable with the paper), linear-moco-v1"
    assert set(Material(runs, collect_runs(runs)).table("table1")["panel"]) == {
        f"{title}, {data}, 6 epochs",
        f"{title}, {data}, 3 epochs",
        f"{title}, scenes (10 classes, 1024 images), 3 epochs",
    }


def test_axes_are_labelled_by_the_metric_that_is_drawn(tmp_path: Path) -> None:
    for method in ("mocov2", "mocov2+ours-hp"):
        finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0, ("imagenet100", "top5"): 80.0})
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    for metric, text in (("", "top-1, %"), ("top5", "top-5, %")):
        material = Material(runs, frame, metric=metric)
        assert bars(material).axes[0].get_xlabel() == text
        assert compute(material).axes[0].get_ylabel() == text
        assert [axes.get_ylabel() for axes in branches(material).axes] == ["top-1, %", text]


def test_curves_count_a_run_once_and_tell_protocols_apart(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0}, sweep=sweep)
    loss, probe = curves(Material(find_runs([tmp_path], resolve), None)).axes
    assert [line.get_label() for axes in (loss, probe) for line in axes.lines] == ["MoCo v2 (1)"] * 2
    (file,) = (tmp_path / "two").glob("*/*/probes/*/metrics.jsonl")
    file.parent.rename(file.parent.with_name("imagenet100-linear-moco-v1[epochs=20]"))
    _, probe = curves(Material(find_runs([tmp_path], resolve), None)).axes
    protocols = ("linear-moco-v1", "linear-moco-v1[epochs=20]")
    assert [line.get_label() for line in probe.lines] == [f"MoCo v2, {protocol} (1)" for protocol in protocols]


@pytest.mark.parametrize(("epochs", "tiny"), [(200, False), (6, True)])
def test_curves_of_tiny_runs_say_so(epochs: int, tiny: bool, tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0}, optimization__epochs=epochs)
    note = curves(Material(find_runs([tmp_path], resolve), None)).legends[0].get_title().get_text()
    assert ("TINY MODE, not comparable with the paper" in note) is tiny


def test_what_cannot_be_drawn_says_what_is_missing() -> None:
    for name in PLOTS:
        with pytest.raises(NothingToDrawError, match=r"no |nothing"):
            draw(name, Material([], None), ".svg")
    with pytest.raises(UserError, match="unknown plot 'bar'; mend: did you mean 'bars'"):
        draw("bar", Material([], None), ".svg")


def test_a_table_without_such_rows_or_times_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    records = find_runs([tmp_path], resolve)
    mend = "run mocov2+ours-hp, and with masking.branch=key or both"
    with pytest.raises(NothingToDrawError, match=re.escape(f"no result of a masked branch; mend: {mend}")):
        branches(Material(records, collect_runs(records)))
    folder.metrics.unlink()
    records = find_runs([tmp_path], resolve)
    with pytest.raises(NothingToDrawError, match="no evaluated run has recorded how long its pretraining took"):
        compute(Material(records, collect_runs(records)))
    monkeypatch.setattr(figures, "PLOTS", {name: PLOTS[name] for name in ("branches", "gallery")})
    plots = tmp_path / "plots"
    told = salmask("plot", "all", "--runs", str(tmp_path), "--out", str(plots)).out.splitlines()
    left_out = f"branches: left out, no result of a masked branch; {mend}"
    assert told == [left_out, *(str(plots / f"gallery.{ending}") for ending in ("svg", "png"))]


def test_a_gallery_that_is_no_picture_gives_way_to_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (finished(tmp_path, "mocov2", seed, {}) for seed in range(2))
    torn = first.gallery / "masks.png"
    torn.write_bytes(b"torn")
    records = find_runs([tmp_path], resolve)
    (axes,) = gallery(Material(records, None)).axes
    with Image.open(second.gallery / "masks.png") as picture:
        assert np.array_equal(axes.images[0].get_array(), np.asarray(picture.convert("RGB")))
    shown = embed(records)
    assert [len(shown[record.name]) for record in records] == [0, 1]
    assert [line.partition(": ")[0] for line in caplog.messages] == [f"{torn} is not a picture"] * 2
    assert all(line.endswith("; it is left out") for line in caplog.messages)


def test_methods_of_a_framework_are_told_apart_without_colour_and_keep_their_colour() -> None:
    methods = list(published("table1").rows)
    looks = {method: look(method) for method in methods}
    assert len({(style.marker, style.fill) for style in looks.values()}) == len(methods)
    for masking in ("ours-hp", "ours-blur", "ours-mean", "mscn", "adios"):
        assert looks[f"mocov2+{masking}"].colour == looks[f"simclr+{masking}"].colour
        assert looks[f"mocov2+{masking}"].line != looks[f"simclr+{masking}"].line
    assert look("mocov2+ours-hp@key").colour == looks["mocov2+ours-hp"].colour
    lightness = [colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[1] for c in _colours(looks)]
    assert min(lightness) > 0.15
    assert max(lightness) < 0.8  # visible on white and on black


def test_all_rows_have_looks_of_their_own() -> None:
    """Seven pairs of our rows used to look alike, one of them in a figure of the dose-response."""
    looks = {name: look(name) for name in (*published("table1").rows, *METHODS)}
    by_look: dict[tuple[str, ...], list[str]] = {}
    for name, style in looks.items():
        by_look.setdefault((style.colour, style.marker, style.line, style.fill), []).append(name)
    assert [names for names in by_look.values() if len(names) > 1] == []
    mine = look("mocov2+mine")
    assert (mine.colour, mine.marker) == ("#843c39", "X")  # an unknown method's look is the same in every process


def test_losses_of_frameworks_have_axes_of_their_own(material: Material) -> None:
    titles = [axes.get_title() for axes in curves(material).axes]
    assert titles[:-1] == ["pretraining loss, MoCo v2", "pretraining loss, SimCLR"]


def test_scatter_tells_frameworks_apart_where_points_are_for_orientation_only(tmp_path: Path) -> None:
    for method in ("mocov2+ours-hp", "simclr+ours-hp"):
        finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}, data__crop=64)
    runs = find_runs([tmp_path], resolve)
    figure = scatter(Material(runs, collect_runs(runs)))
    points = [container.lines[0] for container in figure.axes[0].containers]
    assert [point.get_fillstyle() for point in points] == ["full", "left"]
    assert all(point.get_alpha() < 1 for point in points)
    note = figure.legends[0].get_title().get_text()
    assert note.startswith("half filled: SimCLR; pale: other data, scale (TINY), settings or protocol")


def _colours(looks: dict) -> list[str]:
    return sorted({style.colour for style in looks.values()})


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    renamed(finished(tmp_path, "mine", 0, {("imagenet100", "top1"): 60.0}), r"mine$\frac$")
    runs = find_runs([tmp_path], resolve)
    assert draw("bars", Material(runs, collect_runs(runs)), ".svg").startswith(b"<?xml")


def test_scatter_has_published_across_and_measured_up_with_its_deviation(tmp_path: Path) -> None:
    for seed, value in enumerate((60.0, 62.0)):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): value})
    runs = find_runs([tmp_path], resolve)
    (drawn,) = scatter(Material(runs, collect_runs(runs))).axes[0].containers
    point, _, (whisker,) = drawn
    assert point.get_xydata().tolist() == [[68.22, 61.0]]
    (ends,) = whisker.get_segments()
    assert ends[:, 1].tolist() == pytest.approx([61 - 2**0.5, 61 + 2**0.5])
