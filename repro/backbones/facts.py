"""What lies beside weights of ours and says what they are: the file of an export, or the run's folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repro.backbones.weights import weights_digest
from repro.errors import UserError
from repro.presence import is_file
from repro.runs.choices import InputFilter
from repro.runs.folder import RunFolder
from repro.runs.schemas import EXPORT

_RUN_ID = re.compile(r"[0-9a-f]{10}")
"""How an id of ours looks, which tells it from those that other libraries write under this name."""
FACTS_FILE = "salmask.json"
"""Name of the file of `Facts`; that it is there is what tells an export from any other folder."""


@dataclass(frozen=True)
class Facts:
    """What a program must know to use exported weights; the file `FACTS_FILE` beside them.

    Attributes:
        format: Version of this file's layout.
        arch: torchvision's name of the network.
        features: How many of them the network makes of an image.
        input_filter: `high_pass`: after normalising, `x - gaussian_blur(x, 11, 5.0)`; or `none`.
        mean: Of each channel of RGB in 0..1, subtracted.
        std: Of each channel, divided by.
        crop: Side of a training view in pixels.
        weights: File of the weights.
        sha256: `repro.backbones.weights.weights_digest` of the weights in torchvision's keys, whatever keys the file
            has.
        run: Id of the run.
        method: A row of the paper's tables.
        dataset: What was learned from; empty where the weights came from elsewhere.
        seed: Of the run.
        tiny: In what the run is smaller than the paper's; empty at its scale.
    """

    format: int
    arch: str
    features: int
    input_filter: InputFilter
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    weights: str
    sha256: str
    run: str
    method: str
    dataset: str
    seed: int
    tiny: str


def input_filter_beside(weights: Path, state: Mapping[str, Tensor]) -> InputFilter | None:
    """Returns what exported weights were trained on, by the export that they lie in.

    A file in torchvision's format has room for nothing but weights, so that it cannot say so itself.

    Args:
        weights: File that the state was read from.
        state: Backbone in torchvision's keys, without `fc`.

    Returns:
        The filter; None where the file lies in no export, or is not what was exported there.

    Raises:
        UserError: The export's `FACTS_FILE` is damaged.
    """
    path = weights.with_name(FACTS_FILE)
    if not is_file(path):
        return None
    facts = EXPORT.read(path)
    return InputFilter(facts["input_filter"]) if facts["sha256"] == weights_digest(state) else None


def input_filter_of_run(checkpoint: Path, run_id: str) -> InputFilter | None:
    """Returns what the network of a checkpoint of ours was trained on, by the run's folder that it lies in.

    A `backbone.pth` says so itself; a checkpoint that a training goes on from says only whose it is.

    Args:
        checkpoint: File that the weights were read from.
        run_id: The run that it says that it is of; empty where it says nothing.

    Returns:
        The filter; None where the file is of no run of ours.

    Raises:
        UserError: It is of one, and lies in no folder of that run.
    """
    if not _RUN_ID.fullmatch(run_id):
        return None
    for parent in checkpoint.resolve().parents:
        folder = RunFolder(parent)
        if is_file(folder.run_yaml) and (run := folder.load()).id == run_id:
            return run.input_filter
    raise UserError(
        f"{checkpoint} is a checkpoint of run {run_id}, and lies in no folder of it, which tells what it must see",
        mend="name it where it was written, or give the run's backbone.pth",
    )
