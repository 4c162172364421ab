"""Work on very many small items, in this process or in several others. No torch."""

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
        chunk: Items handed to a process at a time: many enough for few messages, few enough for even work.
        name: What a process does, for the error if one is killed.
        advance: Called with the number of items that were done since the last call.

    Returns:
        What came of each item, in order.

    Raises:
        UserError: A process was killed.
        Exception: Whatever `work` raised.
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
    """Yields the number of each chunk and what came of it, in the order in which they are done.

    Not by a `ProcessPoolExecutor`, whose processes share two pipes. If one of these is killed while it writes, half of
    a message is left, and the parent waits for the rest for ever; if the parent is killed, they wait for work for ever.
    Here each process has a pipe of its own, which closes when either side dies.
    """
    waiting = enumerate(chunks)
    with _processes(count) as connections:
        begun: dict[Connection, int] = {}
        try:
            for connection in connections:
                connection.send(work)  # once all are started: sending much would delay the start of the next
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
            message = f"a {name} process was killed, perhaps for lack of memory"
            raise UserError(message, mend="repeat with --workers 1") from error


@contextmanager
def _processes(count: int) -> Iterator[set[Connection]]:
    """Yields the connections to `count` processes, which are ended when the block is left, even by an error."""
    context = get_context("spawn")  # a fork would copy locks that other threads, of torch or a notebook, hold
    connections, processes = set(), []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()  # else this process would not notice when the other one dies
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
    """Receives the work, then does it on each chunk that follows, until the other side closes the connection."""
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
        error.add_note(traceback.format_exc())  # pickling an error keeps its notes, but not its traceback
        return error
