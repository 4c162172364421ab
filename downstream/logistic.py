"""L2 logistic regression on a frozen backbone's pooled features, protocol `logreg-v1`.

The standard of the transfer literature (Kornblith et al. 2019, appendix A.4; SimCLR, BYOL, linusericsson/ssl-transfer
linear.py): scikit-learn's L-BFGS on features of central crops, not scaled; the weight of the regularisation is the best
of 45 from 1e-6 to 1e5 by mean per-class accuracy on held-out images (the larger one wins a tie); then fitted again on
all training images. scikit-learn minimises C * sum of losses + |w|^2 / 2 with C = 1 / weight. Our central crop is the
linear probe's (bilinear, 256/224); Kornblith's is bicubic and 224/224.
"""

import logging
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from downstream.features import Features, FeatureStore, labels_of
from downstream.measurement import Measurement, Target, averaged, measurements, scores
from downstream.partitions import Partition, split_seeds, standard
from downstream.progress import reported
from repro.distributed import world_size
from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.folder import RunFolder
from repro.runs.protocols import LogisticSettings
from repro.runs.run import Run

log = logging.getLogger("salmask")
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


def measure(run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
    """`mean_per_class`, `top1` and `top5`, the chosen `l2`, and how many fits did not converge, `unconverged`.

    On Caltech-101 means over drawn splits, beside each split's own values.

    Raises:
        UserError: the backbone or the data do not fit, or there are several processes.
    """
    if world_size() > 1:
        raise UserError("the task logistic runs in one process", mend="start it without torchrun, or with one task")
    protocol = run.logistic.protocol_on(target.dataset)
    partitions = [standard(target, seed) for seed in split_seeds(target.dataset, run.logistic.splits)]
    store = FeatureStore.of(run, folder, device, "logistic")
    found = []
    for seed, parts in enumerate(partitions):
        place = folder.path / "logistic" / f"{target.dataset}-{protocol}-split{seed}.npz"
        found.append(_measure_split(run.logistic, folder, store, parts, place))
    return measurements(protocol, partitions[0].split, averaged(found))


def _measure_split(
    settings: LogisticSettings, folder: RunFolder, store: FeatureStore, parts: Partition, place: Path
) -> dict[str, float]:
    classes = len(parts.train.classes)
    if len(set(parts.fit.targets)) < 2:
        raise UserError("logistic regression needs images of two classes or more", mend="salmask data verify")
    weights = grid(settings.l2_low, settings.l2_high, settings.values)
    with reported(folder, "logistic", "logistic regression", settings.values + 1) as tell:
        path = choose(
            (store(parts.fit), labels_of(parts.fit)),
            (store(parts.held_out), labels_of(parts.held_out)),
            weights,
            classes=classes,
            iterations=settings.iterations,
            place=place,
            key=f"{store.digest} {store.crop} {parts.fit.fingerprint()} {parts.held_out.fingerprint()}",
            tell=tell,
        )
        best = path.best
        model, converged = fit(store(parts.train), labels_of(parts.train), weights[best], settings.iterations)
        tell(settings.values + 1)
    if settings.values > 1 and best in (0, settings.values - 1):
        log.warning("the chosen l2=%.3g lies at the edge of the grid; the best may lie beyond", weights[best])
    unconverged = path.converged.count(False) + (not converged)
    if unconverged:
        names = ", ".join(f"{l2:.2g}" for l2, good in zip(weights, path.converged, strict=True) if not good)
        log.warning(
            "%d of %d fits did not converge in %d iterations (l2: %s%s); mend: a larger logistic.iterations",
            unconverged,
            settings.values + 1,
            settings.iterations,
            names or "none of the grid",
            "" if converged else "; and the final fit",
        )
    logits = torch.from_numpy(log_probabilities(model, store(parts.scored), classes))
    reached = scores(logits, torch.from_numpy(labels_of(parts.scored)))
    return reached | {"l2": float(weights[best]), "unconverged": float(unconverged)}


def grid(low: float, high: float, values: int) -> Floats:
    """Weights of the regularisation, evenly spaced by their logarithms, the largest first: each starts the next."""
    return np.geomspace(high, low, values)


@dataclass(frozen=True)
class RegularisationPath:
    """The fits of a grid, as far as they are made.

    Attributes:
        scores: mean per-class accuracy on the held-out images of each.
        converged: whether each did.
        coefficients: of the last, classes×D (1×D for two classes).
        intercepts: of the last.
    """

    scores: tuple[float, ...] = ()
    converged: tuple[bool, ...] = ()
    coefficients: Floats | None = None
    intercepts: Floats | None = None

    @property
    def best(self) -> int:
        """Index of the best score; the stronger regularisation wins a tie."""
        return int(np.argmax(self.scores))


def choose(
    train: tuple[Features, Labels],
    held_out: tuple[Features, Labels],
    weights: Floats,
    *,
    classes: int,
    iterations: int,
    place: Path,
    key: str,
    tell: Callable[[int], None] = lambda _: None,
) -> RegularisationPath:
    """Fit every weight of a grid, each from the one before, and score it on held-out images.

    Args:
        train: N×D features and their labels.
        held_out: likewise, to choose by.
        weights: of the regularisation, from the largest.
        classes: of the data set.
        iterations: of L-BFGS at most for each.
        place: a file that keeps each fit, from which an interrupted path goes on.
        key: what the file must have been made from.
        tell: called with the number of fits made.
    """
    path = _restore(place, key, weights)
    labels = torch.from_numpy(held_out[1])
    for done in range(len(path.scores), len(weights)):
        model, converged = fit(*train, weights[done], iterations, start=path)
        reached = scores(torch.from_numpy(log_probabilities(model, held_out[0], classes)), labels)["mean_per_class"]
        path = RegularisationPath((*path.scores, reached), (*path.converged, converged), model.coef_, model.intercept_)
        _save(place, key, weights, path)
        tell(done + 1)
    return path


def fit(
    features: Features, labels: Labels, l2: float, iterations: int, start: RegularisationPath | None = None
) -> tuple[LogisticRegression, bool]:
    """One regression, in double precision, and whether it converged.

    Args:
        features: N×D.
        labels: N.
        l2: weight of the regularisation.
        iterations: of L-BFGS at most.
        start: where to begin; from zeros otherwise. The optimum is the same.
    """
    model = LogisticRegression(C=1 / l2, solver="lbfgs", max_iter=iterations, warm_start=True)
    if start is not None and start.coefficients is not None and start.intercepts is not None:
        model.coef_, model.intercept_ = start.coefficients.copy(), start.intercepts.copy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features.astype(np.float64), labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def log_probabilities(model: LogisticRegression, features: Features, classes: int) -> Floats:
    """N×classes; minus infinity for classes that the model never saw."""
    found = np.full((len(features), classes), -np.inf)
    logits = model.decision_function(features.astype(np.float64))
    if logits.ndim == 1:  # of two classes, the second's against the first's
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    found[:, model.classes_] = log_softmax(logits, axis=1)
    return found


def _save(place: Path, key: str, weights: Floats, path: RegularisationPath) -> None:
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
    write_atomically(place, lambda file: np.savez(file, allow_pickle=False, **content))


def _restore(place: Path, key: str, weights: Floats) -> RegularisationPath:
    if not place.exists():
        return RegularisationPath()
    try:
        with np.load(place, allow_pickle=False) as held:
            if str(held["key"]) != key or not np.array_equal(held["weights"], weights):
                return RegularisationPath()
            return RegularisationPath(
                tuple(held["scores"].tolist()),
                tuple(held["converged"].tolist()),
                held["coefficients"],
                held["intercepts"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); its fits are made anew", place, " ".join(str(error).split()))
        return RegularisationPath()
