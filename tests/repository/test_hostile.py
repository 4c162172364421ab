"""Odd and hostile files: nothing hangs, nothing takes all memory, and nothing is executed that should be shown."""

import io
import json
import logging
import os
import re
import struct
import subprocess
import time
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from error_samples import message_of
from run_samples import finished
from table_samples import BASE

from repro.backbones.card import render
from repro.backbones.facts import Facts
from repro.backbones.library import Library
from repro.command_line.console import report, show_log
from repro.command_line.text_tables import as_code, escaped
from repro.data.archives import blaming
from repro.data.images import decode, inspect
from repro.errors import UserError, one_line, visible
from repro.runs.folder import RunFolder
from repro.runs.records import append, read
from repro.settings.reading import parse_overrides, read_yaml
from repro.settings.run import Run
from repro.settings.yaml_text import LONGEST_TEXT, parse_yaml
from results.collection.runs import RunRecord
from results.formats.spreadsheet import harmless
from results.plots.gallery import shrunk
from results.report.pack import MANIFEST, check
from results.report.redo import commands, script

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202egpj"


def test_what_a_terminal_would_obey_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(f"class {ESCAPES}\tand\nso on: é, ×, 猫") == f"class {SHOWN}\tand\nso on: é, ×, 猫"
    assert one_line(UserError(f"class {ESCAPES} is empty", mend="fill it")) == f"class {SHOWN} is empty; mend: fill it"
    report(False, {"name": ESCAPES})
    report(False, [{"name": ESCAPES}])
    # In a pipe a table is Markdown, where a backslash is escaped by another one.
    assert capsys.readouterr().out.replace("\\\\", "\\").count(SHOWN) == 2


def test_the_log_shows_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    root, stream = logging.Logger("root"), io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging.getLogger("salmask"), "parent", root)
    show_log()
    logging.getLogger("salmask").warning("class %s", ESCAPES)
    assert stream.getvalue() == f"class {SHOWN}\n"


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


def test_a_few_lines_of_yaml_cannot_stand_for_billions(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    began = time.process_time()
    for text, phrase in (
        (bomb(15), "it stands for 8.04e+13 values; at most 10000 are allowed"),
        ("a: &a [*a]", "nested too deeply"),
        ("x: " + "1" * LONGEST_TEXT, "bytes; at most"),
        ("[" * 5000, "nested too deeply"),
    ):
        path.write_text(text)
        assert phrase in message_of(lambda: read_yaml(path))
    assert time.process_time() - began < 5
    assert "is nested too deeply" in message_of(lambda: parse_overrides(["a=&a [*a]"]))
    with pytest.raises(ValueError, match=r"^it has 1048577 characters; at most 1048576 are allowed$"):
        parse_yaml("1" * (LONGEST_TEXT + 1))
    assert parse_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in message_of(lambda: read_yaml(path))


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    os.mkfifo(path)
    assert "cat.png: not a regular file; mend: " in message_of(lambda: decode(path))
    fault = inspect(path).fault
    assert fault is not None
    assert fault.kind == "unreadable"


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def test_a_gallery_of_billions_of_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.png"
    path.write_bytes(huge_png(60_000))
    assert "masks.png is not a picture: Image size (3600000000 pixels) exceeds limit" in message_of(
        lambda: shrunk(path, 100, 100)
    )
    path.unlink()
    os.mkfifo(path)
    line = f"{path} is not a regular file; mend: put a file in its place, or remove it"
    assert message_of(lambda: shrunk(path, 100, 100)) == line


def artifact(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
        archive.writestr(MANIFEST, "0" * 64 + "  a.csv\n")
    return path


@pytest.mark.parametrize(
    ("offset", "value", "phrase"),
    [
        (8, 99, "a.csv was changed"),  # an unknown compression
        (6, 1, "a.csv was changed"),  # a password
    ],
)
def test_a_member_of_an_unknown_compression_or_with_a_password_is_one_line(
    tmp_path: Path, offset: int, value: int, phrase: str
) -> None:
    path = artifact(tmp_path / "x.zip", b"number\n1\n")
    content = bytearray(path.read_bytes())
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    content[local + offset] = content[central + offset + 2] = value
    path.write_bytes(content)
    assert phrase in message_of(lambda: check(path))
    with zipfile.ZipFile(path) as archive:  # as for the archive of a data set

        def unpack() -> None:
            with blaming(path, tmp_path):
                archive.read("a.csv")

        assert "torn, incomplete or not the right archive" in message_of(unpack)


def test_a_bomb_of_an_artifact_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = artifact(tmp_path / "x.zip", b"\0" * 60_000_000)
    began = time.process_time()
    assert "58.5 kB unpack to 60.0 MB" in message_of(lambda: check(path))
    # Overlapping members share their bytes: here a member claims a size that deflate cannot make of so few bytes.
    path = artifact(tmp_path / "x.zip", b"number\n1\n")
    content = bytearray(path.read_bytes())
    assert "a.csv was changed" in message_of(lambda: check(path))
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    assert "229 bytes unpack to 2.1 GB" in message_of(lambda: check(path))
    assert time.process_time() - began < 10


def test_no_text_is_a_formula_to_a_spreadsheet() -> None:
    hostile = ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "plain", ""]
    frame = pd.DataFrame({"method": hostile, "value": [-1.5] * 7})
    frame["name"] = frame["method"].astype("category")
    safe = harmless(frame)
    expected = [f"'{text}" for text in hostile[:5]] + hostile[5:]
    assert list(safe["method"]) == list(safe["name"]) == expected
    assert list(safe["value"]) == [-1.5] * 7
    assert list(frame["method"]) == hostile


MARKDOWN = f"<img src=x>](https://x.org) | ![x](y) `z`\n# *heading*{ESCAPES}"


def test_no_text_breaks_out_of_a_cards_markdown(tmp_path: Path) -> None:
    """The run's settings, provenance and results may come from somebody else."""
    run = replace(Run(), data=replace(Run().data, dataset=MARKDOWN))
    folder = RunFolder(tmp_path)
    attempt = {"started": MARKDOWN, "commit": MARKDOWN, "dirty": False, "device": MARKDOWN}
    attempt |= {"packages": {"torch": MARKDOWN}, "data": {MARKDOWN: MARKDOWN}}
    folder.provenance.write_text(json.dumps([attempt]))
    result = replace(BASE, run_id=run.id, dataset=MARKDOWN, split=MARKDOWN, protocol=MARKDOWN, metric=MARKDOWN)
    append(folder.results, [result])
    facts = Facts(
        1, "resnet50", 2048, "none", (0.5,), (0.5,), 224, "resnet50.pth", "0", run.id, "m", MARKDOWN, 0, MARKDOWN
    )
    plain = replace(facts, dataset="scenes", tiny="tiny")
    text = render(folder, run, Library.torchvision, facts, "apache-2.0")
    calm = render(RunFolder(tmp_path / "none"), Run(), Library.torchvision, plain, "apache-2.0")
    assert "\n# *heading" not in text
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        line for line in calm.splitlines() if line.startswith("#")
    ][1:]
    assert re.search(r"(?<!\\)<img", re.sub(r"`[^`]*`", "", text)) is None
    assert re.search(r"]\(", re.sub(r"`[^`]*`", "", text)) is None
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    cells = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| linear")]
    assert [len(row) for row in cells] == [7]


def test_no_title_breaks_out_of_an_artifacts_readme() -> None:
    assert escaped(MARKDOWN).startswith(r"\<img src=x>]\(https://x.org) \| ![x]\(y) `z` # \*heading\*")
    assert "\n" not in escaped(MARKDOWN)
    assert not {"\x1b", "\x9b"} & set(escaped(MARKDOWN) + as_code(MARKDOWN))
    assert "`" not in as_code(MARKDOWN)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("imported", [False, True])
def test_no_name_is_a_command_of_what_makes_a_run_again(tmp_path: Path, *, imported: bool, broken: bool) -> None:
    """A note on imported weights used the sweep's name raw: whatever followed a line break in it was executed."""
    evil = "x\ntouch PWNED #"
    weights = {"framework": "external", "imported__weights": "0" * 64, "imported__origin": evil}
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0}, sweep=evil, **weights if imported else {})
    rows = [replace(row, protocol=evil) for row in read(folder.results)[0]]
    folder.results.unlink()
    append(folder.results, rows)
    if broken:
        folder.run_yaml.unlink()
    run = RunRecord(folder.path)
    harmless_programs = 'git() { mkdir -p "$folder.part"; }\npython() { true; }\n'
    for text in (script([run]), "cd() { true; }\n" + "\n".join(commands(run))):
        command = ["sh", "-c", harmless_programs + text, "redo.sh", "checkout", "imagenet100=images"]
        call = partial(subprocess.run, command, cwd=tmp_path, env={**os.environ, "PYTHON": "true"})
        if imported and not broken and text.startswith("#!"):
            assert call(check=False).returncode == 2  # the folder of the weights is not there
            (tmp_path / "again" / evil / folder.load().folder).mkdir(parents=True)
        call(check=True)
    assert not list(tmp_path.rglob("PWNED"))
