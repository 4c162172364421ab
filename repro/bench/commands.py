"""`salmask bench`: what is fast, measured side by side in one run."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from repro.console import AsJson, completion, report
from repro.errors import UserError
from repro.runs.reading import parse_overrides
from repro.runs.rows import Rows

# torch is imported when a command runs: `--help` answers at once.


def build(rows: Callable[[], Rows]) -> typer.Typer:
    """The commands.

    Args:
        rows: the methods that can be measured, which this room does not know; called when a command needs them.
    """
    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Measure, side by side in one run.")

    @app.command("masking")
    def bench_masking(
        batch: Annotated[int, typer.Option(min=1, help="Images.")] = 32,
        size: Annotated[int, typer.Option(min=28, help="Pixels a side; a multiple of 7.")] = 224,
        as_json: AsJson = False,
    ) -> None:
        """Time our masking beside a plain loop over images.

        Example: salmask bench masking --batch 32 --size 224
        """
        from repro.bench.masking import masking

        if size % 7:
            raise UserError(f"--size {size} is no multiple of the 7×7 grid", mend=f"--size {7 * (size // 7)}")
        report(as_json, masking(batch, size))

    @app.command("saliency")
    def bench_saliency(
        size: Annotated[int, typer.Option(min=64, max=512, help="Pixels a side.")] = 224,
        count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 200,
        cutouts: Annotated[
            Path | None, typer.Option(metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Compare the foreground map with true object masks: the paper's, the released code's, and chance.

        Example: salmask bench saliency --cutouts /usr/share/tuxpaint/stamps --size 224
        """
        from repro.bench.saliency import saliency
        from repro.saliency.localizer import grid_of
        from repro.scenes.dataset import Scenes

        grid_of(size)
        report(as_json, saliency(Scenes("val", count=count, classes=60, size=size, cutouts=cutouts), size))

    @app.command("norm")
    def bench_norm(
        batch: Annotated[int, typer.Option(min=8, help="Images; a multiple of 4.")] = 32,
        size: Annotated[int, typer.Option(min=32, help="Pixels a side.")] = 64,
        as_json: AsJson = False,
    ) -> None:
        """Time a ResNet-18 with four batch-norm groups, ours and MoCo's demo's, beside one group.

        Example: salmask bench norm --batch 128 --size 224
        """
        from repro.bench.batch_norm import batch_norm

        if batch % 4:
            raise UserError(f"--batch {batch} is no multiple of the 4 groups", mend=f"--batch {4 * (batch // 4)}")
        report(as_json, batch_norm(batch, size))

    @app.command("scenes")
    def bench_scenes(
        size: Annotated[int, typer.Option(min=64, max=512, help="Pixels a side.")] = 128,
        cutouts: Annotated[
            Path | None, typer.Option(metavar="DIR", help="RGBA cut-outs; default: drawn shapes.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Time drawing built-in scenes beside reading those that are kept.

        Example: salmask bench scenes --cutouts /usr/share/tuxpaint/stamps
        """
        from repro.bench.scenes import scenes

        report(as_json, scenes(size, cutouts))

    @app.command("step")
    def bench_step(
        methods: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[METHOD]...", help="Default: mocov2.", autocompletion=completion(lambda: rows().methods)
            ),
        ] = None,
        settings: Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="A setting; repeatable.")
        ] = None,
        root: Annotated[
            str, typer.Option("--root", metavar="DIR", help="Root of the data set; short for machine.data_root=DIR.")
        ] = "",
        steps: Annotated[int, typer.Option(min=1, help="Steps that count.")] = 20,
        warm_up: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 5,
        out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where plans look by default.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Measure how fast methods train here, real learner and loader; `salmask sweep --plan` reads it.

        Example: salmask bench step mocov2 mocov2+ours-hp --root /data/imagenet
        """
        from repro.bench.step import measure
        from repro.bench.throughput import record, record_file

        room = rows()
        layers = [{"machine": {"data_root": root}} if root else {}, parse_overrides(settings or [])]
        measurements = []
        for method in methods or ["mocov2"]:
            measured = measure(room.resolve(method, *layers), room.build, warm_up=warm_up, steps=steps)
            record(out or record_file(), [measured])
            measurements.append(
                {
                    "method": method,
                    "images/s": measured.images_per_second,
                    "forward images/s": measured.forward_images_per_second,
                    "checkpoint MB": round(measured.checkpoint_bytes / 1e6, 1),
                    "device": measured.device,
                }
            )
        report(as_json, measurements)

    return app
