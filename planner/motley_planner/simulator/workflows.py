"""Workflows on unequal replicas of one model: dispatch, urgency and admission as a gateway has them.

The dispatcher is `motley_planner.dispatch` with one class for each step, whose capacity is one over
the step's seconds alone on the replica, so its outstanding work is in seconds of that replica. The
replicas are the simulator's servers with continuous batching. Where the order is by urgency, a call
waits in its replica's `CreditQueue` until no prompt waits in the engine: an engine that is told
priorities orders its own queue like this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from motley_planner.dispatch import (
    Dispatcher,
    DispatchRule,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    Ticket,
)
from motley_planner.dispatch.admission import Admission
from motley_planner.dispatch.urgency import CreditQueue, latest_start_s
from motley_planner.dispatch.workflows import StepCall, Workflows
from motley_planner.simulator.requests import Job
from motley_planner.simulator.server import Server
from motley_planner.simulator.steps import FixedSteps
from motley_planner.simulator.workflow_traces import (
    LENGTHS,
    Call,
    Query,
    scaled_seconds_per_token,
    seconds_per_token,
)

GPUS = ("A100", "A100", "A6000", "L40S")
# Llama-3.1-70B with weights and cache in 4 bits: (0.9 x memory - 35.3 GB - 2 GB) / 81,920 bytes.
KV_TOKENS = {"A100": 424_000.0, "A6000": 72_000.0, "L40S": 72_000.0}
_MAX_BATCH = 256
_DEFAULT = DispatchRule()
_STAGE, _ANY = "main", "any"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas by GPU, and a GPU's seconds a token of prefill and of decode (at any batch)."""

    gpus: tuple[str, ...] = GPUS
    seconds_per_token: Callable[[str], tuple[float, float]] = seconds_per_token

    def engine_of(self, gpu: str) -> FixedSteps:
        """Times of an engine that takes these seconds."""
        prefill, decode = self.seconds_per_token(gpu)
        return FixedSteps(prefill, decode, KV_TOKENS[gpu])

    def alone_s(self, gpu: str) -> dict[str, float]:
        """Seconds of one request of each step alone on a GPU: what a profiler would tell."""
        prefill, decode = self.seconds_per_token(gpu)
        return {step: i * prefill + o * decode for step, (i, o) in LENGTHS.items()}


PUBLISHED = Fleet()
MILDER = Fleet(seconds_per_token=scaled_seconds_per_token)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How calls are sent and ordered."""

    rule: DispatchRule = _DEFAULT
    is_urgent_first: bool = True
    admits: bool = False
    by_step: bool = True  # False: one class for all, as a plain round robin sees it


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """What became of the queries; NaN where one was refused. Seconds."""

    arrival_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    slo_s: tuple[float, ...]

    @property
    def p95_s(self) -> float:
        """95th percentile of answered queries' latency, the smallest that 95 % do not exceed."""
        answered = sorted(x for x in self.latency_s if not math.isnan(x))
        return answered[math.ceil(0.95 * len(answered)) - 1]

    @property
    def answered_per_s(self) -> float:
        """Queries answered a second, from the first arrival to the last answer."""
        ends = [a + x for a, x in zip(self.arrival_s, self.latency_s, strict=True)]
        answered = [end for end in ends if not math.isnan(end)]
        return len(answered) / (max(answered) - self.arrival_s[0])

    @property
    def in_time(self) -> float:
        """Share of all queries that were answered by their deadline."""
        met = [x <= slo for x, slo in zip(self.latency_s, self.slo_s, strict=True)]
        return sum(met) / len(met)

    @property
    def in_time_per_s(self) -> float:
        """Queries a second that were answered by their deadline, over the time of all answers."""
        met = sum(x <= slo for x, slo in zip(self.latency_s, self.slo_s, strict=True))
        return met * self.answered_per_s / sum(not math.isnan(x) for x in self.latency_s)

    @property
    def refused(self) -> float:
        """Share of all queries that were refused on arrival."""
        return sum(math.isnan(x) for x in self.latency_s) / len(self.latency_s)


@dataclass(slots=True)
class _Live:
    number: int
    arrival_s: float
    deadline_s: float
    query: Query
    under_way: int
    stage: int = 0
    left: int = 0


@dataclass(slots=True)
class _Sent:
    live: _Live
    call: Call
    ticket: Ticket
    ready_s: float
    number: int = 0


@dataclass(slots=True)
class _Instance:
    server: Server
    queue: CreditQueue[tuple[Job, _Sent]] = field(default_factory=CreditQueue)


def simulate_workflows(
    queries: Sequence[Query],
    arrival_s: Sequence[float],
    slo_s: Sequence[float],
    scheduling: Scheduling,
    fleet: Fleet = PUBLISHED,
) -> WorkflowRun:
    """Runs all queries to their end."""
    return _World(queries, arrival_s, slo_s, scheduling, fleet).run()


