"""Runs for the tests of export."""

from dataclasses import replace
from pathlib import Path

import pytest
from export_samples import trained
from run_samples import RESULT
from training_samples import OURS

from repro.runs.folder import RunFolder
from repro.runs.records import append


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def evaluated(tmp_path: Path) -> RunFolder:
    folder = trained(tmp_path / "runs" / "sweep", OURS, seed=4)
    run = folder.load()
    row = replace(RESULT, run_id=run.id, recipe=run.recipe, method=run.method, dataset="scenes", value=43.216)
    append(folder.results, [row, replace(row, metric="top5", value=80.0), replace(row, run_id="another", value=99.99)])
    return folder
