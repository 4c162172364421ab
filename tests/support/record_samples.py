"""A row of results, and what the tests of rows write."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from json_rows import write_rows
from table_samples import BASE

from repro.runs.records import Result, append

RESULT = replace(
    BASE,
    run_id="0a1b2c3d",
    sweep="demo",
    method="mocov2+ours-hp",
    strategy="high_pass",
    dataset="scenes",
    protocol="linear-moco-v1[epochs=10]",
    value=41.30000000000001,
    scale="resnet18, 64 px – 6 epochs",
    dirty=True,
    device="cpu",
    started="2026-11-22T10:00:00+00:00",
    duration_s=3.5,
)


def record(**changes: Any) -> dict[str, Any]:
    return {**vars(RESULT), **changes}


def write_records(path: Path, *records: dict[str, Any]) -> None:
    write_rows(path, records)


def save(root: Path, *results: Result) -> None:
    """Appends each result to its run's folder, as an evaluation does."""
    for result in results:
        folder = root / result.sweep / result.method / f"s{result.seed}-{result.run_id}"
        folder.mkdir(parents=True, exist_ok=True)
        append(folder / "results.jsonl", [result])
