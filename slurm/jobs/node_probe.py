"""What the job of `salmask doctor --cluster` does on its node; `slurm.nodes.probe` sends it there."""

import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.command_line.terminal import is_first_process
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.doctor.packages import PACKAGES, check_packages_first
from repro.errors import UserError
from repro.filesystem.files import write_json


@dataclass(frozen=True)
class NodeProbe:
    """An examination of a node, carried out by a job on it."""

    place: Path
    """Where sweeps will go."""
    report: Path
    """Where to write what was found."""
    gpus: int
    """GPUs asked for, per node."""
    cpus: int
    """Cores asked for, per process."""
    program: str
    """`MODULE:FUNCTION` that looks at the node; see `slurm.jobs.program`."""
    needs: Needs
    """Data sets and weights that must be there."""

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "NodeProbe":
        """Returns the probe that was written as JSON.

        Raises:
            TypeError, KeyError: The content is that of no probe.
        """
        paths = {name: Path(content[name]) for name in ("place", "report")}
        return cls(**{**content, **paths, "needs": Needs.parse(content["needs"])})

    def __call__(self) -> None:
        """Examines the node, and writes what was found.

        Raises:
            UserError: This is not the process that reports, and it lacks a package.
        """

        def examined() -> list[Diagnosis]:
            examine = pkgutil.resolve_name(self.program)
            findings: list[Diagnosis] = examine(self.place, gpus=self.gpus, cpus=self.cpus, needs=self.needs)
            return findings

        mend = f"the profile's setup or python: {sys.executable} does not find it on the node"
        findings = check_packages_first(examined, mend=mend)
        # Every process takes part, since it is examined whether they reach each other; the first one reports.
        if is_first_process():
            write_json(self.report, [asdict(finding) for finding in findings])
        elif missing := [finding for finding in findings if finding.check in PACKAGES and finding.verdict == "wrong"]:
            # The first process would wait for this one without knowing why; this error ends it too.
            names = ", ".join(finding.check for finding in missing)
            raise UserError(f"{names}: {missing[0].found}", mend=missing[0].mend)
