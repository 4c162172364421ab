"""The scores of a training's epochs: what is written of each, and what becomes of all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest
from json_rows import write_rows

from downstream.epoch_scores import final_scores, read_scores, write_scores
from repro.errors import UserError
from repro.training.watching.step_bar import SCORED


def test_an_epochs_scores_go_to_the_metrics_the_log_and_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(values: dict[str, float]) -> tuple[list[Any], ...]:
        runner = SimpleNamespace(epoch=4, iter=10, visualizer=MagicMock(), logger=MagicMock(), message_hub=MagicMock())
        write_scores(runner, values)
        calls = (runner.visualizer.add_scalars, runner.logger.info, runner.message_hub.update_info)
        return tuple(each.call_args_list for each in calls)

    values = {"top1": 61.234, "top5": 90.0, "mean_per_class": 50.0}
    assert written(values) == (
        [call({**values, "epoch": 5}, step=10)],
        [call("Epoch(val) [5]  top1: 61.23  top5: 90.00")],
        [call(SCORED, "top1 61.23")],
    )
    assert written({"top1@lr=1": 9.0})[2] == [call(SCORED, "")]  # a bar has no room for a whole grid
    monkeypatch.setattr("downstream.epoch_scores.rank", lambda: 1)
    assert written(values) == ([], [], [])


@pytest.mark.parametrize("name", ["top1", "top1@lr=10"])
def test_rows_of_steps_are_no_scores(name: str, tmp_path: Path) -> None:
    scored = [{"step": 2 * epoch, "epoch": epoch, name: 10.0 + epoch} for epoch in (1, 2)]
    write_rows(
        tmp_path / "metrics.jsonl",
        [{"step": 1, "loss": 2.0}, scored[0], {"step": 3, "epoch": 2, "loss": 1.0}, {"step": 3, name: 99.0}, scored[1]],
    )
    assert read_scores(tmp_path / "metrics.jsonl", 2) == scored


@pytest.mark.parametrize("epochs", [(), (1,), (1, 2, 3), (2, 1), (1, 1), (0, 1), (2, 3), (1, 3)])
def test_each_epoch_must_be_there_once_and_in_order(epochs: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, [{"step": 3, "epoch": epoch, "top1": 50.0} for epoch in epochs])
    with pytest.raises(UserError) as refusal:
        read_scores(path, 2)
    assert refusal.value.what == f"{path} does not hold the scores of each of the 2 epochs"
    assert refusal.value.mend == f"put the file back, or remove {tmp_path} and evaluate again"


@pytest.mark.parametrize("ending", ["", "@lr=10"])
def test_the_last_epoch_counts_and_the_best_top1_stands_beside_it(ending: str) -> None:
    names, courses = ("top1", "top5", "mean_per_class"), ((30.0, 95.0, 1.0), (50.0, 90.0, 2.0), (40.0, 60.0, 3.0))
    others = [*(f"{name}@lr=1" for name in names), *(names if ending else ())]
    epochs = [
        {**dict.fromkeys(others, 99.0), **{f"{name}{ending}": value for name, value in zip(names, row, strict=True)}}
        for row in courses
    ]
    assert final_scores(epochs, ending) == {"top1": 40.0, "top5": 60.0, "mean_per_class": 3.0, "top1_best": 50.0}
