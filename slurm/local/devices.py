"""The GPUs of this machine that a launch shares out, and how much room there is beside what others run here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from repro.errors import UserError
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.ledger import Submission

_DEVICE = re.compile(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+", re.ASCII)
"""How `CUDA_VISIBLE_DEVICES` names a device: its number, or the beginning of its UUID."""


@dataclass(frozen=True)
class Places:
    """How much of this machine a launch may use at a time."""

    jobs: int
    """The most jobs at a time; if `gpus` are shared out, their number."""
    gpus: Sequence[str] = ()
    """GPUs to share out; one that is named twice takes two jobs. None: every job sees those of its launcher."""

    def left(self, running: Sequence[Sequence[str]], others: Sequence[Submission]) -> tuple[int, list[str]]:
        """Returns how many more jobs have room, and the GPUs that are free for them, in their order.

        Args:
            running: The GPUs of each job of this launch.
            others: Jobs that run here and are not this launch's.
        """
        free = list(self.gpus)
        for name in chain(*running, *(entry.devices for entry in others)):
            if name in free:  # a GPU that several jobs hold is named for each
                free.remove(name)
        return self.jobs - len(running) - sum(map(self._takes_one, others)), free

    def _takes_one(self, entry: Submission) -> bool:
        """Returns whether a job of another launch takes a place of this one: not if it is on other GPUs."""
        return not (self.gpus and entry.devices) or not set(entry.devices).isdisjoint(self.gpus)


def chosen_devices(gpus: str, cluster: Cluster | None, parallel: int) -> tuple[str, ...]:
    """Returns the GPUs to share out on this machine.

    Args:
        gpus: As `--gpus` gives them; empty: not given.
        cluster: The profile to launch on.
        parallel: As `--parallel` gives it.

    Raises:
        UserError: It is not a list of devices, or another option excludes it.
    """
    if not gpus:
        return ()
    if cluster is not None and cluster.executor != "local":
        raise UserError(f"--gpus is for processes on this machine, and '{cluster.name}' has none", mend="--local")
    if parallel > 1:
        raise UserError(
            "--gpus and --parallel exclude each other", mend="name a GPU twice for two jobs at a time on it"
        )
    names = tuple(word.strip() for word in gpus.split(","))
    if not all(map(_DEVICE.fullmatch, names)):
        raise UserError(f"--gpus {gpus}: devices are numbers or UUIDs with commas between", mend="--gpus 0,1")
    return names
