"""Branches in the simulation of whole plans: against one replica's own simulation, and by counting."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from motley_planner.costs.order_statistics import branch_steps
from motley_planner.dispatch import (
    BranchRule,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
)
from motley_planner.domain.demand import Branching
from motley_planner.simulator import Arrivals, Change, Scenario, simulate
from motley_planner.simulator.branching import Branched, simulate_branches
from motley_planner.simulator.forking import branch_lengths
from motley_planner.simulator.scenario import Deployment, Route, ServerSpec
from motley_planner.simulator.steps import FixedSteps, Line

PROMPT, OUTPUT, SPREAD = 200.0, 100.0, 0.5


class Engine(FixedSteps):
    """A step that gets longer with the batch."""

    def decode(self, batch: int, context_tokens: float) -> Line:
        return Line(0.02 + 0.0005 * batch, 0.0)


BUSY = Engine(prefill_s_per_token=1e-5, chunk_tokens=8192.0)
CALM = FixedSteps(prefill_s_per_token=1e-6, decode_step_s=0.02)


def scenario(
    rule: Branching, gap_s: float, count: int, engine: FixedSteps = CALM, replicas: int = 1
) -> Scenario:
    names = [f"r{i}" for i in range(replicas)]
    members = tuple(Replica(n, f"sim://{n}", {"a": 1.0}, {"a": 1.0}) for n in names)
    table = RoutingTable(
        plan_hash="p",
        resource=ResourceRef("ServingPool", "a", "b"),
        served_model_names=("m",),
        classes=(RequestClass("a", PROMPT, OUTPUT),),
        stages=(Stage("main", "m", members),),
        policies=(),
    )
    servers = {("main", n): ServerSpec(n, engine, 48) for n in names}
    deployment = Deployment(table, servers, ((Route(("main",)),),), (rule,))
    times = np.arange(count) * gap_s
    lengths = np.full(count, PROMPT), np.full(count, OUTPUT)
    arrivals = Arrivals(("a",), times, np.zeros(count, dtype=np.int64), *lengths)
    return Scenario(deployment, arrivals, None, (), end_s=float(times[-1]) + 1e4, seed=5)


def latencies(found: Scenario) -> list[float]:
    run = simulate(found)
    assert all(job.answered_s > 0.0 for job in run.jobs)
    return [job.answered_s - job.arrival_s for job in run.jobs]


@pytest.mark.parametrize(("samples", "stop"), [(4, 4), (8, 4), (8, 2), (2, 1)])
@pytest.mark.parametrize("gap_s", [0.05, 0.5, 20.0])
def test_one_replica_is_simulated_as_by_itself(samples: int, stop: int, gap_s: float) -> None:
    """The same lengths, the same book, the same server: the same latencies to the last digit."""
    rule = Branching("main", samples, stop, SPREAD)
    random = Random(5)
    asked = [
        Branched(i * gap_s, PROMPT, tuple(branch_lengths(random, OUTPUT, rule))) for i in range(60)
    ]
    alone = simulate_branches(asked, BranchRule(samples, stop), BUSY, 48)
    whole = latencies(scenario(rule, gap_s, 60, BUSY))
    assert sorted(whole) == pytest.approx(sorted(alone.latency_s), rel=1e-9)


@pytest.mark.parametrize(("samples", "stop"), [(4, 4), (8, 4), (8, 2)])
def test_with_room_to_spare_a_request_takes_what_order_statistics_say(
    samples: int, stop: int
) -> None:
    took = latencies(scenario(Branching("main", samples, stop, SPREAD), 1e3, 400, replicas=3))
    steps = float(np.mean(took)) / 0.02 / OUTPUT
    assert steps == pytest.approx(branch_steps(samples, stop, SPREAD), rel=0.05)


def test_one_sample_is_an_ordinary_request() -> None:
    rule = Branching("main", 1, 1, SPREAD)
    assert latencies(scenario(rule, 0.05, 50)) == latencies(scenario(rule, 0.05, 50))
    plain = scenario(Branching("other", 8, 4, SPREAD), 0.05, 50)
    assert latencies(scenario(rule, 0.05, 50)) == latencies(plain)


def test_places_on_replicas_are_given_back_and_requests_of_a_lost_one_start_again() -> None:
    rule = Branching("main", 4, 2, SPREAD)
    found = scenario(rule, 0.3, 100, BUSY, replicas=3)
    before = found.deployment
    key = ("main", "r0")
    left = Deployment(
        before.table, {k: s for k, s in before.servers.items() if k != key}, before.routes, (rule,)
    )
    lost = Change(10.0, left, 0.0, lost=frozenset({key}))
    hurt = Scenario(before, found.arrivals, None, (lost,), end_s=found.end_s, seed=5)
    run = simulate(hurt)
    assert all(job.answered_s > 0.0 for job in run.jobs)
    assert run.refused == 0
    assert all(life.server.is_empty for lives in run.lives.values() for life in lives)
    again = [job for job in run.jobs if job.arrival_s < 10.0 < job.answered_s]
    assert again, "some were under way"
