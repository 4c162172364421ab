"""What a machine with a GPU can tell about this commit, within minutes and without a network: `make gpu-report`.

Runs with any Python that has torch and the other packages, and says at once which cannot be imported. It leaves at most
eight files in a folder: `report.md` (device, commit, each command and how it ended, each goal met or missed),
`state.json` (the same for the next call), the output of the GPU's tests, the benches as JSON, a trace of a step, the
small study's table, and the commands' standard error. `--minutes` limits the whole; a step starts only if all of its
time fits.

Called again with the same folder, it continues: steps that succeeded are kept, those that never ran come first, and the
goals are judged by all of them. A folder of another commit or device is refused. `--only STEP` (repeatable) runs some
steps.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from gpu_steps import ROOT, Step, fault_of_command, missing_packages, steps
from sessions import GRACE_SECONDS, run_in_session

NO_GPU = "no GPU"
CODE = ("repro", "baselines", "downstream", "results", "slurm", "tests", "tools")
"""Folders whose code and settings determine a report's numbers."""


class RefusedError(Exception):
    """A report that cannot be made; the message is one line with a mend."""


@dataclass
class Record:
    """How a step went."""

    command: str
    status: int | None
    """Exit status; None if it was stopped or interrupted."""
    end: str
    """The same in words, with the time that it took."""
    output: str
    """File with its output."""
    numbers: Any = None
    """What it printed as JSON; for tests, how many ended in each way."""


@dataclass
class State:
    """The state of a report; `state.json` holds it from call to call."""

    commit: str
    device: str
    steps: dict[str, Record] = field(default_factory=dict)

    def resumed(self, folder: Path) -> "State":
        """Returns the state that a folder holds; this one if it holds none.

        Raises:
            RefusedError: The folder is of another commit or device, or its state cannot be read.
        """
        path = folder / "state.json"
        if not path.exists():
            return self
        elsewhere = f"another --out, or remove it and {folder.name}-runs beside it"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records = {name: Record(**record) for name, record in content["steps"].items()}
            state = State(content["commit"], content["device"], records)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(f"{path} cannot be read ({type(error).__name__}); mend: {elsewhere}") from error
        for what, theirs, ours in (("commit", state.commit, self.commit), ("device", state.device, self.device)):
            if theirs != ours:
                raise RefusedError(f"{folder} is the report of {what} {theirs}, and this is {ours}; mend: {elsewhere}")
        return state

    def keep(self, folder: Path) -> None:
        """Writes the state, whole or not at all."""
        unfinished = folder / ".state.json"
        unfinished.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        unfinished.replace(folder / "state.json")


def judge(numbers: Mapping[str, Any], *, on_gpu: bool = True) -> list[str]:
    """Returns the goals of a GPU's step as lines of a table, each with what was measured and whether it is met.

    Steps are measured minutes apart, and meanwhile a device may change its clock. So the first goal does not divide the
    two times directly. Each row's time is first divided by that of the bare, compiled ResNet's step that was timed in
    turn with it. FLOPs over share of the bound are that ratio times the bare step's own FLOPs, which cancel out between
    the rows. Real data is timed beside one batch that is repeated, in one process.

    Args:
        numbers: The numbers of each step (`Record.numbers`), by its name.
        on_gpu: Whether the numbers are a GPU's; without one, no goal is judged.
    """
    supervised, moco, real, cached = (
        _first_row(numbers.get(name)) for name in ("supervised", "mocov2", "real data", "maps cached")
    )
    of_supervised = _beside_bound(moco) / _beside_bound(supervised) if moco and supervised else None
    of_bound = moco["share_of_bound"] if moco else None
    of_repeated = real["images/s"] / real["without loading"] if real else None
    of_unmasked = cached["relative"] if cached else None
    waits = numbers.get("waits") or {}
    ended = sum(waits.get(end, 0) for end in ("passed", "failed", "error", "errors"))
    of_tests = waits.get("passed", 0) / ended if ended else None
    goals = [
        ("step time of MoCo v2 / supervised, each relative to its bound", of_supervised, "at most", 1.6),
        ("FLOP/s of MoCo v2's step / a bare compiled ResNet's at the same batch", of_bound, "at least", 0.85),
        ("images per second from real data / from one batch again and again", of_repeated, "at least", 0.7),
        ("step time of the high-pass row with cached maps / MoCo v2", of_unmasked, "at most", 1.3),
        (f"tests that a step never waits for the device: passed / {ended} ended", of_tests, "at least", 1.0),
    ]
    lines = ["", "| goal | wanted | measured | |", "| --- | --- | ---: | --- |"]
    for goal, value, bound, wanted in goals:
        if value is None:
            verdict, measured = "not measured", ""
        else:
            met = value <= wanted if bound == "at most" else value >= wanted
            verdict = ("met" if met else "**missed**") if on_gpu else "not judged without a GPU"
            measured = f"{value:.2f}"
        lines.append(f"| {goal} | {bound} {wanted} | {measured} | {verdict} |")
    return lines


