"""The command `salmask compare`: two methods, sweeps or runs against each other, image by image."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repro.command_line.console import AsJson
from repro.command_line.progress import OPENING, doing
from repro.command_line.terminal import Console, say_json
from repro.command_line.text_tables import TextTable, print_table
from repro.errors import UserError
from repro.filesystem.files import make_way
from repro.quantities import counted, number_text
from repro.settings.labels import label
from repro.settings.run import Run
from results.collection.gathering import Roots, roots_of, warn
from results.collection.row_comparison import Recipe
from results.collection.runs import find_runs, listed
from results.statistics.paired import LEVEL, difference_text, interval_text, p_text

if TYPE_CHECKING:
    import pandas as pd

    from results.comparison.head_to_head import HeadToHead, Side

Pictures = Callable[[Run, str, str, Sequence[tuple[int, int]]], list[bytes]]
"""Draws scored images of a run with saliency and mask, by task, data set and (split, index) of each, as JPEGs."""
PICTURED = 48
"""The most images that flip for which the page has a picture."""
CLASSES_SHOWN = 5
"""Classes that a terminal shows from each end of the list."""
LEAST_SHOWN = 0.05
"""Points below which a difference of a class is printed as 0.0."""

First = Annotated[str, typer.Argument(metavar="A", help="A method, SWEEP/METHOD, a sweep, or a run (folder or id).")]
Second = Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")]
TaskName = Annotated[str, typer.Option("--task", help="By this evaluation: linear, logistic, knn, semi-1, ...")]
Metric = Annotated[
    str, typer.Option("--metric", help="top1 (last epoch, the default), top1_best, top5, mean_per_class.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", dir_okay=False, help="Also write a page with the images that flip."),
]


def build(recipe: Recipe, pictures: Callable[[], Pictures]) -> typer.Typer:
    """Makes the command.

    Args:
        recipe: Makes the run that a method's name stands for; recorded runs are compared with it.
        pictures: Returns the function that draws images; called only if a page is written.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def compare(
        first: First,
        second: Second,
        runs: Roots = None,
        *,
        task: TaskName = "",
        metric: Metric = "",
        out: Out = None,
        as_json: AsJson = False,
    ) -> None:
        """Compare two methods, sweeps or runs, image by image: how sure the difference is, by class, and what flips.

        Example: salmask compare mocov2+ours-hp mocov2 --runs runs/table1 --out flips.html
        """
        if out is not None:
            make_way(out)
        with doing("reading runs"):
            from results.collection.collect import collect_runs
            from results.comparison.compare import compare as compare_all

            roots = roots_of(runs)
            records = find_runs(roots, recipe)
            frame = collect_runs(records, listed(roots), every_folder=True)
            OPENING.say(f"comparing {first} with {second}")
            comparisons = compare_all(frame, records, first, second, task=task, metric=metric)
            # Written before anything is printed: a table on the terminal would look as if all had gone well.
            if out is not None:
                OPENING.say("drawing images that flip")
                _write_page(out, f"{first} against {second}", comparisons, pictures())
        if as_json:
            say_json([as_data(comparison) for comparison in comparisons])
            return
        console = Console()
        for comparison in comparisons:
            _print(comparison, console)
        warn(frame.attrs["warnings"], console)
        if out is not None:
            console.print(str(out), soft_wrap=True)

    return app


def as_data(comparison: "HeadToHead") -> dict[str, Any]:
    """Returns a comparison as `--json` prints it."""
    difference = comparison.difference
    task, dataset, split, protocol = comparison.column
    low, high = difference.interval() or (None, None)
    return {
        "task": task,
        "dataset": dataset,
        "split": split,
        "protocol": protocol,
        "metric": comparison.metric,
        **{
            side: {"name": of_side.name, "method": of_side.method, "values": of_side.values}
            for side, of_side in comparison.sides.items()
        },
        "verdict": comparison.verdict(),
        "by": basis(comparison),
        "difference": difference.mean if math.isfinite(difference.mean) else None,  # JSON has no other numbers
        "low": low,
        "high": high,
        "p": difference.p,
        "smallest": difference.smallest,
        "mcnemar": {seed: vars(test) for seed, test in comparison.mcnemar.items()},
        "published": comparison.published,
        "p_of_equivalence": comparison.p_of_equivalence,
        "classes": comparison.classes.to_dict("records"),
        "flips": comparison.flips.to_dict("records"),
        "notes": list(comparison.notes),
    }


def basis(comparison: "HeadToHead") -> str:
    """Returns what the verdict rests on: seeds, images, or both."""
    difference = comparison.difference
    first, second = (len(side.values) for side in comparison.sides.values())
    seeds = f"{first} seeds each" if first == second else f"{first} and {second} seeds"
    images = f"{difference.images:,} images" if difference.of_images else ""
    return ", ".join(filter(None, [seeds if difference.of_seeds else "", images])) or "one run each"


def summary_lines(
    comparison: "HeadToHead", spell: "Callable[[Side], str]" = lambda side: side.name
) -> list[tuple[str, str]]:
    """Returns the lines of a comparison's table, as pairs of name and value.

    Args:
        comparison: The comparison.
        spell: Returns a side as the page prints it.
    """
    from results.paper.paper_claims import margin

    difference = comparison.difference
    interval = difference.interval()
    lines = [
        *(
            (f"{letter}: {spell(side)}", " ".join(map(number_text, side.values.values())))
            for letter, side in zip("AB", comparison.sides.values(), strict=True)
        ),
        ("difference", f"{difference_text(difference.mean)} points"),
    ]
    if interval and difference.p is not None and difference.smallest is not None:
        lines += [
            ("95 % interval", interval_text(interval)),
            ("p", p_text(difference.p, 4)),
            ("smallest detectable", f"{number_text(difference.smallest)} points (80 % power)"),
        ]
    lines += [
        (
            f"McNemar, seed {seed}",
            f"exact p {p_text(test.p, 4)}; only A right: {test.first_only}, only B: {test.second_only}",
        )
        for seed, test in comparison.mcnemar.items()
    ]
    p = comparison.p_of_equivalence
    if comparison.published is not None and p is not None:
        outcome = "equivalent" if p < LEVEL else "not shown to be equivalent"
        lines.append(
            ("published", f"{difference_text(comparison.published)}; ±{margin():g}: {outcome}, TOST p {p_text(p, 4)}")
        )
    return [*lines, ("judged by", basis(comparison))]


