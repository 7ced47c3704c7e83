"""Who is stopped for whom: running work yields to priority, weight and guarantees, never to its equals."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from tests.planner.test_planning import CATALOG, assert_fits, nodes_of, pool

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot, Tenant
from motley_planner.planning import plan
from motley_planner.planning.worth import running_units

RUNS, COMES, THIRD = "ServingPool/a/runs", "ServingPool/b/comes", "ServingPool/c/third"
NODES = tuple(nodes_of("L40S", 4, 4))


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def served(made: Plan, key: str) -> float:
    return next(p.served_requests_per_second for p in made.slices if p.key == key)


def replicas(made: Plan, key: str) -> int:
    return sum(len(p.replicas) for p in made.slices if p.key == key)


def service(key: str, rate: float, priority: int = 0) -> ServingDemand:
    return replace(pool(key, rate, priority=priority), tenant=key.split("/")[1])


def and_then(
    first: tuple[ServingDemand, ...], *more: ServingDemand, tenants: tuple[Tenant, ...] = ()
) -> tuple[Plan, Plan, Snapshot]:
    """The plan of the first alone, the plan once the others have come, and what that was asked."""
    before = Snapshot(NODES, services=first, tenants=tenants)
    alone = solve(before)
    asked = replace(
        before,
        services=(*first, *more),
        running=tuple(running_units(alone)),
        steady=True,
        edited=frozenset(s.key for s in more),
    )
    made = solve(asked)
    assert_fits(made, asked)
    return alone, made, asked


@pytest.mark.parametrize("rate", [1.0, 30.0, 3000.0])
def test_an_equal_that_comes_takes_nothing_from_what_runs(rate: float) -> None:
    alone, made, _ = and_then((service(RUNS, 900.0),), service(COMES, rate))
    assert served(made, RUNS) == pytest.approx(served(alone, RUNS), rel=1e-3)
    assert not [m for m in made.moves if m.key == RUNS and m.action == "stop"]


def test_what_runs_may_be_moved_for_an_equal_but_serves_no_less() -> None:
    for seed in range(6):
        random = Random(seed)
        first = tuple(service(f"{RUNS}-{i}", random.uniform(5.0, 400.0)) for i in range(3))
        alone, made, _ = and_then(first, service(COMES, random.uniform(5.0, 4000.0)))
        for each in first:
            assert served(made, each.key) >= served(alone, each.key) * (1.0 - 2e-3)


def test_a_higher_priority_takes_what_it_needs() -> None:
    alone, made, _ = and_then((service(RUNS, 900.0),), service(COMES, 900.0, priority=1))
    assert served(made, COMES) == pytest.approx(served(alone, RUNS), rel=0.05)
    assert served(made, RUNS) < 0.1 * served(alone, RUNS)


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_a_larger_weight_is_served_first_and_an_equal_one_waits(weight: float) -> None:
    tenants = (Tenant("a"), Tenant("b", weight=weight))
    alone, made, _ = and_then((service(RUNS, 900.0),), service(COMES, 900.0), tenants=tenants)
    assert (served(made, COMES) > 0.9 * served(alone, RUNS)) == (weight > 1.0)
    assert (served(made, RUNS) > 0.9 * served(alone, RUNS)) == (weight == 1.0)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_guarantee_is_made_good_and_no_more_than_it_is_taken(share: float) -> None:
    tenants = (Tenant("a"), Tenant("b", guaranteed_share=share))
    alone, made, asked = and_then((service(RUNS, 900.0),), service(COMES, 900.0), tenants=tenants)
    whole = served(alone, RUNS)
    assert served(made, COMES) == pytest.approx(share * whole, rel=0.02)
    assert served(made, RUNS) == pytest.approx((1.0 - share) * whole, rel=0.02)
    again = solve(replace(asked, running=tuple(running_units(made)), edited=frozenset()))
    assert not again.moves  # and that is that


def test_for_a_guarantee_nobody_else_gains() -> None:
    tenants = (Tenant("b", guaranteed_share=0.25),)
    alone, made, _ = and_then(
        (service(RUNS, 900.0),), service(COMES, 900.0), service(THIRD, 30.0), tenants=tenants
    )
    assert served(made, THIRD) == 0.0
    assert served(made, RUNS) == pytest.approx(0.75 * served(alone, RUNS), rel=0.02)


def test_a_guarantee_takes_from_the_lowest_priority_first() -> None:
    first = (service(RUNS, 30.0, priority=1), service(THIRD, 900.0))
    tenants = (Tenant("b", guaranteed_share=0.25),)
    alone, made, _ = and_then(first, service(COMES, 900.0), tenants=tenants)
    assert served(made, RUNS) == pytest.approx(served(alone, RUNS), rel=1e-3)
    assert served(made, COMES) > 0.0
    assert served(made, THIRD) < served(alone, THIRD)


def test_who_is_guaranteed_as_much_loses_nothing_of_it() -> None:
    tenants = (Tenant("a", guaranteed_share=0.75), Tenant("b", guaranteed_share=0.25))
    alone, made, _ = and_then((service(RUNS, 900.0),), service(COMES, 900.0), tenants=tenants)
    assert served(made, RUNS) == pytest.approx(0.75 * served(alone, RUNS), rel=0.02)
    assert replicas(made, COMES) > 0
