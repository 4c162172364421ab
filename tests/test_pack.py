"""An artifact holds everything but checkpoints, is the same for the same runs, and a change in it is found."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from run_samples import finished
from typer.testing import CliRunner

from baselines import resolve
from repro.cli import app
from repro.errors import UserError
from results.collect import collect_runs
from results.pack import MANIFEST, check, pack
from results.runs import RunRecord, find_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    root = tmp_path_factory.mktemp("runs")
    for method in ("mocov2", "mocov2+ours-hp"):
        folder = finished(root, method, 0, {("imagenet100", "top1"): 60.0})
        folder.backbone.write_bytes(b"weights")
        folder.foregrounds.write_text("{}")
    return find_runs([root], resolve)


@pytest.fixture(scope="module")
def artifact(runs: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "artifact.zip"
    pack(path, runs, collect_runs(runs), title="A title")
    return path


def test_everything_is_in_it_and_verified(artifact: Path, runs: list[RunRecord], tmp_path: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {"README.md", "report.html", "environment.txt", "redo.sh", MANIFEST} <= set(names)
    assert {"data/claims.json", "data/sentences.json"} <= set(names)
    assert {f"tables/table{n}{suffix}" for n in (1, 2, 3) for suffix in (".md", ".tex", ".csv", ".html")} <= set(names)
    assert {"plots/bars.svg", "plots/bars.png", "plots/gallery.png"} <= set(names)
    for run in runs:
        files = {name.rpartition("/")[2] for name in names if name.startswith(f"runs/{run.name}/")}
        statuses = {"status.json", "status-linear.json"}
        assert files == {"run.yaml", "provenance.json", "metrics.jsonl", "results.jsonl", "foregrounds.json", *statuses}
    assert check(artifact) == len(names) - 1
    assert len(pd.read_parquet(tmp_path / "data" / "results.parquet")) == 2
    redo = (tmp_path / "redo.sh").read_text()
    assert redo.count("salmask pretrain") == redo.count("salmask eval") == 2
    for line in redo.splitlines():
        if "--config" in line:
            assert (tmp_path / line.split("--config ")[1].split()[0]).is_file()
            assert "--out again/full" in line
    subprocess.run(["sha256sum", "--quiet", "-c", MANIFEST], cwd=tmp_path, check=True)


def test_checkpoints_come_only_when_asked_for(
    artifact: Path, runs: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_plots(monkeypatch)
    pack(tmp_path / "with.zip", runs, collect_runs(runs), title="A title", checkpoints=True)
    with zipfile.ZipFile(tmp_path / "with.zip") as more, zipfile.ZipFile(artifact) as less:
        added = set(more.namelist()) - set(less.namelist())
    assert added == {f"runs/{run.name}/backbone.pth" for run in runs}


def _rewritten(artifact: Path, path: Path, change: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(artifact) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name in change.keys() - set(old.namelist()):
            new.writestr(name, change[name] or b"")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data/results.csv": b"better numbers"}, r"data/results\.csv was changed"),
        ({"report.html": None}, r"report\.html is missing"),
        ({"extra.txt": b"more"}, r"extra\.txt is not in SHA256SUMS"),
        ({MANIFEST: None}, "is no artifact of salmask: it holds no SHA256SUMS"),
        ({MANIFEST: b"what"}, "its SHA256SUMS cannot be read"),
    ],
)
def test_a_change_is_found_and_named(artifact: Path, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(_rewritten(artifact, tmp_path / "changed.zip", change))


def test_a_flipped_byte_is_found(artifact: Path, tmp_path: Path) -> None:
    content = bytearray(artifact.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        entry = archive.getinfo("report.html")
        # A local header has 30 bytes before the name; this is the middle of the packed content behind both.
        offset = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    content[offset] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"report\.html was changed"):
        check(tmp_path / "flipped.zip")


def test_what_is_no_zip_is_refused(tmp_path: Path, runs: list[RunRecord]) -> None:
    (tmp_path / "torn.zip").write_bytes(b"PK\3\4 torn")
    with pytest.raises(UserError, match="is no whole zip file"):
        check(tmp_path / "torn.zip")
    with pytest.raises(UserError, match=r"no file .*absent"):
        check(tmp_path / "absent.zip")
    with pytest.raises(UserError, match=r"cannot pack to .*; mend: give a name that ends in \.zip"):
        pack(tmp_path / "artifact.tar", runs, None, title="")
    with pytest.raises(UserError, match="no run folder to pack"):
        pack(tmp_path / "artifact.zip", [], None, title="")
    assert [path.name for path in tmp_path.iterdir()] == ["torn.zip"]


def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take most of the time."""
    for module in ("pack", "report"):
        monkeypatch.setattr(f"results.{module}.PLOTS", {})


def test_the_commands_write_what_they_say(
    runs: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_plots(monkeypatch)
    root = str(runs[0].path.parents[2])

    def call(*words: str) -> str:
        outcome = CliRunner().invoke(app, list(words))
        assert outcome.exit_code == 0, (words, outcome.output, outcome.exception)
        return outcome.output

    assert "2 rows of 2 runs" in call("collect", "--runs", root, "--out", str(tmp_path / "all.parquet"))
    _shows_tables_and_writes_them_on_demand(call, Path(root), tmp_path)
    assert "58.19" in call("table", "table3", "--only", "paper", "--out", str(tmp_path))
    assert "0 supported" in call("claims", "--runs", root)
    assert "published: 68.22" in call("explain", "table1:mocov2:imagenet100", "--runs", root)
    assert "bars.png" in call("plot", "bars", "--runs", root, "--out", str(tmp_path))
    call("report", "--runs", root, "--out", str(tmp_path / "report.html"), "--title", "Mine")
    assert "<title>Mine</title>" in (tmp_path / "report.html").read_text()
    call("pack", "--runs", root, "--out", str(tmp_path / "a.zip"))
    assert "files are as they were packed" in call("pack", "--check", str(tmp_path / "a.zip"))


def _shows_tables_and_writes_them_on_demand(call: Callable[..., str], root: Path, out: Path) -> None:
    before = sorted(root.rglob("*"))
    assert "MoCov2" in call("table", "table1", "--runs", str(root), "--all")
    (cell, *_) = json.loads(call("table", "table1", "--runs", str(root), "--json"))
    assert (cell["row"], cell["n"], cell["published"]) == ("mocov2", 1, 68.22)
    assert sorted(root.rglob("*")) == before  # who only looks leaves nothing behind
    call("table", "table1", "--runs", str(root), "--out", str(out / "tables"))
    assert sorted(path.suffix for path in (out / "tables").iterdir()) == [".csv", ".html", ".md", ".tex"]


def test_help_needs_neither_torch_nor_pandas() -> None:
    code = "import repro.cli, sys; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
