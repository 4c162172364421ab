"""An artifact holds everything but checkpoints, is the same for the same runs, and a change in it is found."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.message import Message
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from places import ROOT
from run_samples import finished
from training_samples import files_below
from typer.testing import CliRunner

from baselines import resolve
from repro.cli import app
from repro.errors import UserError
from results.collection.collect import collect_runs
from results.collection.runs import RunRecord, find_runs
from results.paper.published import PAPER
from results.report.pack import MANIFEST, _bill_of_materials, _environment, check, pack
from results.report.page import build
from results.report.redo import script


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
    place = tmp_path_factory.mktemp("artifact")
    path, paper = place / "artifact.zip", shutil.copytree(PAPER, place / "paper")
    (paper / "__pycache__").mkdir(exist_ok=True)  # as Python makes one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("results.report.pack.PAPER", paper)
        pack(path, runs, collect_runs(runs), title="A title")
    return path


def test_everything_is_in_it_and_verified(artifact: Path, runs: list[RunRecord], tmp_path: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert {"README.md", "report.html", "environment.txt", "sbom.json", "redo.sh", MANIFEST} <= set(names)
    assert {"data/claims.json", "data/sentences.json", "data/parts.json"} <= set(names)
    assert {f"tables/table{n}{suffix}" for n in (1, 2, 3) for suffix in (".md", ".tex", ".csv", ".html")} <= set(names)
    assert {"plots/bars.svg", "plots/bars.png", "plots/gallery.png"} <= set(names)
    for run in runs:
        files = {name.removeprefix(f"runs/{run.name}/") for name in names if name.startswith(f"runs/{run.name}/")}
        small = {"run.yaml", "provenance.json", "metrics.jsonl", "results.jsonl", "foregrounds.json"}
        shown = {"logs/first/first.log", "gallery/masks.png", "probes/imagenet100-linear-moco-v1/metrics.jsonl"}
        assert files == {*small, *shown, "status.json", "status-linear.json"}
    assert check(artifact) == len(names) - 1
    results = pd.read_parquet(tmp_path / "data" / "results.parquet")
    assert list(results["path"]) == [f"runs/{run.name}/results.jsonl" for run in runs]  # paths in the archive
    materials = json.loads((tmp_path / "sbom.json").read_text())
    assert (materials["bomFormat"], materials["specVersion"]) == ("CycloneDX", "1.5")
    versions = {part["name"]: part["version"] for part in materials["components"]}
    assert versions["torch"] == metadata.version("torch")
    assert len(versions) == len(materials["components"]) > 50
    subprocess.run(["sha256sum", "--quiet", "-c", MANIFEST], cwd=tmp_path, check=True)


def test_the_page_of_an_unpacked_artifact_is_the_same_page(artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(artifact) as archive:
        archive.extractall(tmp_path)
    unpacked = find_runs([tmp_path / "runs"], resolve)
    assert build(unpacked, collect_runs(unpacked), title="A title") == (tmp_path / "report.html").read_text()


CLI = """import sys
from pathlib import Path
words = sys.argv[1:]
if "--config" in words:
    assert Path(words[words.index("--config") + 1]).is_file()
assert Path(words[-1].rpartition("=")[2]).is_dir(), "the root"
with open({log!r}, "a") as log:
    print({version!r}, *words, file=log)
"""
"""Stands in for the command at a commit: records its call, and which commit it is."""


def _checkout(folder: Path, log: Path) -> list[str]:
    """A repository with two commits, each of which records which one it is; returns the commits."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example"]
        return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout

    (folder / "repro").mkdir(parents=True)
    git("init", "--quiet")
    commits = []
    for version in ("first", "second"):
        (folder / "repro" / "cli.py").write_text(CLI.format(log=str(log), version=version))
        git("add", ".")
        git("commit", "--quiet", "-m", version)
        commits.append(git("rev-parse", "HEAD").strip())
    return commits


def test_remains_of_broken_installations_are_in_neither_list_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    about = Message()
    about["Name"], about["License"] = "A_b", "MIT\nPermission is"
    both = [SimpleNamespace(metadata=each, version="1.0") for each in (about, Message())]
    monkeypatch.setattr(metadata, "distributions", lambda: both)
    assert _environment() == "A_b==1.0\n"
    (component,) = json.loads(_bill_of_materials())["components"]
    assert (component["name"], component["licenses"]) == ("a-b", [{"license": {"name": "MIT"}}])


