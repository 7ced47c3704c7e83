"""Make before break: who goes on serving while replicas are replaced, and who has to go."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator import changes, manifests, translate
from motley_operator.domain.actions import Action, CreatePod, DeletePod
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import Dispatcher, parse_routing
from motley_planner.domain.plan import Plan, PlannedReplica

CATALOG = load_catalog()
SETTINGS = Settings()


def step(world: World, plan: Plan) -> tuple[Action, ...]:
    """One cycle: what was done."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    actions = changes.changes(desired, facts, plan)
    world.apply(actions)
    return actions


def carry_out(world: World, plan: Plan) -> None:
    for _ in range(20):
        if not step(world, plan):
            return
        world.settle()
    raise AssertionError("no end after twenty cycles")


def names(world: World) -> list[str]:
    return [pod.name for pod in world.engine_pods() if not pod.deleting]


def routed(world: World) -> list[str]:
    text = world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    return [one["name"] for one in json.loads(text)["stages"][0]["replicas"]]


def deleted(actions: tuple[Action, ...]) -> list[str]:
    return [action.name for action in actions if isinstance(action, DeletePod)]


def created(actions: tuple[Action, ...]) -> list[str]:
    found = (a.manifest["metadata"]["name"] for a in actions if isinstance(a, CreatePod))
    return list(found)


OLD, NEW = "chat-main-0a1b2c3d-0", "chat-main-ffffffff-0"


def moved(node: str = "h1", **changes: Any) -> PlannedReplica:
    return replica(column="ffffffff", nodes=(node,), **changes)


@pytest.fixture
def world() -> World:
    return World().add_node(gpu_node("h0"), gpu_node("h1"))


def test_the_old_replica_serves_until_the_new_one_is_ready(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    new = plan_of(slice_of(key, [moved()]))
    first = step(world, new)
    assert (created(first), deleted(first)) == ([NEW], [])
    assert sorted(routed(world)) == [OLD, NEW]
    assert step(world, new) == ()  # nothing more before the new one is ready
    world.settle()
    assert deleted(step(world, new)) == [OLD]
    assert routed(world) == [NEW]


def test_a_replacement_that_never_becomes_ready_leaves_the_old_one(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    new = plan_of(slice_of(key, [moved()]))
    step(world, new)
    for _ in range(5):
        world.now += 3600.0
        assert step(world, new) == ()
    assert sorted(names(world)) == [OLD, NEW]


def test_a_replica_goes_first_only_where_its_room_is_needed(world: World) -> None:
    """Two replicas of 4 GPUs fill a node; one of 4 GPUs is to come there and one elsewhere."""
    key = world.add(pool())
    old = [replica(tensor_parallel=4), replica(ordinal=1, tensor_parallel=4)]
    carry_out(world, plan_of(slice_of(key, old)))
    new = [moved("h0", tensor_parallel=4), moved("h1", ordinal=1, tensor_parallel=4)]
    first = step(world, plan_of(slice_of(key, new)))
    assert deleted(first) == [OLD]
    assert created(first) == ["chat-main-ffffffff-1"]


def test_scaling_down_waits_for_nobody(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica(), replica(ordinal=1)])))
    actions = step(world, plan_of(slice_of(key, [replica()])))
    assert deleted(actions) == ["chat-main-0a1b2c3d-1"]


def test_room_that_another_resource_needs_is_given(world: World) -> None:
    first, second = world.add(pool("chat")), world.add(pool("other"))
    carry_out(world, plan_of(slice_of(first, [replica(tensor_parallel=8)])))
    new = plan_of(
        slice_of(first, [moved(tensor_parallel=8)]), slice_of(second, [replica(tensor_parallel=8)])
    )
    assert deleted(step(world, new)) == [OLD]


def test_one_that_is_not_ready_has_nothing_to_stand_by_for(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    for place, pod in world.pods.items():
        if pod.name == OLD:
            world.pods[place] = replace(pod, ready=False)
    assert deleted(step(world, plan_of(slice_of(key, [moved()])))) == [OLD]


def test_while_the_new_replica_starts_all_requests_go_to_the_old_one(world: World) -> None:
    key = world.add(pool())
    rates = {"rates": {"all": 2.0}, "capacity": {"all": 3.0}}
    carry_out(world, plan_of(slice_of(key, [replica(**rates)])))
    step(world, plan_of(slice_of(key, [moved(**rates)])))
    text = world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    table = parse_routing(json.loads(text))
    dispatcher = Dispatcher(table)
    (stage,), (each,) = table.stages, table.classes
    went = set()
    for number in range(10):
        ticket = dispatcher.choose(stage.name, each.name, float(number) / 10.0)
        assert ticket is not None
        if ticket.replica.name == NEW:  # refused: it is not listening yet
            dispatcher.fail(ticket, float(number) / 10.0)
        else:
            went.add(ticket.replica.name)
            dispatcher.finish(ticket)
    assert went == {OLD}


SIZES = st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=4)


def placed(sizes: list[int], column: str) -> list[PlannedReplica]:
    """First fit on two nodes of eight GPUs; what does not fit is left out."""
    left = {"h0": 8, "h1": 8}
    found: list[PlannedReplica] = []
    for size in sizes:
        node = next((name for name, free in left.items() if free >= size), None)
        if node is not None:
            left[node] -= size
            ordinal = len(found)
            found.append(
                replica(column=column, ordinal=ordinal, tensor_parallel=size, nodes=(node,))
            )
    return found


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES, st.randoms(use_true_random=False))
def test_every_change_of_plan_ends_as_planned_and_never_leaves_less_than_it_must(
    before: list[int], after: list[int], random: Any
) -> None:
    """The world refuses overfull nodes at every step; readiness comes in any order."""
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    key = world.add(pool())
    old, new = placed(before, "0a1b2c3d"), placed(after, "ffffffff")
    carry_out(world, plan_of(slice_of(key, old)))
    plan = plan_of(slice_of(key, new))
    fits_beside = sum(r.tensor_parallel for r in (*old, *new)) <= 8
    for _ in range(60):
        actions = step(world, plan)
        ready = [pod for pod in world.engine_pods() if pod.ready and not pod.deleting]
        if fits_beside:
            assert ready  # room for both on any node: never without a replica that answers
        if not actions and sorted(names(world)) == sorted(f"chat-{r.name}" for r in new):
            return
        unready = [p for p in world.engine_pods() if not p.ready and not p.deleting]
        if unready and random.random() < 0.7:
            chosen = random.choice(unready)
            place = (chosen.namespace, chosen.name)
            world.pods[place] = replace(chosen, ready=True, bound=True, phase="Running")
        else:
            world.end_pods()
    raise AssertionError(f"did not end: {names(world)}")
