"""The clock of a training's stages. It imports no torch, whose import is one of the stages."""

import time


class StageClock:
    """Times stages; each begins where the one before ended.

    Attributes:
        times: The seconds of each stage that has ended: CPU time as `cpu s`, wall-clock time as `wall s`.
    """

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Begins the next stage now; the time since the last stage does not count."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def end(self, stage: str) -> None:
        """Records a stage that has just ended, and begins the next."""
        now = time.process_time(), time.perf_counter()
        self.times[stage] = {"cpu s": now[0] - self._cpu, "wall s": now[1] - self._wall}
        self.begin()
