"""Deadlines of workflows, broken down to their steps, and which workflows are under way.

A workflow is a row of calls under one deadline. When a step becomes ready it gets its part of what
is left, in proportion to what it and the steps after it usually take:

    due = now + (deadline - now) x t(s) / (t(s) + rest(s))

so that what one step was late or early is spread over all that follow. t(s), the seconds of step s,
are smoothed from answers. rest(s), the seconds of all steps after s, are learned from which step
followed which, rest(s) <- rest(s) + g (t(next) + rest(next) - rest(s)) (temporal differences: a
chain's expected remaining time, in the chain's own frequencies), so that nobody has to write a
template and loops are counted as often as they run. A workflow that has not been seen for a while has
ended, which tells rest = 0 of its last step; one with a call at work has not, however long that takes.

Sources: HexGen-Text2SQL, arXiv 2505.05286 (the split; its steps come from a fixed template); Sutton,
"Learning to predict by the methods of temporal differences", Machine Learning 3 (1988).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_GAIN = 0.1


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
    priority: int
    began_s: float
    is_stated: bool
    under_way: float
    answered_s: float | None = None
    failed_s: float | None = None
    at_work: int = 0
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a workflow; `kind` is the workflow's class. After its `is_last` none follows."""

    workflow: str
    step: str
    kind: str = ""
    deadline_s: float | None = None  # absolute; needed with the first call only
    priority: int = 0  # the first call's is the workflow's
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A workflow that has ended.

    `under_way` is how many there were of at least its priority when it began, `seconds` those from its first
    call to its last answer (None without any), `in_time` whether that was by its deadline (None where it
    stated none), `given_up_s` those until its last call ended without an answer (None where it had one).
    """

    kind: str
    under_way: float
    seconds: float | None
    in_time: bool | None
    given_up_s: float | None


def _end_of(known: _Workflow) -> Ended:
    seconds = in_time = given_up_s = None
    if known.answered_s is not None:
        seconds = known.answered_s - known.began_s
        in_time = known.answered_s <= known.deadline_s if known.is_stated else None
    if known.failed_s is not None:
        given_up_s = known.failed_s - known.began_s
    return Ended(known.kind, known.under_way, seconds, in_time, given_up_s)


@dataclass(slots=True)
class Workflows:
    """The workflows under way, and what is known of their steps. One owner, not thread-safe.

    `slo_s` is the deadline of workflows that state none, from their first call; one unseen for
    `idle_s` seconds has ended. Of those without a call at work at most `capacity` are kept, and of steps
    `steps`. `expected` may give seconds by step before any was seen. `on_end` is told of each that
    has ended.

    An agent may pause for longer than `idle_s` and go on: names are kept for `names_s` more, at most
    `capacity`. One that is not known is new only where none was dropped before its time, and not just
    after the start: a workflow may have begun before. `is_sure` says so. What is seen here are the
    workflows of one of `gateways` equal ones.
    """

    slo_s: float = 60.0
    idle_s: float = 120.0
    names_s: float = 3600.0
    capacity: int = 100_000
    steps: int = 10_000
    expected: Mapping[str, float] = field(default_factory=dict)
    on_end: Callable[[Ended], object] | None = None
    gateways: int = 1
    _steps: OrderedDict[tuple[str, str], _Step] = field(default_factory=OrderedDict)
    _open: dict[str, _Workflow] = field(default_factory=dict)
    _idle: OrderedDict[str, None] = field(default_factory=OrderedDict)  # the longest unseen first
    _past: OrderedDict[str, float] = field(default_factory=OrderedDict)  # when it was last seen
    _at_work: dict[int, int] = field(default_factory=dict)  # workflows by priority
    _unsure_until_s: float | None = None

    def __len__(self) -> int:
        """Workflows that have not ended, as far as is known."""
        return len(self._open)

    def __contains__(self, workflow: str) -> bool:
        """Whether a workflow is under way here."""
        return workflow in self._open

    @property
    def at_work(self) -> int:
        """Workflows with a call at work here."""
        return sum(self._at_work.values())

    def under_way(self, priority: int) -> float:
        """Workflows with a call at work, of at least a priority, over all gateways alike."""
        return self.gateways * sum(n for each, n in self._at_work.items() if each >= priority)

    def is_known(self, workflow: str) -> bool:
        """Whether a workflow is under way here, or was and may go on."""
        return workflow in self._open or workflow in self._past

    def is_sure(self, now_s: float) -> bool:
        """Whether a workflow that is not known here begins now."""
        return self._unsure_until_s is not None and now_s >= self._unsure_until_s

    def due_s(self, call: StepCall, now_s: float) -> float:
        """When a call that has just arrived has to be done; it is at work until it has `left`."""
        self.forget(now_s)
        known = self._open.get(call.workflow)
        if known is None:
            self._past.pop(call.workflow, None)
            known = self._open[call.workflow] = self._begun(call, now_s)
        else:
            if call.deadline_s is not None:
                known.deadline_s, known.is_stated = call.deadline_s, True
            if call.step != known.step or known.kind != call.kind:
                self._follow(known, call)
        known.seen_s = now_s
        known.is_last |= call.is_last
        known.at_work += 1
        if known.at_work == 1:
            self._idle.pop(call.workflow, None)
            self._at_work[known.priority] = self._at_work.get(known.priority, 0) + 1
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

    def left(self, call: StepCall, now_s: float, is_answered: bool = True) -> None:
        """A call is at work no longer, answered or not."""
        known = self._open.get(call.workflow)
        if known is None or not known.at_work:
            return
        known.seen_s = now_s
        known.failed_s = None if is_answered else now_s
        known.at_work -= 1
        if known.at_work:
            return
        self._rests(known)
        self._idle[call.workflow] = None
        if known.is_last and is_answered:
            self.ended(call.workflow)

    def ended(self, workflow: str) -> None:
        """The last answer of a workflow has been given."""
        known = self._open.pop(workflow, None)
        if known is not None:
            self._idle.pop(workflow, None)
            if known.at_work:
                self._rests(known)
            step = self._step(known.kind, known.step)
            step.rest_s -= _GAIN * step.rest_s
            if self.on_end is not None:
                self.on_end(_end_of(known))

    def forget(self, now_s: float) -> None:
        """Ends the workflows that have not been seen for a while."""
        if self._unsure_until_s is None:
            self._unsure_until_s = now_s + self.idle_s
        while self._idle:
            name = next(iter(self._idle))
            seen_s = self._open[name].seen_s
            if now_s - seen_s < self.idle_s and len(self._idle) < self.capacity:
                break
            self.ended(name)
            self._past[name] = seen_s
        while self._past:
            name, seen_s = next(iter(self._past.items()))
            if now_s - seen_s < self.idle_s + self.names_s:
                if len(self._past) <= self.capacity:
                    break
                self._unsure_until_s = now_s + self.idle_s
            del self._past[name]

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

    def _begun(self, call: StepCall, now_s: float) -> _Workflow:
        is_stated = call.deadline_s is not None
        deadline_s = call.deadline_s if call.deadline_s is not None else now_s + self.slo_s
        return _Workflow(
            deadline_s,
            call.step,
            now_s,
            call.kind,
            call.priority,
            now_s,
            is_stated,
            self.under_way(call.priority),
        )

    def _rests(self, known: _Workflow) -> None:
        """Takes a workflow off those with a call at work."""
        self._at_work[known.priority] -= 1
        if not self._at_work[known.priority]:
            del self._at_work[known.priority]

    def _step(self, kind: str, name: str) -> _Step:
        key = (kind, name)
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = _Step()
            if len(self._steps) > self.steps:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return found
