"""L2 logistic regression on a frozen backbone's pooled features, protocol `logreg-v2`.

The standard of the transfer literature (Kornblith et al. 2019, appendix A.4; SimCLR, BYOL, linusericsson/ssl-transfer
linear.py): scikit-learn's L-BFGS on features of central crops, not scaled; the weight of the regularisation is the best
of 45 from 1e-6 to 1e5 by mean per-class accuracy on held-out images (the larger one wins a tie); the regression is then
fitted again on all training images. scikit-learn minimises C * sum of losses + |w|^2 / 2 with C = 1 / weight. Our
central crop is the linear probe's (bilinear, 256/224); Kornblith's is bicubic and 224/224.

In `logreg-v1`, by which older runs in `examples/` were measured, the rounding of the means decided some of the ties.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from downstream.features import Features, FeatureStore, labels_of
from downstream.measurement import (
    Measurement,
    Target,
    averaged,
    keep_predictions,
    measurements,
    predictions_of,
    scores,
)
from downstream.partitions import Partition, split_seeds, standard
from downstream.progress import reported
from repro.backbones.backbone import Backbone
from repro.errors import UserError
from repro.filesystem.files import reading, write_atomically
from repro.processes.distributed import world_size
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import Predictions, joined
from repro.settings.protocols import LogisticSettings
from repro.settings.run import Run

log = logging.getLogger("salmask")
Labels = NDArray[np.int64]
"""The labels of N images."""
Floats = NDArray[np.float64]


def check(run: Run, target: Target, backbone: Backbone) -> None:
    """Checks what can be known before features are computed.

    Args:
        run: `logistic` is used.
        target: The data set.
        backbone: Not used.

    Raises:
        UserError: The data do not fit, or there are several processes.
    """
    _partitions(run, target)


def _partitions(run: Run, target: Target) -> list[Partition]:
    """Opens the data set, divided once for each drawn split; raises the UserErrors of `check`."""
    # scikit-learn knows no process group: every rank would fit the same regressions and write the same files.
    if world_size() > 1:
        raise UserError("the task logistic runs in one process", mend="start it without torchrun, or with one task")
    partitions = [standard(target, seed) for seed in split_seeds(target.dataset, run.logistic.splits)]
    if any(len(set(partition.fit.targets)) < 2 for partition in partitions):
        raise UserError("logistic regression needs images of two classes or more", mend="salmask data verify")
    if not all(len(partition.held_out) for partition in partitions):
        # Each class keeps its first image to fit on, so that classes of one image leave none to choose a weight on.
        raise UserError("logistic regression needs a class of two training images or more", mend="salmask data verify")
    return partitions


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """Measures `mean_per_class`, `top1` and `top5`, the best `l2`, and the number of fits that did not converge.

    On Caltech-101 the numbers are means over drawn splits, and the values of each split are added.

    Args:
        run: `logistic`, `data.crop` and `machine` are used.
        folder: Of the run, with its `backbone.pth`.
        target: The data set.
        device: Where features are computed; the fits run on the CPU.

    Raises:
        UserError: The backbone or the data do not fit, or there are several processes.
    """
    partitions = _partitions(run, target)
    protocol = run.logistic.protocol(target.dataset).name
    store = FeatureStore.of(run, folder, device, "logistic", channels_last=run.logistic.channels_last)
    split_values, split_predictions = [], []
    for seed, partition in enumerate(partitions):
        fits_file = folder.path / "logistic" / f"{target.dataset}-{protocol}-split{seed}.npz"
        values_of_split, predictions = _measure_split(run.logistic, folder, store, partition, fits_file)
        split_values.append(values_of_split)
        split_predictions.append(predictions)
    values = averaged(split_values)
    evaluation = Evaluation("logistic", target.dataset)
    kept = keep_predictions(folder, evaluation, protocol, joined(split_predictions), values)
    return measurements(protocol, partitions[0].split, values, kept)


def _measure_split(
    settings: LogisticSettings, folder: RunFolder, store: FeatureStore, partition: Partition, fits_file: Path
) -> tuple[dict[str, float], Predictions]:
    """Chooses the weight on one split, fits again on all of the split's training images, and scores that fit."""
    classes = len(partition.train.classes)
    weights = grid(settings.l2_low, settings.l2_high, settings.values)
    # The key identifies the features, their order, and the labels, which are part of a subset's fingerprint. Weights
    # are compared by themselves.
    key = f"{store.name(partition.fit)} {store.name(partition.held_out)}"
    with reported(folder, "logistic", "logistic regression", settings.values + 1, "fits") as tell:
        path = fit_path(
            (store(partition.fit), labels_of(partition.fit)),
            (store(partition.held_out), labels_of(partition.held_out)),
            weights,
            classes=classes,
            iterations=settings.iterations,
            fits_file=fits_file,
            key=key,
            tell=tell,
        )
        best = path.best
        # Starts from zeros, and not from the path's last fit, whose regularisation is the weakest.
        model, converged = fit(store(partition.train), labels_of(partition.train), weights[best], settings.iterations)
        tell(settings.values + 1)
    if settings.values > 1 and best in (0, settings.values - 1):
        # If the best value lies at an edge, a wider grid could give a better one.
        log.warning("the chosen l2=%.3g lies at the edge of the grid; the best may lie beyond", weights[best])
    unconverged = _warn_unconverged(settings, weights, path, converged)
    logits = torch.from_numpy(log_probabilities(model, store(partition.scored), classes))
    accuracies = scores(logits, torch.from_numpy(labels_of(partition.scored)))
    values = accuracies | {"l2": float(weights[best]), "unconverged": float(unconverged)}
    return values, predictions_of(logits, partition.scored)


