"""A run names the cache of decoded images that it is trained on, and how to make one that is missing."""

import shlex
from pathlib import Path

import pytest
from image_samples import make_folder_root
from training_samples import salmask, tiny

from repro.data.pixel_cache import CachedImages
from repro.errors import UserError
from repro.filesystem.paths import CACHE_VARIABLE
from repro.settings.run import Run
from repro.training.pretraining import open_data


def carry_out_mend(run: Run) -> None:
    """Calls the command that a run's refusal without its cache names as the mend."""
    with pytest.raises(UserError, match="no cache of data set") as refusal:
        open_data(run, "train")
    command, _, other = refusal.value.mend.rpartition(", or ")
    assert other == "data.cached_side=0"
    program, *words = shlex.split(command)
    assert program == "salmask"
    assert salmask(*words).code == 0


def test_the_mend_of_a_missing_cache_names_the_runs_own_scenes_and_folder(tmp_path: Path) -> None:
    """The mend lacked these settings: it cached other scenes in another folder, and the run was refused again."""
    scenes = {"data.dataset": "scenes", "data.scenes.grounds": 3, "data.cached_side": 32}
    root = {"machine.data_root": str(tmp_path)}  # plays no part, and the command refuses it
    run = tiny(changes=scenes | root | {"machine.data_cache": str(tmp_path / "my caches")})
    carry_out_mend(run)
    assert open_data(run, "train").fingerprint().endswith("-32px")
    assert len(list((tmp_path / "my caches").glob("scenes-*"))) == 1


def test_a_run_is_trained_on_the_cache_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder_root(tmp_path / "data")
    settings = {"data.dataset": "folder", "machine.data_root": str(tmp_path / "data")}
    original, run = tiny(changes=settings), tiny(changes=settings | {"data.cached_side": 40})
    assert original.id != run.id
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "caches"))
    carry_out_mend(run)
    images = open_data(run, "train")
    assert isinstance(images, CachedImages)
    assert images.fingerprint() == f"{open_data(original, 'train').fingerprint()}-40px"
