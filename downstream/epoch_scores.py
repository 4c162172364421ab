"""Validation scores of a training, epoch by epoch: written to its metrics while it runs, read back when it is over.

The linear probe and fine-tuning share them. The numbers that become results are read from the file and not kept in
memory, so that a resumed training has the scores of all its epochs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from downstream.measurement import SCORES
from repro.errors import UserError
from repro.processes.distributed import decided_by_first, rank
from repro.runs.metrics import read_metrics
from repro.training.watching.step_bar import SCORED

EpochScores = Mapping[str, float]
"""One epoch's row of the metrics: `epoch`, `step`, and the scores."""


def write_scores(runner: Any, scores: Mapping[str, float]) -> None:
    """Writes one epoch's scores to the metrics, and their top-1 and top-5 to the log; rank 0 only.

    Args:
        runner: mmengine's, in `after_train_epoch`.
        scores: In percent; names may have an ending of their own (`top1@lr=10`).
    """
    if rank():
        return
    epoch = runner.epoch + 1  # mmengine counts an epoch after its hooks
    runner.visualizer.add_scalars({**scores, "epoch": epoch}, step=runner.iter)
    top = "  ".join(f"{name}: {value:.2f}" for name, value in scores.items() if name.startswith("top"))
    runner.logger.info(f"Epoch(val) [{epoch}]  {top}")
    runner.message_hub.update_info(SCORED, f"top1 {scores['top1']:.2f}" if "top1" in scores else "")


def read_scores(metrics: Path, epochs: int) -> Sequence[EpochScores]:
    """Reads the validation rows of a training's metrics, one per epoch; rows of training steps have no top-1.

    Called on every rank; all ranks return what rank 0 reads.

    Args:
        metrics: File of the metrics.
        epochs: Number of epochs of the finished training.

    Raises:
        UserError: The scores of an epoch are missing, so that the best over all epochs is unknown.
    """

    def read() -> Sequence[EpochScores]:
        rows = [row for row in read_metrics(metrics) if "epoch" in row and any(key.startswith("top1") for key in row)]
        if [row["epoch"] for row in rows] != list(range(1, epochs + 1)):
            raise UserError(
                f"{metrics} does not hold the scores of each of the {epochs} epochs",
                mend=f"put the file back, or remove {metrics.parent} and evaluate again",
            )
        return rows

    return decided_by_first(read)


def final_scores(epochs: Sequence[EpochScores], ending: str = "") -> dict[str, float]:
    """Returns the scores of the last epoch, which count as a protocol's result, and `top1_best` over all epochs.

    Args:
        epochs: From `read_scores`, not empty.
        ending: Suffix of the metrics' names that selects one of several classifiers.
    """
    last = {metric: epochs[-1][f"{metric}{ending}"] for metric in SCORES}
    return last | {"top1_best": max(epoch[f"top1{ending}"] for epoch in epochs)}
