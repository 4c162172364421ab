"""Whether a cluster can do what we will ask of it: one short job with a profile's resources, and what it found."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.errors import UserError
from repro.progress import doing
from repro.runs.status import PRETRAIN
from slurm.jobs.node_probe import NodeProbe
from slurm.jobs.program import Program
from slurm.monitoring.queue import QueuedJob
from slurm.nodes.errand import last_words, send, wait_for_report
from slurm.profiles.profile import Cluster
from slurm.submission.batches import Batch, submission_name

MINUTES = 5
"""Time limit of the job; it takes about one."""
SIGNAL_SECONDS = 60
"""The longest warning before that limit."""
FOLDER = ".doctor"


def probe(
    cluster: Cluster, program: Program, *, needs: Needs | None = None, nodes: int = 0, wait: float
) -> list[Diagnosis]:
    """Sends a job with what the profile asks for a pretraining, and returns what it found.

    Args:
        cluster: A profile with the executor `slurm`.
        program: Whose `examine` the job carries out.
        needs: Data sets and weights that must be there; None: the weights of the paper's localizer.
        nodes: That the job asks for; 0: as many as the profile says.
        wait: Seconds; then the job is cancelled, and why it waited is a finding.

    Raises:
        UserError: There is no Slurm here, it refuses the job, or does not answer.
    """
    if cluster.executor != "slurm":
        raise UserError(f"'{cluster.name}' runs on this machine", mend="salmask doctor, without --cluster")
    name = submission_name(Path("doctor"), "probe")
    sweeps_folder = cluster.sweeps_folder.absolute()
    folder = sweeps_folder / FOLDER / name
    resources = cluster.resources_of(PRETRAIN)
    resources = replace(resources, time=MINUTES, nodes=nodes or resources.nodes)
    # The profile's warning is meant for its own time limits, and may be longer than that of this job.
    cluster = replace(cluster, signal_seconds=min(cluster.signal_seconds, SIGNAL_SECONDS))
    batch = Batch(name, "probe", ((".", "probe"),), resources)
    call = NodeProbe(
        sweeps_folder, folder / "report.json", resources.gpus, resources.cpus, program.examine, needs or Needs()
    )
    start = time.monotonic()
    job = send(call, batch, cluster, folder)
    with doing(f"job {job}: queued"):
        queued = wait_for_report(job, call.report, start + wait)
    return _findings(job, queued, call.report, folder, time.monotonic() - start)


def _findings(job: str, queued: QueuedJob | None, report: Path, folder: Path, seconds: float) -> list[Diagnosis]:
    if report.exists():
        content = [Diagnosis(**row) for row in json.loads(report.read_text(encoding="utf-8"))]
        shutil.rmtree(folder, ignore_errors=True)  # the job may still be writing its last line
        where = f"job {job} on {queued.nodes}" if queued and queued.nodes else f"job {job}"
        return [Diagnosis("job", "ok", f"{where}, there and back in {seconds:.0f} s"), *content]
    if queued is not None and queued.live and queued.waiting:
        mend = "wait longer (--wait), or ask for less in the profile"
        return [Diagnosis("job", "wrong", f"job {job} did not start within {seconds:.0f} s: {queued.reason}", mend)]
    last = last_words(job, folder)
    state = f"{queued.state} {queued.reason}".strip() if queued else "Slurm no longer knows it"
    mend = f"see {folder}; its node needs this folder and this Python, from a file system that it shares"
    return [Diagnosis("job", "wrong", f"job {job} left no report ({state}): {last}", mend)]
