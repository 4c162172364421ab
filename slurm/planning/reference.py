"""Reference figures for a first plan: what was measured elsewhere, with the machine and the source of each.

`reference.json` is written by `tools/reference_costs.py`. A figure stands for the same row on the same network and
view, scaled by the number of images alone: a batch or precision that differs is named, but not corrected for.
Measurements on the machine at hand take precedence.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from repro.bench.throughput import Kind

FILE = Path(__file__).with_name("reference.json")
SAME_WORK = 8
"""The first settings of a kind, this many, say what a step computes for an image; those after them say how."""
_BATCH, _PRECISION = 8, 9
"""Indices of the batch and the precision in a kind."""
NVIDIA = "NVIDIA"
"""Beginning of the names of GPUs."""
REPLACE = "salmask bench step, here or with --cluster NAME on a node, replaces them"


@dataclass(frozen=True)
class ReferenceRate:
    """How fast something was on another machine."""

    images_per_second: float
    device: str
    source: str


@dataclass(frozen=True)
class Reference:
    """All figures of other machines."""

    steps: Sequence[tuple[Kind, ReferenceRate]]
    """Pretrainings."""
    forwards: Sequence[tuple[tuple[str, str], ReferenceRate]]
    """Forward passes of a frozen network, by network and crop (pixels per side)."""
    evaluations: Sequence[tuple[tuple[str, ...], float, str, str]]
    """Evaluations: task, data set, its size, protocol, network and crop; seconds, device and source."""

    @cached_property
    def _by_work(self) -> Mapping[Kind, list[tuple[Kind, ReferenceRate]]]:
        """The pretrainings by what they compute."""
        by_work: dict[Kind, list[tuple[Kind, ReferenceRate]]] = {}
        for kind, rate in self.steps:
            by_work.setdefault(kind[:SAME_WORK], []).append((kind, rate))
        return by_work

    def step(self, kind: Kind, *, on_gpu: bool) -> tuple[ReferenceRate, str] | None:
        """Returns the rate of a row, and in what the timed run differs from `kind`; None: nobody timed the row.

        Args:
            kind: Of the run.
            on_gpu: Whether figures of GPUs come before those of CPUs, or after them.
        """
        same = self._by_work.get(kind[:SAME_WORK])
        if not same:
            return None
        other, rate = min(same, key=lambda pair: (pair[1].device.startswith(NVIDIA) != on_gpu, pair[0] != kind))
        how = [f"{other[_BATCH]} images a step"] if other[_BATCH] != kind[_BATCH] else []
        how += [f"{other[_PRECISION]} for {kind[_PRECISION]}"] if other[_PRECISION] != kind[_PRECISION] else []
        return rate, f", timed with {' and '.join(how)}" if how else ""

    def forward(self, network: str, crop: str) -> ReferenceRate | None:
        """Returns the rate of a frozen network; None: nobody timed it."""
        return next((rate for key, rate in self.forwards if key == (network, crop)), None)

    def evaluation(self, key: tuple[str, ...], *, on_gpu: bool) -> tuple[float, str, str] | None:
        """Returns seconds, device and source of an evaluation; None: nobody timed it.

        Args:
            key: As of `slurm.planning.job_costs.evaluation_kind`.
            on_gpu: As of `step`.
        """
        same = [(seconds, device, source) for other, seconds, device, source in self.evaluations if other == key]
        return min(same, key=lambda figures: figures[1].startswith(NVIDIA) != on_gpu, default=None)


@cache
def reference() -> Reference:
    """Returns the figures that come with salmask."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return Reference(
        steps=[(tuple(row["kind"]), _rate(row)) for row in content["steps"]],
        forwards=[((row["network"], row["crop"]), _rate(row)) for row in content["forwards"]],
        evaluations=[
            (tuple(row["evaluation"]), row["seconds"], row["device"], row["source"]) for row in content["evaluations"]
        ],
    )


def _rate(row: dict[str, Any]) -> ReferenceRate:
    return ReferenceRate(row["images_per_second"], row["device"], row["source"])
