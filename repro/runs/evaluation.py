"""How backbones are evaluated: the protocols with their settings, and what the name of an evaluation means. No torch.

An evaluation is a task on a data set, written `TASK` (on the data of the pretraining) or `TASK@DATASET`, for example
`linear@caltech101`. A protocol has a name and a version, and every departure from it is part of the name:
`linear-moco-v1[epochs=20]`. The defaults of the settings are the protocols.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repro.errors import UserError, nearest
from repro.runs.detection import COCO, VOC, without_batch
from repro.runs.records import Result

if TYPE_CHECKING:
    from repro.runs.run import Run


PROTOCOLS: "Mapping[str, Callable[[Run, str], tuple[str, ...]]]" = {
    "linear": lambda run, dataset: (run.probe.protocol_on(dataset),),
    "logistic": lambda run, dataset: (run.logistic.protocol_on(dataset),),
    "knn": lambda run, _: tuple(run.knn.protocol(k) for k in run.knn.neighbours),
    "finetune": lambda run, _: (run.finetune.protocol("finetune"),),
    "semi-1": lambda run, _: (run.finetune.protocol("semi-1"),),
    "semi-10": lambda run, _: (run.finetune.protocol("semi-10"),),
    VOC: lambda run, _: (run.detection.protocol(VOC),),
    COCO: lambda run, _: (run.detection.protocol(COCO),),
}
"""Every task that there is, with the protocols that its rows carry for a run and a data set."""


def _usual_dataset(task: str, run: "Run") -> str:
    """The data of the pretraining; of detection its own, unless a run was pretrained on scenes, which have boxes."""
    return task if task in (VOC, COCO) and not run.data.dataset.startswith("scenes") else run.data.dataset


@dataclass(frozen=True)
class Evaluation:
    """A task on a data set."""

    task: str
    dataset: str

    @classmethod
    def parse(cls, name: str, run: "Run") -> "Evaluation":
        """Read `TASK` or `TASK@DATASET`.

        Raises:
            UserError: there is no such task.
        """
        task, _, dataset = name.partition("@")
        if task not in PROTOCOLS:
            raise UserError(f"unknown task '{task}'", mend=nearest(task, PROTOCOLS))
        return cls(task, dataset or _usual_dataset(task, run))

    def name(self, run: "Run") -> str:
        """The shortest name that `parse` reads back: `linear` on the data of the pretraining."""
        return self.task if self.dataset == _usual_dataset(self.task, run) else f"{self.task}@{self.dataset}"

    def protocols(self, run: "Run") -> tuple[str, ...]:
        """Names of the protocols that its rows carry."""
        return PROTOCOLS[self.task](run, self.dataset)

    def recorded(self, run: "Run", rows: Iterable[Result]) -> list[Result]:
        """Its rows among a folder's; none unless every protocol has some, so that it counts as done or not at all."""
        protocols = self.protocols(run)
        found = [row for row in rows if (row.run_id, row.task, row.dataset) == (run.id, self.task, self.dataset)]
        # A batch that is left to the devices at hand stands in the rows and not in the run's settings.
        left_open = self.task in (VOC, COCO) and not run.detection.batch
        named = {row.protocol: without_batch(row.protocol) if left_open else row.protocol for row in found}
        found = [row for row in found if named[row.protocol] in protocols]
        return found if {named[row.protocol] for row in found} == set(protocols) else []
