"""`salmask methods`: the list, one row, two rows; and the function that compares rows."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from training_samples import refused, salmask, tiny

from baselines import METHODS, TABLE1, TABLE3, resolve
from repro.runs.folder import RunFolder
from repro.settings.comparison import difference
from repro.settings.reading import build
from repro.settings.run import Run

row = cache(resolve)
SCRIPT = "simclr+adios-script"
"""A row with the settings of another project's script, whichever section they belong to."""


@pytest.mark.parametrize("method", [name for name in METHODS if name not in {**TABLE1, **TABLE3, SCRIPT: None}])
def test_an_ablation_changes_a_part_of_one_row(method: str) -> None:
    run = row(method)
    rows = [row(name) for name in TABLE1 if name.partition("+")[0] == run.framework.value]
    fewest = min((difference(other, run) for other in rows), key=len)
    assert 1 <= len(fewest) <= 7
    assert len({name.partition(".")[0] for name in fewest}) == 1
    assert not {name.partition(".")[0] for name in fewest} & {"data", "augmentation", "encoder", "optimization"}


def test_difference_names_what_differs_and_nothing_else() -> None:
    first = Run()
    second = build([{"seed": 3, "machine.workers": 9, "probe.lr": 1.0, "data.scenes.size": 64}], base=first)
    assert difference(first, second) == {"data.scenes.size": (96, 64)}
    assert difference(second, first) == {"data.scenes.size": (64, 96)}
    assert difference(first, first) == {}
    # Settings that are left out of older runs' ids are told with the value that those runs had.
    simclr = build([{"framework": "simclr", "simclr.temperature": 0.5}], base=first)
    assert difference(first, simclr) == {
        "framework": ("mocov2", "simclr"),
        "simclr.temperature": (0.2, 0.5),
    }


def test_the_list_has_every_row_and_says_how_it_differs_from_the_plain_one() -> None:
    rows = {line["method"]: line for line in json.loads(salmask("methods", "--json").out)}
    assert list(rows) == list(METHODS)
    assert rows["mocov2+ours-hp"]["settings"] == "masking.strategy=high_pass"
    assert rows["mocov2+ours-hp@key"]["settings"] == "masking.strategy=high_pass masking.branch=key"
    assert rows["simclr"]["settings"].startswith("framework=simclr ")
    assert rows["supervised"]["title"] == "Supervised"
    in_a_pipe = salmask("methods").out
    assert max(map(len, in_a_pipe.splitlines())) < 120
    assert "| MoCo v2 + ours (high-pass), key masked, no hard negative " in in_a_pipe
    names = [line.split()[1] for line in in_a_pipe.splitlines()]
    assert names == ["method", names[1], *METHODS]
    assert set(names[1]) == {"-"}


@pytest.mark.parametrize("words", [("mocov2+ours-hp",), ("show", "mocov2+ours-hp")])
def test_one_row_is_shown_whole(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = salmask("methods", *words)
    (tmp_path / "run.yaml").write_text(ended.out)
    assert RunFolder(tmp_path).load() == resolve("mocov2+ours-hp")
    for order in ((*words, "--json"), ("--json", *words)):
        assert json.loads(salmask("methods", *order).out)["masking"]["strategy"] == "high_pass"


def test_diff_shows_two_rows_beside_each_other() -> None:
    assert json.loads(salmask("methods", "diff", "mocov2+mscn", "mocov2+ours-hp", "--json").out) == [
        {"setting": "masking.guidance", "mocov2+mscn": "random", "mocov2+ours-hp": "saliency"},
        {"setting": "masking.branch", "mocov2+mscn": "both", "mocov2+ours-hp": "query"},
        {"setting": "masking.hard_negative", "mocov2+mscn": False, "mocov2+ours-hp": True},
    ]
    ended = salmask("methods", "diff", "mocov2", "mocov2+ours-hp")
    table, _, at_work = ended.out.partition("\n\n")
    lines = table.splitlines()
    assert [line.strip("| ").split() for line in (lines[0], *lines[2:])] == [
        ["setting", "|", "mocov2", "|", "mocov2+ours-hp"],
        ["masking.strategy", "|", "none", "|", "high_pass"],
    ]
    heading, *sections = at_work.splitlines()
    assert heading == "Has an effect in mocov2+ours-hp only:"
    assert [line.split(":")[0].strip() for line in sections] == ["localizer", "masking", "fidelity", "moco"]
    assert "  masking: guidance=saliency, branch=query, hard_negative=true, ratio_min=0.05" in at_work
    assert ended.err == ""
    frameworks = salmask("methods", "diff", "mocov2", "simclr").out.partition("\nHas an effect in ")[2].splitlines()
    assert frameworks == [
        "mocov2 only:",
        "  moco: momentum=0.999, queue=65536, temperature=0.2, bn_splits=4",
        "",
        "Has an effect in simclr only:",
        "  simclr: temperature=0.2",
        "  optimization: lars_eta=0.02",
    ]
    assert salmask("methods", "diff", "mocov2", "mocov2").out == "mocov2 and mocov2 are the same experiment\n"
    assert json.loads(salmask("methods", "diff", "mocov2", "mocov2", "--json").out) == []


def test_diff_reads_the_folder_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare(tiny("mocov2", {"seed": 2}))
    rows = json.loads(salmask("methods", "diff", "mocov2", str(tmp_path), "--json").out)
    found = {line["setting"]: line[str(tmp_path)] for line in rows}
    assert found["data.crop"] == 32
    assert "seed" not in found


def test_an_unknown_row_is_one_line() -> None:
    assert refused("methods", "mocov3").startswith("unknown method 'mocov3'; mend: did you mean 'mocov2'?")
    assert refused("methods", "diff", "mocov2", "simclr2").startswith(
        "unknown method 'simclr2'; mend: did you mean 'simclr'"
    )


def test_a_row_whose_framework_names_no_row_costs_what_itself_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused as an unknown method, by the name of its framework."""
    monkeypatch.setattr("baselines.METHODS", {"labels": METHODS["supervised"]})
    ended = salmask("methods", "cost", "labels", "--tiny", "--rounds", "0", "encoder.width=4", "data.crop=32")
    assert ended.code == 0, ended.err
    heads, _, cells = (re.split(r" *\| *", line.strip("| ")) for line in ended.out.splitlines()[:3])
    shown = dict(zip(heads, cells, strict=True))
    assert (shown["method"], shown["FLOP ×"]) == ("labels", "1.00")


def test_on_a_terminal_of_80_columns_methods_are_names_and_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = salmask("methods").out
    assert "| MoCo v2 + ours (high-pass) " in piped
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    shown = salmask("methods").out
    assert "masking.strategy" not in shown
    assert "MoCo v2 + ours (high-pass)" in shown
    titles = dict(line.split(maxsplit=1) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())
    assert titles["mocov2+ours-hp@key-no-hard-negative"].strip() == "…, key masked, no hard negative"
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= 80
