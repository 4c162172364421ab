"""Runs are found wherever a person names a folder, or a link, above them."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from record_samples import RESULT, save

from repro.errors import UserError
from results.collection.collect import collect
from results.collection.runs import find_runs


def test_runs_behind_links_are_found_once_and_other_links_are_left_alone(tmp_path: Path) -> None:
    root, scratch = tmp_path / "runs", tmp_path / "scratch"
    runs = (replace(RESULT, run_id=f"run{seed}", seed=seed, value=seed + 1.0) for seed in range(3))
    save(root, *runs, replace(RESULT, sweep="other", run_id="x", value=4.0))
    first, second, third = sorted((root / "demo" / RESULT.method).iterdir())
    scratch.mkdir()
    for place in (first, root / "other"):  # a run and a sweep that were moved elsewhere
        place.rename(scratch / place.name)
        place.symlink_to(scratch / place.name)
    (second.parent / "a-best").symlink_to(second)
    (third.parent / "z-best").symlink_to(third)
    (root / "demo/back").symlink_to(root / "demo")
    (root / "demo/round").symlink_to(root / "demo/round")
    (scratch / "images/train/zebra").mkdir(parents=True)
    (scratch / "images/train/zebra/results.jsonl").touch()
    (root / "data").symlink_to(scratch / "images")
    found = find_runs([root])
    assert sorted(run.path.relative_to(root).as_posix().partition("/")[0] for run in found) == ["demo"] * 3 + ["other"]
    assert {second, third} < {run.path for run in found}
    assert sorted(collect([root])["value"]) == [1.0, 2.0, 3.0, 4.0]


def test_a_link_to_a_folder_of_sweeps_or_of_single_runs_is_followed(tmp_path: Path) -> None:
    for value, name in enumerate(("table1", "adhoc", "imported"), 1):
        save(tmp_path / f"of-{name}", replace(RESULT, run_id=f"run{value}", sweep=name, value=float(value)))
    (tmp_path / "of-table1/table1/jobs.jsonl").touch()
    (tmp_path / "runs").mkdir()
    for place in tmp_path.glob("of-*"):
        (tmp_path / "runs" / place.name).symlink_to(place)
    assert sorted(collect([tmp_path / "runs"])["value"]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("levels", range(4))
def test_runs_are_found_from_within_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int) -> None:
    save(tmp_path, RESULT)
    run = next(tmp_path.rglob("results.jsonl")).parent
    monkeypatch.chdir([run, *run.parents][levels])
    assert collect([Path()])["value"].tolist() == [RESULT.value]


def test_an_archive_or_a_file_of_a_run_is_told_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    save(tmp_path / "runs", RESULT)
    rows = next(tmp_path.rglob("results.jsonl"))
    with zipfile.ZipFile(packed := tmp_path / "artifact.zip", "w") as archive:
        archive.write(rows, rows.relative_to(tmp_path))
    unpack = rf"^{packed} is an archive, not a folder with runs; mend: unpack it, and give the folder `runs` that"
    with pytest.raises(UserError, match=unpack):
        find_runs([packed])
    with pytest.raises(UserError, match=rf"^{re.escape(str(rows))} is a file, not a folder with runs; mend: give"):
        find_runs([rows])
    with pytest.raises(UserError, match=r"^no folder .*nowhere; mend: give a run folder, or one above it"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "unpacked").mkdir()
    zipfile.ZipFile(packed).extractall(tmp_path / "unpacked")
    assert collect([tmp_path / "unpacked/runs"])["value"].tolist() == [RESULT.value]
