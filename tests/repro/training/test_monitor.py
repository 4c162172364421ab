"""The monitor's numbers are correct, it changes no bit of a training, and it names what goes wrong."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contrastive_samples import unit
from json_rows import read_rows
from mmengine.logging import HistoryBuffer
from training_samples import CPU, assert_same, assert_same_training, make_training, tiny

from baselines import build_learner
from repro.contrastive.losses import info_nce, nt_xent
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, read_symptoms
from repro.training.checkpoints.generators import generators
from repro.training.pretraining import build_training, open_data, plan_batches
from repro.training.watching.gallery import first_stages
from repro.training.watching.hooks import DivergenceError
from repro.training.watching.monitor import Monitor, chance_loss_of, exploded, judge, look
from repro.training.watching.representations import (
    alignment,
    effective_rank,
    hard_negative_share,
    knn_top1,
    similarities_to_others,
    spread,
    uniformity,
)

LARGER = {"data.scenes.train_count": 64, "optimization.epochs": 2, "optimization.batch": 32, "encoder.width": 8}
EXPLODING = {"optimization.lr": 1000.0, "encoder.width": 8, "optimization.epochs": 1}


def monitored(run: Any, folder: RunFolder) -> Any:
    """A training whose only hook is its monitor."""
    images = open_data(run, "train")
    training = build_training(run, folder, build_learner(run, images, CPU), plan_batches(run, images, CPU), CPU)
    return replace(training, hooks=[hook for hook in training.hooks if isinstance(hook, Monitor)])


def test_the_numbers_are_what_the_equations_say() -> None:
    # Four directions of equal length have rank four, a line has one, and a point has none, wherever it is.
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(3 * corners + 7) == pytest.approx(4)
    assert effective_rank(torch.arange(10.0).unsqueeze(1) * torch.ones(3)) == pytest.approx(1)
    assert effective_rank(torch.full((10, 3), 0.3)) == 0
    assert spread(corners) == pytest.approx(1)
    assert spread(unit(1, 5).repeat(9, 1)) == pytest.approx(0, abs=1e-6)
    query, key = unit(12, 6), unit(12, 6, seed=1)
    assert alignment(query, key) == pytest.approx(float((2 - 2 * (query * key).sum(1)).mean()))
    distances = [float((key[i] - key[j]).square().sum()) for i in range(12) for j in range(i)]
    assert uniformity(key) == pytest.approx(math.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert uniformity(unit(1, 6).repeat(5, 1)) == pytest.approx(0, abs=1e-6)
    # The share of the hard negative is the derivative of the loss by its logit.
    hard, queue = unit(12, 6, seed=2), unit(30, 6, seed=3).T
    share = hard_negative_share(query, key, hard, query @ queue, temperature=0.2, weight=2.0)
    moved = hard.clone().requires_grad_()
    info_nce(query, key, queue, moved, temperature=0.2, hard_negative_weight=2.0).backward()
    assert moved.grad is not None
    along = (moved.grad * query).sum(1) / (query * query).sum(1)  # share * rho / t / N along the query
    assert share == pytest.approx(float(along.sum() * 0.2 / 2.0), rel=1e-4)
    others = similarities_to_others(query, key)
    assert (others.isfinite().sum(1) == 22).all()
    share = hard_negative_share(query, key, hard, others, temperature=0.2, weight=2.0)
    (gradient,) = torch.autograd.grad(nt_xent(query, key, moved, temperature=0.2), moved)
    # Queries are half of the anchors.
    assert share == pytest.approx(2 * float((gradient * query).sum() * 0.2 / 2.0), rel=1e-4)
    assert others[3, [3, 15]].tolist() == [-math.inf, -math.inf]  # its own image's keys


@pytest.mark.parametrize("split", [1, 4])
def test_images_that_fill_no_group_have_the_hard_negative_of_a_shorter_one(split: int, tmp_path: Path) -> None:
    """In the released code's way one hard negative serves a whole group; such trainings used to fail after an epoch."""
    few = {"data.scenes.train_count": 80, "optimization.batch": 32, "moco.bn_splits": split, "encoder.width": 8}
    run = tiny("mocov2+ours-hp-released", few | {"data.crop": 64})
    (monitor,) = monitored(run, RunFolder.of(run, tmp_path)).hooks
    assert monitor.images == 20  # in groups of 32, or of 8
    assert 0 < look(monitor.watched, monitor._batches)["hard_negative_share"] < 1