def _print(comparison: "HeadToHead", console: Console) -> None:
    """Prints a comparison: the difference, the classes that differ most, and how many images flip."""
    _, dataset, _, protocol = comparison.column
    heading = f"{comparison.first.name} against {comparison.second.name}"
    where = f"{comparison.metric} by {protocol} on {dataset}"
    classes = comparison.classes
    # Only classes that differ in what is printed: a row of +0.0 is none of the largest differences.
    differing = classes[classes["difference"].abs() >= LEAST_SHOWN] if len(classes) else classes
    ends = [*differing.head(CLASSES_SHOWN).index, *differing.tail(CLASSES_SHOWN).index]
    few = differing.loc[list(dict.fromkeys(ends))]
    class_rows = [
        (str(row["class"]), str(row["images"]), *(f"{row[name]:{sign}.1f}" for name, sign in _CLASS_NUMBERS))
        for row in few.to_dict("records")
    ]
    flipped = [
        f"{counted(comparison.images_that_flip(position), 'image')} only {side.name} gets right"
        for position, side in comparison.sides.items()
        if len(comparison.flips)
    ]
    print_table(TextTable(("", where), summary_lines(comparison), title=f"{heading}: {comparison.verdict()}"), console)
    console.print()
    if class_rows:
        heads = ("class", "images", "A %", "B %", "Δ")
        title = "Classes with the largest differences:"
        print_table(TextTable(heads, class_rows, right=heads[1:], title=title), console)
        console.print()
    elif len(classes):
        console.print(f"No class differs by {LEAST_SHOWN} points or more.\n")
    by = "in most seeds" if comparison.most_runs > 1 else "of these two runs"
    for line in [*([f"{'; '.join(flipped)} ({by})."] if flipped else []), *comparison.notes]:
        console.print(f"- {line}", soft_wrap=not console.is_terminal)
    console.print()


_CLASS_NUMBERS = (("first", ""), ("second", ""), ("difference", "+"))


def _write_page(path: Path, title: str, comparisons: "Sequence[HeadToHead]", pictures: Pictures) -> None:
    """Writes the page: each comparison with all of its classes, and pictures of images that flip."""
    from repro.filesystem.files import write_text
    from repro.html import data_uri
    from results.formats.html import page

    sections = []
    for comparison in comparisons:
        flips, trouble = flips_to_show(comparison), ""
        drawn = [""] * len(flips)
        try:
            drawn = [data_uri(picture, "image/jpeg") for picture in _drawn(comparison, flips, pictures)]
        except UserError as error:
            trouble = f"The images are not shown: {error}"
        pictured = [{**flip, "picture": picture} for flip, picture in zip(flips.to_dict("records"), drawn, strict=True)]
        first, second = (spelt(side) for side in comparison.sides.values())
        sections.append(
            {
                "heading": f"{first} against {second}",
                "verdict": comparison.verdict(spelt),
                "where": f"{comparison.metric} by {', '.join(comparison.column)}",
                "lines": summary_lines(comparison, spelt),
                "scales": comparison.scales,
                "notes": [*comparison.remarks, *filter(None, [trouble])],
                "classes": comparison.classes.to_dict("records"),
                "first": first,
                "second": second,
                "runs": comparison.most_runs,
                "sides": [
                    {
                        "title": spelt(side),
                        "count": (count := comparison.images_that_flip(position)),
                        "images": counted(count, "image"),
                        "flips": [flip for flip in pictured if flip["right"] == position],
                        "is_first": position == "first",
                    }
                    for position, side in comparison.sides.items()
                ],
            }
        )
    write_text(path, page("compare.html.j2", title=title, sections=sections))


def spelt(side: "Side") -> str:
    """Returns a side as a page prints it: the method's label, and the origin if both sides have the same method."""
    return side.spelt(label(side.method))


def flips_to_show(comparison: "HeadToHead") -> "pd.DataFrame":
    """Returns the clearest images that flip: at most `PICTURED`, half from each side if both have enough."""
    import pandas as pd

    flips = comparison.flips
    if not len(flips):
        return flips
    of_sides = [flips[flips["right"] == position] for position in comparison.sides]
    rooms = [PICTURED // 2 + max(0, PICTURED // 2 - len(other)) for other in reversed(of_sides)]
    return pd.concat([of_side.head(room) for of_side, room in zip(of_sides, rooms, strict=True)], ignore_index=True)


def _drawn(comparison: "HeadToHead", flips: "pd.DataFrame", pictures: Pictures) -> list[bytes]:
    """Returns a picture of each image that flips, drawn with a run that masks, if there is one.

    Raises:
        UserError: No run's settings are known.
    """
    runs = [record.run for side in comparison.sides.values() for record in side.runs.values()]
    known = [run for run in runs if run is not None]
    if not len(flips):
        return []
    if not known:
        raise UserError("no run.yaml says which data set it is", mend="copy it with the run")
    run = next((run for run in known if run.masks), known[0])
    places = [(int(split), int(image)) for split, image in zip(flips["split"], flips["image"], strict=True)]
    return pictures(run, comparison.column[0], comparison.column[1], places)
