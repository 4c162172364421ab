"""The commands that look at rows: `salmask methods` lists, shows, compares and costs them; and `salmask audit`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from repro.command_line.console import AsJson, completion, names_and_settings, report
from repro.command_line.progress import OPENING, doing, tracked
from repro.command_line.terminal import Console, say
from repro.data.options import DataName, DataRoot, Settings
from repro.errors import UserError, one_line
from repro.filesystem.presence import is_file
from repro.filesystem.writability import check_place
from repro.runs.folder import RunFolder
from repro.settings.comparison import at_work_in_first, difference
from repro.settings.identity import plain
from repro.settings.labels import change_label, label
from repro.settings.reading import command_settings, flat, nested
from repro.settings.rows import MethodRow, Resolve, Rows
from repro.settings.run import Run

# torch is imported when a command needs it: `salmask methods` lists, shows and compares at once.

BatchSize = Annotated[int, typer.Option("--batch", min=4, help="Images a step; a multiple of 4.")]
Rounds = Annotated[int, typer.Option("--rounds", min=0, help="How often each row is timed; 0: count FLOPs only.")]
Tiny = Annotated[
    bool,
    typer.Option("--tiny", help="ResNet-18 at 64 px: takes seconds on a CPU; its ratios are not those of full size."),
]
Bound = Annotated[bool, typer.Option("--bound", help="Time a bare, compiled classifier's step beside it.")]
Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Append a profile to this file: where the time goes, by kernel."),
]
ImageCount = Annotated[int, typer.Option("--count", min=2, help="Images to measure.")]
GalleryImages = Annotated[int, typer.Option("--show", min=1, max=32, help="Images in the gallery.")]
AuditFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", file_okay=False, help="Folder of the page; default: runs/audit/METHOD."),
]


_AUDIT_COLUMNS = """\
lean: mean column of the foreground, from -1 (all in the leftmost) to 1 (all in the rightmost)
of foreground, of background: hidden share of each, by the saliency map, however the patches were chosen
± difference: standard deviation over views of 'of foreground' minus 'of background', in points
of object, of ground: hidden share of the true object, and of everything else, where the object is known
own image's %: queries whose hard negative is made from their own image"""
"""What the columns of the two tables of `salmask audit` hold."""


