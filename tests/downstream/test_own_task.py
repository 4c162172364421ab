"""A task that a user added, and the mistakes made in one: each is one line that says whose mistake it is."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from training_samples import CPU, salmask, tiny, with_random_backbone

from downstream import tasks
from downstream.measurement import Measurement, as_results, measurements, scores
from repro.errors import UserError
from repro.runs.evaluation import PROTOCOLS, Evaluation, EvaluationProtocol
from repro.runs.folder import RunFolder

MEANS = "own_means"
"""The module of the task, which Python finds in the tests' folder."""
TASK = """
from downstream.measurement import measurements

def check(run, target, backbone):
    pass

def measure(run, folder, target, device):
    return measurements("means-v1", "val", {"top1": 50.0})
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the task `means`, which is entered in both tables."""
    monkeypatch.syspath_prepend(tmp_path)
    # The tables are changed in place, as the commands hold references to them.
    for table, entry in ((tasks.TASKS, MEANS), (PROTOCOLS, lambda *_: (EvaluationProtocol("means-v1"),))):
        monkeypatch.setitem(cast(dict[str, object], table), "means", entry)
    monkeypatch.delitem(sys.modules, MEANS, raising=False)
    return tmp_path / f"{MEANS}.py"


def finished(out: Path) -> RunFolder:
    folder = with_random_backbone(tiny(), out / "runs")
    folder.set_status("done", task="pretrain")
    return folder


WHERE = "TASKS (downstream/tasks.py) has the task means at "


@pytest.mark.parametrize(
    ("entry", "text", "line"),
    [
        (MEANS, TASK.replace("check", "checked"), "which has no function check(run, target, backbone)"),
        (MEANS, TASK.replace("(run, folder, ", "("), "which has no function measure(run, folder, target, device)"),
        (f"{MEANS}:MEANS", TASK, "which has no MEANS; mend: write it, or correct its name"),
        (f"{MEANS}:Means", "class Means:\n    pass", "which is a class; mend: name an object of it"),
        ("own_mean", TASK, "and there is no module own_mean; mend: write it, or correct its name"),
        ("own.mean", TASK, "and there is no module own; mend: write it, or correct its name"),
    ],
)
def test_what_is_no_task_is_refused_before_anything_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, entry: str, text: str, line: str
) -> None:
    """Python's AttributeError used to be told as a fault of salmask's own."""
    place.write_text(text)
    monkeypatch.setitem(cast(dict[str, str], tasks.TASKS), "means", entry)
    with pytest.raises(UserError) as refusal:
        tasks._imported("means")
    assert f"{WHERE}{entry}, {line}" in str(refusal.value)


def test_a_task_that_only_protocols_has_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's KeyError was called a fault of salmask's own."""
    monkeypatch.delitem(cast(dict[str, str], tasks.TASKS), "means")
    with pytest.raises(UserError, match=r"has the task means, and TASKS \(downstream/tasks.py\) has not; mend: add"):
        tasks._imported("means")


def test_a_task_that_only_tasks_has_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was called unknown, and a task with a similar name was suggested."""
    monkeypatch.delitem(cast(dict[str, object], PROTOCOLS), "means")
    refused = salmask("eval", str(finished(tmp_path).path), "--task", "means")
    what = "TASKS (downstream/tasks.py) has the task means, and PROTOCOLS (repro/runs/evaluation.py) has not; mend: add"
    assert (refused.code, what in refused.err) == (2, True)


@pytest.mark.parametrize(("wrong", "error"), [("import umaps", ModuleNotFoundError), ("means.x", NameError)])
def test_what_fails_within_a_tasks_module_is_not_taken_for_a_missing_one(
    place: Path, wrong: str, error: type[Exception]
) -> None:
    place.write_text(f"{TASK}\n{wrong}\n")
    with pytest.raises(error, match=wrong.rsplit(maxsplit=1)[-1].split(".", maxsplit=1)[0]):
        tasks._imported("means")


