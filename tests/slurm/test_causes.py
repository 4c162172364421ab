"""Why a job ended, and which line of its log says so."""

from pathlib import Path
from typing import Any

import pytest
from sweep_samples import GONE, HERE, Sweep

from slurm.jobs.causes import cause_of, cause_of_ranks
from slurm.monitoring.states import State

OUT_OF_MEMORY = """step 40
slurmstepd: error: Detected 1 oom_kill event in StepId=812.0. Some of the step tasks have been OOM Killed.
srun: error: node3: task 0: Out Of Memory
srun: Force Terminated StepId=812.0
srun: launch/slurm: _step_signal: Terminating StepId=812.0
"""
RANKS = """Traceback (most recent call last):
  File "run.py", line 3, in <module>
ValueError: the queue holds 3 keys, and the batch 8
[rank1]: torch.distributed.DistBackendError: Connection closed by peer [10.0.0.3]:29500
srun: error: node3: task 1: Exited with exit code 1
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (OUT_OF_MEMORY, "killed for lack of memory; mend: memory: 24 in the profile, it had 16"),
        (
            "slurmstepd: error: *** JOB 812 ON n1 CANCELLED AT 2026-11-22T10:00 DUE TO TIME LIMIT ***\nsrun: error: x",
            "its time limit was reached; mend: time: 180 in the profile, it had 90 minutes",
        ),
        (
            "slurmstepd: error: *** STEP 812.0 CANCELLED AT 2026-11-22T10:00:00 DUE TO NODE FAILURE, SEE LOG ***\n",
            "its node failed; mend: salmask retry, or exclude the node in the profile",
        ),
        (RANKS, "ValueError: the queue holds 3 keys, and the batch 8"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "the GPU's memory was full; mend: a smaller batch"),
        (
            "/usr/bin/python: No module named slurm\nsrun: error",
            "/usr/bin/python: No module named slurm; mend: the prof",
        ),
        (
            "slurmstepd-n7: error: execve(): /home/me/.venv/bin/python: No such file or directory\n"
            "srun: error: n7: task 0: Exited with exit code 2",
            "slurmstepd-n7: error: execve(): /home/me/.venv/bin/python: No such file or directory; mend: the environ",
        ),
        ("OSError: [Errno 28] No space left on device", "OSError: [Errno 28] No space left on device; mend: free some"),
        (
            "salmask: the setup of the profile failed with status 1: module load cuda",
            "salmask: the setup of the profile",
        ),
        (
            "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error.",
            "the node's shared memory was full; mend: machine.workers=0, or a larger /dev/shm",
        ),
        ("slurmstepd: error: Exceeded job memory limit", "killed for lack of memory; mend: memory: 24"),
        ("slurmstepd: error: lost contact with node n3", "its node failed; mend: salmask retry, or exclude"),
        ("OSError: [Errno 122] Disk quota exceeded", "OSError: [Errno 122] Disk quota exceeded; mend: free some space"),
        # The GPU's memory is told before the node's, and the exception before the exit that follows.
        (f"CUDA error: out of memory\n{OUT_OF_MEMORY}", "the GPU's memory was full; mend: a smaller batch"),
        ("[rank1]: KeyError: 'top1'\nSystemExit: 1", "[rank1]: KeyError: 'top1'"),
        ("step 40\nsaved a checkpoint\n", ""),
    ],
)
def test_the_cause_is_told_with_its_mend(log: str, cause: str) -> None:
    told = cause_of(log, 16.0, 90)
    assert told.startswith(cause)
    assert bool(told) == bool(cause)


def test_a_cause_is_one_short_line_and_has_one_mend() -> None:
    full = "No space left on device"
    assert cause_of(f"{full}; mend: free some space, and repeat") == f"{full}; mend: free some space, and repeat"
    assert cause_of(f"{full}: {'x' * 400}") == f"{full}: {'x' * (298 - len(full))}; mend: free some space"
    assert cause_of("ValueError: " + "x" * 400) == "ValueError: " + "x" * 288
    assert cause_of("DUE TO TIME LIMIT") == "its time limit was reached; mend: more time in the profile"


@pytest.mark.parametrize(
    ("asked", "mend"),
    [
        ({"memory": 16.0}, "memory: 24 in the profile, it had 16"),
        ({}, "more memory"),
        ({"memory": 16.0, "executor": "local", "host": HERE}, "more memory"),  # not held to the profile's memory
    ],
)
def test_status_shows_the_cause_and_not_the_last_line(tmp_path: Path, asked: dict[str, Any], mend: str) -> None:
    sweep = Sweep(tmp_path / "sweep")
    entry = sweep.submitted(job="999999999", **asked)
    log = entry.log(sweep.place, "err")
    log.parent.mkdir(parents=True)
    log.write_text(OUT_OF_MEMORY)
    row = sweep.row(GONE)
    assert row.state is State.died
    assert row.note.endswith(f"killed for lack of memory; mend: {mend}")


RANKS = {
    0: "RuntimeError: [../gloo/pair.cc:534] Connection closed by peer [10.0.0.2]:4\n"
    "srun: error: n7: task 1: Killed\nsrun: error: n1: task 0: Terminated\n",
    1: "INFO step 12\n",
}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (RANKS, "rank 1 on n7 was killed"),
        (
            {**RANKS, 1: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"},
            "rank 1 on n7: the GPU's memory was full; mend: a smaller batch for each GPU, or a GPU with more memory",
        ),
        ({0: "srun: error: n1: task 0: Terminated\nsrun: error: n2: tasks 3-5: Exited with exit code 7\n"},
         "rank 3 on n2 ended: Exited with exit code 7"),
        ({0: "ConnectionResetError: Connection reset by peer\n", 1: "ValueError: no such class\n"},
         "rank 1: ValueError: no such class"),
        ({0: "ConnectionResetError: Connection reset by peer\n", 1: ""}, ""),
    ],
)  # fmt: skip
def test_of_several_ranks_the_one_that_failed_is_named(texts: dict[int, str], said: str) -> None:
    assert cause_of_ranks(texts) == said