class _NameIsShow(TyperGroup):
    """Lets `salmask methods NAME` be short for `salmask methods show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Takes a word that is not a command as the name of a row."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


def build(rows: Callable[[], Rows]) -> typer.Typer:
    """Builds the commands of this room.

    Args:
        rows: The methods, which this room does not know; called when a command needs them.
    """
    app = typer.Typer(add_completion=False)
    methods = typer.Typer(cls=_NameIsShow, invoke_without_command=True)
    app.add_typer(methods, name="methods")
    _add_show_and_diff(methods, rows)
    _add_cost(methods, rows)
    _add_audit(app, rows)
    return app


def _method_name(rows: Callable[[], Rows]) -> Any:
    return typer.Argument(
        metavar="METHOD",
        help="A row of the tables; `salmask methods` lists them.",
        autocompletion=completion(lambda: rows().methods),
    )


def _add_show_and_diff(methods: typer.Typer, rows: Callable[[], Rows]) -> None:
    """Adds the commands that train nothing: the list, `show` and `diff`."""
    names = completion(lambda: rows().methods)

    @methods.callback()
    def list_methods(context: typer.Context, as_json: AsJson = False) -> None:
        """List the rows that can be trained; show one, compare two, or tell what they cost.

        Example: salmask methods; salmask methods mocov2+ours-hp
        """
        if context.invoked_subcommand is None:
            lines = summary_rows(rows().methods)
            if not as_json:
                # Without settings: those of a recipe fill a screen, and those of a masked row lack its defaults. Titles
                # tell what sets a row apart, and `salmask methods NAME` shows all settings of one.
                lines = [{"method": line["method"], "title": _title(line)} for line in lines]
            report(as_json, lines)

    @methods.command("show")
    def show(context: typer.Context, method: Annotated[str, _method_name(rows)], as_json: AsJson = False) -> None:
        """Show every setting of a row; `show` may be left out.

        Example: salmask methods show mocov2+ours-hp
        """
        run = rows().resolve(method)
        # `salmask methods --json NAME` hands the option to the group, as `show` comes after it.
        json_of_group = context.parent.params["as_json"] if context.parent else False
        report(True, plain(run)) if as_json or json_of_group else say(run.to_yaml())

    @methods.command("diff")
    def diff(
        first: Annotated[str, typer.Argument(metavar="A", help="A row, or the folder of a run.", autocompletion=names)],
        second: Annotated[str, typer.Argument(metavar="B", help="The other one.", autocompletion=names)],
        as_json: AsJson = False,
    ) -> None:
        """Show in which settings two rows differ, and which are at work in one alone; all others are the same.

        Example: salmask methods diff mocov2 mocov2+ours-hp
        """
        resolve = rows().resolve
        runs = [load_or_resolve(name, resolve) for name in (first, second)]
        differing = difference(*runs)
        if as_json or differing:
            lines = [
                {"setting": key, first: _printable(first_value), second: _printable(second_value)}
                for key, (first_value, second_value) in differing.items()
            ]
            report(as_json, lines)
        else:
            say(f"{first} and {second} are the same experiment")
        if not as_json:
            _say_at_work((first, second), runs)


def _add_cost(methods: typer.Typer, rows: Callable[[], Rows]) -> None:
    method_names = typer.Argument(
        metavar="[METHOD]... [KEY.SUB=VALUE]...",
        help="Rows, by default those of table 1; and settings, for example data.crop=112.",
        autocompletion=completion(lambda: rows().methods),
    )

    @methods.command("cost")
    def cost(
        words: Annotated[list[str] | None, method_names] = None,
        *,
        batch: BatchSize = 8,
        rounds: Rounds = 5,
        tiny: Tiny = False,
        bound: Bound = False,
        trace: Trace = None,
        as_json: AsJson = False,
    ) -> None:
        """Measure what a training step costs: parameters, passes, FLOPs, and time beside the row without masking.

        Example: salmask methods cost mocov2+ours-hp mocov2+adios --tiny encoder.width=16
        """
        if (bound or trace) and not rounds:
            raise UserError(f"{'--bound' if bound else '--trace'} times steps, and --rounds 0 none", mend="--rounds 5")
        room = rows()
        names, settings = names_and_settings(words)
        layers = [_scale(batch, tiny=tiny), command_settings(settings)]
        # A name that is given twice is measured once; the order is the person's.
        runs = [room.resolve(name, *layers) for name in dict.fromkeys(names or room.headline)]
        from repro.methods.cost import measure
        from repro.processes.distributed import initialise

        costs = []
        # Progress goes to standard error: standard output may be JSON.
        for run in tracked(runs, "measuring", len(runs), unit="rows"):
            # The row without masking is named after its framework; if there is none, the row stands beside itself.
            alone = run.framework.value
            baseline = room.resolve(alone if alone in room.methods else run.method, *layers)
            device = initialise(run.machine.device)
            costs.append(measure(run, baseline, room.build, device, rounds=rounds, with_bound=bound))
        if as_json:
            report(True, [asdict(step_cost) for step_cost, _ in costs])
        else:
            report(False, [step_cost.row(baseline) for step_cost, baseline in costs])
            scale = f"{runs[0].data.crop} px, {runs[0].encoder.network}, {batch} images a step"
            say(f"{scale}; parameters: trained + momentum encoder and localizer")
            say("FLOP: 2 for each multiply-add; ×: times the row without masking, timed in turn; cpu: of all threads")
            if bound:
                say("bound: a bare classifier on the same network, bf16, channels last, compiled, timed in turn")
        if trace:
            trace_rows(runs, room, trace)


def _add_audit(app: typer.Typer, rows: Callable[[], Rows]) -> None:
    @app.command("audit")
    def audit_command(
        method: Annotated[str, _method_name(rows)],
        settings: Settings = None,
        *,
        data: DataName = "",
        root: DataRoot = "",
        count: ImageCount = 128,
        show: GalleryImages = 8,
        out: AuditFolder = None,
        as_json: AsJson = False,
    ) -> None:
        """Look at what masking hides: a page with pictures and statistics, beside random patches and the released code.

        Example: salmask audit mocov2+ours-hp --data scenes localizer.network=efficientnet-lite0
        """
        run = rows().resolve(method, command_settings(settings, data=data, root=root))
        with doing("importing torch"):
            from repro.data.roots import refuse_idle_root
            from repro.methods.audit import audit, variants
            from repro.methods.audit_page import write
            from repro.processes.distributed import initialise
            from repro.training.pretraining import open_data

            folder = out or Path("runs/audit") / method
            refuse_idle_root(run.data.dataset, root)
            variants(run)  # refuses a row that masks nothing, before anybody is asked for its data
            check_place(folder, mend="--out DIR elsewhere")  # masking takes minutes
            images = open_data(run, "train")
            OPENING.say(f"masking {min(count, len(images))} images")
            result = audit(run, images, count=count, gallery_images=show, device=initialise(run.machine.device))
            paths = write(result, folder)
        if as_json:
            report(True, result.statistics())
            return
        report(False, result.maps)
        say()
        report(False, result.masks)
        say(f"\n{_AUDIT_COLUMNS}")
        say("\n" + "\n".join(str(path) for path in paths))


def summary_rows(methods: Mapping[str, MethodRow]) -> list[dict[str, str]]:
    """Returns for each row its name, its title, and the settings in which it differs from the row without masking."""
    lines = []
    for name, method in methods.items():
        settings = dict(flat(method.settings))
        baseline = settings["framework"]  # the row without masking is named after its framework
        has_baseline = baseline in methods and name != baseline
        baseline_settings = dict(flat(methods[baseline].settings)) if has_baseline else {}
        changes = [f"{key}={value}" for key, value in settings.items() if baseline_settings.get(key) != value]
        lines.append({"method": name, "title": label(name), "settings": " ".join(changes)})
    return lines


def _title(line: Mapping[str, str]) -> str:
    """Returns a row's title; on a terminal, only what is changed in a changed row, as its name tells the rest."""
    change = change_label(line["method"]) if Console().is_terminal else ""
    return f"…, {change}" if change else line["title"]


