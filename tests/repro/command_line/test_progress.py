"""Progress: bars on a pseudo-terminal, lines at intervals in a pipe, and no silent first half minute."""

import ast
import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from places import ROOT
from rich.console import Console
from training_samples import STEPS, tiny, words

import repro.command_line.progress
from downstream.progress import reported
from repro.command_line.progress import BYTES, OPENING, ProgressBars, clock_time, doing, on_terminal, tracked
from repro.runs.folder import PROGRESS_SECONDS, RunFolder
from repro.training.watching.step_bar import SCORED, StepBar
from slurm.local.messages import Bars
from slurm.planning.graph import Job

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Pipe(io.StringIO):
    """A pipe that is read later, with a clock that the test moves."""

    now = 0.0

    def bars(self, **options: Any) -> ProgressBars:
        return ProgressBars(console=Console(file=self, width=80), clock=lambda: self.now, **options)

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


# In a pipe


def work(pipe: Pipe, seconds: int, **fields: Any) -> list[int]:
    """Does two steps a second, and returns the seconds at which there was a line."""
    times: list[int] = []
    with pipe.bars() as bars:
        task = bars.add_task("pretrain", total=2 * seconds, unit="steps", **fields)
        for step in range(1, 2 * seconds + 1):
            pipe.now = step / 2
            before = len(pipe.lines)
            bars.update(task, completed=step, note="loss 6.25")
            times += [int(pipe.now)] * (len(pipe.lines) - before)
    return times


def test_a_pipe_gets_a_line_after_ten_seconds_and_then_ever_more_rarely_until_one_a_minute() -> None:
    pipe = Pipe()
    assert work(pipe, 600) == [10, 20, 30, 45, 67, 101, 152, 212, 272, 332, 392, 452, 512, 572, 600]
    assert pipe.lines[2] == "pretrain: 60 of 1,200 steps (5 %), 2.0/s, 09:30 left, loss 6.25"
    assert pipe.lines[-1] == "pretrain: 1,200 steps, 2.0/s, took 10:00, loss 6.25"
    assert "\x1b" not in pipe.getvalue()


def test_what_is_short_leaves_no_line_but_a_training() -> None:
    assert work(Pipe(), 9) == []
    pipe = Pipe()
    assert work(pipe, 9, summary=True) == [9]
    assert pipe.lines == ["pretrain: 18 steps, 2.0/s, took 00:09, loss 6.25"]
    with pipe.bars() as bars:  # told twice at its end, as if another process had done the work meanwhile
        task = bars.add_task("saliency", total=2, summary=True)
        pipe.now = 100.0
        bars.update(task, completed=1)
        bars.update(task, completed=2)
        bars.update(task, completed=2)
    assert [line for line in pipe.lines if "took" in line][1:] == ["saliency: 2, took 01:31"]
    silent = Pipe()
    with silent.bars(shown=False) as bars:  # as on the other ranks
        task = bars.add_task("pretrain", total=2, summary=True)
        silent.now = 100.0
        bars.update(task, completed=2)
    assert silent.getvalue() == ""


def test_work_of_which_nothing_can_be_counted_tells_for_how_long_it_goes_on() -> None:
    pipe = Pipe()
    with pipe.bars() as bars:
        task = bars.add_task("knn", total=None)
        pipe.now = 75.0
        bars.update(task)
        pipe.now = 150.0
        bars.update(task, completed=3, unit="images")
    assert pipe.lines == ["knn: under way for 01:15", "knn: 3 images"]


def test_bytes_and_slow_work_have_units_that_can_be_read() -> None:
    pipe = Pipe()
    with pipe.bars() as bars:
        unpacked, fits = bars.add_task("train", total=10**10, unit=BYTES), bars.add_task("l2", total=5, unit="fits")
        for seconds in (10, 20, 40):
            pipe.now = seconds
            bars.advance(unpacked, 10**9)
            bars.advance(fits)
    assert pipe.lines[-2:] == [
        "train: 3.0 GB of 10.0 GB (30 %), 66.7 MB/s, 01:45 left",
        "l2: 3 of 5 fits (60 %), 15.0 s each, 00:30 left",
    ]
    assert [clock_time(seconds) for seconds in (0, 59.6, 3599, 3600, 90061)] == [
        *("00:00", "01:00", "59:59", "1:00:00", "25:01:01")
    ]


def test_a_line_is_one_however_long() -> None:
    pipe = Pipe()
    with pipe.bars() as bars:
        bars.update(bars.add_task(f"verify {'folder/' * 20}", total=2, summary=True), completed=2)
    assert len(pipe.lines) == 1


# On a terminal

