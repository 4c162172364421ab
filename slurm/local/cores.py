"""How processes of this machine share its cores out."""

import os

from repro.cores import idle_cores, usable_cores
from repro.quantities import counted
from repro.terminal import Console
from slurm.submission.sbatch import KEEP_MEMORY


def cpu_environment(processes: int, console: Console) -> dict[str, str]:
    """Returns the variables for processes that share the idle cores out; the user's own take precedence.

    Args:
        processes: How many run at a time; 0: none will.
        console: Is told where other processes leave fewer threads to each of ours.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return KEEP_MEMORY
    cores = usable_cores()
    # What is busy now may be idle later, but too few threads cost a part of the time, and too many a multiple of it.
    idle = idle_cores() if processes else cores
    threads, most = (max(1, number // max(1, processes)) for number in (idle, cores))
    if threads < most:
        share = f"{counted(threads, 'thread')} a process, and not {most}"
        console.print(f"{cores - idle} of {cores} cores are busy: {share}", soft_wrap=True)
    return {"OMP_NUM_THREADS": str(threads), **KEEP_MEMORY}