def test_neighbours_of_an_image_vote_and_it_does_not_vote_for_itself() -> None:
    centres = 10 * torch.eye(3).repeat_interleave(8, 0)
    labels = torch.arange(3).repeat_interleave(8)
    assert knn_top1(centres + 0.1 * unit(24, 3), labels) == 100
    alone = torch.arange(24)
    assert knn_top1(centres + 0.1 * unit(24, 3), alone) == 0
    # Among five neighbours, the two near ones outvote the three far ones.
    assert knn_top1(centres[5:11] + 0.1 * unit(6, 3), labels[5:11]) == 100


@pytest.mark.parametrize(("gap", "top1"), [(0.047, 100 / 3), (0.05, 100)])
def test_votes_weigh_similarities_as_knn_v1_does(gap: float, top1: float) -> None:
    """Two neighbours outvote one that is nearer by less than 0.07 * log(2), or 0.0485."""
    near = math.acos(1 - gap)
    angles = torch.tensor([0, near, math.pi]).repeat_interleave(2)
    features = torch.stack([angles.cos(), angles.sin()], 1)
    assert knn_top1(features, torch.tensor([0, 0, 1, 1, 2, 2])) == pytest.approx(top1)


@pytest.mark.end_to_end
@pytest.mark.parametrize("method", ["mocov2+ours-hp", "simclr", "supervised"])
def test_it_changes_no_bit_of_a_training(method: str, tmp_path: Path) -> None:
    run = tiny(method, LARGER)
    watched, alone = RunFolder(tmp_path / "watched"), RunFolder(tmp_path / "alone")
    monitored(run, watched).run()
    make_training(run, alone).run()
    assert_same_training(watched.checkpoints, alone.checkpoints)
    rows = [row for row in read_rows(watched.metrics) if "weight_norm" in row]
    assert [row["step"] for row in rows] == [2, 4]
    names = {"weight_norm", "knn_top1", "effective_rank", "feature_norm"}
    names |= {"spread", "alignment", "uniformity"} if method != "supervised" else set()
    names |= {"hard_negative_share"} if "ours" in method else set()
    assert all(row.keys() == names | {"step"} for row in rows)
    assert 0 <= rows[0]["effective_rank"] <= 15
    assert 0 <= rows[0]["knn_top1"] <= 100
    assert [row for row in read_rows(watched.metrics) if "weight_norm" not in row] != []


def test_a_look_leaves_generators_and_model_as_they_are(tmp_path: Path) -> None:
    training = monitored(tiny("mocov2+ours-hp", LARGER), RunFolder(tmp_path))
    (monitor,) = training.hooks
    model = training.model.train()
    state, random = copy.deepcopy(model.state_dict()), generators()
    modes = [module.training for module in model.modules()]
    numbers = look(monitor.watched, monitor._batches)
    assert_same(generators(), random)
    assert_same(dict(model.state_dict()), dict(state))
    assert [module.training for module in model.modules()] == modes
    assert numbers == look(monitor.watched, monitor._batches)
    assert 0 < numbers["hard_negative_share"] < 1


def test_batches_that_no_step_has_compile_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def kernels(images: torch.Tensor, draws: Any, settings: Any) -> torch.Tensor:
        compiled.append(len(images))
        return images

    monkeypatch.setattr("repro.augmentation.on_device._compiled", lambda: kernels)
    run = tiny("mocov2+ours-hp-random", LARGER)
    training = monitored(run, RunFolder(tmp_path))
    (monitor,) = training.hooks
    maker = training.model.data_preprocessor
    maker.compiled = True
    look(monitor.watched, monitor._batches)
    first_stages(training.loader.dataset, maker)
    assert compiled == []
    maker.views(monitor._batches[0])
    assert compiled == [16, 16]