def _first_row(rows: Any) -> dict[str, Any] | None:
    return rows[0] if rows else None


def _beside_bound(row: Mapping[str, Any]) -> float:
    return float(row["flops"] / row["share_of_bound"])


def describe_device() -> str:
    """Returns the name of the GPU and the versions that numbers depend on."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{NO_GPU}, {os.cpu_count()} cores"
    return f"{name}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"


def describe_commit() -> str:
    """Returns the commit of the checkout and a checksum of its code: a copy may lack Git, and a checkout be edited."""
    checksum = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            checksum.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    code = f"code {checksum.hexdigest()[:8]}"
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"unknown, no Git checkout, {code}"
    return f"{commit[:12]}{', changed since' if _git('status', '-s', '-uno') else ''}, {code}"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def environment() -> dict[str, str]:
    """Returns the environment of the steps, in which they run this checkout's code."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def command_of(step: Step, folder: Path) -> str:
    """Returns a step's command as the report shows it, independent of where the report's folder lies."""
    return step.line.replace(str(folder), "OUT")


@dataclass
class Report:
    """A report in its folder, and the steps that a call continues it with."""

    folder: Path
    every: Sequence[Step]
    state: State

    def __post_init__(self) -> None:
        """Forgets what other commands measured: with another batch, or more rounds."""
        commands = {step.name: command_of(step, self.folder) for step in self.every}
        self.state.steps = {
            name: record for name, record in self.state.steps.items() if commands.get(name) == record.command
        }

    def go_on(self, only: Sequence[str], deadline: float) -> bool:
        """Runs the steps that have not succeeded, those first that never ran; returns whether all have succeeded now.

        Args:
            only: Names of the steps to run; empty: all.
            deadline: Latest end, by `time.monotonic`.
        """
        chosen = [step for step in self.every if not only or step.name in only]
        tried = set(self.state.steps)
        anew: set[str] = set()
        self.write()
        for step in sorted(chosen, key=lambda step: (step.follows or step.name) in tried):
            if self.ended_well(step) and step.follows not in anew:
                print(f"{step.name}: kept, {self.state.steps[step.name].end}", flush=True)
                continue
            if step.follows and step.follows not in self.state.steps:
                print(f"{step.name}: skipped, as it needs {step.follows} first", flush=True)
                continue
            left = deadline - time.monotonic()
            if 60 * step.minutes + GRACE_SECONDS > left:
                print(f"{step.name}: skipped, as its {step.minutes:g} minutes do not fit", flush=True)
                continue
            anew.add(step.name)
            self.carry_out(step)
            print(f"{step.name}: {self.state.steps[step.name].end}", flush=True)
        return all(self.ended_well(step) for step in chosen)

    def ended_well(self, step: Step) -> bool:
        """Returns whether a step has succeeded, and need not run again."""
        record = self.state.steps.get(step.name)
        return record is not None and record.status == 0

    def carry_out(self, step: Step) -> None:
        """Runs a step, appends its output to its file, and records how it ended, even if this process is stopped."""
        output, before = self.folder / step.output, self.state.steps.get(step.name)
        size = output.stat().st_size if output.exists() else 0
        start, status, how = time.monotonic(), None, "interrupted after"
        words = [sys.executable, *step.arguments]
        try:
            with (
                output.open("a", encoding="utf-8") as stdout,
                (self.folder / "errors.txt").open("a", encoding="utf-8") as stderr,
            ):
                stderr.write(f"$ {step.line}\n")
                stderr.flush()
                status = run_in_session(
                    words, 60 * step.minutes, cwd=ROOT, env=environment(), stdout=stdout, stderr=stderr
                )
            how = "stopped after" if status is None else f"exit {status},"
        finally:
            end = f"{how} {time.monotonic() - start:.0f} s"
            told = output.read_bytes()[size:].decode(errors="replace") if output.exists() else ""
            counts = counts_of_tests(told)
            measured, earlier = _json(told) or counts, before.numbers if before else None
            # A try that is cut off or prints no numbers must not remove those of an earlier one.
            numbers = earlier or measured if status is None else measured or earlier
            end = ", ".join([end, *(f"{number} {word}" for word, number in counts.items())])
            self.state.steps[step.name] = Record(command_of(step, self.folder), status, end, step.output, numbers)
            self.write()

    def write(self) -> None:
        """Writes the state and the page; called after each step, so that they are current if a report is cut off."""
        self.state.keep(self.folder)
        records = self.state.steps
        ends = {step.name: records[step.name].end if step.name in records else "not run yet" for step in self.every}
        lines = [
            "# What a GPU says about this commit",
            "",
            f"- device: {self.state.device}",
            f"- commit: {self.state.commit}",
            f"- date: {time.strftime('%Y-%m-%d', time.gmtime())}",
            "",
            "| step | command | output | end |",
            "| --- | --- | --- | --- |",
            *(
                f"| {step.name} | `{command_of(step, self.folder)}` | {step.output} | {ends[step.name]} |"
                for step in self.every
            ),
            *judge(
                {name: record.numbers for name, record in records.items()},
                on_gpu=not self.state.device.startswith(NO_GPU),
            ),
            "",
        ]
        (self.folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _json(text: str) -> Any:
    """Returns what a command printed as JSON; None if it printed other things, or was cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def counts_of_tests(text: str) -> dict[str, int]:
    """Returns how many tests ended in each way, by the last line of pytest; if it was cut off, by the tests' lines."""
    last = text.rstrip().rpartition("\n")[2]
    if not re.fullmatch(r"=+ .* in [\d.]+s.* =+", last):
        ends = re.findall(r"^\S+::.* (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE)
        return dict(Counter(end.lower() for end in ends))
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)(?=,| in )", last)}


def begin(options: argparse.Namespace) -> Report:
    """Returns the report that a call continues; nothing is written before everything is in order.

    Raises:
        RefusedError: Packages or a GPU are missing, a step's name is unknown, or the folder is another report's.
    """
    folder = options.out.resolve()
    every = steps(folder, options.batch, options.rounds)
    unknown = sorted(set(options.only or ()) - {step.name for step in every})
    if unknown:
        names = ", ".join(step.name for step in every)
        raise RefusedError(f"the report has no step '{unknown[0]}'; mend: one of {names}")
    missing = missing_packages(environment())
    if missing:
        named = ", ".join(f"{package} ({why})" for package, why in missing.items())
        raise RefusedError(
            f"{sys.executable} cannot import {named}; mend: pip install them, or bring their wheels along"
        )
    if fault := fault_of_command(environment()):
        raise RefusedError(
            f"{sys.executable} cannot run salmask ({fault}); mend: pip install it, or bring its wheel along"
        )
    import torch

    if not torch.cuda.is_available() and not options.without_gpu:
        raise RefusedError("there is no GPU here; mend: a machine with one, or --without-gpu to try the report")
    state = State(describe_commit(), describe_device()).resumed(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return Report(folder, every, state)


def _stop(number: int, _: Any) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Continues the report; returns 0 if every step that was asked for has succeeded."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "gpu-report",
        help="folder of the report; one of this commit and device is continued, any other is refused; "
        "default: gpu-report",
    )
    parser.add_argument("--minutes", type=float, default=25, help="time limit for all steps of this call; default: 25")
    parser.add_argument("--only", action="append", metavar="STEP", help="one of the steps; repeatable")
    parser.add_argument("--batch", type=int, default=128, help="images of a step; default: 128")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timed steps; default: 15")
    parser.add_argument("--without-gpu", action="store_true", help="continue without a GPU, to try the report itself")
    options = parser.parse_args()
    # Either signal first ends the running step with everything that it started, then this process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        report = begin(options)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if report.go_on(options.only or (), start + 60 * options.minutes) else 1


if __name__ == "__main__":
    sys.exit(main())
