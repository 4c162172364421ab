"""`salmask data`: which data sets there are, whether one is whole, and how to unpack one."""

import shlex
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple

import typer
from rich.text import Text

from repro.command_line.console import AsJson, completion
from repro.command_line.lazy_commands import CommandGroup
from repro.command_line.terminal import Console, say, say_json
from repro.command_line.text_tables import TextTable, print_table
from repro.data.catalogue import DATASETS, Dataset, find_dataset, open_images
from repro.data.pixel_cache import cache_root
from repro.data.pixel_cache_writer import cache_images
from repro.data.roots import RootNotSetError, find_root, how_to_set_root, new_root, refuse_idle_root
from repro.data.verification.checks import verify as verify_dataset
from repro.data.verification.report import Report
from repro.errors import UserError, visible_in_line
from repro.processes.cores import usable_cores
from repro.quantities import counted
from repro.settings.choices import LEAST_CACHED, LONGEST_CACHED
from repro.settings.reading import build, command_settings, flat
from repro.settings.sections import ScenesSettings

_HELP = """List, verify, prepare and cache data sets.

Example: salmask data list
"""

app = typer.Typer(cls=CommandGroup, add_completion=False, no_args_is_help=True, help=_HELP)

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help=f"One of: {', '.join(DATASETS)}.", autocompletion=completion(lambda: DATASETS)),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Root of the data set; default: as `salmask data list` shows."),
]


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """Show the data sets, and where each one's root was found.

    Example: salmask data list
    """
    located = [(entry, _location(entry)) for entry in DATASETS.values()]
    if as_json:
        rows = [
            {
                "name": entry.name,
                "title": entry.title,
                "classes": None if entry.classes is None else len(entry.classes),
                "root": location.root,
                "note": location.note,
                "layout": entry.layout,
            }
            for entry, location in located
        ]
        say_json(rows, indent=2)
        return
    console = Console()
    lines = [
        (
            entry.name,
            "as set" if entry.classes is None else str(len(entry.classes)),
            visible_in_line(location.root or location.short),
            entry.title,
            entry.layout,
        )
        for entry, location in located
    ]
    print_table(TextTable(("name", "classes", "root", "what", "where"), lines, right=("classes",)), console)
    console.print(f"To set a root: {how_to_set_root('NAME')}.", soft_wrap=True)


@app.command()
def verify(
    name: Name,
    *,
    root: Root = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode the images.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show how many images each class has.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one for each core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the images of every class and split, and report everything that is wrong.

    Exits with 0 where all is well, 1 where something must be mended, 2 where there is nothing to check.

    Example: salmask data verify imagenet100 --root /data/imagenet --quick
    """
    refuse_idle_root(name, root)
    report = verify_dataset(name, find_root(name, root), deep=not quick, workers=workers)
    if as_json:
        say_json(report.to_plain(), indent=2)
    else:
        _print_report(report, per_class)
    raise typer.Exit(0 if report.ok else 1)  # 2 is the status of every `UserError`


@app.command()
def cache(
    name: Name,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY.SUB=VALUE]...", help="Settings of scenes, for example data.scenes.train_count=4096."
        ),
    ] = None,
    *,
    side: Annotated[
        int, typer.Option(min=LEAST_CACHED, max=LONGEST_CACHED, help="Short side of the decoded images in pixels.")
    ] = 256,
    root: Root = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Folder of decoded images; default: $SALMASK_CACHE/pixels."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; default: one for each core.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all checksums, and decode again what is damaged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Decode the training images once, for all runs here with data.cached_side; can be stopped and repeated.

    Example: salmask data cache imagenet100 --side 256 --to /local/cache
    """
    refuse_idle_root(name, root)
    scenes = _scenes_settings(name, settings)
    images = open_images(name, "train", find_root(name, root), scenes)
    outcome = cache_images(
        images,
        name,
        "train",
        side,
        cache_root(str(to or "")),
        workers=workers or usable_cores(),
        check=check,
        say=partial(say, err=True),
    )
    if as_json:
        say_json(outcome, indent=2)
    else:
        say(f"{name}: {counted(outcome['images'], 'image')} at {side} px ready in {outcome['folder']}")


def _scenes_settings(name: str, words: Iterable[str] | None) -> ScenesSettings:
    """Returns the settings of the scenes to decode, from the settings on the command line.

    Raises:
        UserError: A setting is wrong, or would change nothing: it is not one of scenes, or the data set is not drawn.
    """
    settings = command_settings(words)
    run = build([settings])  # refuses what is not a setting, or out of its range
    for key, _ in flat(settings):
        if not key.startswith("data.scenes."):
            mend = "give settings of data.scenes only, and --side, --root, --to, --workers; all others belong to runs"
            raise UserError(f"'{key}' changes nothing in what is cached", mend=mend)
        if not find_dataset(name).generated:
            raise UserError(f"'{key}' changes nothing in {name}, which is not drawn", mend="leave it out")
    return run.data.scenes


@app.command()
def prepare(
    name: Name,
    archives: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", "--archive", metavar="PATH", help="A downloaded archive or a folder with them; repeatable."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Folder to unpack into; default: $SALMASK_DATA/NAME or data.yaml."),
    ] = None,
) -> None:
    """Unpack a data set's archives; can be stopped and repeated.

    Without --from, archives that need no account are downloaded. Archives are compared with their published checksums,
    except ImageNet's, which are too long for that: `salmask data verify` decodes their images.

    Example: salmask data prepare imagenet100 --from ~/downloads --root /data/imagenet100
    """
    entry = find_dataset(name)
    if entry.prepare is None:
        for option, value in (("--from", archives), ("--root", root)):
            if value:
                raise UserError(f"'{option}' changes nothing in {name}: nothing to prepare", mend="leave it out")
        say(f"{name}: nothing to prepare ({entry.layout})")
        return
    target = new_root(name, root)
    entry.prepare(archives or [], target)
    verify_it = shlex.join(["salmask", "data", "verify", name, "--root", str(target)])
    say(f"{name}: ready in {target}; check it with `{verify_it}`")


