"""README and docs: their commands exist with their options, links lead somewhere, and numbers have sources."""

import csv
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import annotation_kinds
import pytest
import typer
import yaml
from page_samples import commands_in, words_of
from places import DOCS, ROOT, TESTS

from baselines import METHODS
from examples.study.tables import cell_of
from repro import cli
from repro.data.catalogue import DATASETS
from repro.runs.evaluation import PROTOCOLS
from repro.settings.identity import plain
from repro.settings.run import Run
from results.collection.collect import collect
from slurm.planning.sweep import known_sweeps

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
SHOWN = [*PAGES, *sorted((ROOT / "examples").rglob("README.md"))]
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(\.[a-z]+)?")
"""A placeholder for the reader's own word: RUN, DIR, FILE.yaml."""
USAGE_ERROR: Any = typer.BadParameter.__base__  # of the click that typer uses
MEASURED = "examples/study/runs"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def root_group() -> Any:
    return typer.main.get_command(cli.app)


@cache
def loaded(name: str) -> Any:
    return root_group().load(name)


@cache
def setting_keys() -> frozenset[str]:
    def keys(value: Any, prefix: str) -> list[str]:
        if not isinstance(value, dict):
            return [prefix]
        return [
            *([prefix] if prefix == "fidelity" else []),
            *(k for n in value for k in keys(value[n], f"{prefix}.{n}")),
        ]

    return frozenset(key.removeprefix(".") for key in keys(plain(Run()), ""))


def problem_of(words: list[str]) -> str:
    """Why a command line cannot be right; empty if it can."""
    if not words or words[0].startswith("-"):
        known = {"--version", "-h", "--help", "--install-completion", "--show-completion"}
        return "" if set(words) <= known else f"unknown option {words}"
    if words[0] not in cli.COMMANDS:
        return f"no command {words[0]}"
    try:
        values, unexpected = parsed(words)
    except USAGE_ERROR as error:
        return str(error.format_message())
    wrong = [f"unexpected {unexpected}"] if unexpected else []
    wrong += [reason for value in _flat(values.values()) if (reason := wrong_name(value))]
    if words[0] == "eval":
        known = {*PROTOCOLS, "table1", "NAME"}
        tasks = str(values.get("task") or "knn").split(",")
        wrong += [f"no task {task}" for task in tasks if task.partition("@")[0] not in known]
    if words[0] == "sweep" and not _is_own(sweep := str(values["name"] or "SWEEP")) and sweep not in known_sweeps():
        wrong.append(f"no sweep {sweep}")
    if words[0] == "pretrain" and not _is_own(method := str(values["method"] or "METHOD")) and method not in METHODS:
        wrong.append(f"no method {method}")
    return "; ".join(dict.fromkeys(wrong))


def parsed(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of a command's parameters, and the remaining words."""
    command, arguments = loaded(words[0]), words[1:]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    context = command.make_context(words[0], [], resilient_parsing=True)
    context.resilient_parsing = False  # accepts missing words, but no unknown options
    values, unexpected, _ = command.make_parser(context).parse_args(list(arguments))
    return values, unexpected


def _is_own(word: str) -> bool:
    """Whether a word is a placeholder or a file."""
    return bool(PLACEHOLDER.fullmatch(word)) or word.endswith(".yaml")


def wrong_name(word: str) -> str:
    """Why a word cannot be right: an unknown setting, row or data set."""
    setting = re.fullmatch(r"([a-z_0-9]+(?:\.[a-z_0-9]+)*)=.*", word)
    if setting and setting[1] not in setting_keys():
        return f"no setting {setting[1]}"
    if re.match(r"(mocov2|simclr)[+@]?[a-z@.0-9-]*$", word) and word not in METHODS:
        return f"no method {word}"
    if word in DATASETS or not re.match(r"(imagenet|caltech|flowers|scenes)", word) or "/" in word:
        return ""
    return f"no data set {word}"


def _flat(values: Any) -> list[str]:
    words: list[str] = []
    for value in values:
        words += _flat(value) if isinstance(value, list | tuple) else [value] if isinstance(value, str) else []
    return words


@pytest.mark.parametrize("page", SHOWN, ids=name_of)
def test_every_command_can_be_called(page: Path) -> None:
    lines = commands_in(page.read_text())
    problems = {line: problem_of(words) for line in lines if (words := words_of(line)) is not None}
    assert {line: problem for line, problem in problems.items() if problem} == {}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for line in lines if line.startswith("make ") for word in line.split()[1:]}
    assert {word for word in made if re.fullmatch(r"[a-z-]+", word)} <= targets


def test_the_pages_show_many_commands_and_wrong_ones_are_told() -> None:
    assert sum(words_of(line) is not None for page in SHOWN for line in commands_in(page.read_text())) > 100
    assert problem_of(["tabel"]) == "no command tabel"
    assert problem_of(["table", "table1", "--run", "DIR"]) != ""
    assert problem_of(["status", "RUN", "--lines", "3"]) != ""
    assert problem_of(["pretrain", "mocov2", "optimisation.lr=1"]) == "no setting optimisation.lr"
    assert problem_of(["pretrain", "mocov2+our-hp"]) == "no method mocov2+our-hp"
    assert problem_of(["eval", "RUN", "--task", "liner"]) == "no task liner"
    assert problem_of(["methods", "diff", "mocov2", "simclr+ours"]) == "no method simclr+ours"
    assert problem_of(["doctor", "--data", "imagenet10"]) == "no data set imagenet10"
    assert problem_of(["sweep", "tables"]) == "no sweep tables"


