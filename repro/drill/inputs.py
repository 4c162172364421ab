"""Bad inputs by the hundred: each is refused in one line or read, without a traceback, a hang or a trace.

All are functions of a seed. Texts that odd people, editors and disks leave stand in the place of settings, and in whole
files; files that are right are changed by bytes and by lines.
"""

import json
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from repro.drill.faults import Row
from repro.errors import UserError, one_line
from repro.runs.reading import build, keys, load, parse_overrides
from repro.runs.run import Run

SECONDS = 10
"""After which an input counts as a hang."""
ODD_VALUES = (
    *("", " ", "null", "nan", ".inf", "-.inf", "-1", "0", "1e999", "9" * 30, "9" * 6000, "1.5", "１２", "0x", "1:30"),
    *(
        "true",
        "[",
        "]",
        "[1,[2]]",
        "{a: b}",
        "{",
        "a: b: c",
        "- -",
        "???",
        "${seed}",
        "${oc.env:HOME}",
        "!!python/object:os",
    ),
    *(
        "&a [*a]",
        "*a",
        "../../x",
        "/",
        "=1+1",
        "\x1b[2J",
        "\u202e",
        "'",
        '"',
        "`id`",
        "$(id)",
        "a\nb",
        "#",
        "%",
        "é",
        "猫",
    ),
)
"""What stands in the place of a setting's value."""
Read = Callable[[Path], object]


class HangError(BaseException):  # no reader that takes any exception for a torn file may take this one
    """An input took longer than `SECONDS`."""


@contextmanager
def in_time() -> Iterator[None]:
    """Ends the block where it takes longer than `SECONDS`.

    Raises:
        HangError: it did.
    """

    def end(_: int, __: FrameType | None) -> None:
        raise HangError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_input(read: Callable[[], object], place: Path) -> str:
    """Returns what went wrong with an input; empty where it was read, or refused in one line, and nothing was written.

    Args:
        read: reads it.
        place: a folder below which nothing may be written.
    """
    before = sorted(place.rglob("*"))
    try:
        with in_time():
            read()
    except UserError as error:
        if "\n" in one_line(error) or not error.what:
            return f"a refusal of several lines, or of none: {error!r}"
    except HangError as error:
        return f"a hang: {error}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {str(error)[:120]}"
    return "" if sorted(place.rglob("*")) == before else "it wrote something"


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Returns a file's content changed in one of the ways in which disks, editors and people change files."""
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: content[: draw.randrange(len(content))],
        lambda: _replaced(content, draw, bytes([draw.randrange(256)])),
        lambda: _replaced(content, draw, b""),
        lambda: _replaced(content, draw, draw.choice(ODD_VALUES).encode()),
        lambda: content + content,
        lambda: content[::-1],
        lambda: b"\xff\xfe" + content,
        lambda: b"\0" * len(content),
        lambda: _with_value(content, draw),
        lambda: _without_line(content, draw),
        lambda: draw.choice((b"[]", b"{}", b"null", b"3", b'"x"', b"[" * 100_000, b"{" * 3000, b"[[]]", b"[null]")),
    )
    return draw.choice(ways)()


def _replaced(content: bytes, draw: random.Random, by: bytes) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + by + content[start + draw.randrange(1, 9) :]


def _with_value(content: bytes, draw: random.Random) -> bytes:
    """Puts an odd value in the place of one that follows a colon."""
    places = [index for index, letter in enumerate(content) if letter == ord(":")]
    if not places:
        return content[1:]
    start = draw.choice(places) + 1
    ends = [index for index in range(start, len(content)) if content[index] in b",\n}]"]
    values = (*ODD_VALUES, "[]", "{}", '"x"', "1e400", "NaN", "-1", "true", "null", "1" * 30)
    return content[:start] + b" " + draw.choice(values).encode() + content[(ends or [len(content)])[0] :]


