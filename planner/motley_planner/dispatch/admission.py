"""Which new workflows are let in: those that can be in time, judged by those before them.

Latency is taken as a line over load, a + b n, n being the workflows under way when one began, with
a, b >= 0 (exponentially weighted least squares over those that have ended). One is let in where the
line plus 1.5 mean absolute deviations from it are within its deadline: the line alone would let in
those that are late as often as not. What cannot be in time is better refused at once: it would make
others late, too. So n is held at a limit of concurrency that is learned. Only a workflow's first call
is ever refused.

n counts those of at least the newcomer's priority. Lower ones are overtaken, so they are nothing that a
higher one is refused for: whatever of them is under way, the decision is the same.

A workflow that is refused stays so until it was told to come back: calls that it had sent at the same
time are refused with it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from motley_planner.dispatch.workflows import Ended

_FEWEST = 8  # completed workflows before anything is refused
# Simulated at 1.2 and 1.6 times capacity: as many in time as with 1.0, and 82 to 88 % of those let in
# instead of 77 to 82 % (0: 61 to 67 %). In short traces from a cold start 0 is better (docs/benchmarks.md).
_DEVIATIONS = 1.5
_LONGEST_S = 60.0  # until a refused one may come back


@dataclass(slots=True)
class Admission:
    """Whether a new workflow of one kind can be in time."""

    gain: float = 0.03
    deviations: float = _DEVIATIONS
    _count: int = 0
    _moments: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # n, l, n n, n l
    _deviation_s: float = 0.0

    def observe(self, under_way: float, latency_s: float) -> None:
        """Notes a workflow that has ended, and how many were under way when it began."""
        self._count += 1
        gain = max(self.gain, 1.0 / self._count)
        new = (under_way, latency_s, under_way * under_way, under_way * latency_s)
        a, b, c, d = (old + gain * (x - old) for old, x in zip(self._moments, new, strict=True))
        self._moments = (a, b, c, d)
        off_s = abs(latency_s - self.predicted_s(under_way))
        self._deviation_s += gain * (off_s - self._deviation_s)

    def predicted_s(self, under_way: float) -> float:
        """Seconds that a workflow beginning now will take, in the mean."""
        return max(0.0, self._moments[1] + self._slope_s * (under_way - self._moments[0]))

    def likely_s(self, under_way: float) -> float:
        """Seconds that most of those that begin now will not exceed."""
        return self.predicted_s(under_way) + self.deviations * self._deviation_s

    def admits(self, under_way: float, slo_s: float) -> bool:
        """Whether to let one in; the first few always, and one where nothing is under way."""
        if not self.is_learned or under_way <= 0:
            return True
        return self.likely_s(under_way) <= slo_s

    def retry_after_s(self, under_way: float, slo_s: float) -> int:
        """Whole seconds until so many of those under way will have ended that one is admitted.

        By Little's law n of them end in the seconds that each takes.
        """
        slope_s = self._slope_s
        excess = (self.likely_s(under_way) - slo_s) / slope_s if slope_s > 0 else under_way
        share = min(1.0, max(1.0, math.ceil(excess)) / max(1.0, under_way))
        return math.ceil(min(_LONGEST_S, max(1.0, share * self.predicted_s(under_way))))

    @property
    def is_learned(self) -> bool:
        """Whether enough have ended to judge by."""
        return self._count >= _FEWEST

    @property
    def _slope_s(self) -> float:
        """Seconds a workflow takes longer for each that is under way."""
        n, latency, n2, product = self._moments
        spread = n2 - n * n
        return max(0.0, (product - n * latency) / spread) if spread > 1e-9 else 0.0


@dataclass(slots=True)
class Gate:
    """Lets workflows in by what those of their kind took. One owner, not thread-safe.

    `kinds` and `refusals` bound what it remembers; the longest unused goes first.
    """

    kinds: int = 1000
    refusals: int = 10_000
    _lines: OrderedDict[str, Admission] = field(default_factory=OrderedDict)
    _refused: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def ended(self, end: Ended) -> None:
        """Learns from a workflow that has ended.

        One that was given up would have taken longer than it did; of it only too short a prediction
        is learned.
        """
        line, seconds = self._line(end.kind), end.seconds
        if end.given_up_s is not None:
            seconds = end.given_up_s
            if seconds <= line.predicted_s(end.under_way):
                return
        if seconds is not None:
            line.observe(end.under_way, seconds)

    def is_judged(self, kind: str) -> bool:
        """Whether enough of a kind have ended to refuse one."""
        return kind in self._lines and self._lines[kind].is_learned

    def stands(self, workflow: str, now_s: float) -> float | None:
        """Seconds for which a refusal still stands; None where there is none."""
        until_s = self._refused.get(workflow)
        if until_s is None or until_s <= now_s:
            return None
        return until_s - now_s

    def refuses(
        self, workflow: str, kind: str, under_way: float, slo_s: float, now_s: float
    ) -> int | None:
        """Whole seconds after which to come back; None where the workflow is let in."""
        line = self._line(kind)
        if line.admits(under_way, slo_s):
            self._refused.pop(workflow, None)
            return None
        pause_s = line.retry_after_s(under_way, slo_s)
        self._forget(now_s)
        self._refused[workflow] = now_s + pause_s
        self._refused.move_to_end(workflow)
        return pause_s

    def _line(self, kind: str) -> Admission:
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = Admission()
            if len(self._lines) > self.kinds:
                self._lines.popitem(last=False)
        self._lines.move_to_end(kind)
        return line

    def _forget(self, now_s: float) -> None:
        """Drops refusals that are long over: none stands for longer than the longest pause."""
        refused = self._refused
        while refused:
            name, until_s = next(iter(refused.items()))
            if until_s > now_s and len(refused) < self.refusals:
                return
            del refused[name]
