"""Faults of a training, made for real: it is killed or asked to stop, its files are torn, or its disk is full.

Each point is a tiny run in a folder of its own, whose command is repeated after the fault. A point holds if the
repeated command ends in exactly the weights, metrics and results of the undisturbed run, or refuses in one line; and if
no command ends in a traceback.
"""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.drill.processes import Ended, Main, Strike, run
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.runs.folder import RunFolder
from repro.runs.metrics import read_metrics
from repro.runs.records import read
from repro.runs.resource_usage import usage_file

METHOD = "mocov2"
WORDS = (
    *("data.dataset=scenes", "data.crop=32", "data.scenes.classes=4", "data.scenes.size=64"),
    *("data.scenes.train_count=16", "data.scenes.val_count=16", "encoder.arch=resnet18", "encoder.width=8"),
    *("encoder.dim=8", "moco.queue=16", "moco.bn_splits=2", "optimization.epochs=2", "optimization.batch=8"),
    *("knn.neighbours=[5]", "machine.workers=0", "machine.device=cpu", "machine.log_every=1"),
    "machine.checkpoint_every=1",
)
"""A run of four steps."""
_CLOCKS = ("time", "data_time", "images_per_second", "data_wait")
"""Metrics that differ between any two runs."""
_FULL_DISK_BYTES = (150_000, 700_000, 1_500_000, 2_500_000, 4_000_000)
"""Sizes of disks that are too small for a tiny run."""
SIGNALS = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP, "USR2": signal.SIGUSR2}


@dataclass
class Row:
    """One kind of fault: how it is made, at how many points it was tried, and at how many all was right afterwards."""

    kind: str
    made: str
    tried: int = 0
    held: int = 0
    first_fault: str = ""
    """What went wrong at the first point that did not hold, or why nothing was tried."""

    def note(self, fault: str, where: str = "") -> None:
        """Counts a point; `fault` says what went wrong there, and is empty if nothing did."""
        self.tried += 1
        if fault:
            self.first_fault = self.first_fault or f"{where}: {fault}"
        else:
            self.held += 1


@dataclass
class TinyRun:
    """An undisturbed run, and copies of it that are disturbed."""

    main: Main
    place: Path
    """A folder for it alone, in which everything is made."""
    count: int = field(default=0, init=False)
    events: int = field(default=0, init=False)
    """Number of file operations of the undisturbed pretraining."""
    weights: tuple[int, ...] = field(default=(), init=False)
    """The numbers of those operations that began to write weights."""

    def begin(self) -> None:
        """Makes the run that the others are compared with.

        Raises:
            RuntimeError: A command fails even undisturbed; the message has its last line.
        """
        out = self.place / "undisturbed"
        for command in (self.pretrain, self.evaluate):
            ended = run(self.main, command(out), out)
            if ended.code:
                raise RuntimeError(f"the undisturbed run ended with {ended.code}: {ended.last_line}")
            if not self.events:
                self.events, self.weights = ended.events, ended.weights

    def pretrain(self, out: Path) -> list[str]:
        """Returns the command line of a pretraining into a folder."""
        return ["pretrain", METHOD, *WORDS, "--out", str(out)]

    def evaluate(self, out: Path) -> list[str]:
        """Returns the command line of an evaluation in a folder."""
        return ["eval", str(folder_in(out).path), "--task", "knn"]

    def new(self) -> Path:
        """Returns the name of a folder for another copy."""
        self.count += 1
        return self.place / f"run-{self.count}"

    def copy(self, source: Path) -> Path:
        """Returns a copy of a folder with runs."""
        return Path(shutil.copytree(source, self.new()))

    def goes_on(self, out: Path, *, may_refuse: bool = False) -> str:
        """Repeats the pretraining and the evaluation; returns how the run differs from the undisturbed one, or "".

        Args:
            out: Folder of the run.
            may_refuse: Whether a refusal in one line with a mend is right as well.
        """
        for command in (self.pretrain, self.evaluate):
            words = command(out)
            ended = run(self.main, words, out)
            if ended.fault:
                return ended.fault
            if may_refuse and ended.code == 2 and "mend: " in ended.last_line:
                return ""
            if ended.code:
                return f"{words[0]} ended with {ended.code}: {ended.last_line}"
        return self.difference(out, of_metrics=not may_refuse)

    def judge(self, row: Row, out: Path, ended: Ended, codes: Sequence[int], where: str) -> None:
        """Counts a disturbed command in its row: how it ended, and whether the run goes on; then removes its folder.

        Args:
            row: The row of the fault.
            out: Folder of the run.
            ended: How the command ended.
            codes: The exit statuses that are right.
            where: Where the command was disturbed, in words.
        """
        fault = ended.fault or ("" if ended.code in codes else f"it ended with {ended.code}: {ended.last_line}")
        row.note(fault or self.goes_on(out), where)
        shutil.rmtree(out, ignore_errors=True)

    def difference(self, out: Path, *, of_metrics: bool = True) -> str:
        """Returns how a finished run differs from the undisturbed one; empty if it does not."""
        import torch

        from repro.backbones.checkpoint import read_checkpoint

        one, other = folder_in(self.place / "undisturbed"), folder_in(out)
        try:
            ours, theirs = (read_checkpoint(folder.backbone)["state_dict"] for folder in (one, other))
        except UserError as error:
            return f"its backbone: {error.what}"
        if differing := [name for name in ours if not torch.equal(ours[name], theirs[name])]:
            return f"{len(differing)} tensors of the backbone differ"
        if of_metrics and _rows(one) != _rows(other):
            return "its metrics differ"
        values = [{row.metric: row.value for row in read(folder.results)[0]} for folder in (one, other)]
        if values[0] != values[1]:
            return f"its results differ: {values[1]}"
        # An evaluation that has its result is only read when it is repeated, and writes nothing. So what a kill left of
        # the two files that are written after the result stays until the run's next attempt.
        expected = (".lock", ".status-knn.json.", f".{usage_file(other.path, 'knn', rank=0).name}.")
        leftovers = [path.name for path in other.path.rglob(".*") if not path.name.startswith(expected)]
        return f"{leftovers[0]} was left" if leftovers else ""


