"""torch's loader, as whatever reads images in processes of its own uses it: the processes end before the main one."""

import atexit
import os
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from repro.workers import outlive_signals, timeout


class Loader(DataLoader[Any]):
    """A loader whose processes leave signals to the main one, and end in good order when that ends.

    torch ends them when the iterator is collected. At the end of a program it may not have been: a training's runner
    and its loop refer to each other, and an error keeps the frames that it came through. multiprocessing would then
    send TERM to the processes, which outlive it for half a minute, and wait.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, **options: Any) -> None:
        """Makes a loader.

        Args:
            dataset: What is read.
            workers: Number of processes; with 0 the main process reads.
            options: torch's others.
        """
        super().__init__(
            dataset, num_workers=workers, timeout=timeout(workers), worker_init_fn=outlive_signals, **options
        )

    def __iter__(self) -> _BaseDataLoaderIter:
        """Begins to read; with `persistent_workers` the iterator is always the same."""
        iterator = super().__iter__()
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            _READING.add(iterator)
        return iterator

    def check_worker_number_rationality(self) -> None:
        """Does not warn of more processes than cores, as torch does in two lines: `machine.workers` is chosen."""


_READING: WeakSet[_MultiProcessingDataLoaderIter] = WeakSet()


def _end_processes() -> None:
    for iterator in list(_READING):
        iterator._shutdown_workers()


# Last registered is first called: before torch notes that the program ends, from when on it ends no process any more.
atexit.register(_end_processes)
os.register_at_fork(after_in_child=_READING.clear)  # they are the parent's to end
