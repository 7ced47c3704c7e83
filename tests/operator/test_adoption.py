"""Routing goes on where only routing would change, over re-plans and restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_operator import changes, manifests, translate
from motley_operator.adoption import adopted
from motley_operator.domain.actions import PatchStatus
from motley_operator.settings import Settings
from motley_operator.status import statuses
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Plan, PlannedReplica

CATALOG = load_catalog()
KEPT = "ServingPool/team-a/chat/main-0a1b2c3d-0"


def carried_out(world: World, plan: Plan) -> None:
    """The plan on the cluster, status included."""
    for _ in range(6):
        facts = world.facts()
        translation = translate.translate(facts, CATALOG, Settings())
        desired = manifests.build(plan, translation, facts, CATALOG, Settings())
        world.apply(changes.changes(desired, facts, plan))
        world.settle()
        facts = world.facts()
        translation = translate.translate(facts, CATALOG, Settings())
        patches = (a for a in statuses(plan, translation, facts) if isinstance(a, PatchStatus))
        world.apply(patches)


def again(rate: float, kept: str | None = KEPT) -> PlannedReplica:
    return replica(kept=kept, rates={"all": rate})


@pytest.fixture
def world() -> World:
    return World().add_node(gpu_node("h0"), gpu_node("h1"))


def test_after_a_restart_the_live_routing_and_the_hash_of_the_status_go_on(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica(rates={"all": 1.0})], digest="0123456789ab")))
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    new = plan_of(slice_of(key, [again(1.5)], digest="ffffffffffff"))
    (part,) = adopted(new, None, frozenset(), translation, facts).slices
    assert part.hash == "0123456789ab"
    assert part.replicas[0].rates == {"all": 1.0}
    desired = manifests.build(plan_of(part), translation, facts, CATALOG, Settings())
    assert changes.changes(desired, facts, plan_of(part)) == ()


def test_a_re_plan_that_only_shifts_rates_changes_nothing(world: World) -> None:
    key = world.add(pool())
    before = plan_of(slice_of(key, [replica()], digest="0123456789ab"))
    carried_out(world, before)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    new = plan_of(slice_of(key, [again(1.5)], digest="ffffffffffff"))
    (part,) = adopted(new, before, frozenset(), translation, facts).slices
    assert (part.hash, part.replicas[0].rates) == ("0123456789ab", {"all": 1.0})


@pytest.mark.parametrize("case", ["edited", "another replica", "serves more"])
def test_what_is_more_than_routing_is_taken_from_the_new_plan(world: World, case: str) -> None:
    key = world.add(pool())
    before = plan_of(slice_of(key, [replica()], digest="0123456789ab"))
    carried_out(world, before)
    replicas = [again(1.5)]
    if case == "another replica":
        replicas.append(replica(ordinal=1))
    part = slice_of(key, replicas, digest="ffffffffffff")
    if case == "serves more":
        part = replace(part, served_requests_per_second=2.5)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    edited = frozenset([key]) if case == "edited" else frozenset[str]()
    (found,) = adopted(plan_of(part), before, edited, translation, facts).slices
    assert found.hash == "ffffffffffff"


def test_routing_that_somebody_wrote_into_is_repaired(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()], digest="0123456789ab")))
    world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"] = "{"
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    new = plan_of(slice_of(key, [again(1.5)], digest="ffffffffffff"))
    (part,) = adopted(new, None, frozenset(), translation, facts).slices
    assert part.hash == "ffffffffffff"
