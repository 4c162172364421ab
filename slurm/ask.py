"""Questions to Slurm's programs: what they print, or in one line why there is no answer."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OF_A_PERSON = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SPRIO_")
"""Prefixes of environment variables by which a user filters or formats these programs' output; our calls drop them."""
WHICH_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Environment variables that select the cluster, and the user's token; submissions and queries both keep them."""
LOGIN_NODE = "call this on a login node of the cluster"
"""The mend where this machine cannot reach Slurm."""
_NO_SOURCE = "Could not establish a configuration source"
_NO_FILE = "Unable to process configuration file"
"""The last line of Slurm's programs when they find no cluster: there is none, or it cannot be reached."""
_NOT_REACHED = re.compile(
    r".*(?:failed to fetch remote configs|unable to (?:resolve|contact)|name lookup failure|unknown server error).*",
    re.IGNORECASE,
)
"""What they print before that line when a cluster is configured, but its controller or the name server cannot be
reached. When none is configured, the name server answers "Unknown host" instead."""
ANSWER_SECONDS = 60.0
"""How long to wait for the controller's answer."""


@dataclass(frozen=True)
class Reply:
    """The answer of one of Slurm's programs."""

    output: str = ""
    """Its standard output; empty if it failed."""
    errors: str = ""
    """Its standard error, even if it succeeded."""
    trouble: str = ""
    """Why there is no answer, beginning with the program's name; empty: there is one."""

    @property
    def not_here(self) -> bool:
        """Whether this machine belongs to no cluster, so that asking again is useless."""
        if _NO_FILE in self.trouble:  # also what older versions say where there is no configuration at all
            return "SLURM_CONF" not in os.environ and "No such file or directory" in self.errors
        return _NO_SOURCE in self.trouble and not _NOT_REACHED.search(self.errors)


def ask(
    words: Sequence[str],
    *,
    seconds: float = ANSWER_SECONDS,
    script: str = "",
    environment: Mapping[str, str] | None = None,
) -> Reply:
    """Calls one of Slurm's programs and returns its answer; a failure is returned as `trouble`, and not raised.

    Args:
        words: The program and its arguments.
        seconds: How long to wait for its answer.
        script: What it gets on its standard input.
        environment: Its environment variables; None: this process's. Those of `OF_A_PERSON` are dropped.
    """
    inherited = os.environ if environment is None else environment
    environment = {name: value for name, value in inherited.items() if not name.startswith(OF_A_PERSON)}
    environment["LC_ALL"] = "C"
    try:
        process = subprocess.run(
            words,
            env=environment,
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Reply(trouble=f"{words[0]} did not answer within {seconds:.0f} s")
    except OSError as error:
        return Reply(trouble=f"{words[0]}: {error.strerror}")
    if process.returncode:
        complaint = process.stderr.strip().splitlines()
        why = complaint[-1] if complaint else f"status {process.returncode}"
        if _NO_SOURCE in why and (causes := _NOT_REACHED.findall(process.stderr)):
            why = causes[-1]
        return Reply(errors=process.stderr, trouble=f"{words[0]}: {why.removeprefix(f'{words[0]}: ')}")
    return Reply(process.stdout, process.stderr)


def outside_of_any_job() -> dict[str, str]:
    """Returns this process's environment as on a login node: within a job, sbatch would pass its variables on."""
    from submitit.helpers import clean_env  # takes a second, which `salmask status` need not wait for

    with clean_env():
        environment = dict(os.environ)
    # `clean_env` drops all SLURM_ variables; those that select the cluster are put back. It also drops those of
    # SBATCH_, and rightly so: sbatch would prefer them to the script's options.
    return environment | {name: os.environ[name] for name in WHICH_CLUSTER if name in os.environ}
