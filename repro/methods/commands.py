"""The commands that look at rows: `salmask methods` lists, shows, compares and costs them; `salmask audit` looks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from typer.core import TyperGroup

from repro.console import AsJson, completion, report
from repro.data.catalogue import DATASETS
from repro.errors import UserError
from repro.runs.difference import difference, flat
from repro.runs.folder import RunFolder
from repro.runs.identity import plain
from repro.runs.reading import nested, parse_overrides
from repro.runs.rows import MethodRow, Resolve, Rows
from repro.runs.run import Run

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings, for example data.crop=112.")
]


class _NameIsShow(TyperGroup):
    """`salmask methods NAME` is short for `salmask methods show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take a word that is no command for a row's name."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


def build(rows: Callable[[], Rows]) -> typer.Typer:
    """The commands.

    Args:
        rows: the methods, which this room does not know; called when a command needs them.
    """
    app = typer.Typer(add_completion=False)
    methods = typer.Typer(cls=_NameIsShow, invoke_without_command=True)
    app.add_typer(methods, name="methods")
    _add_looking(methods, rows)
    _add_cost(methods, rows)
    _add_audit(app, rows)
    return app


def _method_name(rows: Callable[[], Rows]) -> Any:
    return typer.Argument(
        metavar="METHOD",
        help="A row of the tables; `salmask methods` lists them.",
        autocompletion=completion(lambda: rows().methods),
    )


def _add_looking(methods: typer.Typer, rows: Callable[[], Rows]) -> None:
    """The commands that train nothing: list, show, diff."""
    names = completion(lambda: rows().methods)

    @methods.callback()
    def list_methods(context: typer.Context, as_json: AsJson = False) -> None:
        """List the rows that can be trained; show one, compare two, or tell what they cost.

        Example: salmask methods; salmask methods mocov2+ours-hp
        """
        if context.invoked_subcommand is None:
            report(as_json, listed(rows().methods))

    @methods.command("show")
    def show(context: typer.Context, method: Annotated[str, _method_name(rows)], as_json: AsJson = False) -> None:
        """Show every setting of a row; `show` may be left out.

        Example: salmask methods show mocov2+ours-hp
        """
        run = rows().resolve(method)
        before = context.parent.params["as_json"] if context.parent else False
        report(True, plain(run)) if as_json or before else typer.echo(run.to_yaml())

    @methods.command("diff")
    def diff(
        first: Annotated[str, typer.Argument(metavar="A", help="A row, or the folder of a run.", autocompletion=names)],
        second: Annotated[str, typer.Argument(metavar="B", help="The other one.", autocompletion=names)],
        as_json: AsJson = False,
    ) -> None:
        """Show in which settings two rows differ; what is not shown is the same.

        Example: salmask methods diff mocov2 mocov2+ours-hp
        """
        resolve = rows().resolve
        differing = difference(*(named(name, resolve) for name in (first, second)))
        if as_json or differing:
            pairs = ((key, _plain(one), _plain(other)) for key, (one, other) in differing.items())
            report(as_json, [{"setting": key, first: one, second: other} for key, one, other in pairs])
        else:
            typer.echo(f"{first} and {second} are the same experiment")


def _add_cost(methods: typer.Typer, rows: Callable[[], Rows]) -> None:
    @methods.command("cost")
    def cost(
        names: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[METHOD]...",
                help="Rows; default: those of table 1.",
                autocompletion=completion(lambda: rows().methods),
            ),
        ] = None,
        *,
        batch: Annotated[int, typer.Option(min=4, help="Images a step; a multiple of 4.")] = 8,
        rounds: Annotated[int, typer.Option(min=0, help="Steps of each that are timed; 0: none.")] = 5,
        tiny: Annotated[
            bool, typer.Option("--tiny", help="ResNet-18 at 64 px: seconds on a CPU, other ratios.")
        ] = False,
        settings: Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Change a setting; repeatable.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Measure what a training step costs: parameters, passes, FLOPs, and time beside the row without masking.

        Example: salmask methods cost mocov2+ours-hp mocov2+adios --tiny
        """
        room = rows()
        chosen = names or room.headline
        runs = [
            room.resolve(name, _scale(batch, tiny=tiny), parse_overrides(settings or []))
            for name in dict.fromkeys(chosen)
        ]
        costs = measured(runs, room, batch, rounds, tiny=tiny, settings=settings or [])
        if as_json:
            report(True, [asdict(own) for own, _ in costs])
            return
        report(False, [own.row(baseline) for own, baseline in costs])
        scale = f"{runs[0].data.crop} px, {runs[0].encoder.arch}, {batch} images a step"
        typer.echo(f"{scale}; parameters: trained + momentum encoder and localizer")
        typer.echo("FLOP: 2 for each multiply-add; ×: of the row without masking, timed in turn")


def _add_audit(app: typer.Typer, rows: Callable[[], Rows]) -> None:
    @app.command("audit")
    def audit_command(
        method: Annotated[str, _method_name(rows)],
        settings: Settings = None,
        *,
        data: Annotated[
            str,
            typer.Option(
                "--data",
                metavar="NAME",
                help="Short for data.dataset=NAME.",
                autocompletion=completion(lambda: DATASETS),
            ),
        ] = "",
        root: Annotated[str, typer.Option("--root", metavar="DIR", help="Root of the data set.")] = "",
        count: Annotated[int, typer.Option(min=2, help="Images to measure.")] = 128,
        show: Annotated[int, typer.Option(min=1, max=32, help="Images in the gallery.")] = 8,
        out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/audit/METHOD.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Look at what masking hides: a page with pictures and statistics, beside random patches and the released code.

        Example: salmask audit mocov2+ours-hp --data scenes localizer.network=efficientnet-lite0
        """
        from repro.distributed import initialise
        from repro.methods.audit import audit
        from repro.methods.audit_page import write
        from repro.training.pretraining import open_data

        given = {"data.dataset": data} if data else {}
        layers = [nested(given | ({"machine.data_root": root} if root else {})), parse_overrides(settings or [])]
        run = rows().resolve(method, *layers)
        result = audit(run, open_data(run, "train"), count=count, shown=show, device=initialise(run.machine.device))
        paths = write(result, out or Path("runs/audit") / method)
        if as_json:
            report(True, result.statistics())
            return
        report(False, result.maps)
        typer.echo()
        report(False, result.masks)
        typer.echo("\n" + "\n".join(str(path) for path in paths))


def listed(rows: Mapping[str, MethodRow]) -> list[dict[str, str]]:
    """One line a row: its name, its title, and the settings in which it differs from the row without masking."""
    lines = []
    for name, row in rows.items():
        settings = dict(flat(nested(row.settings)))
        baseline = settings["framework"]
        held = dict(flat(nested(rows[baseline].settings))) if baseline in rows and name != baseline else {}
        changed = [f"{key}={value}" for key, value in settings.items() if held.get(key) != value]
        lines.append({"method": name, "title": row.title, "settings": " ".join(changed)})
    return lines


def named(name: str, resolve: Resolve) -> Run:
    """The run of a row, or of a run's folder.

    Raises:
        UserError: it is neither.
    """
    folder = RunFolder(Path(name))
    return folder.load() if folder.run_yaml.is_file() else resolve(name)


def measured(
    runs: Sequence[Run], room: Rows, batch: int, rounds: int, *, tiny: bool, settings: Sequence[str]
) -> list[tuple[Any, Any]]:
    """The cost of each run and of its baseline, the row that is named after its framework."""
    import torch

    from repro.methods.cost import measure

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = []
    for run in track(runs, "measuring", console=Console(stderr=True), transient=True):
        baseline = room.resolve(run.framework.value, _scale(batch, tiny=tiny), parse_overrides(settings))
        made.append(measure(run, baseline, room.build, device, rounds=rounds))
    return made


def _scale(batch: int, *, tiny: bool) -> dict[str, Any]:
    from repro.methods.cost import TINY

    if batch % 4:
        raise UserError(
            f"--batch {batch} is no multiple of 4, MoCo's batch-norm groups", mend=f"--batch {4 * (batch // 4)}"
        )
    return nested({"optimization.batch": batch} | (dict(TINY) if tiny else {}))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
