"""What sbatch says of a job, without submitting it."""

import shutil
from pathlib import Path

from repro.errors import UserError
from repro.runs.status import PRETRAIN
from slurm.ask import LOGIN_NODE, ask, outside_of_any_job
from slurm.jobs.refusals import classify
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.batches import Batch
from slurm.submission.sbatch import script_of


def sbatch_says(resources: Resources, cluster: Cluster) -> tuple[bool, str]:
    """Asks `sbatch --test-only`, which submits nothing; where there is no sbatch, that is the answer.

    Args:
        resources: What the job asks for.
        cluster: Its profile.

    Returns:
        Whether Slurm would take the job; and when and where it would start, or why not.

    Raises:
        UserError: There is an sbatch, and this machine belongs to no cluster, or Slurm does not answer.
    """
    if not shutil.which("sbatch"):
        return True, "as far as can be told without sbatch, which is not on this machine"
    batch = Batch("salmask-check", PRETRAIN, ((".", "check"),), resources)
    script = script_of(batch, cluster, Path(batch.name).absolute())
    reply = ask(["sbatch", "--test-only"], script=script, environment=outside_of_any_job())
    if reply.not_here:
        raise UserError(reply.trouble, mend=LOGIN_NODE)
    if reply.trouble and classify(reply.errors or reply.trouble) is None:
        raise UserError(reply.trouble, mend="try again when Slurm answers")
    # When and where the job would start is said on standard error, and so is why it would not.
    said = [line.removeprefix("sbatch: ") for line in (reply.errors or reply.output).splitlines() if line.strip()]
    return not reply.trouble, said[-1] if said else reply.trouble or "it says no more"