def test_redo_makes_each_run_with_the_code_of_its_commit_from_any_folder(tmp_path: Path) -> None:
    log, elsewhere = tmp_path / "calls.txt", tmp_path / "else where"
    commits = _checkout(tmp_path / "checkout", log)
    for seed, commit in enumerate(commits):
        folder = finished(tmp_path / "recorded", "mocov2", seed, {("imagenet100", "top1"): 60.0})
        (attempt,) = json.loads(folder.provenance.read_text())
        folder.provenance.write_text(json.dumps([attempt | {"commit": commit}]))
    runs = find_runs([tmp_path / "recorded"], resolve)
    unpacked = tmp_path / "un packed"
    for run in runs:
        shutil.copytree(run.path, unpacked / "runs" / run.name)
    (unpacked / "redo.sh").write_text(script(runs))
    elsewhere.mkdir()
    (elsewhere / "images of mine").mkdir()

    def redo(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(unpacked / "redo.sh"), *words]
        environment = {**os.environ, "PYTHON": sys.executable}
        return subprocess.run(command, check=False, cwd=elsewhere, env=environment, capture_output=True, text=True)

    refused = redo(str(tmp_path / "checkout"))
    assert refused.returncode != 0
    assert "name its root, imagenet100=DIR" in refused.stderr
    assert not log.exists()  # nothing was started
    done = redo("../checkout", "imagenet100=images of mine")
    assert done.returncode == 0, done.stderr
    root, again = elsewhere / "images of mine", elsewhere / "again" / "full"
    expected = []
    for version, run in zip(("first", "second"), runs, strict=True):
        config = unpacked / "runs" / run.name / "run.yaml"
        expected.append(f"{version} pretrain mocov2 --config {config} --out {again} --root {root}")
        folder = again / "/".join(run.path.parts[-2:])
        expected.append(f"{version} eval {folder} --task linear --root imagenet100={root}")
    assert log.read_text().splitlines() == expected
    # Called again, it has the code; and a root may be anywhere.
    done = redo("no checkout", f"imagenet100={root}")
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == expected * 2


def test_checkpoints_come_only_when_asked_for(
    artifact: Path, runs: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_plots(monkeypatch)
    pack(tmp_path / "with.zip", runs, collect_runs(runs), title="A title", checkpoints=True)
    with zipfile.ZipFile(tmp_path / "with.zip") as more, zipfile.ZipFile(artifact) as less:
        added = set(more.namelist()) - set(less.namelist())
    assert added == {f"runs/{run.name}/backbone.pth" for run in runs}


def test_a_run_that_goes_away_meanwhile_is_not_left_out_unsaid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact used to have the run's numbers in its tables but none of its files, and was called whole."""
    _without_plots(monkeypatch)
    folder = finished(tmp_path / "runs", "mocov2", 0, {("imagenet100", "top1"): 60.0})
    runs = find_runs([tmp_path / "runs"], resolve)
    frame = collect_runs(runs)
    folder.path.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"{folder.path.name} has disappeared since it was read"):
        pack(tmp_path / "x.zip", runs, frame, title="A title")
    assert not (tmp_path / "x.zip").exists()


def test_results_that_are_recorded_meanwhile_are_no_rows_that_only_the_archive_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results were copied minutes after the tables were read, with all that jobs had appended by then."""
    _without_plots(monkeypatch)
    place = tmp_path / "runs"
    folder = finished(place, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    runs = find_runs([place], resolve)
    frame = collect_runs(runs)
    rows = folder.results.read_text()

    def job(what: str) -> None:
        if what == "data and claims":
            folder.results.write_text(rows + rows.replace('"top1"', '"top5"'))

    pack(tmp_path / "x.zip", runs, frame, title="A title", tell=job)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.read(f"runs/{runs[0].name}/results.jsonl").decode() == rows
    for read in (frame, None):
        with pytest.raises(UserError, match=r"results\.jsonl has changed since it was read; mend: repeat the command"):
            pack(tmp_path / "y.zip", runs, read, title="A title")
    assert not (tmp_path / "y.zip").exists()


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
        ({MANIFEST: None}, "is not an artifact of salmask: it holds no SHA256SUMS"),
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
        # A local header has 30 bytes before the name; this is the middle of the compressed content after both.
        offset = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    content[offset] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"report\.html was changed"):
        check(tmp_path / "flipped.zip")


def test_what_is_no_zip_is_refused(tmp_path: Path, runs: list[RunRecord]) -> None:
    (tmp_path / "torn.zip").write_bytes(b"PK\3\4 torn")
    with pytest.raises(UserError, match="is not a whole zip file"):
        check(tmp_path / "torn.zip")
    with pytest.raises(UserError, match=r"no file .*absent"):
        check(tmp_path / "absent.zip")
    with pytest.raises(UserError, match=r"cannot pack to .*; mend: give a name that ends in \.zip"):
        pack(tmp_path / "artifact.tar", runs, None, title="")
    with pytest.raises(UserError, match="no run folder to pack"):
        pack(tmp_path / "artifact.zip", [], None, title="")
    # Before anything is packed: zipfile warned of each name that it was given twice.
    with pytest.raises(UserError, match="have the same name"):
        pack(tmp_path / "artifact.zip", [*runs, *runs], None, title="")
    assert [path.name for path in tmp_path.iterdir()] == ["torn.zip"]


def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out plots, which take most of the time."""
    for module in ("report.pack", "report.page"):
        monkeypatch.setattr(f"results.{module}.PLOTS", {})


