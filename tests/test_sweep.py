import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from training_samples import OURS, TINY, Ended, files_below, pretrained, refused, salmask, tiny

from baselines import resolve
from repro.errors import UserError
from repro.folder import RunFolder
from slurm.launch import Call
from slurm.sweep import SWEEPS, Job, Sweep, expand, load, narrowed

SWEEP = Sweep(name="mine", methods=("mocov2", OURS), seeds=(0, 1), settings={"data": {"crop": 64}, "seed": 9})


def write(path: Path, content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_sweep_is_read_from_yaml_under_its_files_name(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", {"methods": "mocov2", "seeds": [0, 2], "settings": {"data": {"crop": 64}}})
    assert load(path) == Sweep("mine", ("mocov2",), (0, 2), settings={"data": {"crop": 64}})


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_every_sweep_of_ours_expands(name: str, tmp_path: Path) -> None:
    jobs = expand(load(name), tmp_path, resolve, {})
    assert jobs
    assert len({job.name for job in jobs}) == len(jobs)


def test_the_full_table_keeps_the_papers_recipe(tmp_path: Path) -> None:
    for job in expand(load("table1"), tmp_path, resolve, {}):
        assert job.run.departures == ()
        assert job.run.probe.protocol == "linear-moco-v1"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"methods": ["mocov2"], "seed": [0]}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"methods": ["mocov2"]}, "a sweep needs methods and seeds, for example "),
        ({"methods": [], "seeds": [0]}, "a sweep needs methods and seeds, for example "),
        ({"methods": ["mocov2"], "seeds": ["one"]}, "seeds are whole numbers"),
        ({"methods": ["mocov2"], "seeds": [0], "settings": [1]}, "settings are a mapping, for example "),
        (["mocov2"], "holds no settings of the form `key: value`"),
    ],
)
def test_a_broken_sweep_is_refused_by_name(tmp_path: Path, content: object, part: str) -> None:
    path = write(tmp_path / "mine.yaml", content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert part in str(caught.value)
    assert path in str(caught.value)


def test_an_unknown_sweep_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown sweep 'tabel1'; did you mean 'table1'\? known: .*or the path of a"):
        load("tabel1")
    with pytest.raises(UserError, match=r"config file none\.yaml does not exist"):
        load("none.yaml")


def test_narrowing_keeps_what_is_not_named() -> None:
    assert narrowed(SWEEP, [], []) == SWEEP
    assert narrowed(SWEEP, ["mocov2"], []).methods == ("mocov2",)
    assert narrowed(SWEEP, [], [5]).seeds == (5,)
    assert narrowed(SWEEP, [], [5]).methods == SWEEP.methods


def test_jobs_are_methods_by_seeds_with_pretraining_first(tmp_path: Path) -> None:
    jobs = expand(SWEEP, tmp_path, resolve, {"optimization": {"epochs": 3}})
    assert [job.name for job in jobs] == [
        f"{task} {method} s{seed}" for seed in (0, 1) for method in SWEEP.methods for task in ("pretrain", "linear")
    ]
    for job in jobs:
        assert (job.run.data.crop, job.run.optimization.epochs) == (64, 3)
        assert job.folder.path == tmp_path / job.run.folder
    assert jobs[0].run.recipe == jobs[4].run.recipe
    assert jobs[0].run.recipe != jobs[2].run.recipe


def test_a_sweep_with_an_unknown_method_or_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method 'byol'"):
        expand(narrowed(SWEEP, ["byol"], []), tmp_path, resolve, {})
    with pytest.raises(UserError, match=r"sweep mine: unknown key 'optimization.epoch'; did you mean"):
        expand(SWEEP, tmp_path, resolve, {"optimization": {"epoch": 3}})


def test_a_job_is_ready_and_done_by_its_files(tmp_path: Path) -> None:
    run = tiny()
    folder = RunFolder.of(run, tmp_path)
    folder.prepare(run)
    pretraining, probing = Job(run, folder, "pretrain"), Job(run, folder, "linear")
    assert (pretraining.ready, pretraining.done) == (True, False)
    assert (probing.ready, probing.done) == (False, False)
    folder.backbone.touch()
    assert pretraining.done
    assert (probing.ready, probing.done) == (True, False)
    folder.results.write_text('{"run_id": "torn')
    assert not probing.done


@pytest.mark.parametrize("seen", ["2,3", "", None])
def test_a_job_sees_the_gpus_of_its_launcher_although_submitit_hides_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: str | None
) -> None:
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    call = Call(tiny(), tmp_path, "pretrain")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as submitit's local executor does
    found = []
    monkeypatch.setattr("repro.cli.carry_out", lambda *_: found.append(os.environ.get("CUDA_VISIBLE_DEVICES")))
    call()
    assert found == [seen]