DRIVEN = """
import logging, sys, time
from repro.command_line.console import show_log
from repro.command_line.progress import OPENING, ProgressBars, suggest
show_log()
with OPENING.shown():
    OPENING.say("importing torch")
    OPENING.say("pretrain: first step")
    with ProgressBars() as bars:
        task = bars.add_task("pretrain", total=8, unit="steps", summary=True)
        for step in range(1, 9):
            time.sleep(0.2)
            bars.update(task, completed=step, note=f"loss {8 - step / 2:.4g}")
            if step == 4:
                logging.getLogger("salmask").warning("steps wait for data")
print("run: 0123456789")
suggest("salmask eval runs/x --task linear")
"""


def on_a_terminal(output: Path | None = None, command: Sequence[str] = ("-c", DRIVEN)) -> str:
    """What a terminal of 90 columns shows of a Python command, with everything that was overdrawn."""
    main, end = pty.openpty()
    stdout = end if output is None else output.open("wb")
    environ = {**os.environ, "COLUMNS": "90", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *command], stdin=end, stdout=stdout, stderr=end, env=environ)
    os.close(end)
    read = b""
    try:
        while chunk := os.read(main, 65536):
            read += chunk
    except OSError:  # Linux's answer when the other end is closed
        pass
    os.close(main)
    assert process.wait() == 0
    return read.decode()


def test_a_terminal_sees_a_bar_with_rate_time_left_and_loss_and_the_next_command() -> None:
    raw = on_a_terminal()
    seen = [line.rstrip() for line in ESCAPES.sub("", raw).replace("\r", "\n").splitlines() if line.strip()]
    assert seen[:2] == ["importing torch …", "pretrain: first step …"]
    bars = [line for line in seen if re.fullmatch(r"pretrain ━*[╸╺]?━* \d of 8 steps .*", line)]
    assert re.search(r"[3-7] of 8 steps \d+\.\d/s 00:0\d left loss \d", "\n".join(bars))
    assert all(len(line) <= 90 for line in bars)
    assert "steps wait for data" in seen  # a line of its own, above the bar
    (summary,) = [line for line in seen if line.startswith("pretrain: 8 steps")]
    assert re.fullmatch(r"pretrain: 8 steps, \d+\.\d/s, took 00:\d\d, loss 4", summary)
    assert seen[-2:] == ["run: 0123456789", "next: salmask eval runs/x --task linear"]
    assert "\x1b[?25h" in raw[raw.rindex("\x1b[?25l") :]  # the cursor is there again
    kept = re.sub(r"[^\n]*\n\x1b\[\?25h\r\x1b\[1A\x1b\[2K", "", raw)  # without lines that are erased as they end
    stays = [ESCAPES.sub("", line.rpartition("\x1b[2K")[2]).strip() for line in kept.split("\n")]
    assert stays == ["steps wait for data", summary, *seen[-2:], ""]


def test_no_thread_draws_the_bars() -> None:
    """A loader's process that is forked while it does would inherit its lock."""
    threads = set(threading.enumerate())
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    with ProgressBars(console=console) as bars:
        bars.add_task("pretrain", total=8)
        assert on_terminal(console)
        assert set(threading.enumerate()) <= threads


@pytest.mark.slow
def test_a_pretraining_on_a_terminal_says_what_it_does_from_its_first_second(tmp_path: Path) -> None:
    raw = on_a_terminal(command=("-m", "repro.cli", "pretrain", "mocov2", "--out", str(tmp_path), *words()))
    seen = [line.rstrip() for line in ESCAPES.sub("", raw).replace("\r", "\n").splitlines() if line.strip()]
    said = list(dict.fromkeys(line for line in seen if line.endswith(" …")))
    assert said == [
        "importing torch …",
        "pretrain: importing what it needs …",
        "pretrain: opening scenes …",
        "pretrain: building mocov2, and loading weights where it needs some …",
        "pretrain: first step, with its images …",
    ]
    assert any(re.search(rf"━ +[1-5] of {STEPS} steps .*loss \d", line) for line in seen)
    assert any(re.fullmatch(rf"pretrain: {STEPS} steps, .* took .*, loss \d.*", line) for line in seen)
    (folder,) = (tmp_path / "mocov2").iterdir()
    assert seen[-1].startswith("next: salmask eval ")
    assert f"{folder} --task linear" in " ".join(seen[-3:])


