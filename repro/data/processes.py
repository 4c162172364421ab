"""Work on very many small items, here or in processes of their own. No torch."""

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from repro.errors import UserError

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")


def work_all(
    work: Callable[[Sequence[_Item]], list[_Outcome]],
    items: Sequence[_Item],
    *,
    workers: int,
    chunk: int,
    name: str,
    advance: Callable[[int], object],
) -> list[_Outcome]:
    """Does some work on all items, a chunk of them at a time.

    Args:
        work: Takes a chunk and returns what came of each of its items; it must be picklable.
        items: The items, picklable too.
        workers: The number of processes; 1: this one.
        chunk: Items handed to a process at a time: far fewer messages than items, and still even work.
        name: What a process does, for the message of one that was killed.
        advance: Is told how many more items are done.

    Returns:
        What came of each item, in order.

    Raises:
        UserError: A process was killed.
    """
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    outcomes: list[list[_Outcome]] = [[] for _ in chunks]
    several = workers > 1 and len(chunks) > 1
    done = _by_processes(work, chunks, min(workers, len(chunks)), name) if several else enumerate(map(work, chunks))
    for number, of_chunk in done:
        outcomes[number] = of_chunk
        advance(len(of_chunk))
    return [outcome for of_chunk in outcomes for outcome in of_chunk]


def _by_processes(
    work: Callable[[Any], Any], chunks: Sequence[Any], count: int, name: str
) -> Iterator[tuple[int, Any]]:
    """Yields the number of a chunk and what came of it, in whatever order they are done.

    Not by a `ProcessPoolExecutor`: its processes share two pipes. One that is killed while it writes leaves half of a
    message, of which the rest is then waited for; and those whose parent is killed wait for work, all of them for ever.
    Here each has a pipe of its own, which the death of either side closes.
    """
    waiting = enumerate(chunks)
    with _processes(count) as connections:
        begun: dict[Connection, int] = {}
        try:
            for connection in connections:
                connection.send(work)  # once all are started: a large one would hold up the start of the next
            while True:
                for connection in connections - begun.keys():
                    if (following := next(waiting, None)) is not None:
                        begun[connection], of_items = following
                        connection.send(of_items)
                if not begun:
                    return
                for ready in wait(list(begun)):
                    assert isinstance(ready, Connection)
                    outcome = ready.recv()
                    if isinstance(outcome, Exception):
                        raise outcome
                    yield begun.pop(ready), outcome
        except (EOFError, ConnectionError) as error:
            message = f"a {name} process was killed, perhaps for memory"
            raise UserError(message, mend="repeat with --workers 1") from error


@contextmanager
def _processes(count: int) -> Iterator[set[Connection]]:
    """Yields the connections to so many processes, which are ended when the block is left, however it is."""
    context = get_context("spawn")  # not forked, with whatever state other threads, of torch or of a notebook, are in
    connections, processes = set(), []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # else its other end would not tell of the death
            connections.add(ours)
        yield connections
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for connection in connections:
            connection.close()


def _serve(connection: Connection) -> None:
    """Does the work that comes first with all that comes then, until nobody is there to send more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    with suppress(EOFError, ConnectionError):
        work = connection.recv()
        while True:
            connection.send(_outcome(work, connection.recv()))


def _outcome(work: Callable[[Any], Any], of_items: Any) -> Any:
    """Returns what comes of a chunk, or the error that was raised."""
    try:
        return work(of_items)
    except Exception as error:
        error.add_note(traceback.format_exc())  # of which nothing else goes over to another process
        return error