def _without_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def files_of_ours(place: Path) -> dict[str, tuple[bytes, Read]]:
    """Returns a right file of each kind that is read back, with what reads it, by its name.

    Args:
        place: a folder to make them in.
    """
    import torch

    from repro.backbones.checkpoint import load_backbone, save_backbone
    from repro.backbones.foreign import read_foreign
    from repro.backbones.resnet import resnet_of_width
    from repro.data.annotations.coco_instances import read_instances
    from repro.data.annotations.voc import read_annotation
    from repro.runs.metrics import read_metrics
    from repro.runs.records import Result
    from repro.runs.schemas import ATTEMPT
    from repro.runs.status import Status, read_status
    from results.collect import collect
    from slurm.ledger import Ledger, Submission
    from slurm.profile import load as load_profile
    from slurm.sweep import load as load_sweep

    def lines(*rows: object) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    network = resnet_of_width("resnet18", 4)
    save_backbone(
        place / "backbone.pth", network.state_dict(), arch="resnet18", input_filter="none", run_id="0" * 10, width=4
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, place / "foreign.pth")
    weights = {name: (place / name).read_bytes() for name in ("backbone.pth", "foreign.pth")}
    result = Result(
        *("0" * 10, "0" * 10, "sweep", "mocov2", "mocov2", "none", "paper", 0, "linear", "scenes", "val"),
        *("linear-moco-v1", "top1", 50.0, "", "abc", False, "cpu", "2026-01-01T00:00:00+00:00", 1.0),
    )
    attempt = {
        **{"started": "2026-01-01T00:00:00+00:00", "commit": "abc", "dirty": False, "device": "cpu"},
        **{"packages": {"torch": "2"}, "data": {"train": "1"}},
    }
    instances = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 5, 5],
                "area": 25,
                "iscrowd": 0,
                "segmentation": [],
            }
        ],
    }
    voc = (
        "<annotation><size><width>9</width><height>9</height><depth>3</depth></size><object><name>cat</name>"
        "<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        "</annotation>"
    )
    submission = Submission("s", "slurm", "gpu", "0" * 10, "mocov2/s0-0000000000", "pretrain", "12", host="here")
    return {
        "run.yaml": (Run().to_yaml().encode(), load),
        "status.json": (json.dumps(asdict(Status("done", "pretrain", 3, 9))).encode(), read_status),
        "provenance.json": (json.dumps([attempt]).encode(), ATTEMPT.read_list),
        "metrics.jsonl": (lines({"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}), read_metrics),
        "results.jsonl": (lines(asdict(result), {**asdict(result), "seed": 1}), lambda path: collect([path.parent])),
        "jobs.jsonl": (lines(asdict(submission)), lambda path: Ledger(path.parent).submissions()),
        "backbone.pth": (weights["backbone.pth"], load_backbone),
        "foreign.pth": (weights["foreign.pth"], lambda path: read_foreign(path, "resnet18", width=4)),
        "sweep.yaml": (
            b"methods: [mocov2]\nseeds: [0, 1]\ntasks: [linear]\ntables: [table1]\nsettings: {seed: 2}\n",
            lambda path: load_sweep(str(path)),
        ),
        "profile.yaml": (
            b"partition: gpu\ntime: 60\ngpus: 1\nsetup:\n- module load cuda\nextra:\n  qos: high\n",
            lambda path: load_profile(str(path)),
        ),
        "instances.json": (json.dumps(instances).encode(), read_instances),
        "voc.xml": (voc.encode(), read_annotation),
    }


def _build(word: str) -> Run:
    return build([parse_overrides([word])])


def settings(place: Path, draw: random.Random, count: int) -> Row:
    """Puts odd values in the place of settings on the command line, and odd words in the place of their keys."""
    row = Row("settings", "KEY=VALUE with odd keys and values")
    names = list(keys(Run))
    for _ in range(count):
        key = draw.choice(names) if draw.random() < 0.9 else draw.choice(ODD_VALUES) or "nothing"
        word = f"{key}={draw.choice(ODD_VALUES)}"
        row.note(try_input(partial(_build, word), place), repr(word[:80]))
    return row


def files(place: Path, draw: random.Random, count: int) -> Iterator[Row]:
    """Changes each kind of file of ours that is read back, and reads it."""
    with tempfile.TemporaryDirectory() as spare:
        kinds = files_of_ours(Path(spare))
    for name, (content, read) in kinds.items():
        row = Row(name, "changed by bytes, lines and values")
        path = place / name
        path.write_bytes(content)
        if fault := try_input(partial(read, path), place):
            row.note(fault, "as it was written")
        for number in range(count):
            path.write_bytes(mutated(content, draw))
            row.note(try_input(partial(read, path), place), f"change {number}")
        path.unlink()
        os.mkfifo(path)
        row.note(try_input(partial(read, path), place), "as a pipe")
        path.unlink()
        yield row


def inputs(place: Path, count: int, seed: int) -> Iterator[Row]:
    """Yields a row for each kind of bad input, once all of it is tried.

    Args:
        place: an empty folder to work in.
        count: of all inputs, about.
        seed: of what they are.
    """
    draw = random.Random(seed)
    yield settings(place, draw, count // 3)
    yield from files(place, draw, max(2 * count // 3 // 12, 1))
