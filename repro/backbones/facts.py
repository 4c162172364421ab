"""What says how weights of salmask were trained: the file of facts in an export, or the run's folder around them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repro.backbones.weights import weights_digest
from repro.errors import UserError
from repro.filesystem.presence import is_file
from repro.runs.folder import RunFolder
from repro.runs.schemas import EXPORT
from repro.settings.choices import InputFilter
from repro.settings.run import Run

_RUN_ID = re.compile(r"[0-9a-f]{10}")
"""The form of salmask's run ids; what other libraries write under this name looks different."""
FACTS_FILE = "salmask.json"
"""Name of the file of `Facts`; a folder that holds it is an export."""


@dataclass(frozen=True)
class Facts:
    """What a program must know to use exported weights; the file `FACTS_FILE` beside them.

    Attributes:
        format: Version of this file's layout.
        arch: torchvision's name of the network.
        features: Number of features that the network makes of an image.
        input_filter: `high_pass`: after normalising, `x - gaussian_blur(x, 11, 5.0)`; or `none`.
        mean: What is subtracted from each RGB channel, whose values are in 0..1.
        std: What each channel is divided by after that.
        crop: Side of a training view in pixels.
        weights: File of the weights.
        sha256: `repro.backbones.weights.weights_digest` of the weights in torchvision's keys, whatever keys the file
            has.
        run: Id of the run.
        method: A row of the paper's tables.
        dataset: The data set that was trained on; empty if the weights came from elsewhere.
        seed: Seed of the run.
        tiny: In which settings the run is smaller than the paper's; empty at the paper's scale.
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
    """Returns the input filter that exported weights were trained with, as the export that they lie in names it.

    A file in torchvision's format holds nothing but weights, so it cannot name the filter itself.

    Args:
        weights: File that the state was read from.
        state: Backbone in torchvision's keys, without `fc`.

    Returns:
        The filter; None if the file lies in no export, or holds other weights than the exported ones.

    Raises:
        UserError: The export's `FACTS_FILE` is damaged.
    """
    path = weights.with_name(FACTS_FILE)
    if not is_file(path):
        return None
    facts = EXPORT.read(path)
    return InputFilter(facts["input_filter"]) if facts["sha256"] == weights_digest(state) else None


def is_run_id(text: str) -> bool:
    """Returns whether a text has the form of salmask's run ids."""
    return _RUN_ID.fullmatch(text) is not None


def run_around(checkpoint: Path, run_id: str) -> Run | None:
    """Returns the run of salmask that a checkpoint is of, as the run's folder around it describes it.

    A `backbone.pth` names network and input filter itself; a checkpoint that training resumes from names only its run.

    Args:
        checkpoint: File that the weights are read from.
        run_id: Id of the run that the file names; empty if it names none.

    Returns:
        The run; None if the file names no run of salmask.

    Raises:
        UserError: It names one, but lies in no folder of that run, or in a run's folder that cannot be read.
    """
    if not is_run_id(run_id):
        return None
    for parent in checkpoint.resolve().parents:
        folder = RunFolder(parent)
        if is_file(folder.run_yaml) and (run := folder.load()).id == run_id:
            return run
    raise UserError(
        f"{checkpoint} is a checkpoint of run {run_id}, but not in its folder, which names network and input filter",
        mend="name it where it was written, or give the run's backbone.pth",
    )