def _warn_unconverged(
    settings: LogisticSettings, weights: Floats, path: "RegularisationPath", final_converged: bool
) -> int:
    """Returns how many fits, the final one included, did not converge; names them in the log."""
    unconverged = path.converged.count(False) + (not final_converged)
    if unconverged:
        names = ", ".join(f"{l2:.2g}" for l2, good in zip(weights, path.converged, strict=True) if not good)
        log.warning(
            "%d of %d fits did not converge in %d iterations (l2: %s%s); mend: a larger logistic.iterations",
            unconverged,
            settings.values + 1,
            settings.iterations,
            names or "none of the grid",
            "" if final_converged else "; and the final fit",
        )
    return unconverged


def grid(low: float, high: float, values: int) -> Floats:
    """Returns weights of the regularisation, evenly spaced on a logarithmic scale.

    The largest comes first: its fit is the easiest, and each fit is a good start for the next.

    Args:
        low: Smallest weight.
        high: Largest weight.
        values: How many there are.
    """
    return np.geomspace(high, low, values)


@dataclass(frozen=True)
class RegularisationPath:
    """The fits of a grid that are made so far.

    Attributes:
        scores: Mean per-class accuracy of each fit on the held-out images, in percent.
        converged: Whether each fit converged.
        coefficients: Of the last fit, classes×D (1×D for two classes).
        intercepts: Of the last fit, one for each class (one for two classes).
    """

    scores: tuple[float, ...] = ()
    converged: tuple[bool, ...] = ()
    coefficients: Floats | None = None
    intercepts: Floats | None = None

    @property
    def best(self) -> int:
        """Index of the best score; the stronger regularisation wins a tie."""
        # Equal means of other classes' accuracies differ in their last digits. Of equals, `argmax` returns the first,
        # and the grid begins with the largest weight.
        return int(np.argmax(np.round(self.scores, 9)))


def fit_path(
    train: tuple[Features, Labels],
    held_out: tuple[Features, Labels],
    weights: Floats,
    *,
    classes: int,
    iterations: int,
    fits_file: Path,
    key: str,
    tell: Callable[[int], None] = lambda _: None,
) -> RegularisationPath:
    """Fits with every weight of a grid, each fit starting from the one before, and scores them on held-out images.

    Args:
        train: N×D features and their labels, to fit on.
        held_out: Features and labels to score on.
        weights: Of the regularisation, the largest first.
        classes: Number of classes of the data set.
        iterations: Most iterations of L-BFGS for one fit.
        fits_file: Keeps the fits made so far; an interrupted path goes on from there.
        key: Identifies the data that the fits are made from. A file with another key is ignored.
        tell: Called with the number of fits made so far.
    """
    path = restored_fits(fits_file, key, weights, train)
    labels = torch.from_numpy(held_out[1])
    for index in range(len(path.scores), len(weights)):
        model, converged = fit(*train, weights[index], iterations, start=path)
        logits = torch.from_numpy(log_probabilities(model, held_out[0], classes))
        score = scores(logits, labels)["mean_per_class"]
        path = RegularisationPath((*path.scores, score), (*path.converged, converged), model.coef_, model.intercept_)
        save_fits(fits_file, key, weights, path)
        tell(index + 1)
    return path


