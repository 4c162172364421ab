"""A real Slurm for the tests marked `slurm`: two nodes, started and stopped by scripts in slurm_daemons/.

One session uses it at a time. If there are not enough GPUs for both, a job of the partition `high` sends a job of `low`
(USR2 first, then 20 s to save) or of `abrupt` (killed at once) back to the queue. These partitions have one node, which
claims 2 GPUs and 16 cores. Only `all` has the second node too, another slurmd on this machine, without GPUs. Time
limits are whole minutes and are enforced every 30 s.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

SCRIPTS = Path(__file__).parent / "slurm_daemons"
CANNOT = 77
"""Exit status of `up.sh` where Slurm cannot run."""


class Cluster:
    """The cluster that runs, and the commands by which tests disturb it."""

    def __init__(self, prefix: Path) -> None:
        """Name the folder of its files."""
        self.prefix = prefix

    def start(self, *, accounting: bool = True, forget_seconds: int = 300) -> None:
        """Start it, skipping the test where Slurm cannot run here.

        Args:
            accounting: Whether there is accounting for sacct to read.
            forget_seconds: How long squeue shows a job that ended.
        """
        words = [] if accounting else ["--no-accounting"]
        ended = self._script("up.sh", *words, SLURM_TEST_NODES="2", SLURM_TEST_FORGET_SECONDS=str(forget_seconds))
        if ended.returncode == CANNOT:
            pytest.skip(f"no Slurm here: {ended.stderr.strip().splitlines()[-1]}")
        assert ended.returncode == 0, ended.stderr

    def stop(self, *, wipe: bool = False) -> None:
        """Stop it, jobs and all; what it knows of finished jobs stays unless wiped."""
        self._script("down.sh", *(["--wipe"] if wipe else []))

    def _script(self, name: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "SLURM_TEST_PREFIX": str(self.prefix), **variables}
        return subprocess.run(
            [SCRIPTS / name, *words], env=environment, capture_output=True, text=True, check=False, timeout=280
        )

    @property
    def conf(self) -> Path:
        """The value for SLURM_CONF."""
        return self.prefix / "etc" / "slurm.conf"

    def call(self, *words: str) -> str:
        """What a Slurm command prints."""
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def state(self, job: str) -> str:
        """The controller's state of a job, for example RUNNING; of an array, that of the first task."""
        shown = self.call("scontrol", "show", "job", "-o", job)
        return shown.split("JobState=", 1)[1].split(maxsplit=1)[0]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with accounting, for the whole session; stopped however the session ends."""
    temporary = Path(tempfile.gettempdir())
    made = Cluster(temporary / "salmask-slurm")
    with filelock.FileLock(temporary / "salmask-slurm.lock", timeout=240), pytest.MonkeyPatch.context() as patch:
        made.stop(wipe=True)  # what a killed session left
        try:
            made.start()
            patch.setenv("SLURM_CONF", str(made.conf))
            yield made
        finally:
            made.stop(wipe=True)
