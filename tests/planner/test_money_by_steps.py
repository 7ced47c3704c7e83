"""Cheaper room for a whole fleet: few replicas stop at once for money, those first that save most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.comparing import price_of
from motley_planner.planning.money import for_money
from motley_planner.planning.worth import running_units

CATALOG = load_catalog()
SERVICES = 12
A100 = "A100-SXM4-80GB"


def node(name: str, dollars_per_hour: float) -> Node:
    kind = NodeClass(A100, "az-1", "on-demand", "", dollars_per_hour)
    return Node(name, kind, 4, 192_000, 2**41, 110, 4)


def service(name: str, rate: float = 1.0) -> ServingDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    return ServingDemand(
        key=f"ServingPool/a/{name}",
        tenant="a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def stops(made: Plan) -> dict[str, int]:
    """Replicas that stop, by resource."""
    keys = [move.key for move in made.moves if move.action == "stop"]
    return {key: keys.count(key) for key in keys}


@pytest.fixture(scope="module")
def joined() -> Snapshot:
    """One replica each of twelve services on dear nodes, a third of them dearer; cheap ones join."""
    services = tuple(service(f"s{i:02d}") for i in range(SERVICES))
    dear = tuple(node(f"dear-{i}", 3.0 if i else 5.0) for i in range(3))
    before = Snapshot(dear, services)
    units = running_units(solve(before))
    assert len(units) == SERVICES
    cheap = tuple(node(f"cheap-{i}", 1.0) for i in range(3))
    return replace(before, nodes=(*dear, *cheap), running=units, moved_lately=0)


def test_a_quarter_moves_at_once_and_what_saves_most_first(joined: Snapshot) -> None:
    made = solve(joined)
    assert sum(stops(made).values()) == SERVICES // 4
    dearest = {unit.key for unit in joined.running if unit.nodes == ("dear-0",)}
    assert stops(made).keys() == made.saving <= dearest
    assert made.more_to_save


def test_a_plan_that_is_dear_for_what_is_new_moves_nobody_who_hardly_gains() -> None:
    """One runs at 1.02 $/h where 1.00 would do; what is new was put at 5.00 $/h by a search in a hurry."""
    runs, new = service("runs"), service("new")
    first = Snapshot((node("there", 1.02),), (runs,))
    nodes = (*first.nodes, node("cheap", 1.00), node("dear", 5.00))
    both = Snapshot(nodes, (runs, new), running=running_units(solve(first)))
    table, assembly = assemble(both, CATALOG)
    held = frozenset(unit.id for unit in both.running)
    busy = replace(table, held_replicas=held, cordoned_nodes=frozenset({"there", "cheap"}))
    careless = replace(table, penalty_per_started_gpu=0.0, penalty_per_stopped_gpu=0.0)
    hurried, free = (solve_table(t, use_worker=False) for t in (busy, careless))
    assert price_of(hurried) == pytest.approx(6.02, abs=0.5)
    assert {p.kept for p in free.placement} == {None}  # both on the cheapest node
    told, _ = for_money(table, assembly, both, (hurried, free), use_worker=False)
    assert {p.nodes for p in told.placement if p.kept in held} == {("there",)}
    assert len(told.placement) == 2 and price_of(told) == pytest.approx(2.02, abs=0.5)
    assert told.saving == frozenset()


def test_a_move_costs_gpu_time_once_and_the_decision_was_charged_as_much(joined: Snapshot) -> None:
    made, mean = solve(joined), (5.0 + 3.0 + 3.0 + 3 * 1.0) / 6
    started = {move.cost_usd for move in made.moves if move.action == "start"}
    stopped = {move.cost_usd for move in made.moves if move.action == "stop"}
    assert sorted(started) == [pytest.approx(0.1 * mean)]  # of one GPU each
    assert sorted(stopped) == [pytest.approx(0.02 * mean)]
    table, _ = assemble(joined, CATALOG)
    hours = joined.move_price.horizon_hours
    assert sorted(started) == [pytest.approx(table.penalty_per_started_gpu * hours)]
    assert sorted(stopped) == [pytest.approx(table.penalty_per_stopped_gpu * hours)]


def test_what_moved_lately_counts(joined: Snapshot) -> None:
    made = solve(replace(joined, moved_lately=2))
    assert sum(stops(made).values()) == 1 and made.more_to_save
    spent = solve(replace(joined, moved_lately=3))
    assert (stops(spent), spent.saving, spent.more_to_save) == ({}, frozenset(), True)


def test_a_person_who_asks_sees_where_the_steps_lead(joined: Snapshot) -> None:
    made = solve(replace(joined, moved_lately=None))
    assert sum(stops(made).values()) == SERVICES and not made.more_to_save


def test_steps_end_where_all_that_pays_has_moved(joined: Snapshot) -> None:
    prices, snapshot = [], joined
    for _ in range(2 * SERVICES):
        made = solve(snapshot)
        prices.append(made.price_usd_per_hour)
        snapshot = replace(snapshot, running=running_units(made))
        if not made.more_to_save:
            break
    assert prices == sorted(prices, reverse=True)
    assert prices[-1] == pytest.approx(1.0 * SERVICES) and len(prices) == 4
    assert solve(snapshot).moves == ()


def test_a_step_that_saves_less_than_its_share_is_not_made(joined: Snapshot) -> None:
    made = solve(replace(joined, min_improvement=0.70))
    assert made.moves == () and not made.more_to_save


def test_what_was_edited_does_not_wait_and_others_follow_later(joined: Snapshot) -> None:
    keys = [unit.key for unit in joined.running if unit.nodes != ("dear-0",)][:5]
    made = solve(replace(joined, edited=frozenset(keys)))
    others = {key: count for key, count in stops(made).items() if key not in keys}
    assert stops(made).keys() >= set(keys)
    assert sum(others.values()) <= SERVICES // 4 and made.saving == others.keys()
    assert made.more_to_save


def test_a_service_that_goes_frees_its_room_at_once_and_a_first_plan_is_free(
    joined: Snapshot,
) -> None:
    few = replace(joined, services=joined.services[:4])
    assert {unit.key for unit in few.running} - {s.key for s in few.services}
    made = solve(few)
    assert sum(count for key, count in stops(made).items() if key in made.saving) <= 3
    assert {move.key for move in made.moves if move.reason == "ResourceGone"} == {
        s.key for s in joined.services[4:]
    }
    first = solve(replace(joined, running=()))
    assert first.price_usd_per_hour == pytest.approx(1.0 * SERVICES) and not first.more_to_save