def table_of(fleet: Fleet, rule: DispatchRule, by_step: bool = True) -> RoutingTable:
    """The routing table of unequal replicas; a class's capacity is one over its seconds alone."""
    names = tuple(LENGTHS) if by_step else (_ANY,)
    replicas = []
    for number, gpu in enumerate(fleet.gpus):
        seconds = fleet.alone_s(gpu)
        capacity = {name: 1.0 / seconds[name] for name in names} if by_step else {_ANY: 1.0}
        replicas.append(Replica(f"{gpu}-{number}", f"sim://{number}", {}, capacity))
    lengths = LENGTHS if by_step else {_ANY: (1.0, 1.0)}
    return RoutingTable(
        plan_hash="workflows",
        resource=ResourceRef("ServingPool", "bench", "text2sql"),
        served_model_names=("text2sql",),
        classes=tuple(RequestClass(name, *lengths[name]) for name in names),
        stages=(Stage(_STAGE, "llama-3.1-70b", tuple(replicas)),),
        policies=(),
        dispatch=rule,
    )


class _World:
    def __init__(
        self,
        queries: Sequence[Query],
        arrival_s: Sequence[float],
        slo_s: Sequence[float],
        how: Scheduling,
        fleet: Fleet,
    ) -> None:
        self._queries, self._arrival_s, self._slo_s = queries, arrival_s, slo_s
        self._how = how
        table = table_of(fleet, how.rule, how.by_step)
        self._dispatcher = Dispatcher(table)
        self._instances: dict[str, _Instance] = {}
        self._seconds: dict[str, dict[str, float]] = {}
        for replica, gpu in zip(table.stages[0].replicas, fleet.gpus, strict=True):
            server = Server(gpu, fleet.engine_of(gpu), _MAX_BATCH)
            self._instances[replica.name] = _Instance(server)
            self._seconds[replica.name] = fleet.alone_s(gpu)
        every = list(self._seconds.values())
        means = self._means = {s: sum(one[s] for one in every) / len(every) for s in LENGTHS}
        self._workflows = Workflows(idle_s=float("inf"), expected=means)
        self._admission = Admission()
        self._sent: dict[Job, _Sent] = {}
        self._heap: list[tuple[float, int, _Instance, int]] = []
        self._serial = count()
        self._under_way = 0
        self._latency_s = [float("nan")] * len(queries)

    def run(self) -> WorkflowRun:
        """The event loop: arrivals and the engines' events, merged by time."""
        coming, heap = 0, self._heap
        while heap or coming < len(self._queries):
            if coming < len(self._queries) and (not heap or self._arrival_s[coming] <= heap[0][0]):
                self._arrive(coming, self._arrival_s[coming])
                coming += 1
                continue
            now, _, instance, version = heappop(heap)
            if instance.server.version == version:
                self._advance(instance, now)
        return WorkflowRun(tuple(self._arrival_s), tuple(self._latency_s), tuple(self._slo_s))

    def _arrive(self, number: int, now: float) -> None:
        slo = self._slo_s[number]
        if self._how.admits and not self._admission.admits(self._under_way, slo):
            return
        live = _Live(number, now, now + slo, self._queries[number], self._under_way)
        self._under_way += 1
        self._begin_stage(live, now)

    def _begin_stage(self, live: _Live, now: float) -> None:
        calls = live.query[live.stage]
        live.left = len(calls)
        for call in calls:
            self._send(live, call, now)

    def _send(self, live: _Live, call: Call, now: float) -> None:
        name = call.step if self._how.by_step else _ANY
        ticket = self._dispatcher.choose(_STAGE, name, now)
        assert ticket is not None, "every replica serves every step"
        job = Job(now, 0, name, call.prompt_tokens, call.output_tokens)
        sent = self._sent[job] = _Sent(live, call, ticket, now)
        instance = self._instances[ticket.replica.name]
        if not self._how.is_urgent_first:
            self._enter(instance, job, now)
            return
        step = StepCall(str(live.number), call.step, deadline_s=live.deadline_s)
        due = self._workflows.due_s(step, now)
        alone = self._seconds[ticket.replica.name][call.step]
        sent.number = instance.queue.offer((job, sent), latest_start_s(due, alone))
        self._feed(instance, now)

    def _feed(self, instance: _Instance, now: float) -> None:
        """Lets the most urgent call into the engine while no prompt waits there."""
        while not instance.server.queue:
            found = instance.queue.start()
            if found is None:
                return
            self._enter(instance, found[1][0], now)

    def _enter(self, instance: _Instance, job: Job, now: float) -> None:
        if instance.server.accept(job, now):
            self._watch(instance)

    def _watch(self, instance: _Instance) -> None:
        server = instance.server
        if server.due_s < float("inf"):
            heappush(self._heap, (server.due_s, next(self._serial), instance, server.version))

    def _advance(self, instance: _Instance, now: float) -> None:
        server = instance.server
        server.advance()
        ended, server.ended = server.ended, []
        self._watch(instance)
        for job in ended:
            self._done(self._sent.pop(job), instance, now)
        self._feed(instance, now)

    def _done(self, sent: _Sent, instance: _Instance, now: float) -> None:
        self._dispatcher.finish(sent.ticket)
        live = sent.live
        if self._how.is_urgent_first:
            instance.queue.end(sent.number)
            step = StepCall(str(live.number), sent.call.step)
            self._workflows.answered(step, self._means[sent.call.step], now)
        live.left -= 1
        if live.left:
            return
        live.stage += 1
        if live.stage < len(live.query):
            self._begin_stage(live, now)
            return
        self._under_way -= 1
        self._workflows.ended(str(live.number))
        self._latency_s[live.number] = now - live.arrival_s
        self._admission.observe(live.under_way, now - live.arrival_s)
