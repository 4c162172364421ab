"""The clock of a training's stages. No torch, whose import is one of them."""

import time


class StageClock:
    """Times stages, each from the end of the one before.

    Attributes:
        times: For each stage that has ended its seconds on the processor, `cpu s`, and on the wall, `wall s`.
    """

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Leaves out what has passed since the last stage."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def end(self, stage: str) -> None:
        """Notes a stage that has just ended."""
        now = time.process_time(), time.perf_counter()
        self.times[stage] = {"cpu s": now[0] - self._cpu, "wall s": now[1] - self._wall}
        self.begin()
