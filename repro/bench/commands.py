"""`salmask bench`: commands that measure rivals side by side in one run, or how fast methods train here."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repro.command_line.console import AsJson, completion, names_and_settings, report, show_log
from repro.command_line.lazy_commands import CommandGroup
from repro.command_line.progress import doing
from repro.command_line.terminal import say
from repro.data.options import DataName, DataRoot
from repro.errors import UserError, nearest
from repro.filesystem.writability import check_place
from repro.settings.reading import build as build_run
from repro.settings.reading import command_settings, pinned
from repro.settings.rows import Rows

if TYPE_CHECKING:
    from repro.bench.scale import Subject
    from repro.bench.throughput import StepMeasurement

# torch is imported when a command runs: `--help` answers at once.

BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Images a batch.")]
GroupedBatchSize = Annotated[int, typer.Option("--batch", min=8, help="Images a batch; a multiple of 4.")]
Side = Annotated[int, typer.Option("--size", min=32, help="Pixels a side.")]
GridSide = Annotated[int, typer.Option("--size", min=28, help="Pixels a side; a multiple of 7.")]
SceneSide = Annotated[int, typer.Option("--size", min=64, max=512, help="Pixels a side.")]
SceneCount = Annotated[int, typer.Option("--count", min=1, help="Scenes.")]
Cutouts = Annotated[Path | None, typer.Option("--cutouts", metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")]
PoolSize = Annotated[int, typer.Option("--grounds", min=0, help="As data.scenes.grounds.")]
Members = Annotated[int, typer.Option("--members", min=0, help="As data.scenes.members.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Timed steps; default: 20, with --rivals 7 of each.")]
WarmUp = Annotated[int, typer.Option("--warm-up", min=1, help="Steps before those that are timed.")]
Rivals = Annotated[
    bool, typer.Option("--rivals", help="Time a MoCo v2 step on noise beside plainly written code; no data needed.")
]
OnNode = Annotated[
    str, typer.Option("--cluster", metavar="NAME|FILE", help="Measure on a node of this cluster, by a job.")
]
WaitMinutes = Annotated[float, typer.Option("--wait", min=1, help="Minutes to wait for that job.")]
MeasureOnNode = Callable[..., "list[StepMeasurement]"]
"""`measure_on_node(cluster, runs, *, steps, warm_up, wait)` returns what a job on a cluster measured."""
SALIENCY_TABLES = ("maps", "agreement", "sources")
"""The tables of `salmask bench saliency`; the first one is the default."""
Record = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        dir_okay=False,
        help="File of the measurements; default: where `salmask sweep --plan` looks.",
    ),
]


def _measuring(context: typer.Context) -> None:
    """Says that a measurement goes on, if it takes long and has no progress to count."""
    context.with_resource(doing("measuring"))


def build(
    rows: Callable[[], Rows], subjects: "Callable[[], Sequence[Subject]]", measure_on_node: MeasureOnNode
) -> typer.Typer:
    """Builds the commands of this room.

    Args:
        rows: Returns the methods that can be measured, which this room does not know; called when a command needs them.
        subjects: Returns the subjects of `bench scale`, which rooms above define; called when the command runs.
        measure_on_node: Times rows on a node of a cluster; this room does not know about clusters.
    """
    app = typer.Typer(
        cls=CommandGroup,
        add_completion=False,
        no_args_is_help=True,
        help="Measure speed, growth of cost and errors of tests.\n\nExample: salmask bench step mocov2 mocov2+ours-hp",
        callback=_measuring,
    )
    app.command("input")(bench_input)
    app.command("masking")(bench_masking)
    app.command("saliency")(bench_saliency)
    app.command("norm")(bench_norm)
    app.command("scenes")(bench_scenes)
    _add_step(app, rows, measure_on_node)
    _add_start(app, rows)
    _add_scale(app, subjects)
    return app


def bench_input(
    size: Side = 224,
    count: Annotated[int, typer.Option(min=1, help="Photographs a round.")] = 16,
    photographs: Annotated[
        Path | None, typer.Option("--photographs", metavar="DIR", help="JPEGs; default: scikit-learn's at 500×375.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time the way from a JPEG to two views on one core: the usual PIL pipeline, ours, and ours from a cache.

    Example: salmask bench input --photographs /data/imagenet/train/n01440764
    """
    from repro.bench.input import measure_input

    measured = measure_input(size, count, photographs)
    if as_json:
        report(as_json, measured)
    else:
        say(measured["photographs"])
        report(as_json, measured["rows"])


