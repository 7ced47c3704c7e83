"""How long the cycle waits, in proportion to how long it takes to decide.

On a small fleet a decision takes a fraction of a second, and the settings alone say how long. On one of
thousands of nodes it takes seconds: then a burst may go on for as long as a decision takes before the
cycle starts (what it would have missed would have cost a second plan), and a cycle that nothing
called for comes less often. Nodes that change by the dozen (a zone, a rack, a switch) are one event,
however long the API server takes to tell it.
"""

from __future__ import annotations

import time

from motley_operator.settings import Settings

_REST_SHARE = 0.002  # of the time at rest may go to deciding ...
LONGEST_REST_S = (
    300.0  # ... but what no event told is looked for at least this often; alerts go by it, too
)
_IDLE_SHARE = 0.1  # of a decision's time without events ends a burst
_LONGEST_WAIT_S = 5.0
_MANY_NODES = 20  # of which news came in one burst: more are on their way
_FADING = 0.8  # a cycle that planned nothing new says little about the next one that does


class Pace:
    """Waits of one cycle loop; times in seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slow_s = self._last_s = 0.0

    def decided(self, seconds: float) -> None:
        """Note what a decision took."""
        self._last_s = seconds
        self._slow_s = max(seconds, _FADING * self._slow_s)

    @property
    def idle_s(self) -> float:
        """Without an event for so long, a burst is over."""
        return max(self._settings.idle_window_s, min(_IDLE_SHARE * self._slow_s, 1.0))

    def wait_s(self, nodes: int) -> float:
        """The longest that a burst puts a cycle off in which so many nodes had news."""
        if nodes >= _MANY_NODES:
            return _LONGEST_WAIT_S
        return max(self._settings.max_wait_s, min(self._slow_s, _LONGEST_WAIT_S))

    @property
    def rest_s(self) -> float:
        """From a cycle to the next where nothing happens."""
        return max(self._settings.resync_s, min(self._last_s / _REST_SHARE, LONGEST_REST_S))


class Laps:
    """A stopwatch."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds
