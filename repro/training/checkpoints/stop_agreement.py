"""Several processes agree to stop at the same step, without slowing steps down."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from repro.processes.distributed import world_size
from repro.runs.stopping import STOP

LAG = 1
"""Steps between a question and its answer.

By then the answer has arrived, while the device was busy with the next step, so that the process need not wait for it.
"""


@dataclass(frozen=True)
class StopQuestion:
    """A collective on its way, which tells whether any process was asked to stop."""

    signal: Tensor
    """One number, on the CPU; valid once the answer has arrived."""
    work: dist.Work
    event: torch.cuda.Event | None
    """Of the copy from the device; None where the collective ran on the CPU."""

    def answer(self) -> int:
        """Returns the highest number of a signal that any process got, 0 for none; the same on all of them."""
        if self.event is None:
            self.work.wait()
        else:
            self.event.synchronize()
        return int(self.signal)


class StopAgreement:
    """Tells whether any process was asked to stop, with the same answer on all processes at the same step.

    If a process stopped alone, the others would wait for it in their next collective. So after every step, each process
    says whether it was asked to stop, and after the next step it reads what all of them said. Every method is a
    collective: all processes call the same ones in the same order.
    """

    def __init__(self) -> None:
        """Begins with no question on its way."""
        self._questions: deque[StopQuestion] = deque()

    def after_step(self) -> bool:
        """Returns whether to stop now, at most `LAG` steps after the first process was asked to."""
        if world_size() == 1:
            return bool(STOP.signal)
        self._questions.append(ask_all())
        return len(self._questions) > LAG and self._read()

    def at_once(self) -> bool:
        """Returns whether to stop now, and waits for the answer."""
        if world_size() == 1:
            return bool(STOP.signal)
        self._questions.append(ask_all())
        answers = [self._read() for _ in range(len(self._questions))]
        return any(answers)

    def _read(self) -> bool:
        # The maximum hands the signal's number, which the exit status depends on, to processes that got no signal.
        signal = self._questions.popleft().answer()
        STOP.signal = max(STOP.signal, signal)
        return bool(signal)


def ask_all() -> StopQuestion:
    """Asks all processes whether any was asked to stop; returns the question, to be answered later. A collective."""
    on_device = dist.get_backend() == "nccl"
    signal = torch.full((1,), STOP.signal, dtype=torch.int32, device="cuda" if on_device else "cpu")
    work = dist.all_reduce(signal, dist.ReduceOp.MAX, async_op=True)
    if not on_device:
        return StopQuestion(signal, work, None)
    work.wait()  # with NCCL, this makes the device's stream wait, not the process
    copy = signal.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return StopQuestion(copy, work, event)
