"""Whether a cluster can do what we will ask of it: one short job with a profile's resources, and what it found."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.errors import UserError
from repro.files import write_text
from repro.progress import doing
from repro.runs.status import PRETRAIN
from slurm.batches import Batch, submission_name
from slurm.calls import write_calls
from slurm.causes import cause_of_ranks
from slurm.logs import last_line, tail
from slurm.node_bench import NodeBench
from slurm.node_probe import NodeProbe
from slurm.profile import Cluster
from slurm.program import Program
from slurm.queue import QueuedJob, scancel, snapshot
from slurm.sbatch import script_of
from slurm.sbatch_call import SCRIPT, RefusedError, UnclearError, submit_script

MINUTES = 5
"""Time limit of the job; it takes about one."""
SIGNAL_SECONDS = 60
"""The longest warning before that limit."""
ASK_SECONDS = 5.0
"""Between two questions to Slurm, which serves everybody."""
POLL_SECONDS = 0.2
REPORT_SECONDS = 30.0
"""After the end of a job, for its report to come through the file system."""
FOLDER = ".doctor"


def probe(
    cluster: Cluster, program: Program, *, needs: Needs | None = None, nodes: int = 0, wait: float
) -> list[Diagnosis]:
    """Sends a job with what the profile asks for a pretraining, and returns what it found.

    Args:
        cluster: a profile with the executor `slurm`.
        program: whose `examine` the job carries out.
        needs: data sets and weights that must be there; None: the weights of the paper's localizer.
        nodes: that the job asks for; 0: as many as the profile says.
        wait: seconds; then the job is cancelled, and why it waited is a finding.

    Raises:
        UserError: there is no Slurm here, it refuses the job, or does not answer.
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


def send(call: NodeProbe | NodeBench, batch: Batch, cluster: Cluster, folder: Path) -> str:
    """Submits a job that is of no sweep, and returns its id.

    Args:
        call: what it does.
        batch: its name and what it asks for.
        cluster: its profile.
        folder: of its files.

    Raises:
        UserError: there is no Slurm here, it refuses the job, or does not answer.
    """
    queue = snapshot()
    if queue.trouble:
        raise UserError(f"{queue.trouble}", mend="call this on a login node of the cluster")
    write_calls(folder, {0: call})
    write_text(folder / SCRIPT, script_of(batch, cluster, folder, code=Path(__file__).resolve().parent.parent))
    try:
        return submit_script(folder / SCRIPT, batch.name)
    except RefusedError as error:
        raise UserError(f"sbatch refused the {batch.task}: {error}", mend=f"the profile '{cluster.name}'") from error
    except UnclearError as error:
        mend = f"later; if the job went out all the same: scancel --name={batch.name}"
        raise UserError(f"Slurm does not answer: {error}", mend=mend) from error


def wait_for_report(job: str, report: Path, deadline: float) -> QueuedJob | None:
    """Waits until the report is there, the job is gone, or time is up; returns what Slurm said of it last."""
    latest: QueuedJob | None = None
    gone_at: float | None = None
    asked_at = 0.0
    # The report decides, not the queue: it may be there before squeue tells of the end, and on a shared file system
    # come some time after it.
    while not report.exists() and time.monotonic() < (deadline if gone_at is None else gone_at + REPORT_SECONDS):
        if time.monotonic() - asked_at >= ASK_SECONDS:
            asked_at = time.monotonic()
            queue = snapshot([job])
            latest = queue.jobs.get(job, latest)
            alive = latest is not None and latest.live and job in queue.jobs
            if gone_at is None and not queue.trouble and not alive:
                gone_at = time.monotonic()
        time.sleep(POLL_SECONDS)
    if not report.exists() and latest is not None and latest.live:
        scancel([job])  # nobody waits for it any more
    return latest


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


def last_words(job: str, folder: Path) -> str:
    """Returns why a job ended, by what it printed.

    Args:
        job: its id.
        folder: of its submission.
    """
    logs = {int(path.name.split("_")[-2]): tail(path) for path in sorted(folder.glob(f"{job}_*_log.err"))}
    return (
        cause_of_ranks(logs)
        or last_line(folder / f"{job}_0_log.err")
        or last_line(folder / f"{job}_0_log.out")
        or "it printed nothing"
    )
