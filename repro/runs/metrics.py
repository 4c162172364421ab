"""Reading a training's `metrics.jsonl`, also while it is being written."""

import json
from typing import Any


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl`, or of its end; lines that are torn, by a kill or a cut, are left out."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
