"""Several processes agree to stop at the same step, at no cost in the step."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from repro.distributed import world_size
from repro.runs.stopping import STOP

LAG = 1
"""Steps between a question and its answer.

By then the answer has long come: the device is busy with the next step, and the process need not wait for it.
"""


@dataclass(frozen=True)
class StopQuestion:
    """Whether any process was asked to stop, on its way between them."""

    signal: Tensor
    """1 number, on the CPU; to be read when the answer is there."""
    work: dist.Work
    event: torch.cuda.Event | None
    """Of the copy from the device; None where the collective ran on the CPU."""

    def answer(self) -> int:
        """Returns the number of the signal that any process got, 0 for none; the same in all of them."""
        if self.event is None:
            self.work.wait()
        else:
            self.event.synchronize()
        return int(self.signal)


class StopAgreement:
    """Whether any process was asked to stop; all come to the same answer at the same step.

    A process that stopped by itself would leave the others waiting in their next collective. So each says after every
    step whether it was asked to, and reads after the next one what all had said. Every method is a collective: all
    processes call the same ones in the same order.
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
        # The maximum hands the number of the signal, which the exit status tells, to processes that no signal reached.
        signal = self._questions.popleft().answer()
        STOP.signal = max(STOP.signal, signal)
        return bool(signal)


def ask_all() -> StopQuestion:
    """Asks all processes whether any was told to stop; returns the question, to be answered later. A collective."""
    on_device = dist.get_backend() == "nccl"
    signal = torch.full((1,), STOP.signal, dtype=torch.int32, device="cuda" if on_device else "cpu")
    work = dist.all_reduce(signal, dist.ReduceOp.MAX, async_op=True)
    if not on_device:
        return StopQuestion(signal, work, None)
    work.wait()  # of NCCL's this makes the device's stream wait, and not the process
    copy = signal.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return StopQuestion(copy, work, event)
