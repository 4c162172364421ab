"""What the job of `salmask bench step --cluster` does on its node; `slurm.nodes.remote_bench` sends it there."""

import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.command_line.terminal import is_first_process
from repro.filesystem.files import write_json


@dataclass(frozen=True)
class NodeBench:
    """Rows to be timed on a node."""

    runs: tuple[str, ...]
    """Their settings, as YAML."""
    report: Path
    """Where to write what was measured."""
    steps: int
    """Steps that are timed."""
    warm_up: int
    """Steps before them."""
    program: str
    """`MODULE:FUNCTION` that times one; see `slurm.jobs.program`."""

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "NodeBench":
        """Returns the call that was written as JSON.

        Raises:
            TypeError, KeyError: The content is that of no such call.
        """
        return cls(**{**content, "runs": tuple(content["runs"]), "report": Path(content["report"])})

    def __call__(self) -> None:
        """Times each row, and writes what was measured.

        Raises:
            UserError: Data or settings do not fit.
        """
        from repro.settings.reading import build
        from repro.settings.yaml_text import parse_yaml

        measure = pkgutil.resolve_name(self.program)
        runs = [build([parse_yaml(text)]) for text in self.runs]
        measured = [measure(run, warm_up=self.warm_up, steps=self.steps) for run in runs]
        # Every process takes part in a step; one of them reports.
        if is_first_process():
            write_json(self.report, [asdict(measurement) for measurement in measured])
