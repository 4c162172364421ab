"""`salmask bench step --cluster NAME`: sends a job that times rows on a node, and reads what it measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from repro.bench.throughput import StepMeasurement
from repro.errors import UserError
from repro.runs.status import PRETRAIN
from repro.settings.run import Run
from slurm.jobs.node_bench import NodeBench
from slurm.profiles.profile import load

FOLDER = ".bench"
"""Below the folder that sweeps go to."""
MINUTES, MINUTES_A_ROW = 10, 10
"""Minutes of the job's time limit: to begin, and for each row."""


def bench_on_node(
    cluster: str,
    runs: Sequence[Run],
    *,
    program: str,
    steps: int,
    warm_up: int,
    wait: float,
) -> list[StepMeasurement]:
    """Sends a job that times rows, waits for it, and returns what it measured.

    Args:
        cluster: Name of a profile with the executor `slurm`, or its file.
        runs: The rows, with their settings.
        program: What times one, as `slurm.jobs.program` names it.
        steps: Steps that are timed.
        warm_up: Steps before them.
        wait: Seconds; then the job is cancelled.

    Raises:
        UserError: There is no Slurm here, it refuses the job or does not start it in time, or the job fails.
    """
    from slurm.nodes.node_job import carried_out  # submitit takes a second to import
    from slurm.submission.batches import Batch, submission_name

    profile = load(cluster)
    if profile.executor != "slurm":
        raise UserError(f"'{profile.name}' runs jobs on this machine", mend="salmask bench step, without --cluster")
    name = submission_name(Path("bench"), "step")
    folder = profile.sweeps_folder.absolute() / FOLDER / name
    minutes = MINUTES + MINUTES_A_ROW * len(runs)
    asked = profile.resources_of(PRETRAIN)
    resources = replace(asked, time=min(asked.time or minutes, minutes))
    call = NodeBench(tuple(run.to_yaml() for run in runs), folder / "report.json", steps, warm_up, program)
    content, _ = carried_out(call, Batch(name, "step", ((".", "step"),), resources), profile, folder, wait)
    return [StepMeasurement(**{**row, "kind": tuple(row["kind"])}) for row in content]
