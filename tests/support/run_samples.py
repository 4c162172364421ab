"""Run folders as a sweep leaves them, made without training, for tests of what reads them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from json_rows import read_rows, write_rows
from PIL import Image

from baselines import METHODS
from repro.runs.folder import RunFolder
from repro.runs.records import Result, append
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of
from repro.settings.reading import build
from repro.settings.run import Run

DEVICE = "NVIDIA H100"
FOREGROUNDS = ("truth", "truth-dilated-2", "random", "inverted")
"""Sources of the foreground of runs of a dose-response, from good to bad."""
RESULT = Result(
    run_id="",
    recipe="",
    sweep="",
    method="",
    framework="",
    strategy="",
    fidelity="",
    seed=0,
    task="linear",
    dataset="imagenet100",
    split="val",
    protocol="linear-moco-v1",
    metric="top1",
    value=0.0,
    scale="",
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    device=DEVICE,
    started="2026-11-22T10:00:00+00:00",
    duration_s=600.0,
)
"""A row at the paper's scale, to be completed by `replace`."""


def renamed(folder: RunFolder, method: str) -> RunFolder:
    """Give a finished run a method's name that no run of ours could have, as a stranger's folder might."""
    old, parent = folder.path.parent.name, folder.path.parent.with_name(method)
    parent.mkdir(exist_ok=True)
    path = folder.path.rename(parent / folder.path.name)
    results = [row | {"method": method} for row in read_rows(path / "results.jsonl")]
    write_rows(path / "results.jsonl", results)
    text = (path / "run.yaml").read_text()
    (path / "run.yaml").write_text(text.replace(f"method: {old}\n", f"method: {json.dumps(method)}\n"))
    return RunFolder(path)


def finished(
    root: Path, method: str, seed: int, values: dict[tuple[str, str], float], *, sweep: str = "full", **settings: Any
) -> RunFolder:
    """Make the folder of an evaluated run.

    Args:
        root: Folder of the sweeps.
        method: Name of the method.
        seed: Its seed.
        values: (Data set, metric) -> value.
        sweep: Name of the sweep.
        settings: Settings of the run, `optimization__epochs=6` for `optimization.epochs=6`.
    """
    overrides = {key.replace("__", "."): value for key, value in settings.items()}
    run = build([of_method(method), {"seed": seed}, overrides])
    folder = begun(root / sweep, run)
    rng = np.random.default_rng(seed)
    write_rows(
        folder.metrics,
        ({"step": step, "loss": 8 - 2 * step / 100 + rng.normal(0, 0.1), "time": 0.5} for step in range(10, 101, 10)),
    )
    probe = folder.path / "probes" / f"{run.data.dataset}-{run.probe.protocol().name}" / "metrics.jsonl"
    write_rows(probe, ({"step": step, "top1": 20 + step + rng.normal(0, 1)} for step in (10, 20, 30)))
    folder.gallery.mkdir()
    Image.fromarray(rng.integers(0, 255, (60, 40, 3), dtype=np.uint8)).save(folder.gallery / "masks.png")
    (folder.logs / "first").mkdir(parents=True)
    (folder.logs / "first" / "first.log").write_text("step 10 loss 7.8\nstep 20 loss 7.6\n")
    append(
        folder.results,
        [
            replace(_result_of(run, sweep), dataset=dataset, metric=metric, value=value)
            for (dataset, metric), value in values.items()
        ],
    )
    folder.set_status("done", task="linear", step=100, steps=100)
    return folder


def of_method(method: str) -> dict[str, Any]:
    """The settings that a method's name stands for; those of MoCo v2 where it is none of ours."""
    return {**(METHODS[method].settings if method in METHODS else {}), "method": method}


def begun(sweep: Path, run: Run) -> RunFolder:
    """Make the folder of a run that is pretraining and has no result."""
    folder = RunFolder.of(run, sweep)
    folder.prepare(run)
    attempt = {
        "started": "2026-11-22T08:00:00+00:00",
        "commit": RESULT.commit,
        "dirty": False,
        "command": f"salmask pretrain {run.method} seed={run.seed}",
        "host": "node1",
        "device": DEVICE,
        "python": "3.11.7",
        "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
        "data": {"train": "75656031161e"},
    }
    folder.provenance.write_text(json.dumps([attempt]))
    folder.set_status("running", task="pretrain", step=10, steps=100)
    return folder


def _result_of(run: Run, sweep: str) -> Result:
    return replace(
        RESULT,
        run_id=run.id,
        recipe=run.recipe,
        sweep=sweep,
        method=run.method,
        framework=run.framework.name,
        strategy=run.masking.strategy.name,
        fidelity=str(run.fidelity),
        seed=run.seed,
        protocol=run.probe.protocol().name,
        scale=scale_of(sizes_below_recipe(run)),
    )


def with_foreground(
    root: Path, source: str, seed: int, hard: str = "", top1: float = 50.0, iou: float = 0.5, **changed: str
) -> None:
    """Make a run of the dose-response. `iou` is that of the query's foreground; the hard negative's is 0.1 higher."""
    settings = {
        "localizer__source": source,
        "localizer__hard_negative_source": hard,
        "data__dataset": "scenes",
        "masking__strategy": "high_pass",
        **changed,
    }
    method = f"mocov2+ours-hp-by-{source}-{hard}"
    folder = finished(root, method, seed, {("scenes", "top1"): top1}, sweep="dose", **settings)
    covered = {"query": {"mean IoU": iou}, "hard negative": {"mean IoU": iou + 0.1}}
    folder.foregrounds.write_text(json.dumps(covered))
