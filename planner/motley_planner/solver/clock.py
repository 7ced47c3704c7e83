"""The clock that deadlines are read from: wall time, or CPU seconds for benchmarks.

On a machine shared with other work a benchmark in wall time measures the others too, so it may
count this process's CPU seconds instead. HiGHS itself only knows wall time; its limits are then
stretched by how much slower than the CPU the wall has been so far.
"""

from __future__ import annotations

import time


class Clock:
    """Seconds from an arbitrary start."""

    def __init__(self) -> None:
        self._cpu = False
        self._begin = (0.0, 0.0)

    def count_cpu_seconds(self) -> None:
        """From now on `now` is CPU seconds of this process."""
        self._cpu = True
        self._begin = (time.monotonic(), time.process_time())

    def count_wall_seconds(self) -> None:
        """From now on `now` is wall time again."""
        self._cpu = False

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
