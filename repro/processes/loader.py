"""torch's DataLoader as everything that reads images uses it: its worker processes end before the main process."""

import atexit
import os
from typing import Any
from weakref import ref

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from repro.processes.workers import LONGEST_WAIT, outlive_signals


class Loader(DataLoader[Any]):
    """A DataLoader whose workers leave signals to the main process, and end in good order with iterator or program.

    torch ends the workers when the iterator is collected, by putting a `None` into the queue of each. A worker that
    does not end so is sent TERM, which these workers outlive for half a minute, and is waited for. Two cases would
    come to that:

    - At the end of a program the iterator may not have been collected: a training's runner and its loop refer to each
      other, and an error keeps the frames that it came through. So the workers are ended at exit.
    - An iterator may be collected as part of such a reference cycle. Its queues belong to the cycle, too, and are
      closed before it can put anything into them. So `_QUEUES` keeps them for longer.
    """

    def __init__(self, dataset: Dataset[Any], *, workers: int, **options: Any) -> None:
        """Makes a loader.

        Args:
            dataset: What is read.
            workers: Number of worker processes; 0: the main process reads.
            options: Other options of torch's DataLoader.
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
        """Does not warn of more workers than cores, as torch does in two lines: `machine.workers` is deliberate."""


_QUEUES: dict["ref[_MultiProcessingDataLoaderIter]", list[Any]] = {}
"""By iterator, the queues by which its workers are told to end."""


def _let_go_of_queues() -> None:
    """Forgets the queues of iterators that are gone; not earlier, as they are needed when the iterator ends."""
    for iterator in [iterator for iterator in _QUEUES if iterator() is None]:
        del _QUEUES[iterator]


def _end_processes() -> None:
    for reference in list(_QUEUES):
        if (iterator := reference()) is not None:
            iterator._shutdown_workers()


# Called before torch's own exit function, since it is registered later; after that one torch ends no worker any more.
atexit.register(_end_processes)
os.register_at_fork(after_in_child=_QUEUES.clear)  # the workers are the parent's to end