def test_a_look_that_fails_is_told_once_and_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes\ndiffer")

    monkeypatch.setattr("repro.training.watching.monitor.look", broken)
    folder = RunFolder(tmp_path)
    with caplog.at_level("WARNING", "salmask"):
        monitored(tiny(changes=LARGER), folder).run()
    (told,) = [record for record in caplog.records if "monitor" in record.getMessage()]
    assert told.getMessage() == (
        "the monitor cannot look at images: shapes differ; the training goes on, and only loss and weights are watched"
    )
    assert told.exc_info  # the traceback is logged for the developers
    assert [row["step"] for row in read_rows(folder.metrics)] == [1, 2, 3, 4]


def test_without_images_or_with_too_few_only_weights_are_watched(tmp_path: Path) -> None:
    for number, changes in enumerate(
        ({**LARGER, "machine.monitor_images": 0}, {"optimization.epochs": 1, "encoder.width": 8})
    ):
        folder = RunFolder(tmp_path / str(number))
        monitored(tiny(changes=changes), folder).run()
        assert all("loss" in row for row in read_rows(folder.metrics))


def test_exploding_weights_are_named_at_once_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny(changes=EXPLODING)
    folder = RunFolder(tmp_path)
    with caplog.at_level("WARNING", "salmask"):
        monitored(run, folder).run()
    (symptom,) = read_symptoms(folder.health)
    assert (symptom.kind, symptom.step) == ("exploded weights", 1)
    lines = [record.getMessage() for record in caplog.records if "exploded" in record.getMessage()]
    assert len(lines) == 1  # once, though every later step is as bad
    assert lines[0].endswith("; mend: a lower optimization.lr, or a longer optimization.warmup_share")


def test_stop_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    run = tiny(changes={**EXPLODING, "machine.on_collapse": "stop"})
    folder = RunFolder(tmp_path)
    with pytest.raises(DivergenceError, match=r"^exploded weights at step 1: norm .*on_collapse=stop ends the run"):
        monitored(run, folder).run()
    assert [symptom.kind for symptom in read_symptoms(folder.health)] == ["exploded weights"]
    assert not list(folder.checkpoints.glob("*.pth"))  # none of the weights that exploded


def test_a_collapse_is_seen_after_its_epoch_and_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.training.watching.monitor.SETTLED", 0)
    monkeypatch.setattr("repro.training.watching.monitor.LEAST_SPREAD", 2.0)  # the largest possible spread is 1
    folder = RunFolder(tmp_path)
    monitored(tiny(changes=LARGER), folder).run()
    told = [symptom.step for symptom in read_symptoms(folder.health) if symptom.kind == "collapsed embeddings"]
    assert told == [2]  # two epochs with two steps each


def test_collapse_and_a_loss_at_chance_are_told_from_learning() -> None:
    fine = {"spread": 0.0101, "effective_rank": 1.51}
    assert judge(100, fine, (0.989 * 7.6, 7.5), 7.6) == []
    assert judge(100, fine, None, None) == []
    assert [f.kind for f in judge(100, fine | {"spread": 0.0099}, (4.0, 4.0), 7.6)] == ["collapsed embeddings"]
    assert [f.kind for f in judge(100, fine | {"effective_rank": 1.49}, (4.0, 4.0), 7.6)] == ["collapsed features"]
    assert [f.kind for f in judge(100, {}, (0.991 * 7.6, 0.991 * 7.6), 7.6)] == ["loss at chance level"]
    # With a hard negative, SimCLR's loss begins above chance level, and takes some epochs to fall below it.
    assert judge(192, {}, (4.94, 4.95), 4.85) == []
    for norm in (float("nan"), 50.1):
        assert [f.kind for f in exploded(3, norm, 5.0)] == ["exploded weights"]
    assert exploded(3, 50.0, 5.0) == []


