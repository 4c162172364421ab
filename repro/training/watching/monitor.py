"""Watches what a network learns while it is trained, and warns at once if it explodes or collapses."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from torchvision.models import ResNet

from repro.contrastive.batch_norm import joint_statistics
from repro.contrastive.loss_model import ContrastiveModel
from repro.contrastive.moco import MoCo
from repro.contrastive.simclr import SimCLR
from repro.errors import one_line
from repro.processes.distributed import decided_by_first, rank
from repro.randomness import Purpose, stream
from repro.runs.folder import RunFolder
from repro.runs.health import AT_CHANCE, Symptom, read_symptoms, tell_symptoms
from repro.settings.choices import OnCollapse
from repro.settings.run import Run
from repro.training.steps.optimization import warmup_steps
from repro.training.steps.preprocess import Augmenter, ViewMaker
from repro.training.watching.hooks import DivergenceError
from repro.training.watching.representations import (
    alignment,
    effective_rank,
    hard_negative_share,
    knn_top1,
    similarities_to_others,
    spread,
    uniformity,
)

FEWEST_IMAGES = 16
"""With fewer images, their numbers would say nothing: then only loss and weights are watched."""
LARGEST_SHARE = 4
"""At most one in so many training images is looked at, so that a small training does not wait for its monitor."""
CHUNK = 64
"""Images in a forward pass of the monitor."""
EXPLODED = 10.0
"""Weights have exploded if their norm is above this many times the norm at the beginning."""
CHANCE_SHARE = 0.99
"""Nothing has been learned if the loss is at least this share of the loss at chance level."""
LEAST_SPREAD = 0.01
"""Unit embeddings are one point if their spread is below this."""
LEAST_RANK = 1.5
"""Features vary in one direction alone if their effective rank is below this."""
SETTLED = 100
"""Steps before which no collapse is reported, nor during a longer warm-up: by then, running statistics have forgotten
their start (0.9**100 is 3e-5) and queues are filled. Before, the numbers reflect these more than what was learned."""
SLOWER = "a lower optimization.lr, or a longer optimization.warmup_share"

log = logging.getLogger("salmask")


@dataclass(frozen=True)
class Watched:
    """What a monitor looks at."""

    encoder: nn.Module
    model: nn.Module
    dataset: Dataset[Any]
    """What the loader reads, a `RandomViews` or a `ViewDraws`."""
    chance_loss: float | None
    """The loss at chance level; None where the loss is not contrastive."""
    settled: int = SETTLED
    """Steps before which no collapse is reported."""


class Monitor(Hook):
    """Watches loss and weights at each log line, and a fixed set of images after each epoch.

    It does not affect the training: it draws from no global generator, restores training modes, and if it fails to look
    at images, it logs that and does not try again. An explosion or a collapse is warned of once, recorded in
    `health.json` and, if asked for, ends the run.
    """

    priority = "LOW"  # after the log's line, before the checkpoint

    def __init__(self, watched: Watched, folder: RunFolder, *, images: int, every: int, policy: OnCollapse) -> None:
        """Prepares to watch a model that has its first weights.

        Args:
            watched: What is looked at.
            folder: The run's.
            images: Images to look at; 0: none, and only loss and weights are watched.
            every: Steps between two looks at the weights.
            policy: Whether a run that exploded or collapsed goes on.
        """
        self.watched, self.folder, self.every, self.policy = watched, folder, every, policy
        count = min(images, len(watched.dataset) // LARGEST_SHARE)  # type: ignore[arg-type]  # ours have a length
        self.images = count if count >= FEWEST_IMAGES and isinstance(watched.encoder, ResNet) else 0
        self.first_norm = weight_norm(watched.encoder)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Looks at the weights where the host waits for a log line anyway."""
        if self.every_n_inner_iters(batch_idx, self.every):
            norm = weight_norm(self.watched.encoder)
            self._tell(exploded(runner.iter + 1, norm, self.first_norm))

    def after_train_epoch(self, runner: Any) -> None:
        """Writes the numbers of the epoch into the log, and judges them."""
        step = runner.iter
        numbers = {"weight_norm": weight_norm(self.watched.encoder)}
        symptoms = exploded(step, numbers["weight_norm"], self.first_norm)
        if not symptoms:
            # Every rank takes part in the collective, although rank 0 alone looks at images.
            with joint_statistics(self.watched.encoder):
                if rank() == 0 and self.images:
                    numbers |= self._looked()
            if step >= self.watched.settled:
                losses = self._losses(runner)
                symptoms = decided_by_first(lambda: judge(step, numbers, losses, self.watched.chance_loss))
        if rank() == 0 and self.images:
            runner.visualizer.add_scalars(numbers, step=step)
        self._tell(symptoms)

    def _looked(self) -> dict[str, float]:
        """Returns the numbers of the images; none if that fails, which is logged with its traceback.

        A fault of the monitor must not end the training, which has yet to write the epoch's checkpoint.
        """
        try:
            return look(self.watched, self._batches)
        except Exception as error:
            told = "the monitor cannot look at images: %s; the training goes on, and only loss and weights are watched"
            log.warning(told, one_line(error), exc_info=True)
            self.images = 0
            return {}

    @cached_property
    def _batches(self) -> list[dict[str, Any]]:
        """The images, as the loader hands them to the model: the views of epoch 0."""
        dataset: Any = self.watched.dataset
        order = stream(0, Purpose.monitor).permutation(len(dataset))[: self.images]
        chunks = [[(0, int(index)) for index in order[start : start + CHUNK]] for start in range(0, len(order), CHUNK)]
        whole = getattr(dataset, "__getitems__", None)
        return [whole(names) if whole else default_collate([dataset[name] for name in names]) for names in chunks]

    def _losses(self, runner: Any) -> tuple[float, float] | None:
        """Returns the mean loss of the last steps of the epoch, and of as many steps an epoch before.

        In a first epoch, and after a resume, the latter are the first steps that are known. None if too few are.
        """
        history = runner.message_hub.log_scalars.get("train/loss")
        values = np.array([]) if history is None else history.data[0]
        count = min(len(runner.train_dataloader), self.every)
        back = min(len(runner.train_dataloader), len(values) - count)
        if back < count:
            return None
        end = len(values) - back
        return float(values[-count:].mean()), float(values[end - count : end].mean())

    def _tell(self, symptoms: Sequence[Symptom]) -> None:
        """Logs and records new symptoms, and ends the training if the policy says so.

        Raises:
            DivergenceError: The run exploded or collapsed, with `machine.on_collapse=stop`.
        """
        known = {symptom.kind for symptom in read_symptoms(self.folder.health)} if symptoms else set()
        new = [symptom for symptom in symptoms if symptom.kind not in known]
        if rank() == 0 and new:
            tell_symptoms(self.folder.health, new)
        if symptoms and self.policy is OnCollapse.stop:
            raise DivergenceError(f"{symptoms[0]}; machine.on_collapse=stop ends the run", mend=symptoms[0].mend)


