"""Deadlines of workflows, broken down to their steps, and whether one more can be in time.

A workflow is a row of calls under one deadline. When a step becomes ready it gets its part of what
is left, in proportion to what it and the steps after it usually take:

    due = now + (deadline - now) x t(s) / (t(s) + rest(s))

so that what one step was late or early is spread over all that follow. t(s), the seconds of step s,
are smoothed from answers. rest(s), the seconds of all steps after s, are learned from which step
followed which, rest(s) <- rest(s) + g (t(next) + rest(next) - rest(s)) (temporal differences: a
chain's expected remaining time, in the chain's own frequencies), so that nobody has to write a
template and loops are counted as often as they run. A workflow that has not been seen for a while has
ended, which tells rest = 0 of its last step.

Sources: HexGen-Text2SQL, arXiv 2505.05286 (the split; its steps come from a fixed template); Sutton,
"Learning to predict by the methods of temporal differences", Machine Learning 3 (1988).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_GAIN = 0.1
_FEWEST = 8  # completed workflows before admission refuses anything


def step_due_s(now_s: float, deadline_s: float, step_s: float, rest_s: float) -> float:
    """When a step has to be done; a workflow that is late already is due in the past."""
    total = step_s + rest_s
    return now_s + (deadline_s - now_s) * (step_s / total if total > 0 else 1.0)


@dataclass(slots=True)
class _Step:
    seconds: float | None = None
    rest_s: float = 0.0


@dataclass(slots=True)
class _Workflow:
    deadline_s: float
    step: str
    seen_s: float
    kind: str
    began_s: float
    is_stated: bool
    answered_s: float | None = None


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a workflow; `kind` is the workflow's class."""

    workflow: str
    step: str
    kind: str = ""
    deadline_s: float | None = None  # absolute; needed with the first call only


@dataclass(slots=True)
class Workflows:
    """The workflows under way, and what is known of their steps. One owner, not thread-safe.

    `slo_s` is the deadline of workflows that state none, from their first call; one unseen for
    `idle_s` seconds has ended. `expected` may give seconds by step before any was seen. `on_end` is
    told of each that ended with an answer: its seconds from first call to last answer, and whether
    that was by its deadline (None where it stated none).
    """

    slo_s: float = 60.0
    idle_s: float = 120.0
    capacity: int = 100_000
    expected: Mapping[str, float] = field(default_factory=dict)
    on_end: Callable[[float, bool | None], object] | None = None
    _steps: dict[tuple[str, str], _Step] = field(default_factory=dict)
    _open: OrderedDict[str, _Workflow] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        """Workflows under way."""
        return len(self._open)

    def due_s(self, call: StepCall, now_s: float) -> float:
        """When a call that has just arrived has to be done."""
        self._forget(now_s)
        known = self._open.get(call.workflow)
        if known is None:
            deadline = call.deadline_s if call.deadline_s is not None else now_s + self.slo_s
            stated = call.deadline_s is not None
            known = _Workflow(deadline, call.step, now_s, call.kind, now_s, stated)
            self._open[call.workflow] = known
        else:
            if call.deadline_s is not None:
                known.deadline_s, known.is_stated = call.deadline_s, True
            if call.step != known.step or known.kind != call.kind:
                self._follow(known, call)
        known.seen_s = now_s
        self._open.move_to_end(call.workflow)
        step = self._step(call.kind, call.step)
        return step_due_s(now_s, known.deadline_s, self._seconds(call.step, step), step.rest_s)

    def answered(self, call: StepCall, seconds: float, now_s: float) -> None:
        """Notes what a step took, queue included or not as the caller wants deadlines to count it."""
        step = self._step(call.kind, call.step)
        old = step.seconds
        step.seconds = seconds if old is None else old + _GAIN * (seconds - old)
        known = self._open.get(call.workflow)
        if known is not None:
            known.seen_s = known.answered_s = now_s

    def ended(self, workflow: str) -> None:
        """The last answer of a workflow has been given."""
        known = self._open.pop(workflow, None)
        if known is not None:
            step = self._step(known.kind, known.step)
            step.rest_s -= _GAIN * step.rest_s
            if self.on_end is not None and known.answered_s is not None:
                in_time = known.answered_s <= known.deadline_s if known.is_stated else None
                self.on_end(known.answered_s - known.began_s, in_time)

    def seconds(self, call: StepCall) -> float:
        """Seconds that a call's step usually takes."""
        return self._seconds(call.step, self._step(call.kind, call.step))

    def rest_s(self, kind: str, step: str) -> float:
        """Seconds that the steps after one usually take."""
        return self._step(kind, step).rest_s

    def _follow(self, known: _Workflow, call: StepCall) -> None:
        before, after = self._step(known.kind, known.step), self._step(call.kind, call.step)
        target = self._seconds(call.step, after) + after.rest_s
        before.rest_s += _GAIN * (target - before.rest_s)
        known.step, known.kind = call.step, call.kind

    def _seconds(self, name: str, step: _Step) -> float:
        return step.seconds if step.seconds is not None else self.expected.get(name, 1.0)

    def _step(self, kind: str, name: str) -> _Step:
        return self._steps.setdefault((kind, name), _Step())

    def _forget(self, now_s: float) -> None:
        while self._open:
            name, oldest = next(iter(self._open.items()))
            if now_s - oldest.seen_s < self.idle_s and len(self._open) < self.capacity:
                return
            self.ended(name)


@dataclass(slots=True)
class Admission:
    """Whether a new workflow can be in time, judged by those before it.

    Latency is taken as a + b n, n being the workflows under way when one began; a and b >= 0 are an
    exponentially weighted least-squares line over those that have ended. What cannot be in time is
    better refused at once: it would make others late, too.
    """

    gain: float = 0.05
    _count: int = 0
    _moments: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # n, l, n n, n l

    def observe(self, under_way: int, latency_s: float) -> None:
        """Notes a workflow that has ended, and how many were under way when it began."""
        self._count += 1
        gain = max(self.gain, 1.0 / self._count)
        new = (under_way, latency_s, under_way * under_way, under_way * latency_s)
        a, b, c, d = (old + gain * (x - old) for old, x in zip(self._moments, new, strict=True))
        self._moments = (a, b, c, d)

    def predicted_s(self, under_way: int) -> float:
        """Seconds that a workflow beginning now will take."""
        n, latency, n2, product = self._moments
        spread = n2 - n * n
        slope = max(0.0, (product - n * latency) / spread) if spread > 1e-9 else 0.0
        return max(0.0, latency + slope * (under_way - n))

    def admits(self, under_way: int, slo_s: float) -> bool:
        """Whether to let one in; the first few always, and one where nothing is under way."""
        if self._count < _FEWEST or under_way == 0:
            return True
        return self.predicted_s(under_way) <= slo_s
