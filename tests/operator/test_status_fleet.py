"""What the Fleet is told, where there is more of it than it may say."""

from __future__ import annotations

from typing import Any

import pytest

from motley_operator import translate
from motley_operator.api.fleetstatus import FleetStatus
from motley_operator.settings import Settings
from motley_operator.status.fleet import MOST_NAMESPACES, fleet_statuses
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Plan, Slice

CATALOG = load_catalog()


def told(world: World, plan: Plan) -> dict[str, Any]:
    """The Fleet's status for a plan; its schema takes it."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    (action,) = fleet_statuses(plan, translation, facts)
    found = dict(action.status)  # type: ignore[union-attr]
    FleetStatus.model_validate(found)
    return found


def priced(world: World, prices: dict[str, float]) -> list[Slice]:
    """A pool in each namespace, at US dollars an hour."""
    parts = []
    for namespace, price in prices.items():
        document = pool()
        document["metadata"]["namespace"] = namespace
        key = world.add(document)
        parts.append(slice_of(key, [replica(price_usd_per_hour=price)]))
    return parts


@pytest.fixture
def world() -> World:
    """A node and a Fleet."""
    made = World().add_node(gpu_node("h0"))
    made.fleet = {"metadata": {"name": "default", "uid": "f", "generation": 1}, "spec": {}}
    return made


def test_of_more_namespaces_than_may_be_named_the_dearest_are_and_the_rest_is_summed(
    world: World,
) -> None:
    prices = {f"team-{i:03}": 0.25 * (1 + i) for i in range(MOST_NAMESPACES + 3)}
    found = told(world, plan_of(*priced(world, prices)))
    named = found["dollarsPerHourByNamespace"]
    assert named.keys() == prices.keys() - {"team-000", "team-001", "team-002"}
    assert named["team-258"] == "64.75"
    assert found["otherNamespaces"] == {"count": 3, "dollarsPerHour": "1.5"}
    assert sum(map(float, named.values())) + 1.5 == float(found["dollarsPerHour"])


def test_equally_dear_ones_are_named_in_their_order_whatever_the_plans(world: World) -> None:
    parts = priced(world, {f"team-{i:03}": 2.5 for i in range(MOST_NAMESPACES + 1)})
    forth, back = told(world, plan_of(*parts)), told(world, plan_of(*reversed(parts)))
    assert forth == back
    assert f"team-{MOST_NAMESPACES:03}" not in forth["dollarsPerHourByNamespace"]


def test_where_all_are_named_nothing_is_said_of_others(world: World) -> None:
    found = told(world, plan_of(*priced(world, {f"n-{i}": 1.0 for i in range(MOST_NAMESPACES)})))
    assert len(found["dollarsPerHourByNamespace"]) == MOST_NAMESPACES
    assert "otherNamespaces" not in found