def build_monitor(
    run: Run, folder: RunFolder, encoder: nn.Module, model: nn.Module, dataset: Dataset[Any], steps_per_epoch: int
) -> Monitor:
    """Builds the monitor of a run that is about to begin, with fresh weights.

    Args:
        run: `machine` and the warm-up are used, and what the loss at chance level depends on.
        folder: The run's.
        encoder: The network that becomes the backbone.
        model: The model that holds it, with its data preprocessor.
        dataset: What the loader reads.
        steps_per_epoch: Number of batches that the loader gives.
    """
    settled = max(SETTLED, warmup_steps(run.optimization, steps_per_epoch))
    watched = Watched(encoder, model, dataset, chance_loss_of(run, model), settled)
    machine = run.machine
    return Monitor(watched, folder, images=machine.monitor_images, every=machine.log_every, policy=machine.on_collapse)


def chance_loss_of(run: Run, model: nn.Module) -> float | None:
    """Returns the loss where all similarities are zero, so that a network tells nothing apart.

    It is the logarithm of how many a query could belong to, the positive and the hard negative included; None for
    models other than MoCo and SimCLR.
    """
    if isinstance(model, MoCo):
        negatives = run.moco.queue
    elif isinstance(model, SimCLR):
        negatives = 2 * run.optimization.batch - 2
    else:
        return None
    # In SimCLR, as a rule, only queries have a hard negative. One negative more among hundreds is within the tolerance.
    return math.log(1 + negatives + (run.masks and run.masking.hard_negative))


def weight_norm(network: nn.Module) -> float:
    """Returns the Euclidean norm of all parameters; waits for the device."""
    return float(torch.nn.utils.get_total_norm([p.detach() for p in network.parameters()]))


def exploded(step: int, norm: float, first: float) -> list[Symptom]:
    """Returns the symptom of weights whose norm is many times what it was at the beginning, or NaN.

    Args:
        step: Steps made.
        norm: Of the weights now.
        first: Of the weights at the beginning.

    Returns:
        One symptom, or none.
    """
    if norm <= EXPLODED * first:  # false for NaN, which is a symptom as well
        return []
    return [Symptom("exploded weights", step, f"norm {norm:.3g}, {first:.3g} at the beginning", SLOWER)]


