"""Why Slurm did not take a job, by the words of its sbatch: for want of room, or for what the job asks for."""

import re
from enum import StrEnum


class Refusal(StrEnum):
    """Why Slurm did not take a job."""

    limit = "limit"
    """So many of the account's or the cluster's jobs are queued already: there is room later."""
    array = "array"
    """An array is longer than Slurm takes."""
    policy = "policy"
    """A limit; Slurm does not say whether on the number of jobs or on what one asks for."""
    request = "request"
    """The job asks for something that there is not."""


LIMITS = re.compile(
    r"MaxSubmitJob|GrpSubmitJob|Slurm temporarily unable to accept job|Slurm job queue full"
    r"|Resource temporarily unavailable|maximum number of jobs|MaxJobCount",
    re.IGNORECASE,
)
ARRAY = re.compile(r"Invalid job array specification|Requested array size|MaxArraySize", re.IGNORECASE)
POLICY = re.compile(r"Job violates accounting/QOS policy", re.IGNORECASE)
TRANSIENT = re.compile(
    r"timed? ?out|Unable to contact slurm controller|Connection (refused|reset)|[Cc]ommunication connection failure"
    r"|Zero Bytes were transmitted|Transport endpoint is not connected|standby mode|Job creation temporarily disabled"
    r"|Currently unable to load job state|Slurm is busy|I/O error writing script|Protocol authentication error"
    r"|Unexpected message received|Try again|Temporary failure|name lookup failure|did not answer within"
    r"|sbatch was ended by signal",
    re.IGNORECASE,
)
_RETRYING = re.compile(r"sleeping and retrying", re.IGNORECASE)


def classify(complaint: str) -> Refusal | None:
    """Returns why Slurm refused, by its words; None if they are no refusal, so that another try may help."""
    # What sbatch says while it retries by itself does not tell how the call ended.
    lines = complaint.splitlines()
    end = "\n".join([line for line in lines if not _RETRYING.search(line)] or lines)
    for pattern, kind in ((LIMITS, Refusal.limit), (ARRAY, Refusal.array), (POLICY, Refusal.policy)):
        if pattern.search(end):
            return kind
    return None if TRANSIENT.search(end) else Refusal.request


def mend_of(complaint: str, cluster: str) -> str:
    """Returns what helps a job that Slurm refused.

    Args:
        complaint: Slurm's words.
        cluster: Name of the profile that it was submitted by.
    """
    by_room, by_profile = "salmask sweep, with --feed", f"the profile of '{cluster}', then salmask retry"
    match classify(complaint):
        case Refusal.limit:
            return by_room
        case Refusal.policy:
            return f"{by_room}, if your jobs fill the account; else {by_profile}"
        case _:
            return by_profile
