"""What a command loads when it starts: nothing that it does not use."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from training_samples import refused, salmask
from typer.testing import CliRunner

from repro import cli
from repro.command_line.lazy_commands import LazyGroup

HEAVY = ("torch", "torchvision", "mmengine", "detectron2", "pandas", "matplotlib", "omegaconf", "submitit", "sklearn")


def loaded(*words: str, cwd: Path) -> set[str]:
    """The modules that are imported when a command has ended."""
    code = (
        "import sys\n"
        f"sys.argv = ['salmask', *{words!r}]\n"
        "from repro.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return set(ended.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("--help",), ()),
        (("no-such-command",), ()),
        (("--show-completion", "bash"), ()),
        (("status",), ()),
        (("cancel", "nothing"), ()),
        (("logs", "nothing"), ()),
        (("table", "--help"), ("omegaconf",)),
        (("data", "list"), ("omegaconf",)),
        (("methods",), ("omegaconf",)),
        (("sweep", "demo", "--plan"), ("omegaconf",)),
        (("table", "table1", "--only", "paper", "--out", "tables"), ("omegaconf", "pandas")),
    ],
    ids=" ".join,
)
def test_a_command_loads_no_more_than_it_uses(words: tuple[str, ...], needed: tuple[str, ...], tmp_path: Path) -> None:
    assert loaded(*words, cwd=tmp_path) & set(HEAVY) <= set(needed)


def test_the_lines_of_help_are_the_commands_own() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, LazyGroup)
    for name, entry in group.table.items():
        own = group.load(name)
        assert entry.help == (own.help or "").partition("\n")[0], name


def test_help_breaks_its_lines_where_the_terminal_ends() -> None:
    """Paragraphs after the first used to break where the source breaks, in the middle of a terminal's line."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, LazyGroup)
    paragraphs = (group.load("drill").help or "").split("\n\n")
    assert len(paragraphs) > 2
    assert not any("\n" in paragraph for paragraph in paragraphs)
    assert "those of the undisturbed run. Bad inputs" in paragraphs[1]
    assert "\n" not in (group.load("data").commands["prepare"].help or "").split("\n\n")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep", "demo", "--plan", "--parallel", "1_0"), "`salmask sweep`: --parallel 1_0"),
        (("sweep", "demo", "--plan", "--parallel=٣"), "`salmask sweep`: --parallel ٣"),
        (("sweep", "demo", "--plan", "--budget-gpu-hours", "nan"), "`salmask sweep`: --budget-gpu-hours nan"),
        (("status", "--watch", "--every", "nan"), "`salmask status`: --every nan"),
        (("logs", "nothing", "-n1_0"), "`salmask logs`: -n 1_0"),
        (("data", "export-scenes", "x", "--seed", "-1_0"), "`salmask data export-scenes`: --seed -1_0"),
    ],
)
def test_a_number_is_taken_in_plain_digits_alone(words: tuple[str, ...], said: str) -> None:
    """Python reads `1_0` as ten, and no comparison with `nan` holds."""
    assert refused(*words).startswith(f"{said} is not a number in plain digits; mend: for example ")


def test_numbers_in_plain_digits_and_words_that_are_none_are_the_commands_own() -> None:
    assert "no number" not in refused("logs", "1_0", "-n", "+10")
    assert "no number" not in refused("logs", "1_0", "-n10")
    assert "number in plain digits" not in refused("sweep", "demo", "--plan", "--out", "1_0", "--parallel", "0")
    assert "'--parallel'" in refused("sweep", "demo", "--plan", "--parallel", "many")


def test_every_command_of_a_room_is_in_the_table() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, LazyGroup)
    rooms = {entry.app for entry in group.table.values() if not entry.group}
    made = {name for room in rooms for name in _names(room())}
    assert made == {name for name, entry in group.table.items() if not entry.group}


def _names(app: typer.Typer) -> list[str]:
    command = typer.main.get_command(app)
    return list(getattr(command, "commands", {command.name: command}))


def test_a_wrong_word_is_refused_with_the_nearest_right_one() -> None:
    ended = salmask("swep")
    assert ended.code == 2
    assert ended.err.startswith("salmask: unknown command 'swep'; mend: did you mean 'sweep'?")
    # Among so many, none is named, but the command that lists them.
    assert re.fullmatch(r"unknown command 'xyzzy'; mend: \d+ are known; `salmask --help` lists them", refused("xyzzy"))
    # Always in the same order, whatever the order of a set in this process.
    assert refused("bench", "norm", "--zzz").endswith("mend: one of --batch, --size, --json, --help, -h")


def asking(line: str) -> dict[str, str]:
    """The environment variables by which a shell asks how a line may continue."""
    return {"_SALMASK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "salmask pretrain mocov2+ours-m",
            {
                *("mocov2+ours-mean", "mocov2+ours-mean@key", "mocov2+ours-mean@both"),
                *("mocov2+ours-mean-no-hard-negative", "mocov2+ours-mean@key-no-hard-negative"),
                "mocov2+ours-mean@both-no-hard-negative",
            },
        ),
        ("salmask methods diff simclr+ms", {"simclr+mscn"}),
        ("salmask data verify scenes-", {"scenes-cutouts"}),
        ("salmask sweep table1 --methods mocov2,supe", {"mocov2,supervised"}),
        ("salmask sweep table1 --tasks linear,semi", {"linear,semi-1", "linear,semi-10"}),
        ("salmask eval RUN --task lin", {"linear"}),
        ("salmask ret", {"retry"}),
        ("salmask ben", {"bench"}),
        ("salmask sweep demo --parallel 1_0 --tasks lin", {"linear"}),  # the line would be refused if it were called
        ("salmask swep table", {"table"}),
        ("salmask data verfy scenes", set()),
    ],
)
def test_a_shell_completes_names(line: str, expected: set[str]) -> None:
    outcome = CliRunner().invoke(cli.app, env=asking(line), prog_name="salmask")
    assert (outcome.exit_code, set(outcome.output.split())) == (0, expected)


def test_a_shell_asks_a_process_of_its_own() -> None:
    program = "from repro.cli import app; app(prog_name='salmask')"
    environment = {**os.environ, **asking("salmask sweep table")}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert set(ended.stdout.split()) == {"table1", "table2", "table3"}, ended.stderr
