"""From a profile to submitit's parameters, and from those to the script that sbatch gets."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import submitit

from slurm.profiles.profile import Cluster, Resources
from slurm.submission.batches import Batch

SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads sleep while they wait: spinning costs a factor of three where cores are shared."""

SETUP_FAILED = 'echo "salmask: the setup of the profile failed with status $?: $BASH_COMMAND" >&2; exit 1'
"""What the script does where a line of the profile's setup fails; `slurm.jobs.causes` looks for the words."""


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's executor, used for its scripts alone; `slurm.submission.sbatch_call` submits these."""

    @classmethod
    def affinity(cls) -> int:
        """Tells submitit that Slurm may be used; whether it is there is checked elsewhere, before a submission."""
        return 2

    def script(self, indices: Sequence[int]) -> str:
        """Returns what sbatch gets.

        Args:
            indices: The numbers of the jobs in their array; none of a single job.
        """
        if indices:
            self.parameters["map_count"] = len(indices)  # as submitit's own submission of an array does it
            self.parameters["additional_parameters"]["array"] = _array(indices, self.parameters["array_parallelism"])
        command = f"{self.python} -u -m slurm.start {quote(str(self.folder))}"
        text: str = self._make_submission_file_text(command, "")
        return text


def script_of(batch: Batch, cluster: Cluster, folder: Path, *, dependency: str = "", code: Path | None = None) -> str:
    """Returns the script of a batch.

    Args:
        batch: What is submitted.
        cluster: Its profile.
        folder: Of the submission; absolute, since the job may begin in another folder.
        dependency: What sbatch is told to wait for; empty: nothing.
        code: The folder that the job imports our code from; None: wherever Python finds it.
    """
    executor = SlurmExecutor(folder=folder, python=batch.resources.python or None)
    executor.update_parameters(**_parameters(batch, cluster, dependency, code))
    return executor.script(batch.indices)


def _array(indices: Sequence[int], parallelism: int) -> str:
    """Returns the numbers of an array as sbatch takes them, `0-3,7%2`."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    numbers = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"{numbers}%{min(len(indices), parallelism)}"


def _parameters(batch: Batch, cluster: Cluster, dependency: str, code: Path | None) -> dict[str, Any]:
    """Returns what a batch asks of Slurm, in submitit's words; arguments as of `script_of`."""
    resources = batch.resources
    extra: dict[str, Any] = {name: True if value == "" else value for name, value in resources.extra}
    # submitit has no parameter for these.
    own_options = {"reservation": resources.reservation, "licenses": resources.licenses, "nice": resources.nice}
    extra |= {name: value for name, value in own_options.items() if value not in ("", None)}
    if dependency:
        extra["kill-on-invalid-dep"] = "yes"  # else a child of a failed job waits for ever
    # Some clusters do not requeue unless told to. Requeueing is safe: a job resumes from its last checkpoint.
    extra["requeue"] = True
    optional = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "nodelist": resources.nodelist,
        "comment": resources.comment,
        "mail_user": resources.mail_user,
        "mail_type": resources.mail_type,
        "gres": resources.gres,
        "gpus_per_node": resources.gpus_option,
        "cpus_per_task": resources.cpus,
        # In MB, since sbatch takes no fractions of a GB.
        "mem": f"{max(1, round(1024 * resources.memory))}M" if resources.memory else "",
        "dependency": dependency,
    }
    return {
        **{name: value for name, value in optional.items() if value},
        "job_name": batch.name,
        "time": resources.time or None,  # without a word of ours submitit would ask for five minutes
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "signal_delay_s": cluster.signal_seconds,
        # All at once where the profile sets no throttle; submitit would let 256 run.
        "array_parallelism": batch.at_a_time or resources.throttle or len(batch.keys),
        "setup": _setup(resources, code),
        # srun no longer takes the number of cores from sbatch (22.05); and a rank that fails must end the others.
        "srun_args": [
            *([f"--cpus-per-task={resources.cpus}"] if resources.cpus else []),
            "--kill-on-bad-exit=1",
            *resources.srun,
        ],
        "additional_parameters": extra,
        "wckey": None,  # submitit's own would be refused where such keys are checked
    }


def _setup(resources: Resources, code: Path | None) -> list[str]:
    """Returns the lines of shell that come before the job."""
    lines = [*resources.setup]
    if lines:
        # A job whose environment cannot be set up must end here, and not fail later of something else. A trap, and not
        # `set -e`: that also holds within the functions of modules and conda, whose commands may fail.
        lines = [f"trap {quote(SETUP_FAILED)} ERR", *lines, "trap - ERR"]
    # Where the profile leaves it open, the node knows how many cores the cluster gave.
    cpus = resources.cpus or "${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_PER_GPU:-1}}"
    if code is not None:
        # PYTHONSAFEPATH: `python -m` would first look into the folder that sbatch was called in, where the code may be
        # edited.
        lines.append(f"export PYTHONPATH={quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1")
    exports = " ".join(f"{name}={value}" for name, value in SLEEPING_THREADS.items())
    return [*lines, f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}} {exports}"]
