import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from training_samples import CPU, tiny, with_random_backbone
from transfer_samples import make_caltech, make_flowers, recognise_miniatures

from downstream import logistic
from downstream.features import FeatureStore
from downstream.logistic import RegularisationPath, fit, fit_path, grid, log_probabilities
from downstream.measurement import Target
from downstream.partitions import standard
from downstream.tasks import evaluate
from repro.data.subsets import Subset, sizes
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.settings.protocols import LogisticSettings
from repro.training.pretraining import open_data

RUN = tiny(changes={"logistic.values": 5})


def blobs(count: int, seed: int, spread: float = 1.5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Four overlapping clouds in nine dimensions."""
    centres = np.random.default_rng(99).normal(size=(4, 9)) * 1.2
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return (centres[labels] + rng.normal(size=(count, 9)) * spread).astype(np.float32), labels


def objective(flat: NDArray[np.float64], x: NDArray[np.float32], y: NDArray[np.int64], l2: float) -> float:
    """Sum of the losses + l2 * |w|^2 / 2 over l2, as scikit-learn weighs it: the intercept is not penalised."""
    w, b = flat[: 4 * 9].reshape(4, 9), flat[4 * 9 :]
    logits = x.astype(np.float64) @ w.T + b
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[range(len(y)), y]
    return float(losses.sum() + l2 * (w**2).sum() / 2)


@pytest.mark.parametrize("l2", [100.0, 1.0])
def test_a_fit_is_the_minimum_of_the_written_out_objective(l2: float) -> None:
    x, y = blobs(80, 0)
    model, converged = fit(x, y, l2, 5000)
    assert (converged, model.coef_.dtype) == (True, np.float64)
    value = objective(np.concatenate([model.coef_.ravel(), model.intercept_]), x, y, l2)
    minimum = minimize(
        objective, np.zeros(4 * 10), (x, y, l2), method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-13}
    )
    assert value == pytest.approx(minimum.fun, rel=1e-5)
    # Ten times the weight has another optimum, so the direction of C = 1 / l2 is right.
    stronger, _ = fit(x, y, 10 * l2, 5000)
    assert np.abs(stronger.coef_).sum() < np.abs(model.coef_).sum()


def test_a_warm_start_ends_where_a_cold_one_does(tmp_path: Path) -> None:
    train, held_out = blobs(80, 0), blobs(60, 1)
    weights = grid(0.1, 1e3, 7)
    path = fit_path(train, held_out, weights, classes=4, iterations=5000, fits_file=tmp_path / "p.npz", key="k")
    cold, _ = fit(*train, weights[-1], 5000)
    assert path.coefficients is not None
    assert path.intercepts is not None
    warm_value = objective(np.concatenate([path.coefficients.ravel(), path.intercepts]), *train, weights[-1])
    cold_value = objective(np.concatenate([cold.coef_.ravel(), cold.intercept_]), *train, weights[-1])
    assert warm_value == pytest.approx(cold_value, rel=1e-3)
    at_its_end, _ = fit(*train, weights[-1], 5000, start=path)
    assert at_its_end.n_iter_[0] < cold.n_iter_[0] / 10
    for l2, score in zip(weights, path.scores, strict=True):
        model, _ = fit(*train, l2, 5000)
        hits = model.predict(held_out[0]) == held_out[1]
        by_class = 100 * np.mean([hits[held_out[1] == label].mean() for label in range(4)])
        assert abs(score - by_class) <= 100 / 15 / 4 + 1e-9  # at most one image of one class


def test_the_grid_is_kornbliths() -> None:
    settings = LogisticSettings()
    weights = grid(settings.l2_low, settings.l2_high, settings.values)
    assert len(weights) == 45
    assert (weights[0], weights[-1]) == (pytest.approx(1e5), pytest.approx(1e-6))
    assert np.diff(np.log10(weights)) == pytest.approx([-0.25] * 44)
    assert settings.protocol("flowers102").name == "logreg-v2"
    assert LogisticSettings(values=9, splits=1).protocol("flowers102").name == "logreg-v2[values=9]"
    assert LogisticSettings(splits=1).protocol("caltech101").name == "logreg-v2[splits=1]"


def test_the_stronger_regularisation_wins_a_tie() -> None:
    assert logistic.RegularisationPath(scores=(10.0, 30.0, 30.0, 20.0)).best == 1
    # Equal means of the accuracies of twenty classes, as one fit and the next had them.
    assert logistic.RegularisationPath(scores=(31.75, 36.75, 36.75000000000001)).best == 1
    assert logistic.RegularisationPath(scores=(36.75, 36.7501)).best == 1  # no tie: one image of a large data set


def test_held_out_images_are_scored_class_by_class(tmp_path: Path) -> None:
    """Otherwise, the weight would be chosen for the large classes, and the result counts all classes alike."""
    train, (features, labels) = blobs(80, 0), blobs(200, 1)
    few = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels)[:15]])  # 50 of one class, 5 of each other
    held_out = features[few], labels[few]
    path = fit_path(train, held_out, grid(1, 1, 1), classes=4, iterations=500, fits_file=tmp_path / "p.npz", key="k")
    hits = fit(*train, 1, 500)[0].predict(held_out[0]) == held_out[1]
    by_class = 100 * np.mean([hits[held_out[1] == label].mean() for label in range(4)])
    assert path.scores == (pytest.approx(by_class),)
    assert abs(by_class - 100 * hits.mean()) > 1


def test_an_interrupted_path_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    train, held_out = blobs(80, 0), blobs(60, 1)
    weights = grid(1e-3, 1e3, 6)

    def run(fits_file: Path, key: str = "k", stop: int = 99) -> tuple[logistic.RegularisationPath, int]:
        calls = []

        def tell(fits: int) -> None:
            calls.append(fits)
            if len(calls) == stop:
                raise KeyboardInterrupt

        path = fit_path(train, held_out, weights, classes=4, iterations=500, fits_file=fits_file, key=key, tell=tell)
        return path, len(calls)

    undisturbed, _ = run(tmp_path / "a.npz")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.npz", stop=4)
    resumed, new_fits = run(tmp_path / "b.npz")
    assert new_fits == 2
    assert resumed.scores == undisturbed.scores
    assert np.array_equal(resumed.coefficients, undisturbed.coefficients)
    assert run(tmp_path / "b.npz")[1] == 0
    assert run(tmp_path / "b.npz", key="other features")[1] == 6
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:300])
    repeated, new_fits = run(tmp_path / "b.npz")
    assert (new_fits, repeated.scores) == (6, undisturbed.scores)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fits_of_few_classes_are_taken_up_again(classes: int, tmp_path: Path) -> None:
    """For two classes scikit-learn keeps one class's coefficients."""
    (features, labels), weights = blobs(80, 0), grid(1e-1, 1e1, 2)
    data, made = (features, labels % classes), list[int]()
    for _ in range(2):
        settings = {"classes": classes, "iterations": 500, "fits_file": tmp_path / "fits.npz", "key": "k"}
        fit_path(data, data, weights, tell=made.append, **settings)
    assert made == [1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": np.full(3, 50.0), "converged": np.ones(3, bool)},  # more fits than weights
        {"converged": np.ones(2, bool)},
        {"scores": np.array([np.nan])},
        {"scores": np.array([250.0])},
        {"coefficients": np.zeros((4, 5))},
        {"coefficients": np.full((4, 9), np.nan)},
        {"intercepts": np.zeros(3)},
    ],
)
def test_fits_that_cannot_be_of_these_features_are_made_anew(
    damage: dict[str, NDArray[Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, held_out, weights, fits_file = blobs(80, 0), blobs(60, 1), grid(1e-1, 1e1, 2), tmp_path / "fits.npz"

    def path() -> logistic.RegularisationPath:
        return fit_path(train, held_out, weights, classes=4, iterations=500, fits_file=fits_file, key="k")

    undisturbed = path()
    with np.load(fits_file) as content:
        first = {**content, "scores": content["scores"][:1], "converged": content["converged"][:1]}
    np.savez(fits_file, **{**first, **damage})
    assert path().scores == undisturbed.scores
    assert f"{fits_file} cannot be read (ValueError: it holds no fits of" in caplog.text
    assert "; its fits are made anew" in caplog.text


def test_fits_that_do_not_converge_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = replace(RUN, logistic=LogisticSettings(values=3, iterations=1))
    with caplog.at_level(logging.WARNING):
        rows = evaluate(run, with_random_backbone(run, tmp_path), "logistic", CPU)
    values = {row.metric: row.value for row in rows}
    assert values["unconverged"] == 4
    assert "4 of 4 fits did not converge in 1 iterations (l2: 1e+05, 0.32, 1e-06; and the final fit)" in caplog.text
    assert rows[0].protocol == "logreg-v2[values=3,iterations=1]"


def test_classes_that_no_training_image_shows_are_never_predicted() -> None:
    x, y = blobs(60, 0)
    model, _ = fit(x[y != 2], y[y != 2], 1.0, 1000)
    log_probability = log_probabilities(model, x, 6)
    assert np.isneginf(log_probability[:, [2, 4, 5]]).all()
    assert np.exp(log_probability).sum(1) == pytest.approx(np.ones(60))
    of_two_classes, _ = fit(x[y < 2], y[y < 2], 1.0, 1000)
    assert np.exp(log_probabilities(of_two_classes, x, 4)).sum(1) == pytest.approx(np.ones(60))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = with_random_backbone(RUN, tmp_path_factory.mktemp("logistic"))
    evaluate(RUN, folder, "logistic", CPU)
    return folder


def test_the_rows_are_those_of_the_chosen_weight_fitted_on_all_training_images(evaluated: RunFolder) -> None:
    rows, _ = read(evaluated.results)
    values = {row.metric: row.value for row in rows}
    assert {(row.task, row.protocol, row.dataset, row.split) for row in rows} == {
        ("logistic", "logreg-v2[values=5]", "scenes", "val")
    }
    store = FeatureStore.of(RUN, evaluated, CPU, "logistic")
    partition = standard(Target("scenes", None, RUN.data.scenes), seed=0)
    assert set(partition.fit.indices).isdisjoint(partition.held_out.indices)
    assert len(partition.fit) + len(partition.held_out) == len(partition.train) == 20
    # 20 scenes of 8 classes, two or three of each; one of each class is held out.
    assert len(partition.held_out) == 8
    labels = np.array(partition.scored.targets)
    model, _ = fit(store(partition.train), np.array(partition.train.targets), values["l2"], 1000)
    hits = model.predict(store(partition.scored)) == labels
    assert values["top1"] == pytest.approx(100 * hits.mean())
    assert values["mean_per_class"] == pytest.approx(100 * np.mean([hits[labels == c].mean() for c in range(8)]))


def test_a_tenth_of_each_class_is_held_out_and_one_image_at_least_is_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    train, counts = open_data(RUN, "train"), [1, 2, 3, 14, 16, 20, 100, 1300]
    images = Subset(train, np.repeat([train.targets.index(label) for label in range(8)], counts))
    monkeypatch.setattr(Target, "open_both", lambda _: (images, images))
    partition = standard(Target("scenes", None, RUN.data.scenes), seed=0)
    assert sizes(partition.held_out) == [0, 1, 1, 1, 2, 2, 10, 130]
    assert sizes(partition.fit) == [1, 1, 2, 13, 14, 18, 90, 1170]


def test_the_weight_is_chosen_on_training_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen on the scored images, the weight would give a better number that looks like an honest one."""
    folder, asked = with_random_backbone(RUN, tmp_path), []

    def no_path(*parts: Any, **_: Any) -> None:
        asked.extend(parts[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(logistic, "fit_path", no_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(RUN, folder, "logistic", CPU)
    store = FeatureStore.of(RUN, folder, CPU, "logistic")
    partition = standard(Target("scenes", None, RUN.data.scenes), seed=0)
    for (features, labels), part in zip(asked, (partition.fit, partition.held_out), strict=True):
        assert np.array_equal(features, store(part))
        assert labels.tolist() == part.targets
        assert part.pool.fingerprint() == open_data(RUN, "train").fingerprint()


def test_a_weight_chosen_at_either_edge_of_the_grid_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny(changes={"logistic.values": 3, "logistic.iterations": 9})
    folder = with_random_backbone(run, tmp_path)
    for best in range(3):
        path = RegularisationPath(tuple(float(place == best) for place in range(3)), (True,) * 3)
        monkeypatch.setattr(logistic, "fit_path", lambda *_, path=path, **__: path)
        caplog.clear()
        logistic.measure(run, folder, Target("scenes", None, run.data.scenes), CPU)
        assert ("lies at the edge of the grid" in caplog.text) == (best != 1)


def test_a_second_call_fits_nothing(evaluated: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "fit", None)
    assert evaluate(RUN, evaluated, "logistic", CPU) == read(evaluated.results)[0]


def test_flowers_use_the_official_split_and_caltech_the_mean_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognise_miniatures(monkeypatch)
    folder = with_random_backbone(RUN, tmp_path)
    rows = evaluate(RUN, folder, "logistic@flowers102", CPU, make_flowers(tmp_path / "data"))
    assert {(row.dataset, row.split, row.protocol) for row in rows} == {("flowers102", "test", "logreg-v2[values=5]")}
    assert {row.metric for row in rows} == {"mean_per_class", "top1", "top5", "l2", "unconverged"}
    rows = evaluate(RUN, folder, "logistic@caltech101", CPU, make_caltech(tmp_path / "data"))
    values = {row.metric: row.value for row in rows}
    of_splits = [values[f"mean_per_class@split={seed}"] for seed in range(3)]
    assert values["mean_per_class"] == pytest.approx(np.mean(of_splits))
    assert len({values[f"top1@split={seed}"] for seed in range(3)} | set(of_splits)) > 1
    assert {row.split for row in rows} == {"test"}
    assert len(list(folder.path.glob("features/*.npy"))) == 2  # one pass over each pool, for all splits


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "world_size", lambda: 2)
    with pytest.raises(UserError, match="the task logistic runs in one process; mend: start it without torchrun"):
        logistic.measure(RUN, with_random_backbone(RUN, tmp_path), Target("scenes", None, RUN.data.scenes), CPU)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    run = tiny(changes={"data.scenes.classes": 1, "logistic.values": 2})
    with pytest.raises(UserError, match="needs images of two classes or more"):
        evaluate(run, with_random_backbone(run, tmp_path), "logistic", torch.device("cpu"))


def test_classes_of_one_image_each_are_refused_before_features_are_computed(tmp_path: Path) -> None:
    run = tiny(changes={"data.scenes.train_count": RUN.data.scenes.classes, "logistic.values": 2})
    folder = with_random_backbone(run, tmp_path)
    with pytest.raises(UserError, match="needs a class of two training images or more"):
        evaluate(run, folder, "logistic", torch.device("cpu"))
    assert not (folder.path / "features").exists()