@app.command("export-scenes")
def export_scenes(
    layout: Annotated[Literal["voc", "coco", "folder"], typer.Option("--as", help="Layout of the files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; must not exist.")],
    *,
    train: Annotated[int, typer.Option(min=2, help="Scenes to train on.")] = 1000,
    test: Annotated[int, typer.Option("--test", "--val", min=1, help="Scenes to test on.")] = 200,
    classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 20,
    size: Annotated[int, typer.Option(min=64, max=512, help="Pixels a side.")] = 224,
    objects: Annotated[
        int | None, typer.Option(min=1, help="The most objects on a scene; default: 4, and 1 in class folders.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the scenes.")] = 0,
    cutouts: Annotated[Path | None, typer.Option(metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Drawing processes.")] = 1,
) -> None:
    """Write built-in scenes, with boxes and masks, as PASCAL VOC or COCO keeps its own, or as class folders with masks.

    Example: salmask data export-scenes --as voc --out data/scenes-voc --cutouts /usr/share/tuxpaint/stamps
    """
    from repro.data.annotations.scenes_export import write_coco, write_folders, write_voc
    from repro.scenes.dataset import Scenes

    objects = objects or (1 if layout == "folder" else 4)
    draw = partial(Scenes, classes=classes, size=size, seed=seed, objects=objects, cutouts=cutouts)
    write = {"voc": write_voc, "coco": write_coco, "folder": write_folders}[layout]
    write(out, draw("train", count=train), draw("val", count=test), workers=workers)
    say(f"{train} + {test} scenes of {classes} {'class' if classes == 1 else 'classes'} in {out}")


class _Location(NamedTuple):
    """Where a data set's root is."""

    root: str | None
    short: str = ""  # why there is no root, for a table
    note: str = ""  # and what to do about it


def _location(entry: Dataset) -> _Location:
    """Looks up a data set's root; a missing one is shown, not raised."""
    if not entry.needs_root:
        return _Location(None, "none needed", "none needed")
    try:
        return _Location(str(find_root(entry.name, None)))
    except RootNotSetError as error:  # so for most data sets on most machines: its long mend would fill the table
        return _Location(None, "not set", str(error))
    except UserError as error:
        return _Location(None, str(error), str(error))


def _print_report(report: Report, per_class: bool) -> None:
    """Prints a report as a table of counts, its problems and warnings, and a line that sums them up."""
    console = Console(soft_wrap=True)  # paths are not broken over lines, so that they can be copied
    heads = ("split", "classes", "images", "objects per class" if report.images else "per class")
    rows = []
    for split in report.counts:
        counts = sorted(report.counts[split].values())
        spread = f"{counts[0]} to {counts[-1]}, median {median(counts):g}" if counts else "–"
        rows.append((split, str(len(counts)), str(report.total(split)), spread))
    title = visible_in_line(f"{report.name} {report.root or ''}".strip())
    print_table(TextTable(heads, rows, right=("classes", "images"), title=title), console)
    if per_class:
        print_table(_per_class(report), console)
    for problem in report.problems:
        console.print(Text(problem.kind, "red"), visible_in_line(f"{problem.path}: {problem.message}"))
    for warning in report.warnings:
        console.print(Text("warning", "yellow"), visible_in_line(warning))
    kinds = Counter(problem.kind for problem in report.problems)
    summary = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no problems"
    console.print(f"{summary}; {report.depth}")


def _per_class(report: Report) -> TextTable:
    """Returns the images of every class, one column for each split."""
    names = sorted({name for counts in report.counts.values() for name in counts})
    rows = [(visible_in_line(name), *(str(counts.get(name, 0)) for counts in report.counts.values())) for name in names]
    return TextTable(("class", *report.counts), rows, right=tuple(report.counts))