def fit(
    features: Features, labels: Labels, l2: float, iterations: int, start: RegularisationPath | None = None
) -> tuple[LogisticRegression, bool]:
    """Fits one regression, in double precision.

    Args:
        features: N×D.
        labels: N.
        l2: Weight of the regularisation.
        iterations: Most iterations of L-BFGS.
        start: The fit starts from the coefficients of this path's last fit; None: from zeros. The optimum is the same.

    Returns:
        The regression, and whether it converged.
    """
    model = LogisticRegression(C=1 / l2, solver="lbfgs", max_iter=iterations, warm_start=True)
    if start is not None and start.coefficients is not None and start.intercepts is not None:
        # With `warm_start` scikit-learn starts from the values of these attributes.
        model.coef_, model.intercept_ = start.coefficients.copy(), start.intercepts.copy()
    # scikit-learn says only by a warning that L-BFGS did not converge. "always", because by default Python gives a
    # warning from one place in the code once per process, and the next fit would seem to have converged.
    with warnings.catch_warnings(record=True) as fit_warnings:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features.astype(np.float64), labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in fit_warnings)


def log_probabilities(model: LogisticRegression, features: Features, classes: int) -> Floats:
    """Computes N×classes log-probabilities.

    Args:
        model: Fitted; it knows only the classes that occurred among its labels.
        features: N×D.
        classes: Number of classes of the data set.

    Returns:
        The log-probabilities; minus infinity for classes that the model never saw.
    """
    logits = model.decision_function(features.astype(np.float64))
    if logits.ndim == 1:  # of two classes, the second's against the first's
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    log_probability = np.full((len(features), classes), -np.inf)
    log_probability[:, model.classes_] = log_softmax(logits, axis=1)
    return log_probability


def save_fits(fits_file: Path, key: str, weights: Floats, path: RegularisationPath) -> None:
    """Writes the fits made so far, of which there is at least one."""
    assert path.coefficients is not None
    assert path.intercepts is not None
    content = {
        "key": np.array(key),
        "weights": weights,
        "scores": np.array(path.scores),
        "converged": np.array(path.converged),
        "coefficients": path.coefficients,
        "intercepts": path.intercepts,
    }
    write_atomically(fits_file, lambda file: np.savez(file, allow_pickle=False, **content))


def restored_fits(fits_file: Path, key: str, weights: Floats, train: tuple[Features, Labels]) -> RegularisationPath:
    """Reads the fits that were made with the same key and weights; an empty path if the file has others or is damaged.

    Args:
        fits_file: From `save_fits`.
        key: As in `fit_path`.
        weights: As in `fit_path`.
        train: Features and labels that the fits must be made from.
    """
    if not fits_file.exists():
        return RegularisationPath()
    try:
        with reading(fits_file, "remove it"), np.load(fits_file, allow_pickle=False) as content:
            if str(content["key"]) != key or not np.array_equal(content["weights"], weights):
                return RegularisationPath()
            return _fits_of(content, len(weights), *train)
    except UserError as error:
        log.warning("%s; its fits are made anew", error.what)
        return RegularisationPath()


def _fits_of(content: Mapping[str, Any], most: int, features: Features, labels: Labels) -> RegularisationPath:
    """Returns the fits of a file; raises a ValueError if they cannot be of these features and `most` weights."""
    accuracies, converged = tuple(content["scores"].tolist()), tuple(content["converged"].tolist())
    coefficients, intercepts = content["coefficients"], content["intercepts"]
    classes, width = len(np.unique(labels)), features.shape[1]
    rows = classes if classes > 2 else 1
    if not (
        1 <= len(accuracies) == len(converged) <= most
        and all(0 <= accuracy <= 100 for accuracy in accuracies)
        and (coefficients.shape, intercepts.shape) == ((rows, width), (rows,))
        and np.isfinite(coefficients).all()
        and np.isfinite(intercepts).all()
    ):
        raise ValueError(f"it holds no fits of {classes} classes by {width} features and {most} weights")
    return RegularisationPath(accuracies, converged, coefficients, intercepts)