def _say_at_work(names: Sequence[str], runs: Sequence[Run]) -> None:
    """Prints which settings have an effect in only one of two runs; the table of differences has none of them."""
    for name, run, other in zip(names, runs, reversed(runs), strict=True):
        if sections := at_work_in_first(run, other):
            say(f"\nHas an effect in {name} only:")
            for section, text in sections.items():
                say(f"  {section}: {text}")


def load_or_resolve(name: str, resolve: Resolve) -> Run:
    """Returns the run of a run's folder, or of a row.

    Args:
        name: Path of a run's folder, or else the name of a row.
        resolve: Makes the run of a row.

    Raises:
        UserError: The name is neither, or the folder's run cannot be read.
    """
    folder = RunFolder(Path(name))
    return folder.load() if is_file(folder.run_yaml) else resolve(name)


def trace_rows(runs: Sequence[Run], room: Rows, path: Path) -> None:
    """Appends the kernels of each run's step to a text file; if a trace fails, a note says so and the next one follows.

    Args:
        runs: Runs that were measured before, so that their steps are known to work.
        room: Builds what they train.
        path: The file.

    Raises:
        UserError: The file cannot be written to.
    """
    from repro.methods.cost import trace
    from repro.processes.distributed import initialise

    for run in tracked(runs, "tracing", len(runs), unit="rows"):
        try:
            trace(run, room.build, initialise(run.machine.device), path)
        except UserError:
            raise
        except Exception as error:  # whatever a profiler, a compiler or a driver raises
            say(f"note: no trace of {run.method} ({type(error).__name__}: {one_line(error)[:200]})", err=True)


def _scale(batch: int, *, tiny: bool) -> dict[str, Any]:
    """Returns the settings that `--batch` and `--tiny` stand for.

    Raises:
        UserError: The batch is not a multiple of 4.
    """
    from repro.methods.cost import TINY

    if batch % 4:
        raise UserError(
            f"--batch {batch} is not a multiple of 4, MoCo's batch-norm groups", mend=f"--batch {4 * (batch // 4)}"
        )
    return nested({"optimization.batch": batch} | (dict(TINY) if tiny else {}))


def _printable(value: Any) -> Any:
    """Returns a value as JSON knows it, so that the table shows it in the same way."""
    return list(value) if isinstance(value, tuple) else value