def test_help_names_no_option_that_the_command_lacks() -> None:
    for name in cli.COMMANDS:
        for command in (loaded(name), *getattr(loaded(name), "commands", {}).values()):
            options = {option for parameter in command.params for option in parameter.opts}
            words = re.sub(r"`[^`]+`", "", " ".join(parameter.help or "" for parameter in command.params))
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", words)) <= options, command.name


@pytest.mark.parametrize("page", [*SHOWN, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_no_code_in_a_table_has_a_bar() -> None:
    r"""GitHub shows `a\|b` without the backslash, the site with it."""
    assert [name_of(page) for page in SHOWN if r"\|" in page.read_text()] == []


def test_the_readme_is_short_and_has_the_commands_of_the_ci() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    assert {"make demo", "make test"} <= {line.partition("  ")[0] for line in text.splitlines()}
    day = text.partition("## A real day\n")[2].partition("\n## ")[0]
    assert len(commands_in(day)) == 8


def test_the_readmes_table_has_the_published_and_the_recorded_numbers() -> None:
    with (ROOT / "results" / "paper" / "table1.csv").open() as file:
        published = {row["row"]: row["value"] for row in csv.DictReader(file) if row["dataset"] == "ImageNet-100"}
    frame = collect([ROOT / MEASURED])
    top1 = frame[(frame["metric"] == "top1") & (frame["protocol"] != "knn-v1[k=200]")]
    filters = {f"{framework}+ours-hp-no-masks": "–" for framework in ("mocov2", "simclr")}  # the paper has no such row
    expected = []
    for method, number in (published | filters).items():
        by_task = [
            top1.loc[(top1["method"] == method) & (top1["task"] == task), "value"] for task in ("knn", "logistic")
        ]
        assert {len(seeds) for seeds in by_task} <= {0, 3, 5}
        expected.append([number, *(cell_of(list(seeds)) for seeds in by_task)])
    assert sum("–" not in line for line in expected) >= 10
    table = (ROOT / "README.md").read_text().partition("| --- |")[2].partition("\n\n")[0]
    lines = re.findall(r"^\| [^|]+ \| (.*) \|$", table, re.MULTILINE)
    assert sorted([cell.strip() for cell in line.split("|")] for line in lines) == sorted(expected)


def test_the_settings_page_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.delitem(sys.modules, "settings_page", raising=False)
    import settings_page

    text = settings_page.PAGE.read_text()
    assert text == settings_page.page(), "not current; mend: make settings-page"
    assert setting_keys() - {"fidelity"} == set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    assert "| `moco.hard_negative_weight` | `2.0` | 0 or more | the paper's rho |" in text
    assert "| `optimization.step_share` | `0.3` | more than 0, at most 1 |" in text
    assert "| `masking.branch` | `query` | query, key, both |" in text
    assert not re.search(r"^\| .*\|\s*\|\s*\|$", text, re.MULTILINE), "a setting of which nothing is said"
    assert "relative" not in settings_page.comments_of(type(Run().data))["cached_side"]


def test_the_annotations_page_is_current() -> None:
    assert annotation_kinds.PAGE.read_text() == annotation_kinds.page(), "python tests/support/annotation_kinds.py"


def test_fidelity_names_every_switch() -> None:
    text = (DOCS / "fidelity.md").read_text()
    switches = {key for key in setting_keys() if key.startswith("fidelity.")}
    assert switches == set(re.findall(r"^\| B.*`(fidelity\.\w+)` \|", text, re.MULTILINE))
    rows = set(re.findall(r"`((?:mocov2|simclr)\+[\w.@+-]+)`", text))
    assert len(rows) >= 7
    assert rows <= set(METHODS)


def test_messages_in_troubleshooting_are_messages() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    source = "\n".join(
        path.read_text() for room in ("repro", "slurm", "downstream") for path in (ROOT / room).rglob("*.py")
    )
    phrases = [
        phrase for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for phrase in re.findall(r"`([^`]+)`", row)
    ]
    assert len(phrases) > 10
    assert [phrase for phrase in phrases if phrase not in source] == []


def test_the_site_has_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    parts = [page for part in site["nav"] for page in part.values()]
    pages = {page for part in parts for page in (part if isinstance(part, list) else [part])}
    listed = {path.relative_to(ROOT).as_posix() for path in (*DOCS.glob("*.md"), *ROOT.glob("examples/*/README.md"))}
    assert pages >= listed | {"README.md", "CONTRIBUTING.md"}
    links = re.findall(r"\]\(([^)#]+)\)", (DOCS / "index.md").read_text())
    assert listed - {"docs/index.md"} <= {(DOCS / link).resolve().relative_to(ROOT).as_posix() for link in links}


def test_tests_that_a_page_names_are_there() -> None:
    files = {name_of(path): path.read_text() for path in TESTS.rglob("test_*.py")}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(files.values()), re.MULTILINE))
    names = re.findall(r"`(tests/[\w/]*test_\w+\.py|test_\w+)`", "\n".join(path.read_text() for path in PAGES))
    assert len(names) > 20
    assert set(names) <= files.keys() | functions
