"""torch's loader, as whatever reads images in processes of its own uses it: the processes end before the main one."""

import atexit
import os
from typing import Any
from weakref import ref

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from repro.workers import LONGEST_WAIT, outlive_signals


class Loader(DataLoader[Any]):
    """A loader whose processes leave signals to the main one, and end in good order when they or that one end.

    torch ends them when the iterator is collected: it puts a `None` into the queue of each. What does not end so is
    sent TERM, which these processes outlive for half a minute, and is waited for. Twice that would be so. At the end of
    a program the iterator may not have been collected: a training's runner and its loop refer to each other, and an
    error keeps the frames that it came through. And where Python finds it as part of such a circle, its queues are of
    the circle too, and are closed before it can put anything into them; so they are held here for longer.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, **options: Any) -> None:
        """Makes a loader.

        Args:
            dataset: What is read.
            workers: Number of processes; with 0 the main process reads.
            options: torch's others.
        """
        super().__init__(
            dataset,
            num_workers=workers,
            timeout=LONGEST_WAIT if workers else 0,
            worker_init_fn=outlive_signals,
            **options,
        )

    def __iter__(self) -> _BaseDataLoaderIter:
        """Begins to read; with `persistent_workers` the iterator is always the same."""
        iterator = super().__iter__()
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            _let_go_of_queues()
            _QUEUES[ref(iterator)] = iterator._index_queues
        return iterator

    def check_worker_number_rationality(self) -> None:
        """Does not warn of more processes than cores, as torch does in two lines: `machine.workers` is chosen."""


_QUEUES: dict["ref[_MultiProcessingDataLoaderIter]", list[Any]] = {}
"""Of each reading the queues by which its processes are told to end."""


def _let_go_of_queues() -> None:
    """Forgets the queues of readings that are over; not as they end, which is when they are needed."""
    for iterator in [iterator for iterator in _QUEUES if iterator() is None]:
        del _QUEUES[iterator]


def _end_processes() -> None:
    for reference in list(_QUEUES):
        if (iterator := reference()) is not None:
            iterator._shutdown_workers()


# Last registered is first called: before torch notes that the program ends, from when on it ends no process any more.
atexit.register(_end_processes)
os.register_at_fork(after_in_child=_QUEUES.clear)  # they are the parent's to end