def bench_masking(batch: BatchSize = 32, size: GridSide = 224, as_json: AsJson = False) -> None:
    """Time our masking beside a plain loop over images.

    Example: salmask bench masking --batch 32 --size 224
    """
    from repro.bench.masking import GRID, masking

    if size % GRID:
        raise UserError(
            f"--size {size} is not a multiple of the {GRID}×{GRID} grid", mend=f"--size {GRID * (size // GRID)}"
        )
    report(as_json, masking(batch, size))


def bench_saliency(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[maps|agreement|sources] [KEY.SUB=VALUE]...",
            help="`maps` (default): rules for the foreground, on whole scenes. `agreement`: whole images' maps beside "
            "those of views. `sources`: every localizer.source, in views. The last two take settings.",
            autocompletion=completion(lambda: SALIENCY_TABLES),
        ),
    ] = None,
    *,
    size: SceneSide = 224,
    count: SceneCount = 200,
    crop: Annotated[
        int | None,
        typer.Option(min=32, help="Pixels a side of views, 64 by default; not for `maps`.", show_default=False),
    ] = None,
    cutouts: Cutouts = None,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For `agreement`: photographs instead of scenes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare foreground maps with true object masks, or maps of whole images with those of the views themselves.

    In the tables, `gamma` is the foreground's share of the scene or view, as in the paper.

    Example: salmask bench saliency --cutouts /usr/share/tuxpaint/stamps --size 224

    Example: salmask bench saliency agreement --photos ~/pictures --crop 224

    Example: salmask bench saliency sources data.dataset=folder machine.data_root=pictures data.masks=masks
    """
    from repro.bench.photographs import find_photographs
    from repro.bench.saliency import saliency
    from repro.bench.saliency_sources import agreement, sources
    from repro.saliency.localizer import grid_of
    from repro.scenes.dataset import Scenes
    from repro.training.pretraining import open_data

    names, settings = names_and_settings(words)
    table = names[0] if names else SALIENCY_TABLES[0]
    if table not in SALIENCY_TABLES:
        raise UserError(f"no table of saliency '{table}'", mend=nearest(table, SALIENCY_TABLES))
    if names[1:]:
        raise UserError(f"{' and '.join(names)}: one table at a time", mend="leave the others out")
    if table == "maps":
        given = [*settings, *(["--crop"] if crop is not None else []), *(["--photos"] if photos is not None else [])]
        if given:
            others = "`agreement`" if given[0] == "--photos" else "`agreement`, `sources`"
            raise UserError(f"'{given[0]}' changes nothing in `maps`", mend=f"leave it out, or {others}")
        grid_of(size, "--size")  # refuses a size that patches do not tile before any scene is drawn
        report(as_json, saliency(Scenes("val", count=count, classes=60, size=size, cutouts=cutouts)))
        return
    if photos is not None and table == "sources":
        mend = "data.dataset=folder machine.data_root=DIR data.masks=DIR instead"
        raise UserError("--photos have no true masks to grade sources by", mend=mend)
    if photos is not None and cutouts is not None:
        raise UserError("--photos replaces scenes, and --cutouts makes scenes", mend="leave one of them out")
    show_log()
    scenes = {"size": size, "train_count": count, "classes": 60}
    of_scenes = {
        "data": {"dataset": "scenes" if cutouts is None else "scenes-cutouts", "crop": crop or 64, "scenes": scenes},
        "machine": {"data_root": str(cutouts or "")},
        "localizer": {"network": "efficientnet-lite0"},
        "masking": {"strategy": "high_pass"},
    }
    run = pinned(build_run([of_scenes, command_settings(settings)]))
    if crop not in (None, run.data.crop):
        raise UserError(
            f"--crop {crop} and data.crop={run.data.crop} contradict each other", mend="leave one of them out"
        )
    grid_of(run.data.crop, "data.crop" if crop is None else "--crop")
    if photos is not None:
        report(as_json, agreement(run, find_photographs(photos), views=count))
        return
    if cutouts is not None and not run.data.drawn:
        raise UserError(f"--cutouts makes scenes, and data.dataset={run.data.dataset} has none", mend="leave it out")
    images = open_data(run, "train")
    make_rows = partial(agreement, views=count) if table == "agreement" else partial(sources, count=count)
    report(as_json, make_rows(run, images))


def bench_norm(batch: GroupedBatchSize = 32, size: Side = 64, as_json: AsJson = False) -> None:
    """Time a ResNet-18 with four batch-norm groups, ours and MoCo's demo's, beside one group.

    Example: salmask bench norm --batch 128 --size 224
    """
    from repro.bench.batch_norm import GROUPS, batch_norm

    if batch % GROUPS:
        raise UserError(
            f"--batch {batch} is not a multiple of the {GROUPS} groups", mend=f"--batch {GROUPS * (batch // GROUPS)}"
        )
    report(as_json, batch_norm(batch, size))


def bench_scenes(
    size: SceneSide = 128,
    cutouts: Cutouts = None,
    grounds: PoolSize = 0,
    members: Members = 0,
    as_json: AsJson = False,
) -> None:
    """Time drawing built-in scenes beside reading those that are kept.

    Example: salmask bench scenes --cutouts /usr/share/tuxpaint/stamps
    """
    from repro.bench.scenes import scenes

    report(as_json, scenes(size, cutouts, grounds=grounds, members=members))


def _add_step(app: typer.Typer, rows: Callable[[], Rows], measure_on_node: MeasureOnNode) -> None:
    """Adds `bench step`, which measures methods."""
    method_names = typer.Argument(
        metavar="[METHOD]... [KEY.SUB=VALUE]...",
        help="Rows, by default mocov2; and settings, for example data.crop=112.",
        autocompletion=completion(lambda: rows().methods),
    )

    @app.command("step")
    def bench_step(
        words: Annotated[list[str] | None, method_names] = None,
        data: DataName = "",
        root: DataRoot = "",
        steps: Steps = None,
        warm_up: WarmUp = 5,
        out: Record = None,
        rivals: Rivals = False,
        cluster: OnNode = "",
        wait: WaitMinutes = 60.0,
        as_json: AsJson = False,
    ) -> None:
        """Measure how fast methods train here, with the real learner and loader; `salmask sweep --plan` uses it.

        `without loading` is the rate on one batch again and again: about what more workers or a pixel cache can reach.

        Example: salmask bench step mocov2 mocov2+ours-hp --root /data/imagenet

        On a node: salmask bench step mocov2 --root /data/imagenet --cluster mycluster

        Example: salmask bench step --rivals encoder.arch=resnet18 data.crop=96 optimization.batch=32
        """
        from repro.bench.throughput import RECORDED_ELSEWHERE, record, record_file
        from repro.data.roots import refuse_idle_root

        room = rows()
        methods, settings = names_and_settings(words)
        layer = command_settings(settings, data=data, root=root)
        if rivals:
            from repro.bench.plain_moco import compare_with_plain_moco
            from repro.bench.timing import ROUNDS
            from repro.processes.distributed import initialise

            if methods or cluster:
                mend = "leave the methods and --cluster out"
                raise UserError("--rivals compares MoCo v2 alone, on this machine", mend=mend)
            run = room.resolve("mocov2", layer)
            report(as_json, compare_with_plain_moco(run, initialise(run.machine.device), steps or ROUNDS))
            return
        runs = [room.resolve(method, layer) for method in methods or ["mocov2"]]
        refuse_idle_root(runs[0].data.dataset, root)
        file = out or record_file()
        check_place(file, mend=RECORDED_ELSEWHERE)
        measured: Iterable[StepMeasurement]
        if cluster:
            measured = measure_on_node(cluster, runs, steps=steps or 20, warm_up=warm_up, wait=60 * wait)
        else:
            from repro.bench.step import measure

            measured = (measure(run, room.build, warm_up=warm_up, steps=steps or 20) for run in runs)
        lines = []
        for measurement in measured:
            # Recorded one by one, so that a later method that fails does not cost the earlier ones' minutes.
            record(file, [measurement])
            lines.append(
                {
                    "method": measurement.method,
                    "images/s": measurement.images_per_second,
                    "without loading": measurement.repeated_images_per_second,
                    "forward images/s": measurement.forward_images_per_second,
                    "checkpoint MB": round(measurement.checkpoint_bytes / 1e6, 1),
                    "device": measurement.device,
                }
            )
        report(as_json, lines)


def _add_start(app: typer.Typer, rows: Callable[[], Rows]) -> None:
    """Adds `bench start`, which starts trainings of any row."""
    words_of_a_run = typer.Argument(
        metavar="[METHOD] [KEY.SUB=VALUE]...",
        help="A row, by default mocov2; and settings, for example optimization.batch=32.",
        autocompletion=completion(lambda: rows().methods),
    )

    @app.command("start")
    def bench_start(
        words: Annotated[list[str] | None, words_of_a_run] = None,
        data: DataName = "",
        root: DataRoot = "",
        rounds: Annotated[int, typer.Option("--rounds", min=1, help="Processes, one after the other.")] = 3,
        as_json: AsJson = False,
    ) -> None:
        """Measure what a training does before its first step, and at the end of an epoch; trains for one.

        Example: salmask bench start mocov2+ours-hp --data scenes data.crop=64 data.scenes.train_count=128
        """
        from repro.bench.start import measure_start
        from repro.data.roots import refuse_idle_root

        room = rows()
        methods, settings = names_and_settings(words)
        if methods[1:]:
            raise UserError(f"{' and '.join(methods)}: one row at a time", mend="leave the others out")
        method = methods[0] if methods else "mocov2"
        run = room.resolve(method, command_settings(settings, data=data, root=root))
        refuse_idle_root(run.data.dataset, root)
        report(as_json, measure_start(run, f"{room.build.__module__}:{room.build.__qualname__}", rounds))


def _add_scale(app: typer.Typer, subjects: "Callable[[], Sequence[Subject]]") -> None:
    """Adds `bench scale`, whose subjects are defined in rooms above this one."""

    @app.command("scale")
    def bench_scale(
        names: Annotated[
            list[str] | None,
            typer.Argument(metavar="[SUBJECT]...", help="What to measure; default: all. A wrong name lists them."),
        ] = None,
        fraction: Annotated[
            float, typer.Option("--fraction", min=0, max=1, help="Measure up to this share of the largest sizes.")
        ] = 1.0,
        rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds, after one to warm up.")] = 3,
        as_json: AsJson = False,
    ) -> None:
        """Measure how costs grow with size, each with its exponent: plans, status, collecting, masking, bytes sent.

        Example: salmask bench scale plan status --fraction 0.1
        """
        from repro.bench.scale import measure_scale

        by_name = {subject.name: subject for subject in subjects()}
        for name in names or []:
            if name not in by_name:
                raise UserError(f"no subject '{name}'", mend=nearest(name, by_name))
        chosen = [by_name[name] for name in dict.fromkeys(names or by_name)]
        report(as_json, measure_scale(chosen, fraction, rounds))
