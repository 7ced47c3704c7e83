"""A replica by events against the same rules carried out token by token."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.simulator.requests import Job
from motley_planner.simulator.server import WATERMARK, Server
from motley_planner.simulator.steps import FixedSteps, Line

PREFILL, BASE, PER_SEQUENCE, PER_TOKEN = 0.001, 0.004, 0.0007, 0.00002
BUDGET = 64.0


class Affine(FixedSteps):
    """A step that grows with batch and context, and a token budget for prompts."""

    def __init__(self, kv_tokens: float) -> None:
        super().__init__(PREFILL, kv_tokens=kv_tokens, chunk_tokens=BUDGET)

    def decode(self, batch: int, context_tokens: float) -> Line:
        return Line(BASE + PER_SEQUENCE * batch, PER_TOKEN * batch)


@dataclass
class Sequence:
    name: int
    arrival: float
    context: float
    left: float
    first: float = -1.0
    end: float = -1.0


@dataclass
class TokenByToken:
    """The rules of the server's docstring, one step after the other."""

    max_batch: int
    room: float
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    now: float = 0.0

    def run(self, arrivals: list[Sequence]) -> None:
        coming = list(arrivals)
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, coming[0].arrival)
            while coming and coming[0].arrival <= self.now + 1e-12:
                self.waiting.append(coming.pop(0))
            if self.waiting and self.fits(self.waiting[0], 0, 0.0):
                self.prefill()
            elif self.running:
                self.step()

    def held(self) -> float:
        return sum(s.context for s in self.running)

    def fits(self, s: Sequence, others: int, tokens: float) -> bool:
        batch = len(self.running) + others
        if not batch:
            return True
        free = self.room * (1.0 - WATERMARK)
        return batch < self.max_batch and self.held() + tokens + s.context + 1.0 <= free

    def prefill(self) -> None:
        taken = [self.waiting.pop(0)]
        tokens = taken[0].context
        while self.waiting and tokens + self.waiting[0].context <= BUDGET:
            if not self.fits(self.waiting[0], len(taken), tokens):
                break
            taken.append(self.waiting.pop(0))
            tokens += taken[-1].context
        duration = sum(s.context for s in taken) * PREFILL
        steps = 0
        if self.running:
            steps = -int(-tokens // BUDGET)
            duration += steps * self.step_s()
        self.now += duration
        for _ in range(steps):
            self.advance()
        for s in taken:
            s.first = self.now if s.first < 0 else s.first
            s.left -= 1
            s.context += 1
            if s.left <= 0:
                s.end = self.now
            else:
                self.running.append(s)

    def step_s(self) -> float:
        batch = len(self.running)
        return BASE + PER_SEQUENCE * batch + PER_TOKEN * self.held()

    def step(self) -> None:
        while len(self.running) > 1 and self.held() + len(self.running) > self.room:
            self.waiting.insert(0, self.running.pop())
        self.now += self.step_s()
        self.advance()

    def advance(self) -> None:
        for s in list(self.running):
            s.context += 1
            s.left -= 1
            if s.left <= 0:
                s.end = self.now
                self.running.remove(s)


def by_events(jobs: list[Job], server: Server) -> dict[float, float]:
    """Ends by arrival time."""
    ends: dict[float, float] = {}
    coming = list(jobs)
    while coming or server.due_s < float("inf"):
        if coming and (server.phase == 0 or coming[0].arrival_s <= server.due_s):
            job = coming.pop(0)
            server.accept(job, job.arrival_s)
            continue
        now = server.due_s
        server.advance()
        for job in server.ended:
            ends[job.arrival_s] = now
        server.ended.clear()
    return ends


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(1, 100)),
        min_size=1,
        max_size=14,
    ),
    max_batch=st.integers(1, 6),
    room=st.sampled_from([130.0, 250.0, 1e9]),
)
def test_events_and_single_tokens_give_the_same_times(
    requests: list[tuple[int, int, int]], max_batch: int, room: float
) -> None:
    """Gaps are multiples of an odd amount, so that no arrival falls on a step's end."""
    at, jobs, sequences = 0.0, [], []
    for name, (gap, prompt, output) in enumerate(requests):
        at += gap * 0.00371931
        jobs.append(Job(at, 0, "a", float(prompt), float(output)))
        sequences.append(Sequence(name, at, float(prompt), float(output)))
    ends = by_events(jobs, server := Server("r", Affine(room), max_batch))
    TokenByToken(max_batch, room).run(sequences)
    assert ends.keys() == {s.arrival for s in sequences}
    for job, s in zip(jobs, sequences, strict=True):
        assert ends[job.arrival_s] == pytest.approx(s.end, abs=1e-7)
        assert job.first_s == pytest.approx(s.first, abs=1e-7)
    assert server.is_empty and server.batch == 0
    assert server.context == pytest.approx(0.0, abs=1e-6)


def test_a_full_cache_makes_the_last_one_give_way() -> None:
    server = Server("r", Affine(250.0), 6)
    jobs = [Job(0.001 * i, 0, "a", 50.0, 100.0) for i in range(5)]
    by_events(jobs, server)
    assert server.preemptions > 0


def test_a_killed_server_hands_back_everything_it_held() -> None:
    server = Server("r", Affine(1e9), 2)
    jobs = [Job(0.0, 0, "a", 50.0, 100.0) for _ in range(5)]
    for job in jobs:
        server.accept(job, 0.0)
    server.advance()
    assert {id(job) for job in server.kill()} == {id(job) for job in jobs}
    assert server.is_empty
