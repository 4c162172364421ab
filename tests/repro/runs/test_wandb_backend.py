"""Weights & Biases is asked for by name, stays off-line, and gets the numbers that `metrics.jsonl` has, by step."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from json_rows import read_rows
from training_samples import refused, salmask, tiny, words

from repro.runs.folder import RunFolder


def pretrain_words(out: Path, changes: dict[str, Any]) -> tuple[str, ...]:
    return ("pretrain", "mocov2", "--out", str(out), *words(changes))


class StandIn(ModuleType):
    """The part of the package that is used; it records its calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.logged: dict[int, dict[str, float]] = {}
        self.finished = 0
        self.__spec__ = object()  # type: ignore[assignment]  # importlib asks whether there is one

    def init(self, **options: Any) -> "StandIn":
        self.begun.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.setdefault(step, {}).update(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    package = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return package


def test_a_pretraining_writes_what_metrics_has_and_stays_offline(wandb: StandIn, tmp_path: Path) -> None:
    changes = {"machine.wandb": True, "optimization.epochs": 1}
    ended = salmask(*pretrain_words(tmp_path, changes))
    assert ended.code == 0, ended.err
    folder = RunFolder.of(tiny(changes=changes), tmp_path)
    (begun,) = wandb.begun
    assert (begun["mode"], begun["resume"], begun["project"]) == ("offline", None, "salmask")
    assert begun["id"] == tiny(changes=changes).id
    assert begun["dir"] == str(folder.path)  # beside `logs`, whose newest file `salmask logs` shows
    assert begun["config"]["optimization.epochs"] == 1
    rows: dict[int, dict[str, float]] = {}
    for row in read_rows(folder.metrics):
        rows.setdefault(int(row["step"]), {}).update({name: value for name, value in row.items() if name != "step"})
    assert wandb.logged == rows
    assert any("effective_rank" in values or "loss" in values for values in wandb.logged.values())
    assert wandb.finished == 1


def test_it_is_off_unless_asked_for_and_no_part_of_the_runs_id(wandb: StandIn, tmp_path: Path) -> None:
    assert salmask(*pretrain_words(tmp_path, {"optimization.epochs": 1})).code == 0
    assert wandb.begun == []
    assert tiny(changes={"machine.wandb": True}).id == tiny().id


def test_without_the_package_the_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    if find_spec("wandb") is not None:
        pytest.skip("the package is installed")
    line = refused(*pretrain_words(tmp_path, {"machine.wandb": True}))
    assert line.startswith("machine.wandb=true needs the package wandb")
    assert list(tmp_path.iterdir()) == []
