"""Command lines that cannot be read: one line with the mend and status 2, as for all bad input."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from command_samples import commands
from training_samples import refused, salmask

from repro.ending import INTERRUPTED
from repro.settings.reading import command_settings


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pretrain"], "`salmask pretrain`: missing argument 'METHOD'; mend: `salmask pretrain -h` shows"),
        (["table", "--run", "DIR"], "`salmask table` has no option --run; mend: did you mean '--runs'? known: "),
        (["bench", "step", "--step", "3"], "`salmask bench step` has no option --step; mend: did you mean '--steps'?"),
        (["audit", "mocov2+ours-hp", "--out", __file__], "`salmask audit`: invalid value for '--out': "),
        (["table", "table1", "--out", __file__], "`salmask table`: invalid value for '--out': "),
        (["plot", "curves", "--out", __file__], "`salmask plot`: invalid value for '--out': "),
        (["bench", "masking", "--batch", "0"], "`salmask bench masking`: invalid value for '--batch': "),
        (["bench", "masking", "--batch", "many"], "`salmask bench masking`: invalid value for '--batch': "),
        (["bench", "masking", "--batch"], "option '--batch' requires an argument; mend: `-h` after the command"),
        (["data", "export-scenes", "--as", "vok"], "`salmask data export-scenes`: invalid value for '--as': "),
        (["methods", "mocov2", "simclr"], "`salmask methods show`: got unexpected extra argument"),
        (["data", "lost"], "`salmask data` has no command 'lost'; mend: did you mean 'list'? known: list, verify"),
        (["bench", "steps"], "`salmask bench` has no command 'steps'; mend: did you mean 'step'?"),
        (["cluster", "chek"], "`salmask cluster` has no command 'chek'; mend: did you mean 'check'?"),
        (["data", "--json"], "`salmask data` has no option --json; mend: "),
        (
            ["pretrain", "mocov2", "--seed", "1"],
            "`salmask pretrain` has no option --seed; mend: settings are words without dashes: seed=1",
        ),
        (
            ["pretrain", "mocov2", "--epochs=3", "--data", "scenes"],
            "`salmask pretrain` has no option --epochs; mend: settings are words without dashes: "
            "optimization.epochs=3 (or probe.epochs, finetune.epochs)",
        ),
        (
            ["pretrain", "mocov2", "--set", "seed=1"],
            "`salmask pretrain` has no option --set; mend: settings are words without dashes: write seed=1 alone",
        ),
        (
            ["pretrain", "mocov2", "--set", "nosuch=1"],
            "`salmask pretrain` has no option --set; mend: one of --config, ",
        ),
        (["pretrain", "mocov2", "--set", "lr"], "`salmask pretrain` has no option --set; mend: one of --config, "),
        (["sweep", "demo", "--seed", "1"], "`salmask sweep` has no option --seed; mend: did you mean '--seeds'?"),
        (["sweep", "demo", "--clster", "a"], "`salmask sweep` has no option --clster; mend: did you mean '--cluster'?"),
        (["table", "table1", "--seed", "1"], "`salmask table` has no option --seed; mend: did you mean '--sweep'?"),
        (["sweep", "demo", "--cluster", "slurm", "--local"], "--cluster slurm and --local exclude each other; mend: "),
        (["--versio"], "`salmask` has no option --versio; mend: did you mean '--version'?"),
    ],
    ids=" ".join,
)
def test_a_line_that_cannot_be_read_is_refused_in_one(words: list[str], line: str) -> None:
    text = refused(*words)
    assert text.startswith(line)
    assert "; mend: " in text


@pytest.mark.parametrize(
    ("words", "command"),
    [(["status", "--watch", "--every", "inf"], "status"), (["watch", "demo", "--every", "1e12"], "watch")],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(words: list[str], command: str) -> None:
    text = refused(*words)
    assert text.startswith(f"`salmask {command}`: invalid value for '--every': ")
    assert re.search(r"Input should be |is not in the range \d", text)  # typer's words, by version
    assert "; mend: " in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["data", "cache", "scenes", "data.crop=64"],
            "'data.crop' changes nothing in what is cached; mend: give settings of data.scenes only, and --side, ",
        ),
        (["data", "cache", "scenes", "data.scenes.context=2"], "data.scenes.context=2 is out of range; mend: 0..1"),
        (
            ["data", "cache", "folder", "data.scenes.classes=3"],
            "'data.scenes.classes' changes nothing in folder, which is not drawn; mend: leave it out",
        ),
        *(
            ([*command, "--root", "."], "'scenes' is drawn and has no root; mend: leave --root out")
            for command in (
                ["data", "cache", "scenes"],
                ["data", "saliency", "scenes"],
                ["audit", "mocov2+ours-hp", "--data", "scenes"],
                ["pretrain", "mocov2", "--data", "scenes"],
                ["bench", "step", "--data", "scenes"],
                ["bench", "start", "--data", "scenes"],
                ["doctor", "--data", "scenes"],
                ["sweep", "demo", "--local"],
            )
        ),
        (["bench", "saliency", "map"], "no table of saliency 'map'; mend: did you mean 'maps'?"),
        (["bench", "saliency", "maps", "sources"], "maps and sources: one table at a time; mend: "),
        (["bench", "saliency", "--crop", "96"], "'--crop' changes nothing in `maps`"),
        (["bench", "saliency", "--photos", "."], "'--photos' changes nothing in `maps`"),
        (["bench", "saliency", "agreement", "--photos", ".", "--cutouts", "."], "--photos replaces scenes"),
        (["bench", "saliency", "localizer.image_side=192"], "'localizer.image_side=192' changes nothing in `maps`"),
        (["bench", "step", "mocov3", "data.crop=64"], "unknown method 'mocov3'; mend: did you mean 'mocov2'?"),
        (["methods", "cost", "data.crp=64"], "unknown key 'data.crp'; mend: did you mean 'data.crop'?"),
        (
            ["pretrain", "mocov2", "--data", "scenes", "data.dataset=folder"],
            "--data scenes and data.dataset=folder contradict each other; mend: leave one of them out",
        ),
        (["drill", "--in", "nowhere"], "--in nowhere: no folder that can be written to; mend: make it"),
        (["sweep", "demo", "--plan", "--data", "scene"], "unknown data set 'scene'; mend: did you mean 'scenes'?"),
    ],
    ids=" ".join,
)
def test_settings_and_names_are_told_apart_and_none_is_ignored(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_one_option_has_one_name() -> None:
    settings = []
    for name, command in commands().items():
        context = command.make_context(name, [], resilient_parsing=True)
        options = {opt: param for param in command.get_params(context) for opt in param.opts}
        assert not {"--set", "--dataset", "--config-file", "--output", "--device"} & set(options), name
        if any("KEY.SUB=VALUE" in (param.metavar or "") for param in options.values()):
            settings.append(name)
            assert not any(
                param.param_type_name == "option" and "KEY" in (param.metavar or "") for param in options.values()
            )
        if "--data" in options and name != "eval":  # whose --data is the data set to evaluate on
            assert options["--data"].help == "Data set: a run's data.dataset.", name
            assert "--root" in options, name
    assert {"pretrain", "sweep", "audit", "eval", "bench step", "methods cost", "data cache"} <= set(settings)


def test_data_is_short_for_the_setting() -> None:
    expected = {"data": {"dataset": "folder", "crop": 64}, "machine": {"data_root": "/images"}}
    assert command_settings(["data.crop=64"], data="folder", root="/images") == expected
    words = ["data.crop=64", "data.dataset=folder", "machine.data_root=/images"]
    assert command_settings(words) == command_settings(words, data="folder", root="/images") == expected


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
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = salmask("methods")
    assert (ended.code, ended.err.count("\n")) == (INTERRUPTED, 1)
    assert ended.err.startswith("salmask: interrupted")
