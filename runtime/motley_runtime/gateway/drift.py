"""Whether a stage is still what it was when it was calibrated: statistics with hysteresis.

- scores: the largest distance between two distribution functions, that of the last scores and that
  of the calibration table (Kolmogorov-Smirnov), read at the reference's own points. The limit is
  the two-sample test's at 0.1 %, and never below 0.1: smaller shifts move no threshold by much.
- shares (labels, canaries): the share right of the last answers against the reference's, as a
  difference of two proportions in standard errors. The limit is 3.

Both wait for a minimum of samples and look anew after a batch of them. An alarm needs two looks in a
row above the limit, and goes off after two below a lower one. So what is at the limit does not flicker,
and one odd batch is not an alarm.
Source: Smirnov 1948 for the two-sample limit c(0.001) = 1.95.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from motley_planner.dispatch import Reference

_LOOKS = 2
_KS_FACTOR = 1.95  # sqrt(-ln(0.001 / 2) / 2)
_KS_LEAST = 0.1
_KS_OFF = 0.7  # of the limit
_Z_ON, _Z_OFF = 3.0, 1.5
_Z_DROP = 0.02  # a smaller loss of quality is no alarm, however sure


@dataclass(frozen=True, slots=True)
class Look:
    """One look: how far off, beyond which it is an alarm, and the alarm's state and change."""

    value: float
    limit: float
    is_on: bool
    has_changed: bool


class Alarm:
    """On after so many looks in a row above a limit, off after as many below a lower one."""

    def __init__(self) -> None:
        self.is_on = False
        self._in_a_row = 0

    def look(self, is_above: bool, is_below: bool) -> bool:
        """Takes one look; whether the alarm has just changed."""
        wanted = is_below if self.is_on else is_above
        self._in_a_row = self._in_a_row + 1 if wanted else 0
        if self._in_a_row < _LOOKS:
            return False
        self.is_on, self._in_a_row = not self.is_on, 0
        return True


class ScoreDrift:
    """The last scores of a stage against its reference."""

    def __init__(
        self, reference: Reference, window: int = 400, least: int = 200, batch: int = 50
    ) -> None:
        self._points, self._rows = reference.points, reference.rows
        self._recent: deque[float] = deque(maxlen=window)
        self._least, self._batch, self._since = least, batch, 0
        self._alarm = Alarm()

    def add(self, score: float) -> Look | None:
        """Takes one score in; now and then a look at all of them."""
        self._recent.append(score)
        self._since += 1
        if self._since < self._batch or len(self._recent) < self._least:
            return None
        self._since = 0
        value, limit = self.distance(), self.limit()
        changed = self._alarm.look(value > limit, value < _KS_OFF * limit)
        return Look(value, limit, self._alarm.is_on, changed)

    def distance(self) -> float:
        """max |F_recent(x) - F_reference(x)| over the reference's points."""
        ordered = sorted(self._recent)
        count = len(ordered)
        # A reference is rounded to nine digits, and equal scores must stay equal.
        return max(
            abs(bisect_right(ordered, x + 1e-9) / count - share) for x, share in self._points
        )

    def limit(self) -> float:
        """c sqrt((n + m) / nm), at least 0.1."""
        n, m = len(self._recent), self._rows
        return max(_KS_LEAST, _KS_FACTOR * math.sqrt((n + m) / (n * m)))


class ShareDrift:
    """The share right among the last answers against a share known from `rows` answers."""

    def __init__(
        self, share: float, rows: int, window: int = 200, least: int = 60, batch: int = 20
    ) -> None:
        self._share, self._rows = share, rows
        self._recent: deque[bool] = deque(maxlen=window)
        self._least, self._batch, self._since = least, batch, 0
        self._alarm = Alarm()

    def add(self, is_right: bool) -> Look | None:
        """Takes one answer in; now and then a look at all of them. The value is the share lost."""
        self._recent.append(is_right)
        self._since += 1
        if self._since < self._batch or len(self._recent) < self._least or not self._rows:
            return None
        self._since = 0
        count = len(self._recent)
        drop = self._share - sum(self._recent) / count
        error = self._error()
        limit = max(_Z_DROP, _Z_ON * error)
        changed = self._alarm.look(drop > limit, drop < min(limit, _Z_OFF * error))
        return Look(drop, limit, self._alarm.is_on, changed)

    def _error(self) -> float:
        """Standard error of the difference, from both samples together (never quite 0)."""
        n, m = len(self._recent), self._rows
        pooled = (sum(self._recent) + self._share * m + 0.5) / (n + m + 1.0)
        return math.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m))


class LearnedShare:
    """As ShareDrift, where nothing is known beforehand: the first answers are the reference."""

    def __init__(self, right: int = 0, asked: int = 0, wanted: int = 60) -> None:
        self.right, self.asked, self._wanted = right, asked, wanted
        self._drift: ShareDrift | None = None

    @property
    def is_known(self) -> bool:
        """Whether the reference is complete."""
        return self.asked >= self._wanted

    def add(self, is_right: bool) -> Look | None:
        """Takes one answer in, to the reference while that is not complete."""
        if not self.is_known:
            self.right, self.asked = self.right + is_right, self.asked + 1
            return None
        if self._drift is None:
            share = self.right / self.asked
            self._drift = ShareDrift(share, self.asked, window=60, least=30, batch=10)
        return self._drift.add(is_right)
