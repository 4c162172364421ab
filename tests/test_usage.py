"""Command lines that cannot be read: one line with the mend and status 2, as of all bad input."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from training_samples import refused, salmask

from repro import cli


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pretrain"], "`salmask pretrain`: missing argument 'METHOD'; mend: `salmask pretrain -h` shows"),
        (["table", "--run", "DIR"], "`salmask table` has no option --run; mend: did you mean '--runs'? known: "),
        (["bench", "step", "--step", "3"], "`salmask bench step` has no option --step; mend: did you mean '--steps'?"),
        (["bench", "masking", "--batch", "0"], "`salmask bench masking`: invalid value for '--batch': "),
        (["bench", "masking", "--batch", "many"], "`salmask bench masking`: invalid value for '--batch': "),
        (["bench", "masking", "--batch"], "option '--batch' requires an argument; mend: `-h` behind the command"),
        (["data", "export-scenes", "--as", "vok"], "`salmask data export-scenes`: invalid value for '--as': "),
        (["methods", "mocov2", "simclr"], "`salmask methods show`: got unexpected extra argument"),
        (["data", "lost"], "`salmask data` has no command 'lost'; mend: did you mean 'list'? known: list, verify"),
        (["bench", "steps"], "`salmask bench` has no command 'steps'; mend: did you mean 'step'?"),
        (["cluster", "chek"], "`salmask cluster` has no command 'chek'; mend: did you mean 'check'?"),
        (["data", "--json"], "`salmask data` has no option --json; mend: "),
        (["--versio"], "`salmask` has no option --versio; mend: did you mean '--version'?"),
    ],
    ids=" ".join,
)
def test_a_line_that_cannot_be_read_is_refused_in_one(words: list[str], line: str) -> None:
    text = refused(*words)
    assert text.startswith(line)
    assert "; mend: " in text


@pytest.mark.parametrize("name", ["data", "bench", "cluster"])
def test_a_group_alone_shows_its_help(name: str) -> None:
    ended = salmask(name)
    assert (ended.code, ended.err) == (0, "")
    assert "Usage: salmask " + name in ended.out


def test_the_status_of_a_command_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert salmask("doctor", "--data", "imagenet100", "--root", str(tmp_path / "none")).code == 1
    assert salmask("methods", "mocov2").code == 0


def test_ctrl_c_in_a_command_that_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("repro.methods.commands.summary_rows", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = salmask("methods")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.code, ended.err.count("\n")) == (cli.INTERRUPTED, 1)
    assert ended.err.startswith("salmask: interrupted")
