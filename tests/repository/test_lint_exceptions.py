"""An exception from a rule of ruff's or mypy's names the rule, and says why: `# noqa: RULE  # reason`."""

import re

import pytest
from places import ROOT

FOLDERS = ("repro", "baselines", "downstream", "results", "slurm", "tools", "examples")
EXCEPTION = re.compile(r"#\s*(?:type:\s*ignore|noqa)\b.*", re.IGNORECASE)
EXPLAINED = re.compile(r"# (?:type: ignore\[[\w, -]+\]|noqa: \w+(?:, \w+)*)  # \S.*")


def unexplained(lines: list[str]) -> list[str]:
    """The exceptions that name no rule, or give no reason after it."""
    found = (match[0] for line in lines if (match := EXCEPTION.search(line)))
    return [exception for exception in found if not EXPLAINED.fullmatch(exception)]


def test_every_exception_from_a_rule_says_why() -> None:
    lines = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8").splitlines()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert sum(bool(EXCEPTION.search(line)) for content in lines.values() for line in content) > 20
    assert {path: bare for path, content in lines.items() if (bare := unexplained(content))} == {}


@pytest.mark.parametrize(
    "exception",
    [
        "# noqa",
        "# noqa: F401",
        "#noqa:F401",
        "# NOQA: F401 - a dash",
        "# noqa: F401 (brackets)",
        "# noqa: F401  #",
        "# type: ignore",
        "# type: ignore  # no rule",
        "# type:ignore[misc]",
        "# type: ignore[misc]",
        "# type: ignore[misc]  no mark",
    ],
)
def test_one_without_a_rule_or_a_reason_is_found(exception: str) -> None:
    assert unexplained([f"import os  {exception}"]) == [exception]


@pytest.mark.parametrize("exception", ["# noqa: PTH100, PTH111  # text", "# type: ignore[arg-type, misc]  # a pair"])
def test_one_with_both_is_let_be(exception: str) -> None:
    assert unexplained([f"import os  {exception}", "plain = 1"]) == []
