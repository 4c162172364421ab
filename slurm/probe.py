"""Whether a cluster can do what we will ask of it: one short job with a profile's resources, and what it found."""

import json
import os
import pkgutil
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import submitit
from rich.console import Console

from repro.doctor.diagnosis import Diagnosis
from repro.errors import UserError
from repro.files import write_json
from repro.runs.status import PRETRAIN
from slurm.batches import Batch, submission_name
from slurm.logs import last_line
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import QueuedJob, scancel, snapshot
from slurm.sbatch import SlurmExecutor, parameters

MINUTES = 5
"""That the job asks for; it takes about one."""
ASK_SECONDS = 5.0
REPORT_SECONDS = 30.0
"""After the end of a job, for its report to come through the file system."""
FOLDER = ".doctor"


@dataclass(frozen=True)
class NodeProbe:
    """What runs on the node; what submitit pickles."""

    place: Path
    """Where sweeps will go."""
    report: Path
    gpus: int
    """That each node was asked for."""
    cpus: int
    """That each process was asked for."""
    program: str
    """`MODULE:FUNCTION` that looks at the node; see `slurm.program`."""

    def __call__(self) -> None:
        """Look around, and write what was found."""
        found = pkgutil.resolve_name(self.program)(self.place, gpus=self.gpus, cpus=self.cpus)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            write_json(self.report, [asdict(finding) for finding in found])


def probe(cluster: Cluster, console: Console, program: Program, *, wait: float) -> list[Diagnosis]:
    """Send a job with what the profile asks for a pretraining, and tell what it found.

    Args:
        cluster: a profile with the executor `slurm`.
        console: for progress.
        program: whose `examine` the job carries out.
        wait: seconds; then the job is cancelled, and why it waited is a finding.

    Raises:
        UserError: there is no Slurm here, or it refuses the job.
    """
    if cluster.executor != "slurm":
        raise UserError(f"'{cluster.name}' runs on this machine", mend="salmask doctor, without --cluster")
    name = submission_name(Path("doctor"), "probe")
    folder = cluster.place.absolute() / FOLDER / name
    asked = replace(cluster.resources_of(PRETRAIN), time=MINUTES)
    batch = Batch(name, "probe", ((".", "probe"),), asked)
    call = NodeProbe(cluster.place.absolute(), folder / "report.json", asked.gpus, asked.cpus, program.examine)
    started = time.monotonic()
    job = _submit(call, batch, cluster, folder)
    with console.status(f"job {job}: queued"):
        queued = _wait(job, call.report, started + wait, console)
    return _findings(job, queued, call.report, folder, time.monotonic() - started)


def _submit(call: NodeProbe, batch: Batch, cluster: Cluster, folder: Path) -> str:
    queue = snapshot()
    if queue.trouble:
        raise UserError(f"{queue.trouble}", mend="call this on a login node of the cluster")
    executor = SlurmExecutor(folder=folder)
    executor.update_parameters(**parameters(batch, cluster, "", Path(__file__).resolve().parent.parent))
    try:
        return str(executor.submit(call).job_id)
    except submitit.core.utils.FailedJobError as error:
        said = " ".join(str(error).split())
        raise UserError(f"sbatch refused the probe: {said}", mend=f"the profile '{cluster.name}'") from error


def _wait(job: str, report: Path, end: float, console: Console) -> QueuedJob | None:
    """Until the report is there, the job is gone, or time is up; returns what Slurm said last."""
    seen: QueuedJob | None = None
    gone: float | None = None
    asked = 0.0
    while not report.exists() and time.monotonic() < (end if gone is None else gone + REPORT_SECONDS):
        if time.monotonic() - asked >= ASK_SECONDS:
            asked = time.monotonic()
            queue = snapshot([job])
            seen = queue.jobs.get(job, seen)
            if gone is None and not queue.trouble and not (seen is not None and seen.live and job in queue.jobs):
                gone = time.monotonic()
        time.sleep(0.2)
    if not report.exists() and seen is not None and seen.live:
        scancel([job])
    return seen


def _findings(job: str, queued: QueuedJob | None, report: Path, folder: Path, seconds: float) -> list[Diagnosis]:
    if report.exists():
        content = [Diagnosis(**row) for row in json.loads(report.read_text())]
        shutil.rmtree(folder, ignore_errors=True)  # the job may still be writing its last line
        where = f"job {job} on {queued.nodes}" if queued and queued.nodes else f"job {job}"
        return [Diagnosis("job", "ok", f"{where}, there and back in {seconds:.0f} s"), *content]
    if queued is not None and queued.live and queued.waiting:
        mend = "wait longer (--wait), or ask for less in the profile"
        return [Diagnosis("job", "wrong", f"job {job} did not start within {seconds:.0f} s: {queued.reason}", mend)]
    last = last_line(folder / f"{job}_0_log.err") or last_line(folder / f"{job}_0_log.out") or "it printed nothing"
    state = f"{queued.state} {queued.reason}".strip() if queued else "Slurm no longer knows it"
    mend = f"see {folder}; its node needs this folder and this Python, from a file system that it shares"
    return [Diagnosis("job", "wrong", f"job {job} left no report ({state}); last line: {last}", mend)]
