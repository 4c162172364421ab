"""What a launch copies for its jobs, and what in a checkout is no code."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from slurm.snapshot import PACKAGES, take

ROOT = Path(__file__).parents[1]
CODE = {".py", ".yaml", ".csv", ".j2", ".css", ".js", ".txt", ".md"}
MOST_BYTES = 3_000_000

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a git checkout")


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_snapshot_has_nothing_but_code(tmp_path: Path) -> None:
    snapshot = take(tmp_path, allow_dirty=True, tree=ROOT)
    files = [path for path in snapshot.path.rglob("*") if path.is_file() and path.name != ".source.json"]
    assert {path.relative_to(snapshot.path).parts[0] for path in files} == set(PACKAGES)
    kinds = Counter(path.suffix for path in files)
    assert set(kinds) <= CODE, kinds
    assert not [path for path in files if path.name in ("run.yaml", "metrics.jsonl", "results.jsonl")]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


@pytest.mark.parametrize(
    "written",
    [
        "runs/table1/mocov2/s0-45df9c0eca/run.yaml",
        "tables/table1.md",
        "plots/curves.svg",
        "report.html",
        "artifact.zip",
        "results.parquet",
        "examples/demo/tables/table1.html",
        "examples/reproduced/cpu-112px/report.html",
        "examples/reproduced/cpu-112px/plots/curves.png",
    ],
)
def test_what_commands_write_into_a_checkout_is_ignored(written: str) -> None:
    assert git("check-ignore", "--quiet", written).returncode == 0


def test_no_file_of_the_repository_is_ignored() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""
