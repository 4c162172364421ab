"""How the study's trainings ended: whether they collapsed, by the loss of the last epoch, as its page registered it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from examples.study.decide import rows_of
from repro.runs.status import PRETRAIN
from repro.settings.run import Run
from repro.settings.sections import Framework
from results.collection.runs import RunRecord

WITHIN = 0.02
"""A training has collapsed if its loss is within this share of that at chance level."""


@dataclass(frozen=True)
class Ending:
    """How a training ended.

    Attributes:
        loss: The mean loss of the last epoch that it finished.
        chance_loss: The loss of a network that tells nothing apart.
        failed: Whether it ended with an error, as a diverging training does; it has no scores then.
    """

    loss: float
    chance_loss: float
    failed: bool = False

    @property
    def collapsed(self) -> bool:
        """Whether the loss is within 2 % of that at chance level, above it, or NaN."""
        return not self.loss < (1 - WITHIN) * self.chance_loss


def chance_loss_of(run: Run) -> float:
    """Returns the loss at chance level among a positive and all negatives but the hard one, as the page defines it."""
    negatives = run.moco.queue if run.framework is Framework.mocov2 else 2 * run.optimization.batch - 2
    return math.log(1 + negatives)


def endings(runs: Sequence[RunRecord], sweeps: Sequence[str]) -> dict[str, dict[int, Ending]]:
    """Returns how each training of some sweeps' rows ended, by method and seed.

    Args:
        runs: Run folders, one for each row and seed besides failed ones.
        sweeps: Sweeps whose rows count; other runs are ignored.
    """
    ended: dict[str, dict[int, Ending]] = {}
    for record in runs:
        if record.run is None or record.method not in rows_of(sweeps):
            continue
        losses = [row["loss"] for row in record.metrics if "loss" in row]  # a row for each epoch
        failed = record.status is not None and (record.status.state, record.status.task) == ("failed", PRETRAIN)
        # If a failed training was repeated in another folder, the repetition counts, whichever is read first.
        if failed and record.run.seed in ended.get(record.method, {}):
            continue
        if losses or failed:
            ending = Ending(losses[-1] if losses else math.nan, chance_loss_of(record.run), failed)
            ended.setdefault(record.method, {})[record.run.seed] = ending
    return ended