MEASUREMENT = Measurement("means-v1", "val", "top1", 50.0)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ([], "returned no measurement, and nothing was recorded; mend: one for each number"),
        (None, "returned NoneType; mend: a list of Measurement, as "),
        ({"top1": 50.0}, "returned dict; mend: a list of Measurement"),
        ([MEASUREMENT, {"top1": 50.0}], "returned list of dict; mend: a list of Measurement"),
        ([MEASUREMENT] * 2, "returned two numbers for means-v1, val, top1; mend: one number, or two names"),
        (measurements("means-v1", "val", {"top1": 101.0}), "returned top1 = 101.0, which is not an accuracy"),
        (measurements("means-v1", "val", {"top1": 100.001}), "returned top1 = 100.001, which is not an accuracy"),
        (measurements("means-v1", "val", {"top1": -1.0}), "returned top1 = -1.0, which is not an accuracy"),
        (measurements("means-v1", "val", {"top1@split=0": 101.0}), "returned top1@split=0 = 101.0, which is no"),
        ([replace(MEASUREMENT, value=None)], "returned top1 = None, which is no Python number; mend: float(...) of it"),
        (measurements("means-v1", "val", {"top5": float("nan")}), "returned top5 = nan, which is not an accuracy"),
    ],
)
def test_what_a_task_returns_is_refused_in_one_line_and_not_recorded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, line: str
) -> None:
    """No rows used to mean status 0; a duplicate name, and an accuracy above 100, used to be recorded."""
    task = SimpleNamespace(check=lambda *_: None, measure=lambda *_: answer)
    monkeypatch.setitem(sys.modules, MEANS, task)
    folder = finished(tmp_path)
    with pytest.raises(UserError) as refusal:
        tasks.evaluate(tiny(), folder, "means", CPU)
    assert str(refusal.value).startswith(f"{MEANS}: measure {line}")
    assert not folder.results.exists()


def test_rows_that_would_not_be_found_again_are_not_recorded(place: Path, tmp_path: Path) -> None:
    place.write_text(TASK.replace("means-v1", "means-v2"))
    folder = finished(tmp_path)
    with pytest.raises(UserError, match=r"own_means measured by means-v2, and PROTOCOLS .* says it is by means-v1"):
        tasks.evaluate(tiny(), folder, "means", CPU)
    assert not folder.results.exists()


def test_a_row_says_when_its_measurement_began_and_what_it_took(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def measure(*_: Any) -> list[Measurement]:
        clock[0] += 7.26
        return [replace(MEASUREMENT, value=100 + 1e-13)]  # a mean may be rounded up

    monkeypatch.setitem(sys.modules, MEANS, SimpleNamespace(check=lambda *_: None, measure=measure))
    monkeypatch.setattr(tasks, "now", lambda: datetime.fromtimestamp(clock[0], UTC).isoformat())
    monkeypatch.setattr(tasks, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    (row,) = tasks.evaluate(tiny(), finished(tmp_path), "means", CPU)
    assert (row.started, row.duration_s) == ("1970-01-01T00:01:40+00:00", 7.3)


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("simclr", ("simclr", "simclr", "none", "paper")),
        ("mocov2+ours-blur", ("mocov2+ours-blur", "mocov2", "strong_blur", "paper")),
        ("mocov2+ours-hp-released", ("mocov2+ours-hp-released", "mocov2", "high_pass", "released")),
        (
            "mocov2+ours-hp-released-noise",
            ("mocov2+ours-hp-released-noise", "mocov2", "high_pass", "paper, released: noise"),
        ),
    ],
)
def test_a_row_says_what_its_run_was_trained_by(method: str, row: tuple[str, ...], tmp_path: Path) -> None:
    run = tiny(method, {"seed": 3, "data.crop": 64})
    evaluation, folder = Evaluation("means", "scenes"), RunFolder.of(run, tmp_path / "a-sweep")
    times: dict[str, Any] = {"started": "1970-01-01T00:01:40+00:00", "duration_s": 1.0}
    (result,) = as_results([MEASUREMENT], run, folder, evaluation, device=CPU, **times)
    assert (result.method, result.framework, result.strategy, result.fidelity) == row
    assert (result.run_id, result.recipe, result.sweep, result.seed) == (run.id, run.recipe, "a-sweep", 3)
    assert (result.task, result.dataset, result.split, result.protocol) == ("means", "scenes", "val", "means-v1")
    assert (result.metric, result.value, result.predictions) == ("top1", 50.0, "")


