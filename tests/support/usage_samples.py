"""Resource usage of a task's processes, as they write it to their run's folder."""

import json
from dataclasses import asdict
from pathlib import Path

from repro.runs.resource_usage import USAGE, Usage


def used(**changes: object) -> Usage:
    values = {"begun": 1.0, "seconds": 10.0, "cpu_seconds": 5.0, "memory": 100, "cores": 4, "host": "n1"}
    return Usage(**{**values, **changes})  # type: ignore[arg-type]


def written(folder: Path, task: str, *ranks: list[Usage]) -> None:
    (folder / USAGE).mkdir(parents=True, exist_ok=True)
    for rank, usages in enumerate(ranks):
        content = json.dumps([asdict(usage) for usage in usages])
        (folder / USAGE / f"{task}.{rank}.json").write_text(content, encoding="utf-8")
