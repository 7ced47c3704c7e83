"""The simulation: one heap of events, the gateway's own dispatcher, servers behind it.

Pools, prefill and decode apart, and cascades take the same path: a request visits stages; a visit is
a row of hops; each hop is one choice of the dispatcher and one stay at a server.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from typing import Any

from motley_planner.dispatch import Dispatcher, Policy, PolicyMixer
from motley_planner.dispatch.admission import Admission
from motley_planner.simulator.forking import Forks
from motley_planner.simulator.requests import Job, Visits
from motley_planner.simulator.scenario import Change, Deployment, Route, Scenario, ServerSpec
from motley_planner.simulator.server import PREFILL, Server

Key = tuple[str, str]  # dispatch stage, replica name


@dataclass(slots=True)
class Life:
    """A server with the time it is paid for."""

    spec: ServerSpec
    server: Server
    start_s: float
    end_s: float = float("inf")
    drains_from_s: float | None = None
    nic_free_s: float = 0.0


@dataclass(slots=True)
class Run:
    """What a simulation leaves behind; `quality` holds one value for each answer, where known."""

    jobs: list[Job]
    visits: Visits
    lives: dict[Key, list[Life]]
    end_s: float
    refused: int = 0
    quality: array[float] = field(default_factory=lambda: array("d"))
    policies: dict[str, int] = field(default_factory=dict)


def simulate(scenario: Scenario) -> Run:
    """Runs a scenario to its end, or until everything has been answered."""
    return _World(scenario).run()


class _World:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed).random
        self._heap: list[tuple[float, int, Any, int]] = []
        self._serial = 0
        self._visits = Visits()
        self._lives: dict[Key, list[Life]] = {}
        self._servers: dict[Key, Life] = {}
        self._life_of: dict[Server, Life] = {}
        self._run = Run([], self._visits, self._lives, 0.0)
        self._deployment = scenario.deployment
        self._forks = Forks(scenario.deployment.branching, scenario.seed)
        for key, spec in scenario.deployment.servers.items():
            self._start(key, spec, 0.0)
        self._dispatcher = Dispatcher(scenario.deployment.table)
        self._admission, self._under_way = Admission(), 0
        self._mix()
        for change in scenario.changes:
            self._at(change.at_s, partial(self._begin_change, change))

    def run(self) -> Run:
        """The event loop: arrivals and the heap, merged by time."""
        arrivals, heap = self._scenario.arrivals, self._heap
        times = arrivals.time_s.tolist()
        coming, count, end = 0, len(times), self._scenario.end_s
        jobs = self._run.jobs = _jobs(self._scenario)
        now = 0.0
        while heap or coming < count:
            if coming < count and (not heap or times[coming] <= heap[0][0]):
                now = times[coming]
                if now > end:
                    break
                self._arrive(jobs[coming], now)
                coming += 1
                continue
            when, _, target, version = heappop(heap)
            if when > end:
                break
            if version < 0:
                now = when
                target(now)
            elif target.version == version:
                now = when
                self._step(target, now)
        self._run.end_s = min(now, end)
        self._close()
        return self._run

    def _at(self, when: float, action: Callable[[float], None]) -> None:
        self._serial += 1
        heappush(self._heap, (when, self._serial, action, -1))

    def _watch(self, server: Server) -> None:
        self._serial += 1
        heappush(self._heap, (server.due_s, self._serial, server, server.version))

    def _step(self, server: Server, now: float) -> None:
        server.advance()
        if server.ended:
            ended, server.ended = server.ended, []
            for job in ended:
                if not self._forks.is_branch(job):
                    self._hop_done(job, server, now)
            self._branched([job for job in ended if self._forks.is_branch(job)], server, now)
        elif self._forks.waits(server):
            self._branched([], server, now)
        if server.due_s < float("inf"):
            self._watch(server)

    def _arrive(self, job: Job, now: float) -> None:
        deadline_s = self._scenario.deadline_s
        if deadline_s is not None and not self._admission.admits(self._under_way, deadline_s):
            job.is_let_in = False
            return
        job.under_way = self._under_way
        self._under_way += 1
        job.policy = self._dispatcher.draw_policy(job.class_name)
        job.luck = self._random()
        if job.policy is not None:
            seen = self._run.policies
            seen[job.policy.id] = seen.get(job.policy.id, 0) + 1
            job.stage = self._next_stage(job.policy, 0)
        self._visit(job, now)

    def _next_stage(self, policy: Policy | None, stage: int) -> int:
        """The stage, or the first after it that the policy does not skip, as the gateway does."""
        routes = self._deployment.routes
        thresholds = policy.thresholds if policy is not None else {}
        while stage < len(routes) - 1:
            name = routes[stage][0].hops[0].partition("/")[0]
            if thresholds.get(name, 0.0) <= 1.0:
                break
            stage += 1
        return stage

    def _visit(self, job: Job, now: float) -> None:
        job.begin_visit(now)
        self._dispatch(job, now)

    def _route(self, job: Job) -> Route:
        """The way through the job's stage; drawn anew at the first hop."""
        mixer, routes = self._mixers[job.stage], self._deployment.routes[job.stage]
        if len(routes) == 1:
            return routes[0]
        if job.hop == 0:
            drawn = mixer.draw()
            assert drawn is not None
            return routes[int(drawn.id)]
        return next(route for route in routes if len(route.hops) > job.hop)

    def _dispatch(self, job: Job, now: float) -> None:
        hops = self._route(job).hops
        stage = hops[min(job.hop, len(hops) - 1)]
        ticket = self._dispatcher.choose(stage, job.class_name, now, (), job.prefix)
        if ticket is None:
            self._run.refused += 1
            self._under_way -= 1
            return
        job.ticket = ticket
        server = self._servers[stage, ticket.replica.name].server
        if self._forks.branches(stage):
            names = [name for hop, name in self._servers if hop == stage]
            job = self._forks.begin(job, stage, names)
            self._forks.started(job, server)
        if server.accept(job, now):
            self._watch(server)

    def _branched(self, ended: list[Job], server: Server, now: float) -> None:
        for visit in self._forks.after(server, ended, self._dispatcher, now):
            self._hop_done(visit, server, now)

    def _hop_done(self, job: Job, server: Server, now: float) -> None:
        if job.ticket is not None:
            self._dispatcher.finish(job.ticket)
        if server.mode == PREFILL and job.remaining > 0.0:
            job.hop += 1
            job.server = None
            self._at(self._moved_s(job, server, now), lambda when: self._moved(job, server, when))
            return
        end = now + server.times.first_token_delay_s(job.prompt)
        self._visits.add(job, end)
        job.server = None
        outcomes, last = self._scenario.outcomes, len(self._deployment.routes) - 1
        if outcomes is not None:
            if job.stage < last and not outcomes.is_returned(job.stage, job.policy, job.luck):
                job.stage = self._next_stage(job.policy, job.stage + 1)
                self._at(end, lambda when: self._visit(job, when))
                return
            worth = outcomes.quality(job.stage, job.luck)
            if worth is not None:
                self._run.quality.append(worth)
        job.answered_s = end
        self._under_way -= 1
        self._admission.observe(job.under_way, end - job.arrival_s)

    def _moved(self, job: Job, server: Server, now: float) -> None:
        if server.release(job, now):
            self._watch(server)
        self._dispatch(job, now)

    def _moved_s(self, job: Job, server: Server, now: float) -> float:
        """When a KV cache has left over its replica's NIC, one after the other."""
        life = self._life_of[server]
        needed = job.context * life.spec.kv_bytes_per_token / life.spec.nic_bytes_per_s
        life.nic_free_s = max(life.nic_free_s, now) + needed
        return life.nic_free_s

    def _start(self, key: Key, spec: ServerSpec, now: float) -> None:
        life = Life(spec, Server(spec.name, spec.times, spec.max_batch, spec.mode), now)
        self._lives.setdefault(key, []).append(life)
        self._servers[key] = self._life_of[life.server] = life

    def _mix(self) -> None:
        self._mixers = [
            PolicyMixer([Policy(str(i), route.share, {}) for i, route in enumerate(routes)])
            for routes in self._deployment.routes
        ]

    def _begin_change(self, change: Change, now: float) -> None:
        """Loses what is lost, lets new replicas load, and plans the switch."""
        orphans: list[Job] = []
        for key in change.lost & self._servers.keys():
            life = self._servers.pop(key)
            life.end_s = now
            orphans += life.server.kill()
        if change.lost:
            table = _without(self._deployment, change.lost)
            self._dispatcher = Dispatcher(table.table, previous=self._dispatcher)
            self._deployment = table
        wanted = change.deployment.servers
        fresh = [key for key in wanted if key not in self._servers]
        for key in fresh:
            self._start(key, wanted[key], now)
        delay = change.start_delay_s if fresh else 0.0
        self._at(now + delay, lambda when: self._switch(change.deployment, when))
        for job in self._forks.lost(orphans, self._dispatcher):
            if job.ticket is not None:
                self._dispatcher.cancel(job.ticket)
            self._visit_again(job, now)

    def _visit_again(self, job: Job, now: float) -> None:
        """Starts a visit over; its clock goes on."""
        started = job.started_s
        job.begin_visit(now)
        job.started_s = started
        self._dispatch(job, now)

    def _switch(self, deployment: Deployment, now: float) -> None:
        """The new routing is in force; replicas without a place in it drain."""
        self._deployment = deployment
        self._dispatcher = Dispatcher(deployment.table, previous=self._dispatcher)
        self._mix()
        for key in [key for key in self._servers if key not in deployment.servers]:
            self._servers.pop(key).drains_from_s = now

    def _close(self) -> None:
        """Ends the books: drained replicas are paid until their last answer."""
        for life in self._life_of.values():
            if life.end_s == float("inf"):
                life.end_s = self._run.end_s
                if life.drains_from_s is not None and life.server.is_empty:
                    life.end_s = max(life.drains_from_s, life.server.segment_start_s)


def _jobs(scenario: Scenario) -> list[Job]:
    arrivals = scenario.arrivals
    columns = (
        arrivals.time_s.tolist(),
        arrivals.class_index.tolist(),
        arrivals.prompt_tokens.tolist(),
        arrivals.output_tokens.tolist(),
    )
    names = arrivals.classes
    jobs = [Job(when, k, names[k], p, o) for when, k, p, o in zip(*columns, strict=True)]
    if arrivals.prefix is not None:
        for job, prefix in zip(jobs, arrivals.prefix.tolist(), strict=True):
            job.prefix = prefix if prefix >= 0 else None
    return jobs


def _without(deployment: Deployment, lost: frozenset[Key]) -> Deployment:
    """The deployment as it stands when some replicas have gone."""
    stages = tuple(
        replace(
            stage, replicas=tuple(r for r in stage.replicas if (stage.name, r.name) not in lost)
        )
        for stage in deployment.table.stages
    )
    servers = {key: spec for key, spec in deployment.servers.items() if key not in lost}
    return replace(deployment, table=replace(deployment.table, stages=stages), servers=servers)