def test_the_command_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    assert refused("sweep", "demo") == "say where to run: --local runs here; --plan only shows the jobs"
    assert "unknown sweep 'dmo'; did you mean 'demo'?" in refused("sweep", "dmo", "--local")
    assert "seeds are whole numbers" in refused("sweep", "demo", "--plan", "--seeds", "a")
    assert "unknown method 'simsiam'" in refused("sweep", "demo", "--plan", "--methods", "simsiam")
    assert files_below(tmp_path) == set()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """One sweep, called three times: without a localizer; with it, but with one result lost; with nothing missing."""
    place = tmp_path_factory.mktemp("sweep")
    localizer = place / "localizer.pth"
    settings = {**TINY, "localizer.network": "checkpoint", "localizer.weights": str(localizer)}
    settings |= {"optimization.epochs": 1, "probe.epochs": 1}
    sweep = write(place / "mini.yaml", {"methods": ["mocov2", OURS], "seeds": [0], "settings": settings})
    command = ("sweep", sweep, "--local", "--parallel", "2", "--out", str(place / "runs"), "--json")
    made = {"without": salmask(*command)}
    shutil.copy(pretrained(tmp_path_factory).backbone, localizer)
    (results,) = (place / "runs").glob("mocov2/*/results.jsonl")
    results.unlink()
    made["with"] = salmask(*command)
    made["again"] = salmask(*command)
    return made | {"place": Ended(0, str(place / "runs"), "")}


@pytest.fixture
def runs(calls: dict[str, Ended]) -> Path:
    return Path(calls["place"].out)


def test_a_failed_pretraining_fails_what_builds_on_it_and_nothing_else(calls: dict[str, Ended]) -> None:
    ended = calls["without"]
    assert ended.code == 1
    told = json.loads(ended.out)
    assert sorted(told["done"]) == ["linear mocov2 s0", "pretrain mocov2 s0"]
    assert set(told["failed"]) == {f"pretrain {OURS} s0", f"linear {OURS} s0"}
    assert told["failed"][f"pretrain {OURS} s0"].endswith("localizer.pth does not exist")
    assert told["failed"][f"linear {OURS} s0"] == "not started: its pretraining failed"
    assert "2 jobs done, 0 had been, 2 failed" in ended.err


def test_a_second_call_does_only_what_is_missing(calls: dict[str, Ended]) -> None:
    assert calls["with"].code == 0, calls["with"].err
    told = json.loads(calls["with"].out)
    assert sorted(told["done"]) == ["linear mocov2 s0", f"linear {OURS} s0", f"pretrain {OURS} s0"]
    assert told["failed"] == {}
    assert "3 jobs done, 1 had been, 0 failed" in calls["with"].err
    assert calls["again"].code == 0
    assert json.loads(calls["again"].out) == {"done": [], "failed": {}}
    assert "0 jobs done, 4 had been, 0 failed" in calls["again"].err


def test_what_was_done_was_done_once(calls: dict[str, Ended], runs: Path) -> None:
    attempts = {path.parts[-3]: len(json.loads(path.read_text())) for path in runs.glob("*/*/provenance.json")}
    assert attempts == {"mocov2": 1, OURS: 1}
    rows = [json.loads(line) for path in runs.glob("*/*/results.jsonl") for line in path.read_text().splitlines()]
    assert Counter(row["method"] for row in rows) == {"mocov2": 3, OURS: 3}
    assert {row["sweep"] for row in rows} == {"runs"}


def test_the_table_is_written_in_every_format_and_shows_both_methods(calls: dict[str, Ended], runs: Path) -> None:
    tables = sorted(path for path in (runs / "tables").iterdir())
    assert {path.suffix for path in tables} >= {".md", ".tex", ".csv"}
    shown = next(path for path in tables if path.suffix == ".md").read_text()
    for title in ("MoCov2", "high-pass"):
        assert title in shown
    for call in ("with", "again"):
        assert "masks.png" in calls[call].err
