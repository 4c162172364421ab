"""Whether the study's trainings collapsed, as its page registered it: by the loss of the last epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from examples.study.decide import rows_of
from repro.runs.run import Run
from repro.runs.sections import Framework
from results.runs import RunRecord

WITHIN = 0.02
"""A loss that is so close to that of a guess has collapsed."""


@dataclass(frozen=True)
class Ending:
    """How a training ended.

    Attributes:
        loss: The mean loss of its last epoch.
        guess: The loss of a network that tells nothing apart.
    """

    loss: float
    guess: float

    @property
    def collapsed(self) -> bool:
        """Whether the loss is within 2 % of a guess; one that is above, or no number, is no better."""
        return not self.loss < (1 - WITHIN) * self.guess


def guess_of(run: Run) -> float:
    """Returns the loss of a guess among a positive and all negatives, as the page has it; a hard one is not counted."""
    negatives = run.moco.queue if run.framework is Framework.mocov2 else 2 * run.optimization.batch - 2
    return math.log(1 + negatives)


def endings(runs: Sequence[RunRecord], sweeps: Sequence[str]) -> dict[str, dict[int, Ending]]:
    """Returns how each training of some sweeps' rows ended, by method and seed.

    Args:
        runs: Run folders, of a row and seed one.
        sweeps: Whose rows count, whatever else was run.
    """
    ended: dict[str, dict[int, Ending]] = {}
    for record in runs:
        losses = [row["loss"] for row in record.metrics if "loss" in row]  # a row for each epoch
        if record.run and losses and record.method in rows_of(sweeps):
            ended.setdefault(record.method, {})[record.run.seed] = Ending(losses[-1], guess_of(record.run))
    return ended
