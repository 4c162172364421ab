"""Questions to Slurm's programs: what they print, or in one line why there is no answer."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OF_A_PERSON = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SPRIO_")
"""Beginnings of variables that filter or format what these programs show a person; our calls go without them."""
WHICH_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say which cluster is talked to, and who does; the same for a submission and for a look at it."""
LOGIN_NODE = "call this on a login node of the cluster"
"""The mend where Slurm is not to be reached from this machine."""
_NO_SOURCE = "Could not establish a configuration source"
_NO_FILE = "Unable to process configuration file"
"""What its programs say last where they find no cluster: there is none, or it is not to be reached."""
_NOT_REACHED = re.compile(
    r".*(?:failed to fetch remote configs|unable to (?:resolve|contact)|name lookup failure|unknown server error).*",
    re.IGNORECASE,
)
"""What they say before that of a cluster that something names: of its controller, or of a server of names that is away.
Where nothing names one, that server says "Unknown host"."""
ANSWER_SECONDS = 60.0
"""How long an answer of the controller is waited for."""


@dataclass(frozen=True)
class Reply:
    """What a program of Slurm had to say."""

    output: str = ""
    """Empty where it failed."""
    errors: str = ""
    """What stands on its standard error, also where it did not fail."""
    trouble: str = ""
    """Why there is no answer, with the program's name; empty: there is one."""

    @property
    def not_here(self) -> bool:
        """Whether this machine belongs to no cluster, so that asking again helps nobody."""
        if _NO_FILE in self.trouble:  # one is there that cannot be read, or is named and away; else, of older versions:
            return "SLURM_CONF" not in os.environ and "No such file or directory" in self.errors
        return _NO_SOURCE in self.trouble and not _NOT_REACHED.search(self.errors)


def ask(
    words: Sequence[str],
    *,
    seconds: float = ANSWER_SECONDS,
    script: str = "",
    environment: Mapping[str, str] | None = None,
) -> Reply:
    """Calls a program of Slurm, and returns what it says; whatever goes wrong is told as trouble.

    Args:
        words: The program and its arguments.
        seconds: How long its answer is waited for.
        script: What it gets on its standard input.
        environment: Variables; None: this process's.
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
    """Returns this process's variables as on a login node: within a job, sbatch would hand that job's own on."""
    from submitit.helpers import clean_env  # takes a second, which `salmask status` need not wait for

    with clean_env():
        environment = dict(os.environ)
    # It takes every SLURM_ variable away, also those that no job has of itself; and those of SBATCH_, rightly: sbatch
    # would take them before what the script asks for.
    return environment | {name: os.environ[name] for name in WHICH_CLUSTER if name in os.environ}
