"""A run that can be evaluated."""

from pathlib import Path

import pytest
from training_samples import tiny, with_random_backbone

from repro.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return with_random_backbone(tiny(), tmp_path / "runs")