def test_on_the_other_ranks_the_first_ones_rows_count_whatever_the_task_returns(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the task returned nothing there, rank 1 ended in a fault of salmask's own, and rank 0 waited for it."""
    task = SimpleNamespace(check=lambda *_: None, measure=lambda *_: None)
    monkeypatch.setitem(sys.modules, MEANS, task)
    folder = finished(tmp_path)
    work = tasks.prepare_evaluation(tiny(), folder, "means", CPU)
    assert work is not None
    answers = iter([[], ["rows of rank 0"]])  # nothing is recorded yet; then rank 0's rows
    monkeypatch.setattr(tasks, "decided_by_first", lambda _: next(answers))
    assert work() == ["rows of rank 0"]
    assert not folder.results.exists()


def test_what_another_process_measured_meanwhile_is_not_measured_again(place: Path, tmp_path: Path) -> None:
    place.write_text(TASK)
    folder = finished(tmp_path)
    first, second = (tasks.prepare_evaluation(tiny(), folder, "means", CPU) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first() == second()
    assert folder.results.read_text().count("\n") == 1


def test_other_numbers_than_accuracies_may_be_anything(place: Path, tmp_path: Path) -> None:
    place.write_text(TASK.replace('"top1": 50.0', '"top1": 100.0, "loss": 1000.0'))
    assert len(tasks.evaluate(tiny(), finished(tmp_path), "means", CPU)) == 2


def test_an_error_of_the_task_is_told_as_one_of_added_code(place: Path, tmp_path: Path) -> None:
    """It used to be told as a fault of salmask's own, with its traceback in a file to be reported."""
    place.write_text(TASK.replace("50.0", "accuracy"))
    folder = finished(tmp_path)
    ended = salmask("eval", str(folder.path), "--task", "means", "machine.device=cpu")
    *trace, line = ended.err.splitlines()
    assert ended.code == 1
    assert line == (
        f"salmask: a fault of code that was added to salmask, at {place}, line 8: NameError: name 'accuracy' is not "
        "defined; its traceback is above"
    )
    assert "in measure" in "\n".join(trace)


def test_scores_that_are_nan_are_no_accuracy() -> None:
    """NaN counts as the maximum: a class without a mean was predicted for every image, and chance was recorded."""
    logits = torch.zeros(3, 2)
    logits[1, 0] = float("nan")
    with pytest.raises(UserError, match=r"^the scores of 1 of 3 images are NaN, which has no accuracy; mend: "):
        scores(logits, torch.tensor([0, 1, 1]))
    # A class that a classifier never saw has probability zero, which is a valid score.
    assert scores(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0]))["top1"] == 100.0


def test_a_run_that_is_moved_while_it_is_measured_is_not_measured(place: Path, tmp_path: Path) -> None:
    """Its rows used to be written to its old place, without its settings, and the command ended well."""
    folder = finished(tmp_path)
    moved = tmp_path / "moved"
    place.write_text(TASK.replace("    return", f"    folder.path.rename({str(moved)!r})\n    return"))
    ended = salmask("eval", str(folder.path), "--task", "means")
    mend = "put it back, replacing what was written there since, and repeat"
    what = f"{folder.path} was moved or removed while it was in use; mend: {mend}"
    assert (ended.code, ended.out, ended.err.splitlines()[-1]) == (2, "", f"salmask: {what}")
