"""Branches on one simulated replica: the gateway's rules on the simulator's engine.

Every request starts `samples` branches with lengths of their own. The first one brings the prompt
into the cache; when it has its first token the others join without a prefill. When enough have
ended the others leave the batch, and their room goes to whoever waits. Scores are steady, one a
branch, and are looked at when a branch has made so many tokens as the rule says.

What it is for: what a batch makes of branches. Under load steps get slower with every branch, and
requests wait for room, which the order statistics of lengths alone do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil

from motley_planner.dispatch import BranchBook, BranchRule
from motley_planner.simulator.requests import NOT_YET, Job
from motley_planner.simulator.server import Server
from motley_planner.simulator.steps import StepTimes


@dataclass(frozen=True, slots=True)
class Branched:
    """One request: when it comes, its prompt, and its branches' lengths in tokens and scores."""

    arrival_s: float
    prompt_tokens: float
    lengths: tuple[float, ...]
    scores: tuple[float | None, ...] = ()


@dataclass(slots=True)
class BranchRun:
    """What came of it, by request in the order of their answers; tokens of all branches."""

    latency_s: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    pruned: int = 0
    end_s: float = 0.0


@dataclass(slots=True)
class _Request:
    asked: Branched
    book: BranchBook
    jobs: list[Job]
    is_spread: bool = False
    made: dict[int, float] = field(default_factory=dict)


def simulate_branches(
    requests: Sequence[Branched], rule: BranchRule, times: StepTimes, max_batch: int
) -> BranchRun:
    """Runs requests, by arrival, on one replica until all are answered."""
    return _Replica(rule, times, max_batch).run(requests)


class _Replica:
    def __init__(self, rule: BranchRule, times: StepTimes, max_batch: int) -> None:
        self._rule = rule
        self._server = Server("r", times, max_batch)
        self._heap: list[tuple[float, int, int]] = []  # due, serial, version
        self._serial = 0
        self._live: list[_Request] = []
        self._of: dict[Job, tuple[_Request, int]] = {}
        self._gone: set[Job] = set()  # those that have left at the instant of the last event
        self._run = BranchRun()

    def run(self, requests: Sequence[Branched]) -> BranchRun:
        """The event loop."""
        coming, server = 0, self._server
        while coming < len(requests) or self._heap:
            if coming < len(requests) and (
                not self._heap or requests[coming].arrival_s <= self._heap[0][0]
            ):
                self._arrive(requests[coming])
                coming += 1
                continue
            now, _, version = heappop(self._heap)
            if version != server.version:
                continue
            server.advance()
            self._after(now)
            self._watch()
        return self._run

    def _watch(self) -> None:
        """Notes the next event: the server's own, or the next branch that is due to be judged."""
        prune = self._rule.prune
        if prune is not None:
            made = (self._made(job) for job in self._of if self._runs(job))
            left = (prune.every_tokens - each for each in made if each < prune.every_tokens)
            self._server.shorten(ceil(min(left, default=0.0)))
        if self._server.due_s < float("inf"):
            self._serial += 1
            heappush(self._heap, (self._server.due_s, self._serial, self._server.version))

    def _arrive(self, asked: Branched) -> None:
        jobs = [
            Job(asked.arrival_s, 0, "a", asked.prompt_tokens, length) for length in asked.lengths
        ]
        request = _Request(asked, BranchBook(self._rule), jobs)
        for number, job in enumerate(jobs):
            request.book.start(number)
            self._of[job] = request, number
        self._live.append(request)
        if self._server.accept(jobs[0], asked.arrival_s):
            self._watch()

    def _after(self, now: float) -> None:
        """Ends branches, starts those whose prompt is there now, and judges those that are due."""
        server = self._server
        ended, server.ended = server.ended, []
        self._gone = set(ended)
        for job in ended:
            if job in self._of:
                self._ended(job, now)
        for request in list(self._live):
            if not request.is_spread and request.jobs[0].first_s != NOT_YET:
                self._spread(request, now)
            self._judge(request, now)

    def _spread(self, request: _Request, now: float) -> None:
        request.is_spread = True
        for job in request.jobs[1:]:
            job.prefilled = True  # the prompt is in the cache
            self._server.accept(job, now)

    def _judge(self, request: _Request, now: float) -> None:
        prune, scores = self._rule.prune, request.asked.scores
        if prune is None or not scores:
            return
        for number in sorted(request.book.live):
            due = self._made(request.jobs[number]) >= prune.every_tokens
            if due and request.book.scored(number, scores[number]):
                self._give_up(request, number, now)

    def _ended(self, job: Job, now: float) -> None:
        request, number = self._of.pop(job)
        request.made[number] = job.output
        scores = request.asked.scores
        for other in request.book.end(number, scores[number] if scores else None):
            self._give_up(request, other, now)
        if not request.book.is_over:
            return
        for other in sorted(request.book.live):
            self._leave(request, other, now)
        self._live.remove(request)
        self._run.latency_s.append(now - request.asked.arrival_s)
        self._run.tokens.append(sum(request.made.values()))
        self._run.pruned += len(request.book.pruned)
        self._run.end_s = now

    def _give_up(self, request: _Request, number: int, now: float) -> None:
        request.book.prune(number)
        self._leave(request, number, now)

    def _leave(self, request: _Request, number: int, now: float) -> None:
        job = request.jobs[number]
        del self._of[job]
        request.made[number] = job.output if job in self._gone else self._made(job)
        if job not in self._gone and (number == 0 or request.is_spread):
            self._server.cancel(job, now)

    def _made(self, job: Job) -> float:
        """Tokens of a branch so far."""
        before = job.context - job.prompt
        return before + self._server.steps - job.joined_at if self._runs(job) else before

    def _runs(self, job: Job) -> bool:
        server = self._server
        waits = job in server.queue or job in server.prefilling or job.server is None
        return not waits
