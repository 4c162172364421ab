"""Benchmarks of reading results: how long a million rows take to collect and to render, and how that grows."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.runs.records import Result
from repro.runs.usage_meter import largest_memory
from repro.settings.run_name import folder_name
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.formats.table_files import markdown
from results.paper.published import table1
from results.tables.rendering import render

ROWS_A_RUN = 500
"""Result rows in a run folder: as many as a probe writes that five metrics score after each of 100 epochs."""


def collecting(rows: int) -> dict[str, Any]:
    """Writes result rows into temporary run folders, then times collecting them and rendering Table 1.

    Args:
        rows: The number of result rows.

    Returns:
        The numbers of rows and run folders, the seconds of collecting and of rendering, the peak memory of this process
        in GiB, and the length of the rendered table in characters.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder_count = _write(Path(folder), rows)
        start = time.perf_counter()
        runs = find_runs([Path(folder)])
        frame = collect_runs(runs)
        collected = time.perf_counter()
        page = markdown(render("table1", frame, runs=runs, every=True))
        end = time.perf_counter()
    return {
        "rows": len(frame),
        "run folders": folder_count,
        "collect_s": round(collected - start, 2),
        "render_s": round(end - collected, 2),
        "peak_memory_gib": round(largest_memory(os.getpid()) / 2**30, 2),
        "characters": len(page),
    }


@contextmanager
def rows_to_collect(count: int) -> Iterator[Callable[[], object]]:
    """Writes `count` result rows into temporary run folders; yields the work to time, which collects them."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), count)
        yield lambda: collect_runs(find_runs([Path(folder)]))


def _write(root: Path, rows: int) -> int:
    """Writes run folders of all methods of Table 1, with as many seeds as needed; returns the number of folders."""
    paper_rows = list(table1().rows.values())
    count = max(rows // ROWS_A_RUN, 1)
    for index in range(count):
        row = paper_rows[index % len(paper_rows)]
        seed = index // len(paper_rows)
        result = _result(row.method, row.block, seed)
        folder = root / "sweep" / row.method / folder_name(seed, result.run_id)
        folder.mkdir(parents=True)
        size = ROWS_A_RUN if index else rows - ROWS_A_RUN * (count - 1)  # the first folder takes the remainder
        metrics = ["top1", *(f"top1_epoch{number}" for number in range(1, size))]
        lines = [json.dumps(vars(replace(result, metric=metric, value=60 + seed % 7))) for metric in metrics]
        (folder / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def _result(method: str, framework: str, seed: int) -> Result:
    """Returns a result at the paper's scale; the caller replaces its metric and its value."""
    return Result(
        run_id=hashlib.sha256(f"{method} {seed}".encode()).hexdigest()[:10],
        recipe=method,
        sweep="sweep",
        method=method,
        framework=framework,
        strategy="none",
        fidelity="paper",
        seed=seed,
        task="linear",
        dataset="imagenet100",
        split="val",
        protocol="linear-moco-v1",
        metric="top1",
        value=0.0,
        scale="",
        commit="0123456789abcdef",
        dirty=False,
        device="cpu",
        started="2026-11-22T10:00:00+00:00",
        duration_s=1.0,
    )