def folder_in(out: Path) -> RunFolder:
    """Returns the folder of the only run in a folder of runs; a path that does not exist if there is none yet."""
    return RunFolder(next(iter(sorted((out / METHOD).glob("s0-*"))), out / METHOD / "none"))


def _rows(folder: RunFolder) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in _CLOCKS} for row in read_metrics(folder.metrics)]


def spread(count: int, points: int) -> list[int]:
    """Returns some of the numbers 1…count, evenly spread, the first and the last among them."""
    if points >= count:
        return list(range(1, count + 1))
    return sorted({round(1 + index * (count - 1) / max(points - 1, 1)) for index in range(points)})


def killed(training: TinyRun, points: int) -> Row:
    """Kills a pretraining before some of its file operations, and repeats it."""
    row = Row("killed", f"SIGKILL before one of the {training.events} file operations of a pretraining")
    for event in spread(training.events, points):
        out, ended = _killed_before(training, event)
        training.judge(row, out, ended, [-signal.SIGKILL], f"file operation {event}")
    return row


def _killed_before(training: TinyRun, event: int) -> tuple[Path, Ended]:
    """Kills a new pretraining before one of its file operations; returns its folder, and how it ended.

    Their number depends on the clock, because heartbeats are written by time. A pretraining with fewer operations than
    the undisturbed one may end before this one; then another pretraining is killed before its last operation.
    """
    while True:
        out = training.new()
        ended = run(training.main, training.pretrain(out), out, Strike(event))
        if ended.code or ended.events >= event:
            return out, ended
        event = ended.events
        shutil.rmtree(out, ignore_errors=True)


def killed_in_evaluation(training: TinyRun, points: int) -> Row:
    """Kills an evaluation before some of its file operations, and repeats it."""
    source = training.copy(training.place / "undisturbed")
    for path in (folder_in(source).results, folder_in(source).path / "status-knn.json"):
        path.unlink()
    shutil.rmtree(folder_in(source).path / "features", ignore_errors=True)
    whole = training.copy(source)
    events = run(training.main, training.evaluate(whole), whole).events
    row = Row("killed", f"SIGKILL before one of the {events} file operations of a kNN evaluation")
    for event in spread(events, points):
        out = training.copy(source)
        ended = run(training.main, training.evaluate(out), out, Strike(event))
        # With fewer operations than the whole one had, it ends undisturbed.
        training.judge(row, out, ended, [-signal.SIGKILL, 0], f"file operation {event}")
    return row


def signalled(training: TinyRun, points: int) -> Row:
    """Asks a pretraining to stop at some of its file operations, by each signal in turn, and repeats it."""
    row = Row("signalled", f"{', '.join(SIGNALS)} at a file operation of a pretraining")
    names = list(SIGNALS)
    for index, event in enumerate(spread(training.events, points)):
        name = names[index % len(names)]
        out = training.new()
        ended = run(training.main, training.pretrain(out), out, Strike(event, SIGNALS[name]))
        # After the last step, it ends as if it had not been asked.
        training.judge(row, out, ended, [128 + SIGNALS[name], 0], f"{name} at file operation {event}")
    return row