def test_a_terminal_gets_the_bars_where_the_output_goes_to_a_file(tmp_path: Path) -> None:
    seen = on_a_terminal(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "run: 0123456789\n"
    assert "8 of 8 steps" in seen


def test_in_a_pipe_the_same_work_is_one_line() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", DRIVEN], capture_output=True, text=True, env=environ, check=True)
    assert ended.stdout == "run: 0123456789\n"
    warning, summary = ended.stderr.splitlines()
    assert warning == "steps wait for data"
    assert summary.startswith("pretrain: 8 steps, ")


# The first half minute


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays that are a hundred times shorter."""
    for name in ("FIRST_LINE_SECONDS", "LINE_SECONDS", "WATCH_SECONDS"):
        monkeypatch.setattr(repro.command_line.progress, name, getattr(repro.command_line.progress, name) / 100)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_is_told_what_takes_long_before_anything_can_be_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with OPENING.shown():
        OPENING.say("importing torch")  # 0.02 s: too short to be told
        time.sleep(0.02)
        OPENING.say("pretrain: first step")
        time.sleep(0.9)
        for _ in tracked(range(2), "measuring", 2):
            time.sleep(0.05)  # counted work prints lines of its own
        OPENING.say("writing")
        time.sleep(0.1)
    said = capsys.readouterr().err
    first = [line for line in said.splitlines() if line.startswith("pretrain: first step … (")]
    assert 2 <= len(first) <= 4  # at once, and then at each half of `LINE_SECONDS`
    assert "importing torch" not in said
    assert "writing … (1 s)" in said
    assert not any(thread.name == "opening" and thread.is_alive() for thread in _soon())


def _soon() -> Iterator[threading.Thread]:
    """The threads that are alive after those that were told to end had time to do so."""
    time.sleep(0.1)
    yield from threading.enumerate()


def test_what_is_refused_at_once_has_nothing_beside_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="bad"), doing("opening scenes"):
        raise ValueError("bad")
    OPENING.say("nothing outside of a block")
    assert capsys.readouterr().err == ""


# In the step


class Untouchable:
    """A number on the device: reading it would wait for the device."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a step's number was asked for")


def test_the_bar_of_a_training_waits_for_no_device_and_costs_a_step_nothing() -> None:
    pipe = Pipe()
    history = {"train/loss": SimpleNamespace(current=lambda: 6.25)}
    runner = SimpleNamespace(
        iter=0,
        max_iters=20_000,
        train_dataloader=[None] * 10_000,
        message_hub=SimpleNamespace(log_scalars=history, runtime_info={SCORED: "top1 61.20"}),
    )
    bar = StepBar("pretrain", 100, pipe.bars())
    bar.before_train(runner)
    began = time.process_time()
    for step in range(20_000):
        runner.iter = step
        pipe.now = step / 100
        bar.after_train_iter(runner, step % 10_000, outputs={"loss": Untouchable()})
    cost = (time.process_time() - began) / 20_000
    assert cost < 50e-6
    assert pipe.lines[0] == "pretrain: 1,100 of 20,000 steps (6 %), 100/s, 03:09 left, loss 6.25, top1 61.20"
    assert pipe.lines[-1] == "pretrain: 20,000 steps, 100/s, took 03:20, loss 6.25, top1 61.20"


def test_bars_are_made_in_one_place() -> None:
    """Bars that are made elsewhere have neither lines for pipes nor the throttle."""
    makers = {"Progress", "track", "Status", "tqdm"}
    for folder in ("repro", "downstream", "results", "slurm", "baselines"):
        texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")}
        for path, text in texts.items():
            # Only files that mention them are parsed: parsing all takes seconds.
            for node in ast.walk(ast.parse(text if "rich" in text or "tqdm" in text else "")):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"rich", "tqdm"}:
                    names = {alias.name for alias in node.names} & makers
                    assert not names or path == ROOT / "repro" / "command_line" / "progress.py", (path, names)


def test_the_bar_of_a_job_counts_what_its_task_counts(tmp_path: Path) -> None:
    """`logistic mocov2 s0: 13` used to say no unit."""
    folder = RunFolder.of(tiny(), tmp_path)
    with folder.attempt("logistic"), reported(folder, "logistic", "regression", 13, "fits") as tell:
        tell(13)
    progress = ProgressBars(console=Console(quiet=True))
    job = Job(tiny(), folder, "logistic")
    Bars(progress).show({("mocov2/s0", "logistic"): (job, folder.status("logistic"))})
    (task,) = progress.tasks
    assert (task.completed, task.fields["unit"]) == (13, "fits")


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_ranks_the_first_one_alone_reports(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("downstream.progress.rank", lambda: rank)
    monkeypatch.setattr("repro.command_line.progress.FIRST_LINE_SECONDS", 0.0)
    now, steps = 1000.0, []
    monkeypatch.setattr("downstream.progress.time", SimpleNamespace(monotonic=lambda: now))
    folder = RunFolder.of(tiny(), tmp_path)
    with folder.attempt("logistic"), reported(folder, "logistic", "regression", 13, "fits") as tell:
        for step, seconds in ((5, 0.0), (6, PROGRESS_SECONDS + 1), (13, 0.0)):
            now += seconds
            tell(step)
            status = folder.status("logistic")
            assert status is not None
            steps.append(status.step)
    assert steps == ([0, 0, 0] if rank else [0, 6, 13])  # the status is written at intervals, and at the end
    lines = capsys.readouterr().err
    assert ("regression: 0 of 13 fits" in lines) == ("regression: 13 fits" in lines) == (rank == 0)