@pytest.mark.parametrize(
    ("steps", "losses"),
    [
        ([5, 5, 1, 2, 3], None),  # less is known than twice the window: nothing to compare with
        ([9, 9, 0, 4, 4, 1, 2, 3], (2.0, 6.0)),  # in a first epoch, with its first steps
        ([0, 0, 6, 6, 9] + [7] * 7 + [1, 2, 3], (2.0, 7.0)),  # else with the last ones of the epoch before
    ],
)
def test_a_loss_is_compared_with_that_of_an_epoch_before(
    steps: list[float], losses: tuple[float, float] | None, tmp_path: Path
) -> None:
    training = monitored(tiny(changes=LARGER), RunFolder(tmp_path))
    (monitor,) = training.hooks
    monitor.every = 3
    history = HistoryBuffer()
    for loss in steps:
        history.update(loss)
    hub = SimpleNamespace(log_scalars={"train/loss": history})
    assert monitor._losses(SimpleNamespace(message_hub=hub, train_dataloader=range(10))) == losses


@pytest.mark.parametrize(
    ("share", "interval", "settled"),
    [(0.0, "step", 100), (0.1, "step", 100), (0.4, "step", 160), (0.4, "epoch", 160)],
)
def test_no_collapse_is_told_during_the_warm_up(share: float, interval: str, settled: int, tmp_path: Path) -> None:
    """The learning rate is too low to learn anything: the study's best rows were warned of, and could be ended."""
    changes = {
        "data.scenes.train_count": 640,
        "optimization.batch": 32,
        "optimization.epochs": 20,
        "optimization.warmup_share": share,
        "optimization.interval": interval,
    }
    (monitor,) = monitored(tiny(changes=changes), RunFolder(tmp_path)).hooks
    assert monitor.watched.settled == settled


def test_before_that_nothing_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.training.watching.monitor.LEAST_SPREAD", 2.0)  # the largest possible spread is 1
    folder = RunFolder(tmp_path)
    monitored(tiny(changes=LARGER), folder).run()
    assert read_symptoms(folder.health) == []


def test_the_loss_at_chance_level_is_that_of_orthogonal_embeddings() -> None:
    query, key = torch.eye(40)[:4], torch.eye(40)[4:8]
    loss = info_nce(query, key, torch.eye(40)[:, 8:30], torch.eye(40)[30:34], temperature=0.2)
    assert float(loss) == pytest.approx(math.log(22 + 2))
    run = tiny("mocov2+ours-hp")
    learner = build_learner(run, open_data(run, "train"), CPU)
    assert chance_loss_of(run, learner.model) == pytest.approx(math.log(32 + 2))
    run = tiny("simclr")
    assert chance_loss_of(run, build_learner(run, open_data(run, "train"), CPU).model) == pytest.approx(math.log(15))
    run = tiny("supervised")
    learner = build_learner(run, open_data(run, "train"), CPU)
    assert chance_loss_of(run, learner.model) is None


def test_a_damaged_record_says_so(tmp_path: Path) -> None:
    for text in ("", "[{]", '[{"kind": 1}]', "3"):
        (tmp_path / "health.json").write_text(text)
        (symptom,) = read_symptoms(tmp_path / "health.json")
        assert symptom.kind == "unreadable record"
        assert "health.json" in symptom.detail
    assert read_symptoms(tmp_path / "none.json") == []
    assert str(Symptom("kind", 3, "numbers", "mend")) == "kind at step 3: numbers"


def test_a_kind_that_an_older_version_recorded_has_its_name_of_today(tmp_path: Path) -> None:
    entry = '{"kind": "loss of a guess", "step": 128, "detail": "loss 4.8", "mend": "x"}'
    (tmp_path / "health.json").write_text(f"[{entry}]")
    assert [str(symptom) for symptom in read_symptoms(tmp_path / "health.json")] == [
        "loss at chance level at step 128: loss 4.8"
    ]