def judge(
    step: int, numbers: Mapping[str, float], losses: tuple[float, float] | None, chance_loss: float | None
) -> list[Symptom]:
    """Returns symptoms of a collapse by the end of an epoch.

    Args:
        step: Steps made.
        numbers: The numbers that `look` returns; may be empty.
        losses: The mean loss at the end of the epoch, and earlier; None where that is unknown.
        chance_loss: The loss at chance level; None where that is unknown.

    Returns:
        One symptom for each kind of collapse.
    """
    symptoms: list[Symptom] = []
    if numbers.get("spread", 1.0) < LEAST_SPREAD:
        detail = f"the embeddings of different images are one point (spread {numbers['spread']:.2g} of 1)"
        symptoms.append(Symptom("collapsed embeddings", step, detail, f"{SLOWER}; a higher temperature"))
    if numbers.get("effective_rank", LEAST_RANK) < LEAST_RANK:
        detail = f"features vary in one direction alone (effective rank {numbers['effective_rank']:.2f})"
        symptoms.append(Symptom("collapsed features", step, detail, SLOWER))
    # A loss that falls shows that something is learned. With a hard negative, it may begin far above chance level.
    if losses is not None and chance_loss is not None and losses[0] >= max(CHANCE_SHARE * chance_loss, losses[1]):
        loss, _ = losses
        detail = f"loss {loss:.2f} where telling nothing apart has {chance_loss:.2f}"
        mend = f"{SLOWER}; with few steps a lower moco.momentum and a shorter moco.queue"
        symptoms.append(Symptom(AT_CHANCE, step, detail, mend))
    return symptoms


@torch.no_grad()
def look(watched: Watched, batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measures the features and embeddings of some images.

    Args:
        watched: The model, whose state is left as it is.
        batches: Of its loader.

    Returns:
        `knn_top1` in percent, `effective_rank` and `feature_norm`; for contrastive models also `spread`, `alignment`,
        `uniformity` and, where there is a hard negative, `hard_negative_share`.
    """
    maker = watched.model.data_preprocessor
    assert isinstance(maker, Augmenter)
    with _evaluating(watched.encoder, watched.model), maker.uncompiled():
        embedded = [_embedded(watched, maker, dict(batch)) for batch in batches]
    features = torch.cat([views["features"] for views in embedded])
    labels = torch.cat([torch.as_tensor(batch["label"]) for batch in batches]).to(features.device)
    numbers = {
        "knn_top1": knn_top1(features, labels),
        "effective_rank": effective_rank(features),
        "feature_norm": float(features.norm(dim=1).mean()),
    }
    views = {name: torch.cat([each[name] for each in embedded]) for name in embedded[0] if name != "features"}
    if not views:
        return numbers
    query, key = views["query"], views["key"]
    numbers |= {"spread": spread(key), "alignment": alignment(query, key), "uniformity": uniformity(key)}
    model = watched.model
    if "hard_negative" in views and isinstance(model, MoCo | SimCLR):
        others = query @ model.queue.keys.float() if isinstance(model, MoCo) else similarities_to_others(query, key)
        numbers["hard_negative_share"] = hard_negative_share(
            query,
            key,
            views["hard_negative"],
            others,
            temperature=model.temperature,
            weight=model.hard_negative_weight,
        )
    return numbers


def _embedded(watched: Watched, maker: Augmenter, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the features N×D of a batch's last view and, if it has two views, the unit embeddings N×C of each."""
    encoder = watched.encoder
    assert isinstance(encoder, ResNet)
    maker.before_replay(batch)  # seeds the masks' generator, which a CUDA graph shares between batches
    # torchvision's ResNet in two parts, as features are needed too. This runs uncompiled: only the whole is compiled.
    trunk = nn.Sequential(*list(encoder.children())[:-1], nn.Flatten())
    if not (isinstance(maker, ViewMaker) and isinstance(watched.model, ContrastiveModel)):
        name = watched.dataset.names[-1]  # type: ignore[attr-defined]  # data sets of views have them
        return {"features": trunk(maker.normalise(maker.augment(batch, name))).float()}
    views = maker.views(batch)
    features = {"query": trunk(views.query), "key": trunk(views.key)}
    if views.hard_negative is not None:
        # The last group may be shorter here, unlike in a batch of the training.
        each_query = trunk(views.hard_negative).repeat_interleave(views.hard_negative_serves, dim=0)
        features["hard_negative"] = each_query[: len(views.query)]
    embeddings = {name: F.normalize(encoder.fc(each).float(), dim=1) for name, each in features.items()}
    return {"features": features["key"].float(), **embeddings}


@contextmanager
def _evaluating(*networks: nn.Module) -> Any:
    """Puts networks into evaluation while the context lasts, and every module back as it was."""
    modules = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modules.items():
            module.training = training
