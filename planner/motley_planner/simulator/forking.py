"""Requests that branch, in the simulation: who waits for whom, and what is given up when.

A visit to a stage with branches is several jobs on one replica. The first brings the prompt into
the cache; when it has its first token the others join without a prefill; when enough have ended
the others leave the batch. The gateway's own book decides (dispatch/branching.py). Lengths are
log-normal around the request's own; scores are not known, so nothing is pruned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import exp
from random import Random

from motley_planner.costs.order_statistics import log_deviation
from motley_planner.dispatch import BranchBook, BranchRule, Dispatcher, Ticket
from motley_planner.domain.demand import Branching
from motley_planner.simulator.requests import NOT_YET, Job
from motley_planner.simulator.server import Server


@dataclass(slots=True)
class Fork:
    """One visit and its branches."""

    visit: Job
    stage: str
    book: BranchBook
    jobs: list[Job]
    others: tuple[str, ...]  # replicas of the stage that the branches are not on
    tickets: list[Ticket] = field(default_factory=list)
    is_spread: bool = False


class Forks:
    """All visits under way that branch."""

    def __init__(self, rules: Sequence[Branching], seed: int) -> None:
        self._rules = {rule.stage: rule for rule in rules if rule.samples > 1}
        self._random = Random(seed)
        self._of: dict[Job, tuple[Fork, int]] = {}
        self._on: dict[Server, list[Fork]] = {}

    def branches(self, stage: str) -> bool:
        """Whether visits to a stage branch."""
        return stage in self._rules

    def begin(self, visit: Job, stage: str, names: Collection[str]) -> Job:
        """The visit's first branch, for the replica that its ticket is for."""
        rule, ticket = self._rules[stage], visit.ticket
        assert ticket is not None
        lengths = branch_lengths(self._random, visit.output, rule)
        jobs = [
            Job(visit.arrival_s, visit.class_index, visit.class_name, visit.prompt, length)
            for length in lengths
        ]
        book = BranchBook(BranchRule(rule.samples, rule.stop_after))
        others = tuple(name for name in names if name != ticket.replica.name)
        fork = Fork(visit, stage, book, jobs, others, [ticket])
        visit.ticket = None
        for number, job in enumerate(jobs):
            book.start(number)
            self._of[job] = fork, number
        return jobs[0]

    def started(self, first: Job, server: Server) -> None:
        """The first branch is on a replica."""
        self._on.setdefault(server, []).append(self._of[first][0])

    def waits(self, server: Server) -> bool:
        """Whether branches of some visit wait for its first one's first token there."""
        return any(not fork.is_spread for fork in self._on.get(server, ()))

    def is_branch(self, job: Job) -> bool:
        """Whether a job is one of a visit's branches."""
        return job in self._of

    def after(
        self, server: Server, ended: Iterable[Job], dispatcher: Dispatcher, now_s: float
    ) -> list[Job]:
        """Follows what a replica's event ended and began; visits that are answered by it."""
        gone, over = set(ended), []
        for job in ended:
            fork, number = self._of.pop(job)
            if number not in fork.book.live:
                continue  # answered at this very instant by another one
            fork.book.end(number, None)
            if fork.book.is_over:
                self._finish(fork, job, server, (gone, dispatcher, now_s))
                over.append(fork.visit)
        for fork in self._on.get(server, ()):
            if not fork.is_spread and fork.jobs[0].first_s != NOT_YET:
                self._spread(fork, server, dispatcher, now_s)
        return over

    def lost(self, jobs: Iterable[Job], dispatcher: Dispatcher) -> list[Job]:
        """What starts again when a replica is gone with these jobs: whole visits."""
        again: list[Job] = []
        for job in jobs:
            if job not in self._of:
                again.append(job)
                continue
            fork, _ = self._of[job]
            for each in fork.jobs:
                self._of.pop(each, None)
            for ticket in fork.tickets:
                dispatcher.cancel(ticket)
            if fork.visit not in again:
                again.append(fork.visit)
        return again

    def _spread(self, fork: Fork, server: Server, dispatcher: Dispatcher, now_s: float) -> None:
        fork.is_spread = True
        for job in fork.jobs[1:]:
            job.prefilled = True  # the prompt is in the cache
            name = fork.visit.class_name
            ticket = dispatcher.choose(fork.stage, name, now_s, fork.others)
            fork.tickets += [ticket] if ticket is not None else []
            server.accept(job, now_s)

    def _finish(
        self, fork: Fork, last: Job, server: Server, at: tuple[set[Job], Dispatcher, float]
    ) -> None:
        gone, dispatcher, now_s = at
        for number in sorted(fork.book.live):
            job = fork.jobs[number]
            if job in gone:
                continue  # its own end comes next, and says nothing any more
            del self._of[job]
            if number == 0 or fork.is_spread:
                server.cancel(job, now_s)
        fork.book.live.clear()
        for ticket in fork.tickets:
            dispatcher.finish(ticket)
        fork.visit.first_s, fork.visit.output = fork.jobs[0].first_s, last.output
        self._on[server].remove(fork)


def branch_lengths(random: Random, mean_tokens: float, rule: Branching) -> list[float]:
    """Tokens of each branch: log-normal with this mean, whole, at least one."""
    scale = log_deviation(rule.length_variation)
    draws = (random.gauss(0.0, 1.0) for _ in range(rule.samples))
    return [max(1.0, float(round(mean_tokens * exp(scale * z - scale**2 / 2)))) for z in draws]
