"""The utilisation cap against the simulator: the busiest a pool may be, found by bisection."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.costs.capacity import Service, erlang_c, utilization_cap
from motley_planner.dispatch import Replica, RequestClass, ResourceRef, RoutingTable, Stage
from motley_planner.simulator import (
    Deployment,
    FixedSteps,
    Kind,
    Route,
    Scenario,
    ServerSpec,
    drawn,
    simulate,
)
from motley_planner.simulator.steps import Line

PROMPT, OUTPUT = 900.0, 200.0


class Engine(FixedSteps):
    """A step affine in the batch."""

    def __init__(self, prefill_s: float, base_s: float, per_sequence_s: float) -> None:
        super().__init__(prefill_s / PROMPT, chunk_tokens=8192.0)
        object.__setattr__(self, "line", (base_s, per_sequence_s))

    line: tuple[float, float]

    def decode(self, batch: int, context_tokens: float) -> Line:
        return Line(self.line[0] + self.line[1] * batch, 0.0)


def service(slots: int, slack_s: float, engine: tuple[float, float, float], q: float) -> Service:
    prefill, base, each = engine
    sizes = sorted({1, max(1, slots // 2), slots})
    steps = tuple((n, base + each * n) for n in sizes)
    return Service(prefill, OUTPUT, steps, prefill + steps[-1][1], slack_s, q)


def late_share(servers: int, one: Service, engine: tuple[float, float, float], rho: float) -> float:
    """Simulated share of requests that wait longer than the slack for their prefill."""
    replicas = tuple(Replica(f"r{i}", "sim://r", {"a": 1.0}, {"a": 1.0}) for i in range(servers))
    table = RoutingTable(
        "h",
        ResourceRef("ServingPool", "t", "p"),
        ("p",),
        (RequestClass("a", PROMPT, OUTPUT),),
        (Stage("main", "m", replicas),),
        (),
    )
    times = Engine(*engine)
    specs = {("main", r.name): ServerSpec(r.name, times, one.slots) for r in replicas}
    rate = rho * servers * one.most_per_second
    arrivals = drawn([Kind("a", rate, PROMPT, OUTPUT)], 6000, seed=4)
    run = simulate(Scenario(Deployment(table, specs, ((Route(("main",)),),)), arrivals))
    first = np.asarray(run.visits.ttft_s)[600:]
    alone = one.prefill_s + 2.0 * one.steps_s[-1][1]
    return float((first > one.slack_s + alone).mean())


def busiest(servers: int, one: Service, engine: tuple[float, float, float]) -> float:
    low, high = 0.1, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        late = late_share(servers, one, engine, middle)
        low, high = (middle, high) if late <= 1.0 - one.quantile else (low, middle)
    return low


LIGHT, HEAVY = (0.05, 0.015, 0.0002), (0.2, 0.02, 0.0002)


@pytest.mark.parametrize(
    ("engine", "slots", "servers"),
    [
        (LIGHT, 12, 4),
        (HEAVY, 32, 1),
        *(
            pytest.param(engine, slots, servers, marks=pytest.mark.slow)
            for engine in (LIGHT, HEAVY)
            for slots in (4, 12, 32, 96)
            for servers in (1, 4, 16)
        ),
    ],
)
def test_the_cap_is_near_what_the_simulator_allows(
    engine: tuple[float, float, float], slots: int, servers: int
) -> None:
    one = service(slots, 0.5, engine, 0.95)
    cap, allowed = utilization_cap(servers, one), busiest(servers, one, engine)
    assert cap <= allowed + 0.07, "too optimistic"
    assert cap >= allowed - 0.12, "too pessimistic"


def test_one_sequence_a_step_is_erlangs_queue() -> None:
    """Steps that take the same time for any batch, no prefill: M/M/c."""
    slots, rho = 8, 0.7
    steps = ((1, 0.01), (slots, 0.01))
    offered = rho * slots
    below = sum(offered**k / math.factorial(k) for k in range(slots))
    full = offered**slots / math.factorial(slots) / (1.0 - rho)
    waits = full / (below + full)
    assert erlang_c(slots, offered) == pytest.approx(waits)
    one = Service(0.0, 100.0, steps, 0.0, 0.0, 1.0 - waits)
    assert utilization_cap(1, one) == pytest.approx(rho, abs=0.002)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 64),
    slack=st.floats(0.0, 5.0),
    servers=st.integers(1, 8),
    heavy=st.booleans(),
    quantile=st.sampled_from([0.5, 0.9, 0.99]),
)
def test_more_slack_more_replicas_and_a_laxer_percentile_never_lower_the_cap(
    slots: int, slack: float, servers: int, heavy: bool, quantile: float
) -> None:
    engine = HEAVY if heavy else LIGHT
    cap = utilization_cap(servers, service(slots, slack, engine, quantile))
    assert 0.0 <= cap <= 1.0
    tiny = 0.002
    assert utilization_cap(servers, service(slots, slack + 0.5, engine, quantile)) >= cap - tiny
    assert utilization_cap(servers + 1, service(slots, slack, engine, quantile)) >= cap - tiny
    assert utilization_cap(servers, service(slots, slack, engine, quantile - 0.3)) >= cap - tiny
    assert utilization_cap(servers, service(slots, slack, engine, quantile), 0.4) == pytest.approx(
        min(cap, 0.4), abs=tiny
    )


def test_no_slack_is_no_use() -> None:
    assert utilization_cap(3, service(8, -0.01, LIGHT, 0.95)) == 0.0
