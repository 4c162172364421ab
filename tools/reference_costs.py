"""Writes slurm/planning/reference.json, from which plans are estimated for users who have measured nothing.

python tools/reference_costs.py            # writes it
python tools/reference_costs.py --check    # exits with 1 if it is not current

Times of steps at full size are those of docs/performance.md, whose runs are not kept. Everything else is read from the
recorded runs of examples/.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from baselines import resolve
from repro.bench.throughput import kind_of
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.task_results import rows_of
from slurm.planning.job_costs import evaluation_kind, rate_of

ROOT = Path(__file__).parents[1]
FILE = ROOT / "slurm" / "planning" / "reference.json"
# Not examples/demo: its runs shared two cores with other work, which their seconds would reflect.
FOLDERS = ("examples/reproduced/h100", "examples/reproduced/cpu-112px", "examples/study/runs")

FULL_SIZE = "docs/performance.md, salmask methods cost --batch 128, commit a221b39, input not in it"
AS_TIMED = {"optimization.batch": 128, "optimization.precision": "bf16", "machine.channels_last": True}
H100 = "NVIDIA H100"
SUPERVISED, MOCO, SIMCLR = 0.041, 0.167, 0.127
"""Seconds of a step of 128 images, ResNet-50 at 224 px."""
STEP_SECONDS = {
    "supervised": SUPERVISED,
    "mocov2": MOCO,
    "mocov2+mscn": 0.99 * MOCO,
    "mocov2+adios": 1.69 * MOCO,
    # The slowest of the range that the page gives for ours.
    **dict.fromkeys(("mocov2+ours-hp", "mocov2+ours-blur", "mocov2+ours-mean"), 1.39 * MOCO),
    "simclr": SIMCLR,
    "simclr+adios": 1.77 * SIMCLR,
    **dict.fromkeys(("simclr+ours-hp", "simclr+ours-blur", "simclr+ours-mean"), 1.61 * SIMCLR),
}
FORWARD_SHARE = 1 / 3
"""Share of a supervised step's work; the backward pass takes twice as long as the forward pass."""


def content() -> dict[str, Any]:
    """Returns the content of the file."""
    steps = [
        {
            "kind": kind_of(resolve(method, AS_TIMED)),
            "images_per_second": round(128 / seconds, 1),
            "device": H100,
            "source": FULL_SIZE,
        }
        for method, seconds in STEP_SECONDS.items()
    ]
    forward = {
        "network": "resnet50",
        "crop": "224",
        "images_per_second": round(128 / (FORWARD_SHARE * SUPERVISED), 1),
        "device": H100,
        "source": f"a third of a supervised step; {FULL_SIZE}",
    }
    evaluations: list[dict[str, Any]] = []
    for folder in FOLDERS:
        of_folder, measured = recorded(folder)
        steps += of_folder
        evaluations += measured
    return {"steps": steps, "forwards": [forward], "evaluations": evaluations}


def recorded(folder: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rates of the pretrainings and the times of the evaluations in a folder of runs."""
    rates: dict[tuple[tuple[str, ...], str], list[float]] = {}
    seconds: dict[tuple[tuple[str, ...], str], list[float]] = {}
    for path in sorted((ROOT / folder).glob("*/s*/run.yaml")):
        place = RunFolder(path.parent)
        run = place.load()
        rate = rate_of(place.metrics)
        if rate and place.provenance.is_file():
            device = json.loads(place.provenance.read_text(encoding="utf-8"))[-1]["device"]
            rates.setdefault((kind_of(run), device), []).append(rate)
        for row in rows_of(place.results):
            # The fits are the same, and take as long; the two choose differently among equally good ones.
            protocol = row.protocol.replace("logreg-v1", "logreg-v2")
            key = evaluation_kind(run, Evaluation(row.task, row.dataset), protocol)
            seconds.setdefault((key, row.device), []).append(row.duration_s)
    return (
        [
            {"kind": kind, "images_per_second": _rounded(values), "device": device, "source": folder}
            for (kind, device), values in rates.items()
        ],
        [
            {"evaluation": key, "seconds": _rounded(values), "device": device, "source": folder}
            for (key, device), values in seconds.items()
        ],
    )


def _rounded(values: list[float]) -> float:
    """Returns the median, with three significant digits."""
    return float(f"{statistics.median(values):.3g}")


def main() -> int:
    """Writes or checks the file; returns the exit status."""
    text = json.dumps(content(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if FILE.read_text(encoding="utf-8") == text else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