_WRITE_SECONDS = 0.02
"""Longest time in which weights of the tiny run are being written."""


def interrupted_in_a_write(training: TinyRun, points: int) -> Row:
    """Interrupts a pretraining as Ctrl-C does, at random instants while it writes weights, and repeats it."""
    row = Row("interrupted", "INT at a random instant while a checkpoint or the backbone is written")
    draw = random.Random(0)
    for number in range(points):
        event = training.weights[number % len(training.weights)]
        delay = draw.uniform(1e-4, _WRITE_SECONDS)
        out = training.new()
        ended = run(training.main, training.pretrain(out), out, Strike(event, signal.SIGINT, delay))
        # If everything was written before, it ends as if it had not been asked.
        training.judge(row, out, ended, [128 + signal.SIGINT, 0], f"file operation {event}, {1000 * delay:.1f} ms")
    return row


def torn(training: TinyRun, points: int) -> Row:
    """Damages each file of an interrupted and of a finished pretraining, each in several ways, and goes on."""
    row = Row("torn", "a file of a run emptied, cut in half, one bit flipped, replaced by other text or by a folder")
    half = training.new()
    # Late enough for two checkpoints.
    run(training.main, training.pretrain(half), half, Strike(round(training.events * 0.7)))
    # Without its results, so that the evaluation has to read what is torn.
    done = training.copy(training.place / "undisturbed")
    folder_in(done).results.unlink()
    cases = [
        (source, path.relative_to(source), way)
        for source in (half, done)
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".jsonl", ".pth", ".yaml")
        for way in TEARS
    ]
    for number in spread(len(cases), points):
        source, name, way = cases[number - 1]
        out = training.copy(source)
        TEARS[way](out / name, random.Random(f"0 {name} {way}"))
        row.note(training.goes_on(out, may_refuse=True), f"{name.name} {way}")
        shutil.rmtree(out, ignore_errors=True)
    return row


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _as_folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


TEARS: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda path, _: path.write_bytes(b""),
    "cut in half": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "with one bit flipped": _flip,
    "of other text": lambda path, _: path.write_bytes(b'{"odd": [1, null]}\n'),
    "as a folder": _as_folder,
}
"""Ways of damaging a file, by name."""


def full_disk(training: TinyRun) -> Row:
    """Fills small disks in memory by a pretraining, enlarges them, and repeats it; needs the right to mount."""
    row = Row("full disk", "a tmpfs that is too small for a pretraining, enlarged afterwards")
    for size in _FULL_DISK_BYTES:
        out = training.new()
        out.mkdir()
        if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(out)):
            row.first_fault = "not tried: this user may not mount a tmpfs"
            return row
        try:
            row.note(_filled(training, out), f"{size} bytes")
        finally:
            subprocess.run(["umount", "-l", str(out)], check=False, capture_output=True)
    return row


def _filled(training: TinyRun, out: Path) -> str:
    """Returns what went wrong while a disk was full, or after it was enlarged."""
    ended: Ended = run(training.main, training.pretrain(out), out)
    if ended.fault:
        return ended.fault
    if ended.code != 2 or "mend: " not in ended.last_line or "status.json" in ended.last_line:
        return f"it ended with {ended.code}: {ended.last_line}"
    status = folder_in(out).status() if (folder_in(out).path / "status.json").exists() else None
    if status is not None and status.state == "running" and not status.silent(status.heartbeat):
        return "its status is still `running`"
    _mount("-o", "remount,size=64m", str(out))
    return training.goes_on(out)


def _mount(*words: str) -> bool:
    try:
        return os.geteuid() == 0 and not subprocess.run(["mount", *words], check=False, capture_output=True).returncode
    except OSError:  # there is no `mount`
        return False


def faults(main: Main, place: Path, points: int) -> Iterator[Row]:
    """Yields a row for each kind of fault, once its points are tried.

    Args:
        main: The `salmask` command.
        place: An empty folder to work in.
        points: Number of points of each kind, if there are more.
    """
    training = TinyRun(main, place)
    training.begin()
    write_json(place / "drill.json", {"events": training.events})
    yield killed(training, points)
    yield killed_in_evaluation(training, max(points // 2, 2))
    yield signalled(training, points)
    yield interrupted_in_a_write(training, points)
    yield torn(training, 2 * points)
    yield full_disk(training)


def all_held(rows: Sequence[Row]) -> bool:
    """Returns whether every point that was tried held."""
    return all(row.held == row.tried for row in rows)
