"""How replicas are picked and workflows let in, as a resource says it and the routing states it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from motley_operator import manifests, translate
from motley_operator.settings import Settings
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import DispatchRule, WorkflowRule, parse_routing
from motley_planner.domain.plan import PolicyChoice

CATALOG = load_catalog()
SETTINGS = Settings(gateway_image="example.org/motley:test")


def routed(document: dict[str, Any], *stages: str) -> dict[str, Any]:
    """The routing document of a resource with one replica of each stage."""
    world = World().add_node(gpu_node("h0"))
    world.config_maps["team-a", "table"] = {"table.csv": CALIBRATION}
    key = world.add(document)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    policies = [PolicyChoice("p", 1.0, {stages[0]: 0.5})] if stages[1:] else []
    part = slice_of(key, [replica(stage) for stage in stages], policies=policies)
    objects = manifests.build(plan_of(part), translation, facts, CATALOG, SETTINGS)
    found = next(o for o in objects if o["metadata"]["name"].endswith("-routing"))
    routing: dict[str, Any] = json.loads(found["data"]["routing.json"])
    return routing


RULES = [
    ({"rule": "Hexgen", "alpha": "35%"}, DispatchRule("hexgen", 0.35)),
    ({"rule": "Hexgen"}, DispatchRule("hexgen", 0.2)),
    ({"rule": "RoundRobin"}, DispatchRule("roundRobin")),
    ({"rule": "LeastLoaded"}, DispatchRule("leastLoaded")),
    ({"rule": "EarliestFinish"}, DispatchRule()),
]


@pytest.mark.parametrize(("written", "rule"), RULES, ids=[str(w) for w, _ in RULES])
def test_the_routing_of_a_pool_states_the_rule_of_its_gateway(
    written: dict[str, str], rule: DispatchRule
) -> None:
    document = routed(pool(gateway={"dispatch": written}), "main")
    assert parse_routing(document).dispatch == rule


def test_the_routing_of_a_cascade_states_it_too() -> None:
    document = routed(cascade(gateway={"dispatch": RULES[0][0]}), "small", "large")
    assert parse_routing(document).dispatch == RULES[0][1]


def test_without_a_word_the_routing_is_what_it_was() -> None:
    assert "routing" not in routed(pool(), "main")
    assert "routing" not in routed(pool(gateway={"dispatch": {}}), "main")


@pytest.mark.parametrize("written", ["Always", "Deadline"])
def test_the_routing_states_which_workflows_are_let_in(written: str) -> None:
    said = {"workflows": {"admission": written}}
    for document in (
        routed(pool(gateway=said), "main"),
        routed(cascade(gateway=said), "small", "large"),
    ):
        assert ("workflows" in document) == (written == "Deadline")
        assert parse_routing(document).workflows == WorkflowRule(written.lower())
