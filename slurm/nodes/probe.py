"""Whether a cluster can do what jobs will ask of it: one short job with a profile's resources, and what it found."""

from dataclasses import replace
from pathlib import Path

from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.errors import UserError
from repro.runs.status import PRETRAIN
from slurm.jobs.node_probe import NodeProbe
from slurm.jobs.program import Program
from slurm.nodes.node_job import NoReportError, carried_out
from slurm.profiles.profile import Cluster
from slurm.submission.batches import Batch, submission_name

MINUTES = 5
"""Time limit of the job; it takes about one."""
FOLDER = ".doctor"


def probe(cluster: Cluster, program: Program, *, needs: Needs, nodes: int, wait: float) -> list[Diagnosis]:
    """Sends a job with what the profile asks for a pretraining, and returns what it found.

    Args:
        cluster: A profile with the executor `slurm`.
        program: Whose `examine` the job carries out.
        needs: Data sets and weights that must be there.
        nodes: Number of nodes that the job asks for; 0: as many as the profile says.
        wait: Seconds; then the job is cancelled, and the reason for which it waited is a finding.

    Raises:
        UserError: There is no Slurm here, it refuses the job, or does not answer.
    """
    if cluster.executor != "slurm":
        raise UserError(f"'{cluster.name}' runs jobs on this machine", mend="salmask doctor, without --cluster")
    name = submission_name(Path("doctor"), "probe")
    sweeps_folder = cluster.sweeps_folder.absolute()
    folder = sweeps_folder / FOLDER / name
    resources = cluster.resources_of(PRETRAIN)
    resources = replace(resources, time=MINUTES, nodes=nodes or resources.nodes)
    batch = Batch(name, "probe", ((".", "probe"),), resources)
    call = NodeProbe(sweeps_folder, folder / "report.json", resources.gpus, resources.cpus, program.examine, needs)
    try:
        content, where = carried_out(call, batch, cluster, folder, wait)
    except NoReportError as error:
        return [Diagnosis("job", "wrong", error.what, error.mend)]
    return [Diagnosis("job", "ok", where), *(Diagnosis(**row) for row in content)]