@pytest.mark.end_to_end
def test_the_commands_write_what_they_say(
    runs: list[RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_plots(monkeypatch)
    monkeypatch.chdir(tmp_path)
    root = str(runs[0].path.parents[2])
    recorded = files_below(Path(root))

    def call(*words: str) -> str:
        outcome = CliRunner().invoke(app, list(words))
        assert outcome.exit_code == 0, (words, outcome.output, outcome.exception)
        return outcome.output

    assert "2 rows of 2 runs" in call("collect", "--runs", root, "--out", str(tmp_path / "all.parquet"))
    _shows_tables_and_writes_them_on_demand(call, Path(root), tmp_path)
    assert "58.19" in call("table", "table3", "--only", "paper", "--out", str(tmp_path))
    assert "0 supported" in call("claims", "--runs", root)
    assert "published: 68.22" in call("explain", "table1:mocov2:imagenet100", "--runs", root)
    assert "bars.png" in call("plot", "bars", "--runs", root)
    assert Path("plots/bars.png").exists()
    call("report", "--runs", root, "--title", "Mine")
    assert "<title>Mine</title>" in Path("report.html").read_text()
    packed = call("pack", "--runs", root)
    # The checksums' own file is in neither number.
    number = re.search(r"(\d+) files and their checksums, .* in artifact\.zip", packed)
    assert number is not None
    assert f"{number[1]} files are as they were packed" in call("pack", "--check", "artifact.zip")
    assert files_below(Path(root)) == recorded  # it may be a repository's, or a colleague's
    told: list[str] = []
    pack(tmp_path / "b.zip", runs, collect_runs(runs), title="A title", tell=told.append)
    assert told == ["the page", "tables and plots", "data and claims", "run 1 of 2", "run 2 of 2"]


@pytest.mark.parametrize("words", [["report"], ["pack"], ["collect"], ["compare", "mocov2+ours-hp", "mocov2"]])
def test_a_file_that_cannot_be_written_is_refused_before_runs_are_read(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for out, why in (
        ("file/out.html", "file is not a folder; mend: choose another --out"),
        ("pipe", "pipe: it is not a regular file"),
    ):
        # There is no run; the command would say so if it had looked.
        outcome = CliRunner().invoke(app, [*words, "--runs", str(tmp_path), "--out", str(tmp_path / out)])
        assert isinstance(outcome.exception, UserError)
        assert why in str(outcome.exception)


@pytest.mark.parametrize("words", [["report"], ["pack"], ["collect"], ["compare", "mocov2+ours-hp", "mocov2"]])
def test_what_a_killed_call_left_beside_out_goes_with_the_next_one(words: list[str], tmp_path: Path) -> None:
    """In a sweep's own folder `salmask clean` removes it; anywhere else it used to stay for ever."""
    killed, at_work, another = (
        tmp_path / f".{name}" for name in ("[a].zip.abcd_123", "[a].zip.abcd_124", "a.zip.abcd_123")
    )
    for path in (killed, at_work, another):
        path.write_text("half")
    for path in (killed, another):
        os.utime(path, (1, 1))
    (tmp_path / "[a].zip").write_text("whole")
    CliRunner().invoke(app, [*words, "--runs", str(tmp_path / "none"), "--out", str(tmp_path / "[a].zip")])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([at_work.name, another.name, "[a].zip"])


def _shows_tables_and_writes_them_on_demand(call: Callable[..., str], root: Path, out: Path) -> None:
    before = sorted(root.rglob("*"))
    assert "MoCo v2" in call("table", "table1", "--runs", str(root), "--all")
    (cell, *_) = json.loads(call("table", "table1", "--runs", str(root), "--json"))
    assert (cell["row"], cell["n"], cell["published"]) == ("mocov2", 1, 68.22)
    assert sorted(root.rglob("*")) == before  # showing leaves nothing behind
    call("table", "table1", "--runs", str(root), "--out", str(out / "tables"))
    assert sorted(path.suffix for path in (out / "tables").iterdir()) == [".csv", ".html", ".md", ".tex"]


def test_help_needs_neither_torch_nor_pandas() -> None:
    code = "import repro.cli, sys; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
