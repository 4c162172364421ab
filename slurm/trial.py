"""What sbatch says of a job that it is not to submit."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repro.runs.status import PRETRAIN
from slurm.batches import Batch
from slurm.profile import Cluster, Resources
from slurm.sbatch import SlurmExecutor, parameters

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """Slurm's verdict on a job."""

    accepted: bool
    words: str
    """When and where it would start, or why not."""


def sbatch_says(resources: Resources, cluster: Cluster) -> Answer:
    """Asks `sbatch --test-only`, which submits nothing; where there is no sbatch, that is the answer.

    Args:
        resources: what the job asks for.
        cluster: its profile.
    """
    if not shutil.which("sbatch"):
        return Answer(accepted=True, words="as far as can be told without sbatch, which is not on this machine")
    batch = Batch("salmask-check", PRETRAIN, ((".", "check"),), resources)
    with tempfile.TemporaryDirectory() as folder:
        executor = SlurmExecutor(folder=Path(folder), python=resources.python or None)
        executor.update_parameters(**parameters(batch, cluster, "", None))
        script = executor.script(())
    try:
        process = subprocess.run(
            ["sbatch", "--test-only"],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Answer(accepted=False, words=f"sbatch did not answer within {PATIENCE_SECONDS} s")
    printed = (process.stderr or process.stdout).strip().splitlines()
    said = [line.removeprefix("sbatch: ") for line in printed if line.strip()]
    return Answer(process.returncode == 0, said[-1] if said else f"sbatch ended with status {process.returncode}")
