"""Where a job begins, of Slurm or of this machine: `python -u -m slurm.start FOLDER` of its submission."""

import os
import signal
import sys
from pathlib import Path

from repro.runs.stopping import SIGNALS

NODE_JOB_ATTEMPTS = 3
"""How often a probe or a benchmark of a node may begin: whoever asked for it may have gone."""


def main(folder: Path) -> int:
    """Carries out this process's job; returns the exit status.

    Args:
        folder: Of its submission.
    """
    # Unhandled, TERM or USR2 ends the process at once, and with it the job. So both are blocked until the modules that
    # handle them are imported, which takes many seconds on a busy file system. That is why these imports stand here.
    if "SLURM_JOB_ID" in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from repro.command_line.terminal import say, settle_stderr
    from repro.errors import UserError, trouble_of_machine
    from slurm.jobs.calls import read_call
    from slurm.jobs.job import Call, go_back, restarts, slurm_job

    # Until the training sets handlers of its own (`repro.runs.stopping`), there is nothing to save: USR2 sends the job
    # back to the queue at once. At a preemption TERM comes with it, and must not end the job before that. If TERM comes
    # alone, Slurm kills the job some seconds later.
    if slurm_job():
        signal.signal(signal.SIGTERM, lambda *_: None)  # and not SIG_IGN, which child processes would inherit
        signal.signal(signal.SIGUSR2, lambda *_: go_back())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        call = read_call(folder, int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))
        if not isinstance(call, Call) and restarts() >= NODE_JOB_ATTEMPTS:  # a Call counts its own attempts
            mend = "the same command again, with a longer time limit"
            raise UserError(f"gave up after {restarts()} requeues", mend=mend)
        call()
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else trouble_of_machine(error)
        if not told:
            raise
        say(f"Error: {told}", err=True)
        return 2
    finally:
        # A signal from here on would raise within Python's own shutdown, and only fill the log.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        settle_stderr()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
