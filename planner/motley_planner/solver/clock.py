"""The clock that deadlines are read from: wall time, or CPU seconds for benchmarks.

On a machine shared with other work a benchmark in wall time measures the others too, so it may
count this process's CPU seconds instead. HiGHS itself only knows wall time; its limits are then
stretched by how much slower than the CPU the wall has been so far.
"""

from __future__ import annotations

import time

TELLING_S = 0.1  # CPU seconds


class Clock:
    """Seconds from an arbitrary start."""

    def __init__(self) -> None:
        self._cpu = False
        self._begin = (0.0, 0.0)
        self.slowness = 1.0  # wall seconds of a CPU second, where somebody measured it

    def count_cpu_seconds(self) -> None:
        """From now on `now` is CPU seconds of this process."""
        self._cpu = True
        self._begin = (time.monotonic(), time.process_time())

    def count_wall_seconds(self) -> None:
        """From now on `now` is wall time again."""
        self._cpu = False

    def measure_slowness(self, wall_s: float, cpu_s: float) -> None:
        """Learns from work that only computed how busy the machine is; little work says nothing."""
        if not self._cpu and cpu_s >= TELLING_S:
            self.slowness = max(1.0, wall_s / cpu_s)

    def now(self) -> float:
        """The current time, s."""
        return time.process_time() if self._cpu else time.monotonic()

    def wall_s(self, seconds: float) -> float:
        """Wall seconds in which about `seconds` of this clock pass."""
        if not self._cpu:
            return seconds
        wall, cpu = time.monotonic() - self._begin[0], time.process_time() - self._begin[1]
        return seconds * max(1.0, wall / cpu if cpu > 0.05 else 1.0)


CLOCK = Clock()
